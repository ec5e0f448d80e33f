"""Measure a model on benchmarks, and resume a run that was stopped.

    hicom eval shapes --output results
    hicom eval videomme mvbench --model hicom-7b --data benchmarks --output results --frames 32

Without --model the packaged hicom-tiny is measured. The same command resumes a run that was killed. docs/evaluation.md leads
from a benchmark's published files to a number.
"""

import argparse
import json
import os
import sys

from .arguments import (
    FPS_HELP,
    FRAMES_HELP,
    SELECTION_RULES,
    SYSTEM_HELP,
    above_zero,
    add_media_arguments,
    add_model_arguments,
    add_tiles_argument,
    at_least_one,
    frame_tiles,
    media_access,
    model_options,
    part_of_parts,
    progress_bar,
    seed_number,
)

HELP = "measure a model on benchmarks"
PAPER = "paper"  # stands for the tasks and frames of its tables
PROTOCOLS = ("ours", "official", "lmms")
SHOWN_FAILURES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "tasks",
        metavar="TASK",
        nargs="*",
        help="tasks; --list names them; `paper` for its tables at 32, 64 and 128 frames",
    )
    parser.add_argument(
        "--list", action="store_true", help="show the tasks, where their data are, and the paper's numbers"
    )
    parser.add_argument(
        "--compare", nargs="+", metavar="RESULTS", help="folders OUTPUT/TASK: paired differences to the first one"
    )
    parser.add_argument("--judge", metavar="RESULTS", help="folder OUTPUT/TASK: mark its open answers by a judge")
    parser.add_argument("--judge-url", metavar="URL", help="of the judge's OpenAI-compatible server, up to /v1")
    parser.add_argument("--judge-model", metavar="NAME", help="the judge's name there")
    parser.add_argument("--judge-key-variable", metavar="NAME", help="environment variable with the server's key")
    parser.add_argument(
        "--data", metavar="DIR", help="folder with the benchmarks' files; a task's own in DIR/TASK or DIR"
    )
    parser.add_argument("--output", metavar="DIR", help="folder for results; those of a task in DIR/TASK")
    parser.add_argument(
        "--write-results",
        metavar="MODEL",
        help="write the results of the tasks, or without TASK all complete ones of --output, into this model's folder: "
        ".eval_results/ and a table in README.md",
    )
    parser.add_argument("--json", action="store_true", help="write the summaries as JSON")

    _add_asking(parser)
    _add_needle(parser)

    part = parser.add_argument_group("which questions")
    part.add_argument("--limit", type=at_least_one, metavar="N", help="the first N questions of each task")
    part.add_argument(
        "--shard", type=part_of_parts, metavar="I/N", help="part I of N, by video (default under torchrun: the rank's)"
    )

    machine = parser.add_argument_group("the machine")
    machine.add_argument(
        "--batch-size", type=at_least_one, default=16, metavar="N", help="questions of one video at a time (16)"
    )
    machine.add_argument(
        "--workers",
        type=seed_number,
        metavar="N",
        help="processes that read videos ahead (default: 4 with a GPU, else 0)",
    )
    machine.add_argument(
        "--cache-dir", metavar="DIR", help="keep the features of candidates (--select, needle) for other runs"
    )
    add_media_arguments(parser)
    add_model_arguments(parser, dtype=(None, "default: the protocol's; ours: as saved"))


def _add_needle(parser: argparse.ArgumentParser) -> None:
    """The videos that the task needle makes."""
    needle = parser.add_argument_group("the task needle")
    needle.add_argument(
        "--lengths", type=at_least_one, nargs="+", metavar="N", help="frames of its videos (default: 256 1024)"
    )
    needle.add_argument("--clutter", choices=("sparse", "normal"), help="of the scenes around (default: sparse)")
    needle.add_argument("--trials", type=at_least_one, metavar="N", help="questions of each group (default: 6)")
    needle.add_argument(
        "--seed",
        type=seed_number,
        metavar="N",
        help="of the scenes asked about, and of those around them (default: 0)",
    )
    needle.add_argument(
        "--size",
        type=at_least_one,
        nargs="+",
        metavar="PIXELS",
        help="of its frames: side of a square, or height and width (default: 144)",
    )


