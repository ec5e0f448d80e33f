"""Checkpoints that are either complete or not there, and stopping in order.

A folder is written under `unfinished/`, its files are forced to disk, a list of them with their sizes is added, and only then
is it renamed to its final name, which is atomic. Whatever happens in between, kill -9 and a full disk included, leaves the
older checkpoints as they were and nothing that could be taken for a newer one.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import distributed, nn
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

MARKER = "complete.json"  # names and sizes of a complete folder's files
UNFINISHED = "unfinished"  # where folders are written, beside those that are complete
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)  # torch and safetensors have their own words for a full disk
SAMPLES_PER_WEIGHT = 64  # values of each frozen weight that its fingerprint looks at


# Writing -------------------------------------------------------------------------------------------------------------------


def complete_folder(staging: Path, destination: Path, marker: bool = True) -> None:
    """Turn a written folder into its final self: forced to disk, listed, renamed.

    Args:
        staging: the folder; on the same file system as `destination`.
        destination: its final name. What is there and incomplete is removed.
        marker: leave the list of files in it.

    Raises:
        FileExistsError: `destination` is there and complete.
        OSError: the disk is full, or gone.
    """
    sizes = {}
    for path in sorted(path for path in staging.rglob("*") if path.is_file()):
        _force_to_disk(path)
        sizes[path.relative_to(staging).as_posix()] = path.stat().st_size
    if marker:
        (staging / MARKER).write_text(json.dumps({"files": sizes}, indent=1), encoding="utf-8")
        _force_to_disk(staging / MARKER)
    for path in (*(path for path in staging.rglob("*") if path.is_dir()), staging):
        _force_to_disk(path)
    if destination.exists() and (is_complete(destination) or not marker):
        raise FileExistsError(f"{destination} exists already")
    remove_folder(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    os.rename(staging, destination)
    _force_to_disk(destination.parent)


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing_folder(destination: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `destination` at the end of the block, or nothing if the block fails.

    Example:
        >>> with writing_folder(Path("runs/a/model")) as folder:  # doctest: +SKIP
        ...     model.save_pretrained(folder)
    """
    staging = destination.parent / UNFINISHED / destination.name
    remove_folder(staging)
    staging.mkdir(parents=True)
    try:
        yield staging
        complete_folder(staging, destination, marker=False)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    _remove_if_empty(staging.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that at no moment a part of it bears its name."""
    if not folder.exists():
        return
    if folder.parent.name != UNFINISHED:
        doomed = folder.parent / UNFINISHED / f"removed-{folder.name}"
        shutil.rmtree(doomed, ignore_errors=True)
        doomed.parent.mkdir(exist_ok=True)
        os.rename(folder, doomed)
        folder = doomed
    shutil.rmtree(folder)
    _remove_if_empty(folder.parent)


def _remove_if_empty(folder: Path) -> None:
    if folder.name == UNFINISHED and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def remove_leftovers(output_dir: Path) -> None:
    """Remove what a run that was killed while writing has left."""
    shutil.rmtree(output_dir / UNFINISHED, ignore_errors=True)


# Finding -------------------------------------------------------------------------------------------------------------------


def is_complete(folder: Path) -> bool:
    """Whether a folder was written to its end, and still is as it was then, as far as sizes tell."""
    try:
        sizes = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = []
    for path in output_dir.iterdir() if output_dir.is_dir() else ():
        match = CHECKPOINT.fullmatch(path.name)
        if match is None:
            continue
        if is_complete(path):
            found.append((int(match[1]), path))
        else:
            logger.warning("%s is not complete and is not used.", path)
    return [path for _, path in sorted(found)]


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run, if it has one."""
    return (checkpoints(output_dir) or [None])[-1]


def remove_old_checkpoints(output_dir: Path, keep: int) -> None:
    """Remove all complete checkpoints but the newest `keep`."""
    for path in checkpoints(output_dir)[:-keep]:
        remove_folder(path)


# Weights -------------------------------------------------------------------------------------------------------------------


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a saved model, whether in one file or several.

    Raises:
        FileNotFoundError: there are none.
    """
    paths = sorted(folder.glob("model*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no model*.safetensors")
    weights = {}
    for path in paths:
        weights.update(load_file(path))
    return weights


def trainable_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def load_weights(model: nn.Module, folder: Path, trainable_only: bool) -> None:
    """Load a checkpoint's weights strictly.

    Args:
        model: what it was saved from, tied weights included.
        folder: the checkpoint.
        trainable_only: it holds what is trainable, and only that.

    Raises:
        ValueError: if names are missing or left over.
    """
    weights = read_weights(folder)
    expected = trainable_names(model) if trainable_only else {name for name, _ in model.named_parameters()}
    if missing := sorted(expected - set(weights)):
        raise ValueError(f"{folder} does not fit this run: it lacks {', '.join(missing)}")
    known = set(model.state_dict())
    if left_over := sorted(set(weights) - (expected if trainable_only else known)):
        raise ValueError(f"{folder} does not fit this run: it also holds {', '.join(left_over)}")
    model.load_state_dict(weights, strict=False)


def frozen_fingerprint(model: nn.Module) -> str:
    """A short text that changes when frozen weights do: some values of each, hashed."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            continue
        values = parameter.detach().flatten()
        step = max(1, values.numel() // SAMPLES_PER_WEIGHT)
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(values[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()


# Stopping ------------------------------------------------------------------------------------------------------------------


class StopOnSignal(TrainerCallback):
    """SIGTERM or Ctrl-C: the step is finished, a checkpoint written, and training stops; a second one stops at once.

    With several processes all stop at the same step, whichever of them was told first.

    Attributes:
        stopped: whether it has stopped training.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.received: int | None = None
        self.stopped = False
        self._before = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self._before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}

    def on_train_end(self, args, state, control, **kwargs):
        self.restore()

    def restore(self):
        """Put the handlers back that were there before training."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number, frame):
        if self.received is not None:
            self.restore()
            os.kill(os.getpid(), number)
            return
        self.received = number
        logger.warning("%s: finishing this step and saving, then stopping.", signal.Signals(number).name)

    def on_step_end(self, args, state, control, **kwargs):
        if self._told(args.device) and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True
        return control

    def _told(self, device) -> bool:
        """Whether this process, or any other of the run, has received a signal."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return self.received is not None
        told = torch.tensor([int(self.received is not None)], device=device)
        distributed.all_reduce(told, op=distributed.ReduceOp.MAX)
        return bool(told.item())
