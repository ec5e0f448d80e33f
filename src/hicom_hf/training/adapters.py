"""LoRA and QLoRA with peft: adapters on the LLM, the compressor beside them in the same folder, and back to a plain model."""

import logging
import re
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ..hub.files import atomic_folder
from ..hub.places import base_of
from ..hub.saving import save_hub_folder
from ..modeling.configuration_hicom import HiComConfig
from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..modeling.parts_hicom import ADAPTED, still_untrained
from ..processors.processing_hicom import HiComProcessor
from .recipe import LoraRecipe

logger = logging.getLogger(__name__)

# Modules in a layer of the LLM. Plain names such as "q_proj", and "all-linear", would also hit SigLIP and the compressor.
LLM_LAYER = re.compile(r"(?:.*\.)?language_model\.layers\.\d+\.(.+)")
ROUTERS = ("gate", "router", "shared_expert_gate")  # of mixtures of experts: they route tokens, and are not adapted
ADAPTER_FILE = "adapter_model.safetensors"
MAGNITUDE = ".lora_magnitude_vector"
COMPRESSOR = "model.compressor"  # its name in the model, which no other module's name ends in


def add_adapters(model: HiComForConditionalGeneration, lora: LoraRecipe, train_compressor: bool):
    """Put fresh LoRA adapters on matrices of the LLM's layers, and a trainable copy on the compressor.

    Args:
        model: the base; its folder (`name_or_path`) is written into the adapter's config.
        lora: kind, size and targets of the adapters.
        train_compressor: save and train the compressor with the adapters.

    Returns:
        A `peft.PeftModel`.

    Raises:
        ValueError: the model has none of the targets, or peft cannot adapt them in this way.
    """
    from peft import LoraConfig, get_peft_model

    targets, experts = chosen_targets(model, lora)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        use_rslora=lora.rslora,
        target_modules=rf".*language_model\.layers\.\d+\.({'|'.join(map(re.escape, targets))})" if targets else [],
        target_parameters=experts or None,
        modules_to_save=[COMPRESSOR] if train_compressor else None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def lora_targets(model: nn.Module) -> tuple[list[str], list[str]]:
    """Linear maps in the layers of the LLM, by their name in a layer, and the other matrices there, which LoRA leaves alone.

    Raises:
        ValueError: there are no linear maps where they are looked for.

    Example:
        >>> from hicom_hf.assembly.random_model import tiny_model
        >>> lora_targets(tiny_model())[0][:2]
        ['mlp.down_proj', 'mlp.gate_proj']
    """
    linear, others = set(), set()
    for name, module in model.named_modules():
        match = LLM_LAYER.fullmatch(name)
        if match and isinstance(module, nn.Linear) and name.rpartition(".")[2] not in ROUTERS:
            linear.add(match[1])
    for name, parameter in model.named_parameters():
        match = LLM_LAYER.fullmatch(name)
        if match and parameter.ndim > 1 and match[1].rpartition(".")[0] not in linear:
            others.add(match[1].removesuffix(".weight"))
    if not linear:
        raise ValueError("lora finds no linear maps in language_model.layers; train this LLM without lora")
    return sorted(linear), sorted(others)


def chosen_targets(model: nn.Module, lora: LoraRecipe) -> tuple[list[str], list[str]]:
    """What a recipe adapts of a model's LLM: linear maps, and stacked matrices of experts; the rest is logged.

    Args:
        model: on any device, also "meta".
        lora: its `targets`, or None for all linear maps.

    Raises:
        ValueError: a target is not there, is a router, or peft cannot adapt it in this way.
    """
    linear, others = lora_targets(model)
    stacked = sorted(
        {
            match[1]
            for name, parameter in model.named_parameters()
            if parameter.ndim == 3 and (match := LLM_LAYER.fullmatch(name)) and match[1] in others
        }
    )
    if lora.targets is None:
        targets, experts = linear, []
    else:
        known = [*linear, *stacked]
        for name in lora.targets:
            if not any(_ends_with(one, name) for one in known):
                raise ValueError(
                    f"lora.targets: the LLM's layers have no {name!r} to adapt; they have {', '.join(known)}"
                )
        targets, experts = (
            [one for one in group if any(_ends_with(one, name) for name in lora.targets)]
            for group in (linear, stacked)
        )
    if experts and (lora.dora or lora.dropout):
        key = "dora must be false" if lora.dora else "dropout must be 0"
        raise ValueError(f"lora.{key} with {', '.join(experts)}: peft adapts stacked matrices of experts only so")
    left = sorted({*linear, *others} - {*targets, *experts})
    if left:
        logger.warning(
            "LoRA adapts %s of the LLM's layers. These weights have no adapters and stay as they are: %s.",
            ", ".join([*targets, *experts]),
            ", ".join(left),
        )
    return targets, experts


def _ends_with(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


def name_magnitudes(folder: Path) -> None:
    """Give DoRA's magnitudes in an adapter's folder the names that they have in the model.

    peft leaves ".weight" out and knows both; transformers 5.23 finds only the whole name, and would begin with fresh magnitudes.
    """
    path = folder / ADAPTER_FILE
    if not path.is_file():
        return
    with safe_open(path, framework="pt") as file:
        metadata, names = file.metadata(), list(file.keys())
    if any(name.endswith(MAGNITUDE) for name in names):
        tensors = {f"{name}.weight" if name.endswith(MAGNITUDE) else name: t for name, t in load_file(path).items()}
        save_file(tensors, path, metadata=metadata)


def merge_adapter(adapter: str | Path, destination: str | Path, base: str | None = None) -> Path:
    """Write the plain model that an adapter and its base make together, with the processor.

    The adapters are added in float32 and the sum is stored in the base's type.

    Args:
        adapter: the folder of the adapter.
        destination: the folder to write; must not exist.
        base: the base's folder, if it is no longer where the adapter's config says.

    Returns:
        The destination.

    Raises:
        FileNotFoundError: `adapter` or its base is not there.
        FileExistsError: `destination` exists.
    """
    destination = Path(destination)
    if destination.exists():
        raise FileExistsError(f"{destination} exists already")
    base = base or base_of(adapter)
    from peft import PeftModel  # takes seconds, so behind the checks

    stored = HiComConfig.from_pretrained(base).dtype or torch.float32
    model = HiComForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    model.config.untrained_parts = still_untrained(model.config.untrained_parts, ADAPTED)
    processor = HiComProcessor.from_pretrained(adapter)
    with atomic_folder(destination) as folder:
        save_hub_folder(model.to(stored), processor, folder)
    return destination
