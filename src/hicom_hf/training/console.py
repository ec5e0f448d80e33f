"""Reports of a running training: a line per logging step, a progress bar, and whether the loader is the bottleneck."""

import sys
import time
from dataclasses import dataclass, field

from tqdm.auto import tqdm
from transformers import TrainerCallback

from ..data.collating import BatchStatistics

BOTTLENECK = 0.3  # fraction of the time spent waiting for data above which the log names the bottleneck


@dataclass
class Meter:
    """Counts between two logging steps, of one process.

    Attributes:
        text_tokens, visual_tokens, supervised_tokens, padding_tokens: processed.
        wait_seconds: the trainer waited for its batches.
        decode_seconds: readers spent on videos and images, added up over all of them.
        skipped: samples left out because they could not be read.
        begin: when counting began.
    """

    text_tokens: int = 0
    visual_tokens: int = 0
    supervised_tokens: int = 0
    padding_tokens: int = 0
    wait_seconds: float = 0.0
    decode_seconds: float = 0.0
    skipped: int = 0
    begin: float = field(default_factory=time.perf_counter)

    def add(self, statistics: BatchStatistics) -> None:
        """Count a batch."""
        self.text_tokens += statistics.num_text_tokens
        self.visual_tokens += statistics.num_visual_tokens
        self.supervised_tokens += statistics.num_supervised_tokens
        self.padding_tokens += statistics.num_padding_tokens
        self.decode_seconds += statistics.decode_seconds
        self.skipped += len(statistics.skipped)

    def counts(self) -> list[float]:
        """What is added up over processes: all numbers but the times that pass for all of them alike."""
        return [self.text_tokens, self.visual_tokens, self.padding_tokens, self.decode_seconds, self.skipped]


def throughput(counts: list[float], wait_seconds: float, seconds: float, steps: int) -> dict[str, float]:
    """Log entries of some steps.

    Args:
        counts: `Meter.counts`, added up over processes.
        wait_seconds: of the slowest process.
        seconds: that the steps took.
        steps: their number.
    """
    text, visual, padding, decode_seconds, skipped = counts
    steps = max(steps, 1)
    entries = {
        "tokens_per_second": (text + visual) / seconds,
        "visual_tokens_per_step": visual / steps,
        "padding_share": padding / max(text + visual + padding, 1),
        "step_seconds": seconds / steps,
        "wait_seconds": wait_seconds / steps,
        "decode_seconds": decode_seconds / steps,
    }
    if skipped:
        entries["skipped_samples"] = skipped
    return entries


def report_line(logs: dict, step: int, num_steps: int) -> str:
    """A log entry as one line for a person."""
    rates = {key.partition("/")[2]: value for key, value in logs.items() if key.startswith("learning_rate/")}
    parts = [f"step {step}/{num_steps}", f"loss {logs['loss']:.4f}"]
    if "grad_norm" in logs:
        parts.append(f"gradient norm {logs['grad_norm']:.3g}")
    parts.append("rates " + ", ".join(f"{name} {rate:.2e}" for name, rate in rates.items()))
    if "tokens_per_second" in logs:
        wait, step_seconds = logs["wait_seconds"], logs["step_seconds"]
        parts += [
            f"{logs['tokens_per_second']:.0f} tokens/s",
            f"{logs['visual_tokens_per_step']:.0f} visual tokens/step",
            f"{step_seconds:.2f} s/step ({wait:.2f} s waiting for data, {logs['decode_seconds']:.2f} s decoding)",
        ]
        if wait > BOTTLENECK * step_seconds:
            parts.append("the loader is the bottleneck (data.num_workers)")
    if "skipped_samples" in logs:
        parts.append(f"{logs['skipped_samples']:.0f} samples skipped")
    return "  ".join(parts)


def held_out_line(logs: dict) -> str:
    """An evaluation as one line for a person."""
    parts = [f"held-out loss {logs['eval_loss']:.4f}"]
    if "eval_score" in logs:
        parts.append(f"answers {100 * logs['eval_score']:.1f} % right of {logs['eval_samples']:.0f}")
    if "eval_skipped" in logs:
        parts.append(f"{logs['eval_skipped']:.0f} samples skipped")
    return "  ".join([*parts, f"({logs['eval_runtime']:.0f} s)"])


class ConsoleReport(TrainerCallback):
    """Lines and a progress bar on stderr, in place of transformers' own.

    Args:
        progress_bar: show one if stderr is a terminal.
    """

    def __init__(self, progress_bar: bool = True):
        self.progress_bar = progress_bar
        self.bar = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and self.progress_bar:
            # disable=None: no bar where stderr is a file
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", disable=None, file=sys.stderr
            )

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            tqdm.write(report_line(logs, state.global_step, state.max_steps), file=sys.stderr)
        elif "eval_loss" in logs:
            line = f"step {state.global_step}/{state.max_steps}  {held_out_line(logs)}"
            tqdm.write(line, file=sys.stderr)

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
            self.bar = None
