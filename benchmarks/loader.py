"""Samples per second of the training loader, against the number of loader processes and against reading a video per answer.

In: a folder of videos, or nothing (clips of the shapes world at 480 x 272, 4 seconds, are made). Out: samples per second for
each setting, and ratios within the run. Run: `python benchmarks/loader.py [FOLDER] [--videos N] [--frames T] [--workers 0 1 2]`.

Every video has three answers, as in HICom-248K. "together" is `data.answers_together`.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from torch.utils.data import DataLoader

from hicom_hf import FrameSampling, HiComProcessor, hicom_tiny
from hicom_hf.data import HiComDataCollator, HiComDataset, ItemEncoder
from hicom_hf.data.epoch_padding import sampler_of
from hicom_hf.shapes import Scene, render, write_video

ANSWERS, BATCH = 3, 6


def make_videos(folder: Path, count: int) -> list[Path]:
    """Clips of the shapes world."""
    paths = [folder / f"{number}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        write_video(path, render(Scene.from_seed(number), 32, (272, 480), fps=8.0)[0], 8.0)
    return paths


def samples_per_second(dataset: HiComDataset, workers: int, together: bool) -> float:
    """Of one epoch, the start of the processes included."""
    sampler = sampler_of(dataset, BATCH, 0, None, BATCH if together else None)
    collate = HiComDataCollator(dataset.encoder.processor)
    begin = time.perf_counter()
    for _ in DataLoader(dataset, BATCH, sampler=sampler, num_workers=workers, collate_fn=collate):
        pass
    return len(dataset) / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        videos = sorted(args.folder.iterdir())[: args.videos] if args.folder else make_videos(Path(made), args.videos)
        turns = [{"from": "human", "value": "What is shown?"}, {"from": "gpt", "value": "a circle"}] * ANSWERS
        records = [{"video": str(video), "conversations": turns} for video in videos]
        processor = HiComProcessor.from_pretrained(hicom_tiny())
        encoder = ItemEncoder(processor, FrameSampling(num_frames=args.frames), raw_pixels=True)
        dataset = HiComDataset(records, encoder)
        first = None
        for workers in args.workers:
            for together in (False, True):
                rate = samples_per_second(dataset, workers, together)
                first = first or rate
                name = "together" if together else "one by one"
                print(
                    f"{workers} processes, {name:10}: {rate:6.1f} samples/s, {rate / first:.2f} of the first",
                    flush=True,
                )


if __name__ == "__main__":
    sys.exit(main())
