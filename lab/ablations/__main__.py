"""Repeat the paper's ablations in miniature: hicom-tiny's stages over the shapes world, for one variant after the other.

OUT receives everything: data, pre-trained parts, runs. What is finished there is not repeated, so the same command resumes
an interrupted campaign. Options that are left out keep the values that the campaign was started with; other values are refused.
The report shows each table beside the paper's numbers and lists what was not run.

    python -m lab.ablations runs/ablations --list
    python -m lab.ablations runs/ablations --seeds 0 --tables 4 5
    python -m lab.ablations runs/ablations --report docs/ablations.md
"""

import argparse
import sys

from hicom_hf.cli.arguments import above_zero, at_least_one, seed_number
from hicom_hf.cli.main import Parser, run_command


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = Parser(
        prog="python -m lab.ablations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    parser.set_defaults(run=run, parser=parser)
    return run_command(parser, argv)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="folder of the campaign")
    parser.add_argument(
        "--list",
        action="store_true",
        help="print variants, tables, finished seeds and the time that is left, and stop",
    )
    parser.add_argument(
        "--report", metavar="FILE", help="only write the report here, and its pictures to images/ablations beside it"
    )
    parser.add_argument("--tables", nargs="+", default=[], metavar="NAME", help="only the variants of these tables")
    parser.add_argument("--variants", nargs="+", default=[], metavar="NAME", help="only these variants")
    parser.add_argument(
        "--seeds", nargs="+", type=seed_number, default=[0, 1, 2], metavar="N", help="seeds (default: 0 1 2)"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders with siglip/ and llm/: one for all seeds, or one per seed (default: they are made)",
    )
    parser.add_argument("--data", metavar="DIR", help="folder of the data sets (default: OUT/data)")
    parser.add_argument(
        "--workers", type=at_least_one, default=2, metavar="N", help="runs at a time, one thread each (default: 2)"
    )
    parser.add_argument(
        "--rates",
        nargs="+",
        type=above_zero,
        metavar="X",
        help="factors of the rates to choose from (new folder: 1 0.5 2; 1 alone: no choice)",
    )
    parser.add_argument(
        "--steps-scale", type=above_zero, metavar="X", help="fraction of all steps, to try out (new folder: 1)"
    )
    parser.add_argument("--train-videos", type=at_least_one, metavar="N", help="fewer training videos, to try out")
    parser.add_argument(
        "--test-videos",
        type=at_least_one,
        metavar="N",
        help="test videos at each level of clutter (new folder: 25)",
    )
    parser.add_argument(
        "--validation-videos",
        type=at_least_one,
        metavar="N",
        help="videos by which rates are chosen (new folder: 60)",
    )
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="train on the GPU, which all runs at a time share (default: on the CPU); features and scores stay on the CPU",
    )
    parser.add_argument("--keep-models", action="store_true", help="keep the finished model of every run")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from .campaign import Campaign, Settings

    folder = Path(args.out).absolute()
    recorded = Settings.recorded(folder)
    if args.report is not None and recorded is None:
        raise FileNotFoundError(f"{args.out}: there is no campaign in this folder (no settings.json) to report on")
    only_looks = args.list or args.report is not None
    settings = recorded if recorded and only_looks else _settings(args, recorded or Settings())
    campaign = Campaign(
        folder,
        settings,
        tuple(dict.fromkeys(args.seeds)),
        tuple(Path(folder).absolute() for folder in args.parts),
        None if args.data is None else Path(args.data).absolute(),
        args.keep_models,
        args.gpu,
    )
    if args.list:
        from .listing import listing

        print(listing(campaign, args.workers, args.tables, args.variants))
        return 0
    if args.report is None:
        _run(campaign, args)
    from .reporting import write_report

    for path in write_report(campaign, args.report or campaign.folder / "ablations.md"):
        print(path)
    return 0


def _settings(args: argparse.Namespace, before):
    """Those of the folder, or the usual ones, with those that were given."""
    from dataclasses import replace

    from .campaign import quick_datasets, scaled_steps

    given = {"test_videos": args.test_videos, "validation_videos": args.validation_videos}
    if args.steps_scale is not None:
        given |= {"steps": scaled_steps(args.steps_scale), "parts_scale": args.steps_scale}
    if args.train_videos is not None:
        given["datasets"] = quick_datasets(args.train_videos)
    if args.rates is not None:
        given["factors"] = tuple(sorted(set(args.rates), key=lambda factor: (factor != 1, factor)))
    return replace(before, **{name: value for name, value in given.items() if value is not None})


def _run(campaign, args: argparse.Namespace) -> None:
    from transformers.utils.logging import disable_progress_bar

    from hicom_hf.cli import CommandError

    from .plots import check_matplotlib
    from .running import run_campaign

    check_matplotlib()  # not after ten hours
    disable_progress_bar()
    failed = run_campaign(campaign, args.workers, args.tables, args.variants)
    if failed:
        print("\n".join(map(str, failed)), file=sys.stderr)
        raise CommandError(f"{len(failed)} jobs failed, see their logs above; the same command tries them again")


if __name__ == "__main__":
    sys.exit(main())
