"""Stages: which parameters train at which rate, and how a stage starts from the folder of the one before.

Every parameter belongs to one part, decided by its name alone:

| part | parameters |
|---|---|
| injection | `model.compressor.*.injection.*` |
| compressor | the rest of `model.compressor` |
| language_model | `model.language_model` and `lm_head` |
| vision_head | layer norm and MLP of SigLIP's pooling head |
| instruction_encoder | `model.instruction_encoder` |
| vision_tower | the rest of `model.vision_tower`; no stage trains it |
"""

import logging
import re
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import nn

from ..hub.loading import check_finite, load_with_report
from ..modeling.configuration_hicom import HiComConfig
from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..modeling.parts_hicom import rate_of
from .recipe import LearningRates, Recipe

logger = logging.getLogger(__name__)

# What peft puts into names around a module that it adapts or copies.
PEFT_NAMES = re.compile(
    r"^base_model\.model\.|\.base_layer(?=\.)|\.modules_to_save\.[^.]+(?=\.)|\.original_module(?=\.)"
)
COMPRESSING = frozenset({"compressor", "injection"})


def part_of(name: str) -> str:
    """The part that a parameter belongs to.

    Args:
        name: as in `named_parameters`, of a model or of a model with adapters.

    Raises:
        ValueError: if no part has it.

    Example:
        >>> part_of("model.compressor.local_branch.injection.mlp.linear_1.weight")
        'injection'
    """
    part = rate_of(PEFT_NAMES.sub("", name))
    if part is None:
        raise ValueError(f"no part of the model has the parameter {name!r}")
    return part


def unused_parameters(config: HiComConfig) -> set[str]:
    """Names of parameters in trainable parts that no result depends on: they have no gradient and stay frozen.

    Under `release` with a direct global injection every query is the instruction itself, so the learned queries are never
    read (official_release: "dead weight").
    """
    compressor = config.compressor_config
    if compressor.global_injection == "direct" and not compressor.bypass_injection:
        return {"model.compressor.global_branch.queries"}
    return set()


def set_trainable(model: nn.Module, config: HiComConfig, rates: LearningRates) -> dict[str, int]:
    """Let exactly the parts with a rate learn; everything else, `lm_head` included, is frozen.

    Args:
        model: `HiComForConditionalGeneration`, or that inside a PEFT model, whose own freezing of the LLM stays.
        config: of the model.
        rates: by part.

    Returns:
        Trainable numbers by part.

    Raises:
        ValueError: for a part that this model's results do not depend on.
    """
    given = {part: rate for part, rate in asdict(rates).items() if rate is not None}
    if "vision_head" in given and not config.compressor_config.uses_aligned_features:
        raise ValueError(
            "learning_rates.vision_head must be null: only a local branch with injection uses SigLIP's pooling head"
        )
    if "instruction_encoder" in given and not config.compressor_config.uses_instruction:
        raise ValueError("learning_rates.instruction_encoder must be null: this compressor uses no instruction")
    unused, counts = unused_parameters(config), dict.fromkeys(given, 0)
    for name, parameter in model.named_parameters():
        part, plain = part_of(name), PEFT_NAMES.sub("", name)
        learns = part in given and plain not in unused and ".original_module." not in name
        if hasattr(model, "peft_config") and part == "language_model":
            learns = learns and ".lora_" in name
        parameter.requires_grad_(learns)
        if learns:
            counts[part] += parameter.numel()
    if counts.get("injection") == 0:
        logger.info("The injections of this model have no parameters; their rate is not used.")
    return counts


def base_model(model: nn.Module) -> HiComForConditionalGeneration:
    """The HICom model itself, also from inside a PEFT model."""
    unwrap = getattr(model, "get_base_model", None)
    return cast(HiComForConditionalGeneration, model if unwrap is None else unwrap())


