"""Merging a LoRA run's adapter into its base weights, one matrix at a time, by peft itself."""

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..hub.places import ADAPTER_CONFIG
from ..hub.reading import read_json_object
from .checkpoint_reading import StoredTensor, TensorReader

BASE_PREFIX = r"(?:base_model\.model\.)?"
PART = re.compile(
    BASE_PREFIX + r"(?P<module>.+)\.(?P<part>lora_[AB]|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
)


class AdapterMerger:
    """The matrices of one LoRA adapter.

    Args:
        folder: where adapter_config.json is.
        tensors: those of the adapter's weight file.

    Raises:
        ValueError: if the adapter is of another kind, or holds what is not understood.
        ImportError: if peft is not installed.
    """

    def __init__(self, folder: Path, tensors: dict[str, StoredTensor], reader: TensorReader):
        try:
            import peft  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"{folder} is a LoRA run; merging it takes peft: `pip install hicom_hf[train]`"
            ) from error
        self.folder, self._reader = folder, reader
        kind = read_json_object(folder / ADAPTER_CONFIG).get("peft_type")
        if kind != "LORA":
            raise ValueError(f"{folder / ADAPTER_CONFIG}: a LoRA adapter is needed, this is {kind!r}")
        self.modules: dict[str, dict[str, StoredTensor]] = {}
        self.whole: dict[str, StoredTensor] = {}  # tensors that were trained in full and saved with the adapter
        for name, stored in tensors.items():
            found = PART.fullmatch(name)
            if found:
                self.modules.setdefault(found["module"], {})[f"{found['part']}"] = stored
            elif "lora_" in name:
                raise ValueError(f"{stored.file}: {name} is not understood; only adapters of linear layers are merged")
            else:
                self.whole[strip_base(name)] = stored
        halves = [module for module, parts in self.modules.items() if not {"lora_A", "lora_B"} <= set(parts)]
        if halves:
            raise ValueError(f"{folder}: the adapter has only one of lora_A and lora_B for {', '.join(halves)}")

    def check(self, base: dict) -> None:
        """Refuse an adapter of layers that the base has not; a layer that is not merged would be silently wrong.

        Args:
            base: the base's tensors, by official name.
        """
        absent = sorted(module for module in self.modules if f"{module}.weight" not in base)
        if absent or not self.modules:
            raise ValueError(f"{self.folder}: the base has no layers {', '.join(absent) or 'for this empty adapter'}")

    def merge(self, module: str, weight: torch.Tensor) -> torch.Tensor:
        """The weight of a linear layer with its adapter, float32.

        Args:
            module: the layer's official name, without `.weight`.
            weight: (output, input), of the base model.
        """
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        output_size, input_size = weight.shape
        linear = nn.Linear(input_size, output_size, bias=False, device="meta")
        linear.weight = nn.Parameter(weight.float(), requires_grad=False)
        config: Any = LoraConfig.from_pretrained(str(self.folder))
        config.target_modules, config.layers_to_transform, config.modules_to_save = [module], None, None
        config.exclude_modules, config.init_lora_weights = None, True
        with warnings.catch_warnings():
            # Patterns of ranks and scales for other layers.
            warnings.filterwarnings("ignore", message="The following (alpha|rank)_pattern keys did not match")
            root = inject_adapter_in_model(config, _nested(module, linear))
        layer = root.get_submodule(module)
        assert isinstance(layer, LoraLayer)
        for part, stored in self.modules[module].items():
            target = getattr(layer, part)["default"]
            target = target if isinstance(target, nn.Parameter) else target.weight
            values = self._reader.read(stored)
            if target.shape != values.shape:
                raise ValueError(
                    f"{stored.file}: {stored.name} is {tuple(values.shape)}, {ADAPTER_CONFIG} says {tuple(target.shape)}"
                )
            target.data.copy_(values)
        layer.merge()
        merged: Any = layer.get_base_layer()
        return merged.weight.data


def strip_base(name: str) -> str:
    """An official name without what peft puts in front."""
    return re.sub(f"^{BASE_PREFIX}", "", name).replace(".base_layer.", ".")


def _nested(path: str, leaf: nn.Module) -> nn.Module:
    """A module that has `leaf` at `path`, so that patterns in the adapter's config apply to it."""
    for name in reversed(path.split(".")):
        parent = nn.Module()
        parent.add_module(name, leaf)
        leaf = parent
    return leaf
