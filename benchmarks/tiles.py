"""What tiles are worth: right answers about wide, tall and large frames, padded and as tiles; then what tiles cost.

In: scenes of the built-in world, 8 frames each, or one for pictures; in large frames the objects are made smaller. Out: a table
of hicom-tiny's right answers in percent, with CPU seconds of one thread per scene and per question, and the bytes kept.

    python benchmarks/tiles.py --scenes 30
"""

import argparse
import time
from dataclasses import replace

import torch

from hicom_hf import FrameTiles, HiComSession
from hicom_hf.shapes import Scene, is_right, questions, render

FIRST_SEED = 1_000_000_000  # the scenes of hicom-tiny's scores
STILL_KINDS = ("colour", "shape", "texture", "where", "exist", "count")  # that one frame answers
ONE, TWO, FOUR = FrameTiles(), FrameTiles((2,)), FrameTiles((4,))
# name, (height, width), how much smaller the objects are, frames, ways of encoding
CONDITIONS = (
    ("square", (144, 144), 1, 8, (None, ONE)),
    ("16:9", (144, 256), 1, 8, (None, ONE, FrameTiles(overview=True))),
    ("9:16", (256, 144), 1, 8, (None, ONE)),
    ("4:1", (144, 576), 1, 8, (None, ONE)),
    ("twice as wide and high", (288, 288), 2, 8, (None, TWO, FrameTiles((1, 2)))),
    ("the same, 16:9", (288, 512), 2, 8, (None, TWO)),
    ("four times as wide and high", (576, 576), 4, 8, (None, FOUR, FrameTiles((1, 4)), FrameTiles((1, 2, 4)))),
    ("twice, large objects", (288, 288), 1, 8, (None, TWO, FrameTiles((1, 2)))),
    ("four times, large objects", (576, 576), 1, 8, (None, FOUR, FrameTiles((1, 4)))),
    ("picture, square", (144, 144), 1, 1, (None,)),
    ("picture, 16:9", (144, 256), 1, 1, (None, ONE)),
    ("picture, twice", (288, 288), 2, 1, (None, TWO)),
    ("picture, twice, 16:9", (288, 512), 2, 1, (None, TWO)),
)


def scenes(count: int, size: tuple[int, int], smaller: int, num_frames: int):
    """Frames and questions of each scene."""
    for number in range(count):
        scene = Scene.from_seed(FIRST_SEED + number, clutter="mixed", split="test")
        shown = replace(scene, objects=tuple(replace(one, scale=one.scale / smaller) for one in scene.objects))
        asked = questions(scene)
        if num_frames == 1:
            asked = [
                one for one in asked if one.kind in STILL_KINDS and all(other.is_seen(0.5) for other in one.referents)
            ]
        step = 1 if num_frames == 1 else 2
        if asked:
            yield render(shown, num_frames * step, size)[0][step - 1 :: step], asked


def way(tiles: FrameTiles | None) -> str:
    if tiles is None:
        return "padded"
    return f"zoom {' or '.join(map(str, tiles.zooms))}{' or overview' if tiles.overview else ''}"


def measured(session: HiComSession, condition, count: int):
    """Rows of the table, one for each way of encoding."""
    name, size, smaller, num_frames, ways = condition
    for tiles in ways:
        right: dict[str, int] = {}
        asked: dict[str, int] = {}
        encode = answer = 0.0
        for frames, some in scenes(count, size, smaller, num_frames):
            started = time.process_time()
            video = session.open(frames, num_frames="all", tiles=tiles)
            encode += time.process_time() - started
            started = time.process_time()
            answers = video.ask_all([one.text for one in some], max_new_tokens=12)
            answer += time.process_time() - started
            for one, found in zip(some, answers, strict=True):
                asked[one.kind] = asked.get(one.kind, 0) + 1
                right[one.kind] = right.get(one.kind, 0) + is_right(found.answer, one.answer)
        total = sum(asked.values())
        features = video.tiled.num_bytes if tiles else sum(part.nbytes for part in video.encoded.features.values())
        kinds = " | ".join(f"{100 * right[kind] / asked[kind]:.0f}" if kind in asked else "" for kind in KINDS)
        yield (
            f"| {name} | {way(tiles)} | {kinds} | {100 * sum(right.values()) / total:.1f} | {total} | "
            f"{encode / count:.3f} | {answer / total:.4f} | {features / 1e6:.1f} |"
        )


KINDS = ("colour", "shape", "texture", "where", "when", "motion", "exist", "count", "order", "vague")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=30, metavar="N", help="per row (default 30)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows, by name")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    session = HiComSession.load(dtype="float32", device="cpu")
    print(f"| frames | encoded | {' | '.join(KINDS)} | all | questions | encode (s) | answer (s) | features (MB) |")
    print("|---" * (len(KINDS) + 7) + "|")
    for condition in CONDITIONS:
        if arguments.only is None or condition[0] in arguments.only:
            for row in measured(session, condition, arguments.scenes):
                print(row, flush=True)


if __name__ == "__main__":
    main()
