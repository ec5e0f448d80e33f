"""The parts of a HICom model: their names, in code and in words, and which tensors belong to each."""

import re
from collections.abc import Iterable

# The modules under `model`, in words; `lm_head` counts as language_model.
PARTS = {
    "vision_tower": "vision encoder (SigLIP vision)",
    "instruction_encoder": "instruction encoder (SigLIP text)",
    "compressor": "compressor",
    "language_model": "LLM",
}
# What has a learning rate of its own, the part that it lies in, and the names of its tensors; the first match decides.
TENSORS = (
    ("injection", "compressor", re.compile(r"model\.compressor\.(local|global)_branch\.injection\.")),
    ("compressor", "compressor", re.compile(r"model\.compressor\.")),
    ("language_model", "language_model", re.compile(r"(model\.language_model|lm_head)\.")),
    ("vision_head", "vision_tower", re.compile(r"model\.vision_tower\.head\.(layernorm|mlp)\.")),
    ("instruction_encoder", "instruction_encoder", re.compile(r"model\.instruction_encoder\.")),
    ("vision_tower", "vision_tower", re.compile(r"model\.vision_tower\.")),
)
PART_OF_RATE = {rate: part for rate, part, _ in TENSORS}
ADAPTED = ("compressor", "language_model")  # what training with adapters trains


def rate_of(name: str) -> str | None:
    """The learning rate's name of a tensor, as in `state_dict`; None if no part has such a tensor.

    Example:
        >>> rate_of("model.compressor.local_branch.injection.mlp.linear_1.weight")
        'injection'
    """
    return next((rate for rate, _, pattern in TENSORS if pattern.match(name)), None)


def still_untrained(untrained_parts: Iterable[str], trained: Iterable[str]) -> list[str]:
    """What remains of a config's list of untrained parts after training.

    Args:
        untrained_parts: of a `HiComConfig`.
        trained: parts, or the learning rates' names of what was trained. An injection counts as the compressor; a trained head
            does not make a trained tower.
    """
    done = {"compressor" if rate == "injection" else rate for rate in trained}
    return [part for part in untrained_parts if part not in done]


def count_by_part(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Numbers of parameters by part, "other" for what belongs to none, from names and sizes of tensors."""
    counts = dict.fromkeys(PARTS, 0)
    for name, size in sizes:
        rate = rate_of(name)
        part = "other" if rate is None else PART_OF_RATE[rate]
        counts[part] = counts.get(part, 0) + size
    return counts
