"""How time and memory grow with the frames of a video and with the questions about it.

Encoding, compressing and the LLM are measured apart: the first two are linear in frames, the LLM's attention is quadratic in the
tokens of a prompt.

In: nothing (a model of random weights and small width, random frames). Out: a table of CPU seconds and of memory above what was
there before, with the line that fits them best (for the LLM's time by frames also the parabola), and how far the points lie from
it; with --plot a picture. Linux with glibc only.

    python benchmarks/growth.py --plot docs/images/growth.png
"""

import argparse
import ctypes
import gc
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hicom_hf import HiComConfig, HiComForConditionalGeneration
from hicom_hf.assembly.random_model import tiny_config

VISION = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 3}
TEXT = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
IMAGE_SIZE, PATCH_SIZE, FRAMES_OF_QUESTIONS = 224, 16, 32
ENCODING, COMPRESSING, LLM = "encoding, by frames", "compressing, by frames", "the LLM's prompt, by frames"
MANY_COMPRESSED, MANY_READ = "compressing, by questions", "the LLM's prompts, by questions"

Points = dict[int, tuple[float, float]]  # frames or questions -> CPU seconds, MiB


def build() -> HiComForConditionalGeneration:
    tiny = tiny_config()
    config = HiComConfig(
        vision_config={**VISION, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE},
        instruction_config={**VISION, "projection_size": 192, "vocab_size": 1000, "max_position_embeddings": 64},
        text_config={
            **TEXT,
            "num_key_value_heads": 2,
            "vocab_size": tiny.text_config.vocab_size,
            "eos_token_id": None,
        },
        compressor_config={},
        image_token_id=tiny.image_token_id,
        video_token_id=tiny.video_token_id,
    )
    return HiComForConditionalGeneration(config).eval()


def resident(field: str) -> float:
    """MiB of this process: `VmRSS` now, `VmHWM` at most since `forget_peak`. Linux only."""
    [kib] = re.findall(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kib) / 1024


def forget_peak() -> None:
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free goes back, and counts again when it is taken
    Path("/proc/self/clear_refs").write_text("5")


def cost(function: Callable[[], Any], runs: int) -> tuple[tuple[float, float], Any]:
    """Least CPU seconds of some runs, the memory at most above what was there before, and what the last run gave."""
    seconds, memory, result = [], [], None
    for _ in range(runs):
        result = None
        gc.collect()
        forget_peak()
        before, begin = resident("VmRSS"), time.process_time()
        result = function()
        seconds.append(time.process_time() - begin)
        memory.append(resident("VmHWM") - before)
    return (min(seconds), max(memory)), result


def question(model: HiComForConditionalGeneration, num_frames: int, rows: int) -> dict[str, torch.Tensor]:
    num_tokens = model.config.num_visual_tokens(num_frames)
    ids = torch.full((rows, num_tokens + 40), 5)
    ids[:, 5 : 5 + num_tokens] = model.config.video_token_id
    return {"input_ids": ids, "video_instruction_ids": torch.randint(2, 1000, (rows, 64))}


@torch.no_grad()
def measure(most_frames: int, most_questions: int, runs: int) -> dict[str, Points]:
    torch.manual_seed(0)
    model, side = build(), IMAGE_SIZE
    found: dict[str, Points] = {name: {} for name in (ENCODING, COMPRESSING, LLM, MANY_COMPRESSED, MANY_READ)}
    model.encode_videos(torch.randn(8, 3, side, side), [8])  # the first call of a process costs more
    for frames in [32 * 2**step for step in range(20) if 32 * 2**step <= most_frames]:
        pixels = torch.randn(frames, 3, side, side)
        found[ENCODING][frames], features = cost(
            lambda pixels=pixels, frames=frames: model.encode_videos(pixels, [frames]), runs
        )
        del pixels
        asked = question(model, frames, 1)
        found[COMPRESSING][frames], found[LLM][frames] = cost_of_a_question(model, features, asked, runs)
        print(f"{frames} frames: {[found[name][frames] for name in (ENCODING, COMPRESSING, LLM)]}", flush=True)
        del features
    features = model.encode_videos(torch.randn(FRAMES_OF_QUESTIONS, 3, side, side), [FRAMES_OF_QUESTIONS])
    for rows in [2**step for step in range(20) if 2**step <= most_questions]:
        asked = question(model, FRAMES_OF_QUESTIONS, rows)
        found[MANY_COMPRESSED][rows], found[MANY_READ][rows] = cost_of_a_question(model, features, asked, runs)
        print(f"{rows} questions: {[found[name][rows] for name in (MANY_COMPRESSED, MANY_READ)]}", flush=True)
    return found


