"""Official checkpoint in, folder of ours out: plan everything, check everything, then stream the weights."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from transformers.utils import logging

from ..hub.loading import is_finite, quiet_transformers
from ..hub.new_folder import check_destination, new_folder
from ..hub.reading import ReadingValues
from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..modeling.saving_hicom import MAX_SHARD_SIZE
from .converted_parts import (
    build_config,
    build_generation_config,
    build_official_processor,
    build_tokenizer,
    load_tower_tokenizer,
)
from .official_sources import OfficialSource, open_source
from .shard_writing import PIECE_BYTES, write_shards
from .tensor_matching import match_tensors

DTYPES = {
    **{name: torch.bfloat16 for name in ("bf16", "bfloat16")},
    **{name: torch.float16 for name in ("fp16", "float16")},
    **{name: torch.float32 for name in ("fp32", "float32")},
}
EMBEDDINGS, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
CAP_NOTE = "The release keeps the first 32 sampled frames only, a defect; here all sampled frames are used."


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        destination: the folder.
        kind: of the source: "whole", "projector" or "LoRA".
        built: the compressor in words, one line per branch.
        notes: what the user should know.
        dtype: of the weights.
        num_parameters: written.
        weight_files: their names.
    """

    destination: str
    kind: str
    built: tuple[str, ...]
    notes: tuple[str, ...]
    dtype: str
    num_parameters: int
    weight_files: tuple[str, ...]

    def to_dict(self) -> dict:
        """Plain values, for JSON."""
        return asdict(self)


def convert_official_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    vision_tower: str | Path | None = None,
    language_model: str | Path | None = None,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Conversion:
    """Convert an official HICom checkpoint into a folder that loads like any model of ours.

    Args:
        source: folder or repo id: a whole checkpoint, a projector of stages 1 and 2 (mm_projector.bin), or a LoRA run.
        destination: the new folder; complete or not there at all.
        vision_tower: the SigLIP, folder or repo id; None for the one that the config names. Of a whole checkpoint only
            config, tokenizer and preprocessing are read, its weights are in the checkpoint.
        language_model: the base LLM of a projector or a LoRA run; None for the one that the config names.
        dtype: of the weights written ("bf16", "fp16", "fp32"); None for the source's.
        max_shard_size: bytes, or such as "5GB".
        overwrite: replace a model folder at `destination`.
        progress: called with a line per step.

    Returns:
        What was built, with notes.

    Raises:
        FileNotFoundError: the source or a model that it refers to is not there.
        FileExistsError: the destination is.
        ValueError: an option is not understood or not built, or tensors do not fit, or hold NaN or infinity; nothing is left
            at the destination then.

    Source: official release, two commits; `docs/official_checkpoint.md`.

    Example:
        >>> convert_official_checkpoint("HICom_7B", "hicom-7b", vision_tower="siglip-so400m")  # doctest: +SKIP
    """
    target_dtype = _dtype(dtype)
    _check_size(max_shard_size)
    check_destination(destination, overwrite)
    with quiet_transformers():
        with ReadingValues(source):
            opened = open_source(source, vision_tower, language_model)
            _check_apart(destination, opened)
            tokenizer, instruction_tokenizer = build_tokenizer(opened), load_tower_tokenizer(opened)
            config = build_config(opened, tokenizer, instruction_tokenizer)
            target_dtype = target_dtype or _stored_dtype(opened)
            with torch.device("meta"):
                model = HiComForConditionalGeneration._from_config(config, dtype=target_dtype)
            model.generation_config = build_generation_config(opened, tokenizer)
            sources = _match(opened, model)
            processor = build_official_processor(opened, config, tokenizer, instruction_tokenizer)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name in sources}
        with new_folder(destination, overwrite) as folder:
            with _no_progress_bar():
                # All but the weights, written below.
                model.save_pretrained(folder, processor=processor, state_dict={})
            pieces = partial(_pieces, opened, sources, shapes)
            files = write_shards(folder, shapes, target_dtype, max_shard_size, pieces, progress)
            opened.reader.close()
    return Conversion(
        destination=str(destination),
        kind=opened.kind,
        built=opened.plan.words,
        notes=(*opened.plan.notes, *opened.notes, CAP_NOTE),
        dtype=str(target_dtype).removeprefix("torch."),
        num_parameters=sum(torch.Size(shape).numel() for shape in shapes.values()),
        weight_files=tuple(file.name for file in files),
    )


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in DTYPES.values():
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)} or None for the source's, got {dtype!r}")
    return found


