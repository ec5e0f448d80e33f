"""Which damaged videos come out wrong without a warning, per codec: python -m fuzz.damaged_videos [--number N]

Run it in `tests/`. Each file is a sound video with 1 to 100 flipped bits, or with a range of bytes removed, zeroed or random.
Eight frames are compared with those of the sound file: "wrong" means a mean error above 10 of 255 grey levels. The columns of
the ffmpeg command (if it is installed) say on how many of these files it reports anything: `ffmpeg -v error -i FILE -f null -`.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import torch

from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.video_reading_hicom import read_video

from .forked import run
from .mutations import mutated
from .seeds import video_seeds

EIGHT = FrameSampling(num_frames=8)
MAX_ERROR = 10  # grey levels, mean over eight frames; what a person sees
DAMAGE = ("flip1", "flip8", "flip100", "remove", "zero", "noise")
OURS = ("error", "warning", "silent, right", "silent, wrong", "other")


def main() -> int:
    """Prints the table, one row per codec and container, and the share of wrong frames among what was accepted silently."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=60, help="damaged files per codec and container")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    command = shutil.which("ffmpeg")
    rows, totals = [], Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, path in video_seeds(Path(folder)).items():
            counts = _damage(path, args.number, Random(f"{args.seed} {name}"), command)
            totals.update(counts)
            rows.append((name, counts))
    print(_table([*rows, ("all", totals)], command is not None))
    wrong = totals["silent, wrong"]
    silent = wrong + totals["silent, right"]
    print(f"\nwrong of those accepted silently: {wrong} of {silent} ({wrong / max(1, silent):.1%})")
    return 0


def _damage(path: Path, number: int, random: Random, command: str | None) -> Counter:
    sound, content, counts = read_video(path, EIGHT)[0], path.read_bytes(), Counter()
    damaged = path.with_name(f"damaged{path.suffix}")
    while sum(counts[key] for key in OURS) < number:
        kind, changed = mutated(content, random)
        if kind not in DAMAGE or changed == content:
            continue
        damaged.write_bytes(changed)
        outcome = run(lambda: _judged(damaged, sound))
        result = outcome.value if outcome.kind == "value" else "error" if outcome.kind == "error" else "other"
        counts[result] += 1
        if command is not None and _reports(command, damaged):
            counts[f"ffmpeg, {result}"] += 1
    return counts


def _judged(path: Path, sound: np.ndarray) -> str:
    frames, record = read_video(path, EIGHT)
    if record.warnings:
        return "warning"
    if frames.shape != sound.shape:
        return "silent, wrong"
    return "silent, wrong" if np.abs(frames.astype(int) - sound).mean() > MAX_ERROR else "silent, right"


def _reports(command: str, path: Path) -> bool:
    done = subprocess.run(
        [command, "-v", "error", "-i", path, "-f", "null", "-"], capture_output=True, check=False, timeout=300
    )
    return bool(done.stderr) or done.returncode != 0


def _table(rows: list[tuple[str, Counter]], has_command: bool) -> str:
    heads = [
        *OURS[:4],
        *(["ffmpeg reports on these", "ffmpeg reports on the silent and wrong ones"] if has_command else []),
    ]
    lines = ["| codec and container | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, counts in rows:
        reported = sum(counts[f"ffmpeg, {key}"] for key in OURS)
        own = [counts[key] for key in OURS[:4]]
        cells = [*own, *([reported, counts["ffmpeg, silent, wrong"]] if has_command else [])]
        lines.append(f"| {name.replace('_', ', ')} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
