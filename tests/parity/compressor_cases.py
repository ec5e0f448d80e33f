"""The official compressor's numbers: `build_official_compressor` on the reference weights and inputs.

Letters: T frames, H/W patch rows and columns, D vision width, N tokens.
"""

import json
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from hicom_hf.conversion.official_config import build_official_compressor
from hicom_hf.conversion.projector_string import UnreleasedOptionError

from .checks import CaseResult, Comparison, LeftOut, largest


def run_compressor_case(folder: Path, case: dict) -> CaseResult:
    """All runs of one projector, each input through our compressor.

    Args:
        folder: the root of the reference set.
        case: an entry of index.json of the kind "compressor" or "compressor_newline".
    """
    path = folder / case["description"]
    described = json.loads(path.read_text())
    weights = load_file(path.parent / described.get("weights", "weights.safetensors"))
    config = {**described["config"], "mm_projector_type": described["mm_projector_type"]}
    comparisons: list[Comparison] = []
    left_out: list[LeftOut] = []
    for number, run in enumerate(described["runs"]):
        grid = "x".join(map(str, run.get("grid", []))) or "any-resolution"
        what = f"run {number} ({grid})"
        reason = _not_compared(run, weights)
        if reason is None:
            try:
                compressor = build_official_compressor(*_as_run(config, run, weights))
            except UnreleasedOptionError as refusal:
                reason = f"refused: {refusal}"
        if reason is not None:
            left_out.append(LeftOut(what, reason))
            continue
        output = compress(compressor, read_inputs(_input(folder, path, run["input"])), run)
        comparisons.append(largest(what, output, load_file(path.parent / run["file"])["output"]))
    return CaseResult(case["id"], case["kind"], tuple(comparisons), tuple(left_out))


def _not_compared(run: dict, weights: dict) -> str | None:
    """Why a run has nothing to compare with, or shows what is not built."""
    if run.get("anyres"):
        return "refused: any-resolution layouts are an unreleased experiment"
    if "file" not in run:
        return f"the official program fails there: {run.get('error')}"
    spatial = str(run.get("merge", "flat")).startswith("spatial")
    if spatial and run["modality"] == "image" and "image_newline" in weights and run.get("has_newline", True):
        return "refused: newline tokens are an unreleased experiment"
    return None


def _input(folder: Path, description: Path, name: str) -> Path:
    """Where an input lies: inputs/ beside the cases, else the set's own compressor/inputs/."""
    beside = description.parent.parent / "inputs"
    return (beside if beside.is_dir() else folder / "compressor" / "inputs") / name


def _as_run(config: dict, run: dict, weights: dict) -> tuple[dict, dict]:
    """Options and tensors of one run; the runs of the newline case have layouts of their own."""
    if "merge" not in run:
        return config, weights
    config = {**config, "mm_patch_merge_type": run["merge"], "mm_newline_position": run["newline"]}
    # The vector belongs to the LLM's side; a layout that flattens plainly does not use it.
    return config, {name: tensor for name, tensor in weights.items() if name != "image_newline"}


@torch.no_grad()
def compress(compressor, inputs: tuple[torch.Tensor, ...], run: dict) -> torch.Tensor:
    """The compressor's tokens (N, C) for what `read_inputs` gives."""
    features, aligned_features, pooled, tokens = inputs
    if run.get("frames_embed_used") is False:
        aligned_features = None
    instruction = (pooled[None], tokens[None]) if run["guide_used"] else None
    if run["modality"] == "image" and compressor.local_branch is not None:
        # The official program groups no frames of an image, however many it has; ours has one.
        compressor.local_branch.ratio = (1, *compressor.local_branch.ratio[1:])
    aligned_features = None if aligned_features is None else aligned_features[None]
    return compressor(features[None], aligned_features, instruction)[0][0]


def read_inputs(source: Path) -> tuple[torch.Tensor, ...]:
    """Features and aligned features (T, H, W, D), pooled instruction and its tokens, all float32.

    Args:
        source: inputs/NAME, without an ending.

    Raises:
        ValueError: if generated values are not those that the reference was computed from.
    """
    described = json.loads(source.with_name(source.name + ".json").read_text())
    tensors = {
        name: tensor.float() for name, tensor in load_file(source.with_name(source.name + ".safetensors")).items()
    }
    if described["source"] == "hash":
        shape = (*described["grid"], described["dim"])
        for name in ("frames_feature", "frames_embed"):
            if f"{name}_seed" in described:
                tensors[name] = hashed(shape, described[f"{name}_seed"])
                _check_hashed(name, tensors[name], described[f"{name}_check"])
    names = ("frames_feature", "frames_embed", "guide_pooled", "guide_tokens")
    return tuple(tensors.get(name) for name in names)


def hashed(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Pseudo-random values in [-2, 2), each from its index alone, the same on every machine."""
    mask = np.uint64(0xFFFFFFFF)
    x = np.arange(1, prod(shape) + 1, dtype=np.uint64)
    x = (x * np.uint64(2654435761) + np.uint64(seed * 2246822519 % 2**32)) & mask
    for factor in (739982445, 695872825):
        x ^= x >> np.uint64(15 if factor == 739982445 else 12)
        x = (x * np.uint64(factor)) & mask
    x ^= x >> np.uint64(15)
    values = 2 * ((x >> np.uint64(8)).astype(np.float64) / 2**23 - 1)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def _check_hashed(name: str, values: torch.Tensor, check: dict) -> None:
    flat = values.flatten().double()
    found = [*flat[:8].tolist(), *flat[-4:].tolist()]
    total = flat.sum().item()
    if found != [*check["first8"], *check["last4"]] or abs(total - check["sum"]) > 1e-6 * max(1, abs(check["sum"])):
        raise ValueError(f"the generated {name} are not the reference's")