def _check_size(size: int | str) -> None:
    if not (isinstance(size, int) and size > 0) and not re.fullmatch(r"\d+(\.\d+)? *[KMGT]B", str(size)):
        raise ValueError(f"max_shard_size must be a number of bytes or such as '5GB', got {size!r}")


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Without transformers' bar for the weights that it does not write."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _stored_dtype(source: OfficialSource) -> torch.dtype:
    """The type of most of the checkpoint's values."""
    counts: dict[torch.dtype, int] = {}
    for stored in source.tensors.values():
        counts[stored.dtype] = counts.get(stored.dtype, 0) + torch.Size(stored.shape).numel()
    dtype = max(counts, key=lambda dtype: counts[dtype])
    if dtype not in DTYPES.values():
        raise ValueError(f"{source.folder} is stored as {dtype}; choose what to write with --dtype")
    return dtype


def _check_apart(destination: str | Path, source: OfficialSource) -> None:
    """What is read must not be overwritten."""
    path = Path(destination).resolve()
    for folder in (source.folder, source.tower, source.language_model):
        if folder is not None and (path == folder.resolve() or path in folder.resolve().parents):
            raise ValueError(f"the destination {destination} holds {folder}, which is read; choose another one")


def _match(source: OfficialSource, model) -> dict[str, str | None]:
    """Our tensors and the official ones that they are made of, None for zeros; every tensor of the source is accounted for."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: stored.shape for name, stored in source.tensors.items()}
    vocab_size, grown = source.config["vocab_size"], model.config.text_config.vocab_size
    if model.config.tie_word_embeddings:  # the head is the embeddings and has no tensor of its own
        wanted.pop(HEAD)
        if found.pop(HEAD, None):
            source.notes.append("The checkpoint ties its embeddings: its lm_head, a copy of them, is not written.")
    for name in (EMBEDDINGS, HEAD):
        if name in wanted:
            wanted[name] = (vocab_size, *wanted[name][1:])
    if grown > vocab_size:
        source.notes.append(
            f"Embeddings grew from {vocab_size} to {grown} rows for the placeholders; the new rows are the mean of the others."
        )
    zeros = {name: None for name in wanted if source.unused_prefix and name.startswith(source.unused_prefix)}
    needed = {name: shape for name, shape in wanted.items() if name not in zeros}
    sources = match_tensors(found, needed, built="; ".join(source.plan.words))
    odd = [name for name in sources.values() if source.tensors[name].dtype not in (*DTYPES.values(), torch.float64)]
    if odd:
        raise ValueError(
            f"{len(odd)} tensors are no plain floating-point numbers, such as {odd[0]} ({source.tensors[odd[0]].dtype}); "
            "quantised checkpoints are not converted"
        )
    return {**zeros, **sources}


def _pieces(source: OfficialSource, sources: dict, shapes: dict, name: str) -> Iterator[torch.Tensor]:
    """A tensor's values in pieces, with a mean row for each row that it grew by.

    Raises:
        ValueError: some are NaN or infinite.
    """
    if sources[name] is None:
        yield torch.zeros(shapes[name])
        return
    tensor = source.read(sources[name])
    if not is_finite(tensor):
        raise ValueError(
            f"{source.folder}: {sources[name]} holds values that are NaN or infinite; the checkpoint is damaged, or the run "
            "that wrote it had failed"
        )
    extra = shapes[name][0] - tensor.shape[0] if tensor.ndim else 0
    if not extra:
        yield tensor
        return
    rows = max(1, PIECE_BYTES // (8 * tensor[0].numel()))
    total = torch.zeros(tensor.shape[1:], dtype=torch.float64)
    for piece in tensor.split(rows):
        total += piece.double().sum(0)
        yield piece
    yield (total / tensor.shape[0]).float().expand(extra, *tensor.shape[1:])