def cost_of_a_question(
    model: HiComForConditionalGeneration, features: Any, asked: dict[str, torch.Tensor], runs: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """What the compressor takes, the instruction's encoder included, and what the LLM takes for the prompt."""
    ids = asked["video_instruction_ids"]

    def compress() -> Any:
        return model.model.get_video_features(video_features=features, video_instruction_ids=ids)

    compress()
    compressing, visual = cost(compress, runs + 1)  # from the second question on, parts of the video are kept
    reading, _ = cost(
        lambda: model(
            input_ids=asked["input_ids"], mm_encoder_outputs={"video": visual}, logits_to_keep=1, use_cache=False
        ),
        runs,
    )
    return compressing, reading


def curve_through(points: Points, which: int, degree: int = 1) -> tuple[list[float], float, float]:
    """Of the best line or parabola: its factors from the constant on, r², and the most that a point lies off, as a fraction.

    Every point counts by its relative error.
    """
    x = np.array(list(points), dtype=np.float64)
    y = np.array([values[which] for values in points.values()])
    factors = np.polyfit(x, y, degree, w=1 / np.maximum(y, 1e-9))
    at = np.polyval(factors, x)
    fit = 1 - ((y - at) ** 2).sum() / max(((y - y.mean()) ** 2).sum(), 1e-9)
    return factors[::-1].tolist(), float(fit), float(np.abs(y / np.maximum(at, 1e-9) - 1).max())


def degrees(name: str, which: int) -> tuple[int, ...]:
    """The curves that are laid through what was measured: lines, and through the LLM's seconds by frames a parabola."""
    return (1, 2) if name == LLM and which == 0 else (1,)


def show(found: dict[str, Points]) -> None:
    for name, points in found.items():
        print(f"\n{name}\n{'':>8}{'CPU s':>10}{'MiB':>10}")
        for number, (seconds, memory) in points.items():
            print(f"{number:>8}{seconds:>10.4f}{memory:>10.1f}")
        for which, unit in enumerate(("s", "MiB")):
            for degree in degrees(name, which):
                factors, fit, off = curve_through(points, which, degree)
                terms = [f"{factor:.3g} {unit}{('', ' n', ' n²')[power]}" for power, factor in enumerate(factors)]
                print(f"  {' + '.join(terms)}, r² {fit:.4f}, points lie up to {off:.0%} off")


def plot(found: dict[str, Points], path: Path) -> None:
    from matplotlib.figure import Figure  # without pyplot: no window and no state

    figure = Figure(figsize=(3.4 * len(found), 6), layout="constrained")
    axes = figure.subplots(2, len(found))
    for column, (name, points) in enumerate(found.items()):
        x = np.array(list(points), dtype=np.float64)
        dense = np.linspace(0, x[-1], 100)
        for row, unit in enumerate(("CPU seconds", "MiB above the weights")):
            axis = axes[row][column]
            axis.plot(x, [values[row] for values in points.values()], "o")
            degree = degrees(name, row)[-1]
            factors, fit, _ = curve_through(points, row, degree)
            axis.plot(dense, np.polyval(factors[::-1], dense), "-", linewidth=1)
            terms = [f"{factor:.2g}{('', ' n', ' n²')[power]}" for power, factor in enumerate(factors)]
            axis.set_title(f"{name}\n{' + '.join(terms)}, r² {fit:.3f}", fontsize=9)
            axis.set_ylabel(unit)
            axis.set_xlabel(name.rpartition("by ")[2])
            axis.set_ylim(bottom=0)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1024, help="at most (default 1024)")
    parser.add_argument("--questions", type=int, default=64, help="at most (default 64)")
    parser.add_argument("--runs", type=int, default=3, help="per point (default 3)")
    parser.add_argument("--plot", type=Path, help="picture to write (matplotlib)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.frames, arguments.questions, arguments.runs)
    show(found)
    if arguments.plot is not None:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()
