"""Reading official checkpoints tensor by tensor: safetensors and .bin shards, adapters, from a folder or the Hub."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from ..hub.places import check_exists
from ..hub.reading import message_of, shard_names

# Files of a checkpoint; nothing else is downloaded, in particular no code.
FILES = ["*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja"]
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # with or without shards; the first that is there counts
PROJECTOR_FILE = "mm_projector.bin"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
NON_LORA_FILE = "non_lora_trainables.bin"
# Names of floating-point types in safetensors.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, not yet read."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def local_folder(source: str | Path, what: str, weights: bool = True) -> Path:
    """A folder as it is, a Hub repo downloaded.

    Args:
        source: folder or repo id.
        what: the argument's name, for errors.
        weights: False to leave the tensors of a repo where they are.

    Raises:
        FileNotFoundError: there is no such folder.
        OSError: the repo cannot be read.
    """
    if Path(source).is_dir():
        return Path(source)
    check_exists(source)
    files = FILES if weights else [pattern for pattern in FILES if pattern not in ("*.safetensors", "*.bin")]
    try:
        return Path(snapshot_download(str(source), allow_patterns=files))
    except (OSError, ValueError) as error:
        raise OSError(
            f"{what} {str(source)!r} is no folder here, and no such Hub repo could be read: {error}"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights; empty if there are none.

    Raises:
        FileNotFoundError: if the index names shards that are not there.
        ValueError: if the index is damaged or names files outside of the folder.
    """
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = shard_names(index)
            absent = [shard for shard in shards if not (folder / shard).is_file()]
            if absent:
                raise FileNotFoundError(f"{folder}: {index.name} names files that are not there: {', '.join(absent)}")
            return [folder / shard for shard in shards]
        if (folder / name).is_file():
            return [folder / name]
    return []


def list_tensors(files: list[Path]) -> dict[str, StoredTensor]:
    """All tensors of some files, by name, without reading them.

    Raises:
        ValueError: if a file is damaged, holds something else than tensors, or two files hold the same name.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for tensor in _list_safetensors(file) if file.suffix == ".safetensors" else _list_bin(file):
            if tensor.name in tensors:
                raise ValueError(f"{file} and {tensors[tensor.name].file} both hold a tensor {tensor.name}")
            tensors[tensor.name] = tensor
    return tensors


def _list_safetensors(file: Path) -> list[StoredTensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
            slices = [opened.get_slice(name) for name in names]
            return [
                StoredTensor(
                    file,
                    name,
                    tuple(part.get_shape()),
                    DTYPES.get(part.get_dtype()) or opened.get_tensor(name).dtype,
                )
                for name, part in zip(names, slices, strict=True)
            ]
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or no safetensors file: {error}") from error


def _list_bin(file: Path) -> list[StoredTensor]:
    return [StoredTensor(file, name, tuple(tensor.shape), tensor.dtype) for name, tensor in _open_bin(file).items()]


def _open_bin(file: Path) -> dict[str, torch.Tensor]:
    """A .bin file as a dictionary whose tensors are still on disk; only tensors are accepted, no code."""
    options = {"map_location": "cpu", "weights_only": True}
    try:
        try:
            loaded = torch.load(file, mmap=True, **options)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            loaded = torch.load(file, **options)  # the format of before torch 1.6, which cannot be mapped
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} holds more than tensors and is not read, since it could run code: {error}"
        ) from error
    except (RuntimeError, EOFError, LookupError, TypeError, AttributeError) as error:  # it is no pickle
        raise ValueError(f"{file} is damaged or no file of torch.save: {message_of(error)}") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ValueError(f"{file} is not a dictionary of tensors")
    if any(tensor.is_meta for tensor in loaded.values()):
        raise ValueError(f"{file} holds tensors without values (saved from the meta device)")
    return loaded


class TensorReader:
    """Reads tensors one at a time; of .bin files, at most one is open.

    A tensor of a safetensors file, or of a .bin file of today's format, stays on disk until its values are used.
    """

    def __init__(self):
        self._bin: tuple[Path | None, dict[str, torch.Tensor]] = (None, {})

    def read(self, stored: StoredTensor) -> torch.Tensor:
        """The tensor, on the CPU, as it is stored."""
        if stored.file.suffix == ".safetensors":
            with safe_open(stored.file, framework="pt") as opened:
                return opened.get_tensor(stored.name)
        if self._bin[0] != stored.file:
            self._bin = (None, {})
            self._bin = (stored.file, _open_bin(stored.file))
        return self._bin[1][stored.name]

    def close(self) -> None:
        self._bin = (None, {})