def optimizer_groups(model: nn.Module, rates: LearningRates, weight_decay: float, no_decay: set[str]) -> list[dict]:
    """Parameter groups of an optimiser: one per part, and a second one for what does not decay if anything does.

    Args:
        model: after `set_trainable`.
        rates: by part.
        weight_decay: of weights.
        no_decay: names of parameters that never decay (biases, norms).

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `name`, the part. Names of the parameters are in `parameter_names`.
    """
    groups: dict[tuple[str, float], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = part_of(name)
        decay = 0.0 if name in no_decay else weight_decay
        group = groups.setdefault(
            (part, decay),
            {"params": [], "lr": getattr(rates, part), "weight_decay": decay, "name": part, "parameter_names": []},
        )
        group["params"].append(parameter)
        group["parameter_names"].append(name)
    return list(groups.values())


# Starting from a folder ----------------------------------------------------------------------------------------------------


def load_stage(recipe: Recipe, **kwargs: Any) -> HiComForConditionalGeneration:
    """Load the folder that a stage starts from, strictly, and put its config into the stage's state.

    Alignment bypasses the injections, the later stages run them. Frozen weights are kept as `recipe.precision` computes,
    trained ones become float32 (`cast_for_training`).

    Args:
        recipe: with `model`, `stage` and, for a model without injections, `new_injection`.
        **kwargs: for `from_pretrained`.

    Raises:
        ValueError: if a weight is missing, has another shape, is not known, or is not a number, with all names.
    """
    source = recipe.source
    config, fresh = stage_config(recipe)
    if recipe.lora is not None:
        _check_base_of_adapter(source, fresh)
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    model, info = load_with_report(
        HiComForConditionalGeneration,
        source,
        config=config,
        dtype=dtype,
        ignore_mismatched_sizes=True,
        **kwargs,
    )
    check_loaded(info, source, fresh)
    check_finite(model, source)
    return model


def stage_config(recipe: Recipe) -> tuple[HiComConfig, bool]:
    """The config that a stage trains with, and whether fresh injection modules are due."""
    config = HiComConfig.from_pretrained(recipe.source)
    values = config.compressor_config.to_dict()
    wanted = {} if recipe.new_injection is None else asdict(recipe.new_injection)
    for name, value in wanted.items():
        if values[name] not in ("none", value):
            raise ValueError(
                f"new_injection.{name} is {value!r} but {recipe.model} has {values[name]!r} already; set it to null"
            )
    values |= {**wanted, "bypass_injection": recipe.stage == "alignment"}
    config.compressor_config = type(config.compressor_config).from_dict(values)
    return config, bool(wanted)


def check_loaded(info: dict, source: str, fresh_injections: bool = False) -> None:
    """Refuse a folder from which not every weight came, or from which some were left over.

    Args:
        info: what `from_pretrained(..., output_loading_info=True)` returned.
        source: the folder, for the message.
        fresh_injections: injection modules may be missing; they are named in the log.
    """
    missing = sorted(info["missing_keys"])
    if fresh_injections:
        fresh = [name for name in missing if part_of(name) == "injection"]
        missing = [name for name in missing if name not in fresh]
        if fresh:
            logger.warning("New, untrained injection modules (the folder has none): %s", ", ".join(fresh))
    problems = [f"missing: {', '.join(missing)}"] if missing else []
    if info["unexpected_keys"]:
        problems.append(f"not known to this model: {', '.join(sorted(info['unexpected_keys']))}")
    if info["mismatched_keys"]:
        shapes = (f"{name} {tuple(there)} instead of {tuple(here)}" for name, there, here in info["mismatched_keys"])
        problems.append(f"of another shape: {', '.join(sorted(shapes))}")
    if info.get("error_msgs"):
        problems.append("; ".join(info["error_msgs"]))
    if problems:
        raise ValueError(
            f"{source} does not hold this model's weights, {'; '.join(problems)}. A stage starts from the complete folder of "
            "the stage before; for a converted stage-1 projector without injections set new_injection"
        )


def _check_base_of_adapter(source: str, fresh: bool) -> None:
    """An adapter is loaded onto the folder it was trained from: what is changed on entry would be missing there."""
    bypassed = HiComConfig.from_pretrained(source).compressor_config.bypass_injection
    if fresh or bypassed:
        raise ValueError(
            f"lora cannot start from {source}, whose injections are {'not there' if fresh else 'bypassed'}: the adapter would "
            "be loaded onto a model without them. Run conditional pre-training first"
        )


def cast_for_training(model: nn.Module) -> None:
    """Trained weights in float32, where small updates are not rounded away; frozen ones keep their type.

    Compressor and injections lie within each other, so they have one type: a layer norm in bf16 does not take float32, and
    autocast on a CPU does not cast it.
    """
    learning = {part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    together = COMPRESSING if not COMPRESSING.isdisjoint(learning) else frozenset()
    for name, parameter in model.named_parameters():
        if (parameter.requires_grad or part_of(name) in together) and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
