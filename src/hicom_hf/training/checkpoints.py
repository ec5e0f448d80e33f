"""Checkpoints that are either complete or not there, and stopping in order.

A checkpoint is written under `unfinished/` by all processes of a run, a list of its files with their sizes and digests is added,
everything is forced to disk, and only then is it renamed to its final name, which is atomic. Whatever happens in between,
kill -9 and a full disk included, leaves the older checkpoints as they were and nothing that could be taken for a newer one.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import distributed, nn
from transformers import TrainerCallback

from ..hub.files import changed_files, folder_fingerprints, publish_folder, remove_folder, remove_leftovers

logger = logging.getLogger(__name__)

MARKER = "complete.json"  # names, sizes and digests of a complete folder's files
UNFINISHED = "unfinished"  # where folders are written, beside those that are complete
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)  # messages of torch and safetensors about a full disk
SAMPLES_PER_WEIGHT = 64  # values of each frozen weight that its fingerprint reads


# Writing -------------------------------------------------------------------------------------------------------------------


def complete_folder(staging: Path, destination: Path) -> None:
    """Turn a written folder into a complete one: listed, forced to disk, renamed.

    Args:
        staging: the folder; on the same file system as `destination`.
        destination: its final name. What is there and incomplete is removed.

    Raises:
        FileExistsError: `destination` is there and complete.
        OSError: the disk is full, or gone.
    """
    listed = {"files": folder_fingerprints(staging)}
    (staging / MARKER).write_text(json.dumps(listed, indent=1), encoding="utf-8")
    if is_complete(destination):
        raise FileExistsError(f"{destination} exists already")
    remove_folder(destination)
    publish_folder(staging, destination)
    with suppress(OSError):  # another checkpoint is being written there
        staging.parent.rmdir()


def remove_unfinished(output_dir: Path) -> None:
    """Remove what a run that was killed while writing has left."""
    shutil.rmtree(output_dir / UNFINISHED, ignore_errors=True)
    remove_leftovers(output_dir)


# Finding -------------------------------------------------------------------------------------------------------------------


def is_complete(folder: Path) -> bool:
    """Whether a folder was written to its end, and its files still have their sizes; see `damaged_files`."""
    try:
        return not changed_files(folder, _listed(folder), content=False)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def damaged_files(folder: Path) -> list[str]:
    """Files of a complete folder whose content is no longer what was written; reads all of them."""
    return changed_files(folder, _listed(folder))


def _listed(folder: Path) -> dict[str, dict]:
    return json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]


def checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = []
    for _, path in sorted(_numbered(output_dir).items()):
        if is_complete(path):
            found.append(path)
        else:
            logger.warning("%s is not complete and is not used.", path)
    return found


def _numbered(output_dir: Path) -> dict[int, Path]:
    """All folders with a checkpoint's name, by their step."""
    paths = list(output_dir.iterdir()) if output_dir.is_dir() else []
    return {int(match[1]): path for path in paths if (match := CHECKPOINT.fullmatch(path.name))}


def checked_checkpoint(folder: Path) -> Path:
    """A checkpoint that somebody has named.

    Raises:
        ValueError: it is not complete, or no longer what was written.
    """
    if not is_complete(folder):
        raise ValueError(f"{folder} is not a complete checkpoint")
    if damaged := damaged_files(folder):
        raise ValueError(
            f"{folder} is damaged: {', '.join(damaged)} changed since it was written; use another checkpoint"
        )
    return folder


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run, if it has one."""
    return (checkpoints(output_dir) or [None])[-1]


def checkpoint_to_resume(output_dir: Path) -> Path | None:
    """The newest checkpoint that is complete and whose files are as they were written, None if the run has none yet.

    Raises:
        ValueError: there are checkpoints, but all of them are damaged.
    """
    for path in reversed(checkpoints(output_dir)):
        damaged = damaged_files(path)
        if not damaged:
            return path
        logger.warning("%s is damaged (%s changed) and is not used.", path, ", ".join(damaged))
    there = [path.name for path in _numbered(output_dir).values()]
    if there:
        raise ValueError(
            f"none of the checkpoints in {output_dir} can be used ({', '.join(there)}): their files are missing or have "
            "changed since they were written. Restore them, or remove them to start from the beginning"
        )
    return None


def remove_old_checkpoints(output_dir: Path, keep: int, best: Path | None = None) -> None:
    """Remove all complete checkpoints but the newest `keep`.

    Args:
        output_dir: where they lie.
        keep: how many stay.
        best: stays in any case, as one of them; beside the newest if `keep` is 1.
    """
    others = [path for path in checkpoints(output_dir) if path != best]
    for path in others[: -max(1, keep - (best is not None))]:
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


def cast_tensors(state_dict: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors in another type; those that were one object (tied weights) stay one, so that they are stored once."""
    converted: dict[int, torch.Tensor] = {}
    return {
        name: converted.setdefault(
            tensor.data_ptr() or id(tensor), tensor.to(dtype) if tensor.is_floating_point() else tensor
        )
        for name, tensor in state_dict.items()
    }


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


class StopWithoutProgress(TrainerCallback):
    """Stops when evaluations have not become better for some time.

    It decides from the log alone, so that a run that is resumed stops where an uninterrupted one does.

    Args:
        patience: evaluations.
        metric: of the log.
        greater_is_better: whether it should rise.
    """

    def __init__(self, patience: int, metric: str = "eval_loss", greater_is_better: bool = False):
        self.patience, self.metric = patience, metric
        self.best = max if greater_is_better else min

    def on_evaluate(self, args, state, control, **kwargs):
        values = [entry[self.metric] for entry in state.log_history if self.metric in entry]
        if values and len(values) - 1 - values.index(self.best(values)) >= self.patience:
            control.should_training_stop = True

    on_train_begin = on_evaluate  # of a run that was killed when it had stopped


class StopOnSignal(TrainerCallback):
    """SIGTERM or Ctrl-C: the step is finished, a checkpoint written, and training stops; a second one stops at once.

    With several processes all stop at the same step, no matter which of them received the signal.

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