def _add_asking(parser: argparse.ArgumentParser) -> None:
    """Prompts and frames."""
    how = parser.add_argument_group("how it is asked")
    how.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="ours",
        help="prompts, clip ranges and lengths of: ours (default), official (the authors' scripts), lmms (lmms-eval)",
    )
    how.add_argument("--frames", type=at_least_one, metavar="N", help=FRAMES_HELP)
    how.add_argument("--fps", type=above_zero, help=FPS_HELP)
    how.add_argument("--max-frames", type=at_least_one, metavar="N", help="at most so many frames with --fps")
    how.add_argument(
        "--select",
        choices=SELECTION_RULES,
        help="let each question choose --frames N among the frames of --fps or --candidates (default: 1 per second, but 64 of "
        "a short video)",
    )
    how.add_argument(
        "--candidates", type=at_least_one, metavar="N", help="with --select: among so many frames, spread evenly"
    )
    add_tiles_argument(how)
    how.add_argument("--system", help=SYSTEM_HELP)


def run(args: argparse.Namespace) -> int:
    if args.list:
        return _list()
    if args.compare:
        return _compare(args)
    if args.judge:
        return _judge(args)
    if args.write_results and not args.tasks:
        return _write_results(args)
    if not args.tasks:
        args.parser.error("name at least one TASK, or --list")
    if not args.output:
        args.parser.error("--output is missing: the folder for results")
    _check_frames(args)

    from ..evaluation.evaluating import evaluate
    from ..evaluation.summaries import as_table

    args.device, part = _place(args)
    asking, where = _asking(args), model_options(args)
    options = {"protocol": args.protocol, "limit": args.limit, "part": part, "progress": progress_bar}
    if args.tasks == [PAPER]:
        _paper(args, asking, where, options)
        return _write_results(args) if args.write_results else 0
    where["cache_dir"] = args.cache_dir
    summaries = evaluate(_tasks(args), args.model, args.output, data=args.data, asking=asking, **where, **options)
    _say_failures(summaries)
    print(json.dumps(summaries, indent=2) if args.json else as_table(summaries))
    for summary in summaries:
        if summary["report"] is not None and not args.json:
            print(f"\n{summary['report']}")
    return _write_results(args) if args.write_results else 0


def _say_failures(summaries) -> None:
    """The videos that were not read, each task's by itself."""
    for summary in summaries:
        for video, reason in summary["failed_videos"].items():
            print(f"hicom: {summary['task']}: {video} counts as wrong: {reason}", file=sys.stderr)


def _write_results(args: argparse.Namespace) -> int:
    """Results of finished runs, from their files alone."""
    if not args.output:
        args.parser.error("argument --write-results: --output is missing, the folder of results")

    from pathlib import Path

    from ..evaluation.publishing import find_results, write_results

    named = [] if args.tasks == [PAPER] else args.tasks
    folders = [Path(args.output) / name for name in named] or find_results(args.output)
    for path in write_results(args.write_results, folders):
        print(f"hicom: wrote {path}", file=sys.stderr)
    return 0


def _tasks(args: argparse.Namespace) -> list:
    """The tasks that are named; needle with its own arguments."""
    from ..evaluation.tasks import needle_task

    if args.size is not None and len(args.size) > 2:
        args.parser.error(f"argument --size: takes one or two numbers, got {len(args.size)}")
    size = None if args.size is None else (args.size[0], args.size[-1])
    wanted = {"lengths": args.lengths, "clutter": args.clutter, "count": args.trials, "seed": args.seed, "size": size}
    given = {name: value for name, value in wanted.items() if value is not None}
    if given and "needle" not in args.tasks:
        args.parser.error("arguments --lengths, --clutter, --trials, --seed and --size: go with the task needle")
    return [needle_task(**given) if name == "needle" else name for name in args.tasks]


