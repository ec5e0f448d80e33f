"""Train a model as a recipe says: one of the paper's three stages, or LoRA.

RECIPE is a YAML file or the name of a recipe of the package (`hicom train --list`). The finished model is written to the
folder `model` in the recipe's output_dir; its path is what goes to stdout. SIGTERM or Ctrl-C finishes the step, writes a
checkpoint and stops with exit code 1; the same command then resumes.

    hicom train alignment_7b --set model=runs/init --set batch_size_per_device=16
    torchrun --nproc_per_node 8 -m hicom_hf train alignment_7b --set model=runs/init
"""

import argparse
import json
import logging
import os
import sys

from .arguments import add_media_arguments

HELP = "train a model as a recipe says"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="replace a value of the recipe, such as data.num_frames=16; may be given several times",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the shipped recipes and stop")
    parser.add_argument("--show", action="store_true", help="print the recipe with all its values and stop")
    parser.add_argument(
        "--check", action="store_true", help="check the recipe and its files, estimate its memory, and stop"
    )
    parser.add_argument(
        "--no-resume", action="store_true", help="refuse an output_dir that holds checkpoints, in place of resuming"
    )
    add_media_arguments(parser, default=None)


def run(args: argparse.Namespace) -> int:
    from ..training.recipe_files import check_files
    from ..training.recipe_reading import read_recipe, recipe_text, shipped_recipes

    if args.list:
        print("\n".join(shipped_recipes()))
        return 0
    parser: argparse.ArgumentParser = args.parser
    if args.recipe is None:
        parser.error("give a RECIPE, or --list")
    recipe = read_recipe(args.recipe, [*args.overrides, *media_overrides(args)])
    if args.show:
        print(recipe_text(recipe), end="")
        return 0
    if args.check:
        from ..training.run import check_run

        print(check_run(recipe, args.recipe).table())
        return 0
    check_files(recipe, args.recipe)

    is_first = os.environ.get("RANK", "0") == "0"  # of the processes of torchrun
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("hicom_hf").setLevel(logging.INFO if is_first else logging.WARNING)
    from transformers.utils.logging import disable_progress_bar

    from ..training.run import run_recipe

    disable_progress_bar()  # of loading and saving; training has its own
    folder = run_recipe(recipe, resume=not args.no_resume, name=args.recipe)
    if folder is None:
        return 1
    if is_first:
        print(folder)
    return 0


def media_overrides(args: argparse.Namespace) -> list[str]:
    """The media arguments as values of the recipe; what is not given leaves the recipe's own."""
    given = {
        "media": args.media,
        "allowed_local_media_path": args.allowed_local_media_path,
        "allowed_media_domains": args.allowed_media_domains,
    }
    return [f"data.{name}={json.dumps(value)}" for name, value in given.items() if value is not None]
