"""The curves of a run as a picture: losses, the score of generated answers, learning rates."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils.import_utils import is_matplotlib_available

from ..hub.files import atomic_file

logger = logging.getLogger(__name__)

SMOOTHED_POINTS = 20  # that a smoothed curve is about equal to, however many there are


def draw_curves(history: Sequence[dict[str, Any]], path: Path) -> bool:
    """Draw the log of a run; nothing where matplotlib is not installed (extra `plots`) or nothing was logged.

    Args:
        history: `log_history` of the trainer's state.
        path: PNG to write; replaced if it is there.

    Returns:
        Whether it was drawn.
    """
    steps, losses = _curve(history, "loss")
    held_out = _curve(history, "eval_loss")
    if not steps and not held_out[0]:
        return False
    if not is_matplotlib_available():
        logger.info("The curves are not drawn: pip install 'hicom_hf[plots]'.")
        return False
    from matplotlib.figure import Figure  # without pyplot: no window and no state

    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    if steps:
        above.plot(steps, losses, color="tab:blue", alpha=0.3)
        above.plot(steps, _smoothed(losses), color="tab:blue", label="training loss")
    if held_out[0]:
        above.plot(*held_out, "o-", color="tab:orange", label="held-out loss")
    above.set_ylabel("loss")
    above.legend()
    rates = sorted({key for entry in history for key in entry if key.startswith("learning_rate/")})
    for rate in rates:
        below.plot(*_curve(history, rate), label=rate.partition("/")[2])
    below.set(ylabel="learning rate", xlabel="step", yscale="log" if _all_above_zero(history, rates) else "linear")
    if rates:
        below.legend()
    score = _curve(history, "eval_score")
    if score[0]:
        right = above.twinx()
        right.plot(score[0], [100 * value for value in score[1]], "s--", color="tab:green", label="answers right")
        right.set(ylabel="answers right (%)", ylim=(0, 100))
        right.legend(loc="center right")
    with atomic_file(path, durable=False) as written:
        figure.savefig(written, format="png", dpi=120)
    return True


def _curve(history: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    found = [(entry["step"], entry[key]) for entry in history if key in entry]
    return [step for step, _ in found], [value for _, value in found]


def _smoothed(values: Sequence[float]) -> list[float]:
    smoothed, new = [], min(1.0, SMOOTHED_POINTS / len(values))
    for value in values:
        smoothed.append(value if not smoothed else (1 - new) * smoothed[-1] + new * value)
    return smoothed


def _all_above_zero(history: Sequence[dict[str, Any]], keys: Sequence[str]) -> bool:
    return all(entry[key] > 0 for entry in history for key in keys if key in entry)
