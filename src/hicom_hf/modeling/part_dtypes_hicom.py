"""Loading the parts of a model in types of their own: `from_pretrained(..., dtype={"text_config": "bfloat16", "": "float32"})`.

transformers removed this and loads everything in the type under "", with a line in the log.
"""

from typing import Any

import torch
from torch import nn

# Key of `dtype`, which is a field of the configuration -> the modules that it stands for.
MODULES = {
    "text_config": ("language_model", "lm_head"),
    "vision_config": ("vision_tower",),
    "instruction_config": ("instruction_encoder",),
    "compressor_config": ("compressor",),
}


def types_of_parts(dtype: dict[str, str | torch.dtype]) -> dict[str, torch.dtype]:
    """The type of each part; parts that are not named have that under "", float32 if there is none.

    Raises:
        ValueError: a key is no part, or a value is no type of floating-point numbers.
    """
    unknown = sorted(set(dtype) - {"", *MODULES})
    if unknown:
        raise ValueError(
            f'dtype has no part {", ".join(map(repr, unknown))}; parts are {", ".join(MODULES)}, and "" the rest'
        )
    types: dict[str, Any] = {
        key: getattr(torch, value, value) if isinstance(value, str) else value for key, value in dtype.items()
    }
    for key, value in types.items():
        if not isinstance(value, torch.dtype) or not value.is_floating_point:
            raise ValueError(
                f"dtype[{key!r}] must be a floating-point type of torch, such as 'bfloat16'; got {value!r}"
            )
    return {part: types.get(part, types.get("", torch.float32)) for part in MODULES}


def widest(types: dict[str, torch.dtype]) -> torch.dtype:
    """The type that all parts can be read in without losing anything that they keep."""
    found: torch.dtype | None = None
    for dtype in types.values():
        found = dtype if found is None else torch.promote_types(found, dtype)
    return torch.float32 if found is None else found


def set_types(model: nn.Module, types: dict[str, torch.dtype]) -> None:
    """Changes the parts of a loaded model to their types, and notes these in its configuration.

    Raises:
        ValueError: weights are offloaded.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            "a type for each part needs all weights in memory; give one dtype, or a device_map without disk"
        )
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        for part, modules in MODULES.items():
            if last in modules and name.count(".") <= 1:
                module.to(types[part])
    for part, dtype in types.items():
        getattr(model.config, part).dtype = dtype
