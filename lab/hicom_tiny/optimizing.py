"""Common parts of both pre-trainings: optimisers, schedule of the rate, and the log."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

WARMUP = 0.05  # fraction of the steps
LOG_EVERY = 20  # steps
WEIGHT_DECAY = 0.02
MAX_GRAD_NORM = 1.0


def make_optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else.

    Source: PyTorch, `torch.optim.Muon`, which takes AdamW's rates when it matches their root mean square.
    """
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        inner = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if inner else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate_at(optimizers: list[torch.optim.Optimizer], rate: float, step: int, steps: int, held: float = 0.0) -> None:
    """Set the rate of a step: it rises over the first steps, may be held, then falls to nothing in a straight line.

    Args:
        optimizers: whose rate it is.
        rate: the highest.
        step, steps: 0 to steps - 1, and how many there are.
        held: fraction of the steps before it falls.
    """
    warm = max(1, round(WARMUP * steps))
    falls = max(warm, round(held * steps))
    share = min((step + 1) / warm, 1.0, (steps - step) / max(1, steps - falls))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * share


def take_step(model: nn.Module, optimizers: list[torch.optim.Optimizer], loss: torch.Tensor) -> None:
    """Backward, clip, step, and no gradients left."""
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


class TrainingLog:
    """Losses to a JSONL file and a progress bar.

    Args:
        path: of the file.
        name: in front of the bar.
    """

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        self._values: dict[str, list[float]] = {}
        self._begin = time.perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    def steps(self, count: int) -> Iterator[int]:
        """0 to count - 1, with a progress bar."""
        self._bar = tqdm(range(count), desc=self.name, file=sys.stderr, mininterval=5)
        yield from self._bar

    def add(self, step: int, values: dict[str, float]) -> None:
        """Take the values of a step; every `LOG_EVERY` steps the means over those that had them are written."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)
        if (step + 1) % LOG_EVERY == 0:
            means = {name: sum(known) / len(known) for name, known in self._values.items()}
            line = {"step": step + 1, **means, "seconds": time.perf_counter() - self._begin}
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self._bar.set_postfix({name: f"{value:.3f}" for name, value in means.items() if "/" not in name})
            self._values = {}
