"""hicom-tiny's accuracy: on unseen videos like those of training, and on videos that differ from them in one way.

`python -m lab.hicom_tiny.evaluating MODEL DATA` makes the videos that are missing and prints the tables.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hicom_hf.cli.arguments import add_tiles_argument, frame_tiles
from hicom_hf.hub.files import write_text
from hicom_hf.hub.loading import load_config, load_model, load_processor
from hicom_hf.processors.frame_tiles_hicom import FrameTiles

from .data_sets import TALL, WIDE, Dataset, write_datasets
from .processes import progress_bar
from .scoring import score, table

TEST_SEED = 1000
FEW, MANY, MOST = 30, 80, 200  # videos; about 460, 1,250 and 3,100 questions


@dataclass(frozen=True)
class Condition:
    """What a model is tried on.

    Args:
        name: what is different.
        dataset: the questions.
        num_frames: sampled frames; None for as many as in training.
    """

    name: str
    dataset: Dataset
    num_frames: int | None = None


def _dataset(name: str, videos: int = FEW, split: str = "test", **settings: Any) -> Dataset:
    return Dataset(name, videos, TEST_SEED, {"split": split, "stage": "tuning", **settings})


LONG_VIDEOS = _dataset("long", num_frames=64)
CONDITIONS = (
    Condition("unseen videos", _dataset("unseen", MOST)),
    Condition("held-out appearances", _dataset("held_out", MANY, split="held_out")),
    Condition("held-out pairs of colour and shape", _dataset("held_out_pairs", MANY, split="held_out_pairs")),
    *(
        Condition(f"clutter: {level}", _dataset(level, clutter=level))
        for level in ("sparse", "normal", "dense", "crowded")
    ),
    Condition("H.265", _dataset("h265", codec="libx265")),
    Condition("VP9", _dataset("vp9", codec="libvpx-vp9")),
    Condition("MPEG-4", _dataset("mpeg4", codec="mpeg4")),
    Condition("12 frames per second", _dataset("fast", fps=12.0)),
    Condition("4:3, as in training", _dataset("wide", **WIDE)),
    Condition("3:4, as in training", _dataset("tall", **TALL)),
    Condition("5:4", _dataset("nearly_square", size=(144, 180))),
    Condition("4:5", _dataset("nearly_square_tall", size=(180, 144))),
    Condition("3:2", _dataset("wider", size=(144, 216))),
    Condition("16:9", _dataset("widest", size=(144, 256))),
    Condition("9:16", _dataset("tallest", size=(256, 144))),
    Condition("twice the resolution", _dataset("large", size=288)),
    Condition("64 frames in the video", LONG_VIDEOS),
    Condition("16 sampled frames", LONG_VIDEOS, num_frames=16),
    Condition("32 sampled frames", LONG_VIDEOS, num_frames=32),
    Condition("64 sampled frames", LONG_VIDEOS, num_frames=64),
)
# Order and vague questions are the rarest and the worst answered. Asked only by name.
MORE_UNSEEN = Condition(
    "500 more unseen videos", Dataset("more_unseen", 500, TEST_SEED + 1, {"split": "test", "stage": "tuning"})
)


def evaluate(
    model_folder: str | Path,
    data: str | Path,
    conditions: Iterable[Condition] = CONDITIONS,
    tiles: FrameTiles | None = None,
) -> dict[str, dict]:
    """Score a model under every condition.

    Args:
        model_folder: of the model.
        data: where the videos are, or shall be.
        conditions: which.
        tiles: see `score`.

    Returns:
        By condition: see `table`.
    """
    conditions, data = tuple(conditions), Path(data)
    model, processor = load_model(model_folder, "cpu", "float32"), load_processor(model_folder)
    write_datasets(data, {condition.dataset.name: condition.dataset for condition in conditions}.values())
    results = {}
    for condition in conditions:
        file = data / condition.dataset.name / "tuning.json"
        scored = score(model, processor, file, num_frames=condition.num_frames, tiles=tiles, progress=progress_bar)
        results[condition.name] = table(scored)
    return results


def as_markdown(results: dict[str, dict]) -> str:
    """One row per condition, one column per kind."""
    kinds = list(next(iter(results.values())))
    lines = [f"| | {' | '.join(kinds)} | questions |", "|---" * (len(kinds) + 2) + "|"]
    for name, rows in results.items():
        cells = [f"{rows[kind]['right']:.1f}" if kind in rows else "" for kind in kinds]
        lines.append(f"| {name} | {' | '.join(cells)} | {rows['all']['questions']} |")
    chances = [f"{row['chance']:.1f}" for row in next(iter(results.values())).values()]
    lines.append(f"| chance | {' | '.join(chances)} | |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables of a model."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of the model")
    parser.add_argument("data", help="folder for the videos")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    known = {one.name: one for one in (*CONDITIONS, MORE_UNSEEN)}
    names = f"{'; '.join(known)} (default: all but the last)"
    parser.add_argument("--only", nargs="+", choices=known, metavar="NAME", help=f"conditions, of: {names}")
    add_tiles_argument(parser)
    parser.set_defaults(parser=parser, select=None)  # all frames are seen
    args = parser.parse_args()
    chosen = [known[name] for name in args.only] if args.only else CONDITIONS
    try:
        load_config(args.model)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    results = evaluate(args.model, args.data, chosen, frame_tiles(args))
    if args.json:
        write_text(args.json, json.dumps(results, indent=1))
    print(as_markdown(results))


if __name__ == "__main__":
    main()