def _check_frames(args: argparse.Namespace) -> None:
    """Refuse arguments about frames that contradict each other."""
    error = args.parser.error
    if args.select is None:
        if args.candidates is not None:
            error("argument --candidates: goes with --select")
        if args.frames is not None and args.fps is not None:
            error("argument --fps: not allowed with argument --frames but under --select")
        if args.max_frames is not None and args.fps is None:
            error("argument --max-frames: bounds --fps, which is not given")
        return
    if args.frames is None:
        error("argument --select: --frames is missing, how many are chosen")
    if args.candidates is not None and (args.fps is not None or args.max_frames is not None):
        error("argument --candidates: not allowed with arguments --fps and --max-frames")


def _asking(args: argparse.Namespace):
    """How questions are asked."""
    from ..evaluation.runner import Asking
    from ..hub.loading import choose_device
    from ..processors.frame_selection_hicom import FrameSelection

    selection = None if args.select is None else FrameSelection(args.select, args.frames)
    number = args.frames if selection is None else args.candidates
    wanted = {"num_frames": number, "fps": args.fps, "max_frames": args.max_frames}
    return Asking(
        {name: value for name, value in wanted.items() if value is not None},
        args.system,
        args.batch_size,
        args.workers if args.workers is not None else 4 * (choose_device(args.device).type == "cuda"),
        media_access(args),
        selection,
        frame_tiles(args),
    )


def _paper(args: argparse.Namespace, asking, where: dict, options: dict) -> None:
    """The paper's tables, with what could not be run."""
    if not args.data:
        args.parser.error(f"{PAPER}: --data is missing, the folder with the benchmarks")
    for name in ("fps", "select", "tiles"):
        if getattr(args, name) is not None:
            args.parser.error(f"argument --{name}: goes without {PAPER}, whose tables have 32, 64 and 128 frames")

    from ..evaluation.evaluating import load_session
    from ..evaluation.paper import FRAMES, as_markdown, evaluate_paper

    session = load_session(args.model, args.protocol, **where)
    frames = FRAMES if args.frames is None else (args.frames,)
    summaries, missing = evaluate_paper(session, args.output, args.data, frames=frames, asking=asking, **options)
    _say_failures(summaries)
    for name, reason in missing.items():
        print(f"hicom: {name} was left out: {reason}", file=sys.stderr)
    print(json.dumps({"summaries": summaries, "left_out": missing}, indent=2) if args.json else as_markdown(summaries))


def _list() -> int:
    from ..evaluation.scoring import paper_text
    from ..evaluation.tasks import TASKS

    for task in TASKS.values():
        paper = ", ".join(f"{paper_text(number)} at {frames} frames" for frames, number in task.paper.items())
        print(f"{task.name}\t{task.title}\n\tdata: {task.data}\n\tprotocols: {', '.join(task.protocols)}")
        if paper or task.paper_note:
            print(f"\tpaper, HICom-7B: {paper}{f' ({task.paper_note})' if paper else task.paper_note}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from ..evaluation.comparing import as_text, compare

    differences = compare(args.compare)
    print(json.dumps(differences, indent=2) if args.json else as_text(differences))
    return 0


def _judge(args: argparse.Namespace) -> int:
    for name in ("judge_url", "judge_model"):
        if getattr(args, name) is None:
            args.parser.error(f"argument --judge: --{name.replace('_', '-')} is missing")

    from ..evaluation.client import Endpoint
    from ..evaluation.judging import as_text, judge

    endpoint = Endpoint(base_url=args.judge_url, model=args.judge_model, api_key_variable=args.judge_key_variable)
    summary = judge(args.judge, endpoint, limit=args.limit, progress=progress_bar)
    print(json.dumps(summary, indent=2) if args.json else as_text(summary))
    for name, reason in list(summary["failures"].items())[:SHOWN_FAILURES]:
        print(f"hicom: {name}: {reason}", file=sys.stderr)
    return 1 if summary["failures"] else 0


def _place(args: argparse.Namespace) -> tuple[str, tuple[int, int]]:
    """Device and shard; under torchrun those of the rank, unless they are given."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if args.shard is not None or ranks == 1:
        return args.device, args.shard or (1, 1)
    device = args.device
    if device == "auto":
        import torch

        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    return device, (int(os.environ["RANK"]) + 1, ranks)
