"""Writing safetensors shards tensor by tensor.

`safetensors.torch.save_file` takes a whole shard in memory and copies it once more. Here the header is written first (shapes
and types are known), then one tensor after the other, in pieces: memory is that of one tensor.
"""

import json
import struct
import sys
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards

DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
PIECE_BYTES = 64 * 2**20  # converted and written at a time
WEIGHTS_PATTERN = "model{suffix}.safetensors"

Shapes = dict[str, tuple[int, ...]]
# Gives the pieces of a tensor, in row-major order, in any floating-point type.
Pieces = Callable[[str], Iterable[torch.Tensor]]


def write_shards(
    folder: Path, shapes: Shapes, dtype: torch.dtype, max_shard_size: int | str, pieces: Pieces, progress: Callable
) -> list[Path]:
    """Write tensors as `save_pretrained` would lay them out: one file, or shards with an index.

    Args:
        folder: where to.
        shapes: all tensors.
        dtype: of all of them.
        max_shard_size: bytes, or such as "5GB"; a single larger tensor gets a file of its own.
        pieces: called once per tensor, in the order of the files.
        progress: called with a line per file.

    Returns:
        The files.
    """
    if sys.byteorder != "little":
        raise OSError("safetensors files are little-endian; this machine is not")
    ordered = sorted(shapes, key=_natural_key)
    meta = {name: torch.empty(shapes[name], dtype=dtype, device="meta") for name in ordered}
    split = split_torch_state_dict_into_shards(meta, filename_pattern=WEIGHTS_PATTERN, max_shard_size=max_shard_size)
    files = []
    for number, (file, names) in enumerate(split.filename_to_tensors.items(), start=1):
        progress(f"writing {file} ({number} of {len(split.filename_to_tensors)})")
        _write_shard(folder / file, {name: shapes[name] for name in sorted(names)}, dtype, pieces)  # as save_file
        files.append(folder / file)
    if split.is_sharded:
        count = sum(prod(shape) for shape in shapes.values())
        index = {
            "metadata": {"total_parameters": count, **split.metadata},
            "weight_map": dict(sorted(split.tensor_to_filename.items())),
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return files


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    """Layers by number. Source: transformers 5, core_model_loading.dot_natural_key, the order of `save_pretrained`."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in name.split(".")]


def _write_shard(path: Path, shapes: Shapes, dtype: torch.dtype, pieces: Pieces) -> None:
    """One file: length of the header, header, tensors. Source: the safetensors format, its README."""
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # tensors begin at a multiple of 8
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, shape in shapes.items():
            written = 0
            for piece in pieces(name):
                for part in piece.reshape(-1).split(PIECE_BYTES // dtype.itemsize):
                    part = _cast(name, part, dtype)
                    file.write(part.view(torch.uint8).numpy().data)
                    written += part.numel()
            if written != prod(shape):
                raise RuntimeError(f"{name}: {written} values were written, expected {prod(shape)}")


def _cast(name: str, part: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    cast = part.to(dtype).contiguous()
    if dtype == torch.float16 and part.dtype != torch.float16 and not torch.equal(cast.isfinite(), part.isfinite()):
        raise ValueError(f"{name} has values beyond the range of float16; convert to bf16 or fp32 (--dtype)")
    return cast
