"""LoRA and QLoRA with peft: adapters on the LLM, the compressor beside them in the same folder, and back to a plain model."""

import logging
import re
from pathlib import Path

import torch
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
COMPRESSOR = "model.compressor"  # its name in the model, which no other module's name ends in


def add_adapters(model: HiComForConditionalGeneration, lora: LoraRecipe, train_compressor: bool):
    """Put fresh LoRA adapters on the LLM's linear layers, and a trainable copy on the compressor.

    Args:
        model: the base; its folder (`name_or_path`) is written into the adapter's config.
        lora: rank, alpha and dropout.
        train_compressor: save and train the compressor with the adapters.

    Returns:
        A `peft.PeftModel`.
    """
    from peft import LoraConfig, get_peft_model

    targets, others = lora_targets(model)
    if others:
        logger.warning(
            "LoRA adapts %s of the LLM's layers. These weights have no adapters and stay as they are: %s.",
            ", ".join(targets),
            ", ".join(others),
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf".*language_model\.layers\.\d+\.({'|'.join(map(re.escape, targets))})",
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
    from peft import PeftModel

    destination = Path(destination)
    if destination.exists():
        raise FileExistsError(f"{destination} exists already")
    base = base or base_of(adapter)
    stored = HiComConfig.from_pretrained(base).dtype or torch.float32
    model = HiComForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    model.config.untrained_parts = still_untrained(model.config.untrained_parts, ADAPTED)
    processor = HiComProcessor.from_pretrained(adapter)
    with atomic_folder(destination) as folder:
        save_hub_folder(model.to(stored), processor, folder)
    return destination
