"""Make videos of the shapes world, with training files, or look at it.

    hicom shapes make shapes --videos 1000 --seed 0
    hicom shapes show shapes.png --clutter dense

The same arguments give the same scenes, frames and texts on every machine.
"""

import argparse
from pathlib import Path

from .arguments import above_zero, add_traceback_argument, at_least_one, check_picture, progress_bar, seed_number

HELP = "make videos of the built-in world, with questions and answers"
SPLITS = ("train", "validation", "test", "held_out", "held_out_pairs", "text")
STAGES = ("all", "alignment", "pretraining", "tuning")
CODECS = ("libx264", "libx265", "libvpx-vp9", "mpeg4")
SHOWN_LEVELS = ("sparse", "normal", "dense", "crowded")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    make = actions.add_parser("make", help="write videos, pictures and training files; what is there is kept")
    make.add_argument("folder", metavar="DIR", help="folder to write to")
    make.add_argument("--videos", type=at_least_one, required=True, metavar="N", help="videos, and as many pictures")
    make.add_argument(
        "--stage", choices=STAGES, default="all", help="for which stage of training (default: %(default)s)"
    )
    make.add_argument(
        "--codec", choices=CODECS, default="libx264", help="FFmpeg's name of the encoder (default: %(default)s)"
    )
    make.add_argument("--fps", type=above_zero, default=4.0, help="frames per second (default: %(default)s)")
    make.add_argument("--clutter", type=_clutter, default="mixed", metavar="LEVEL", help=_clutter_help("mixed"))
    show = actions.add_parser("show", help="draw one scene, and print what can be asked about it")
    show.add_argument("picture", metavar="FILE", help="PNG to write")
    show.add_argument("--clutter", type=_clutter, metavar="LEVEL", help=_clutter_help("one row for each but mixed"))
    for action, num_frames in ((make, 16), (show, 6)):
        action.add_argument("--seed", type=seed_number, default=0, help="of the scenes (default: %(default)s)")
        action.add_argument(
            "--split", choices=SPLITS, default="train", help="which scenes (default: %(default)s); see docs/shapes.md"
        )
        action.add_argument(
            "--frames",
            type=at_least_one,
            default=num_frames,
            metavar="T",
            help="frames of a video (default: %(default)s)",
        )
        action.add_argument(
            "--size",
            type=at_least_one,
            nargs="+",
            default=[144],
            metavar="PIXELS",
            help="side of a square, or height and width (default: 144)",
        )
        add_traceback_argument(action)
    make.set_defaults(do=_make)
    show.set_defaults(do=_show)


def run(args: argparse.Namespace) -> int:
    if len(args.size) > 2:
        args.parser.error(f"argument --size: takes one or two numbers, got {len(args.size)}")
    args.size = (args.size[0], args.size[-1])
    return args.do(args)


def _make(args: argparse.Namespace) -> int:
    from ..shapes import write_dataset

    counts = write_dataset(
        args.folder,
        args.videos,
        args.seed,
        stage=args.stage,
        split=args.split,
        clutter=args.clutter,
        num_frames=args.frames,
        size=args.size,
        fps=args.fps,
        codec=args.codec,
        progress=progress_bar,
    )
    for name, count in counts.items():
        print(f"{args.folder}/{name}\t{count}")
    return 0


def _show(args: argparse.Namespace) -> int:
    from ..shapes import Scene, contact_sheet, questions, render

    picture = Path(args.picture)
    check_picture(picture, "FILE")
    levels = SHOWN_LEVELS if args.clutter is None else (args.clutter,)
    scenes = [Scene.from_seed(args.seed, level, args.split) for level in levels]
    contact_sheet([render(scene, args.frames, args.size, noise=False)[0] for scene in scenes]).save(
        picture, format="PNG", optimize=True
    )
    for level, scene in zip(levels, scenes, strict=True):
        for question in questions(scene):
            print(f"{level}\t{question.kind}\t{question.text}\t{question.answer}")
    return 0


def _clutter(text: str) -> str | float:
    """A level's name or a density; which of them exist, the world itself says."""
    try:
        return float(text)
    except ValueError:
        return text


def _clutter_help(default: str) -> str:
    return f"sparse, normal, dense, crowded, mixed, or a density from 0 to 1 (default: {default})"
