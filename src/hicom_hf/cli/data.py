"""Check a training set: every record, every video and image, every length.

`hicom data check train.json` goes through what training would go through and prints a table of what it found. It fails
(exit code 1) if anything is wrong: missing or unreadable videos, placeholders that do not fit, empty answers, turns that
do not alternate, samples that are too long, keys that are spelt wrongly, no records. It names the keys that nothing reads.
"""

import argparse
import json
import os
import sys

from .arguments import (
    MODEL_HELP,
    SAFE_TO_PRINT,
    add_media_arguments,
    add_traceback_argument,
    at_least_one,
    media_access,
    whole_number,
)

HELP = "check a training set before hours are lost"
CONVERT = """Make a training set of files in another format.

Known: VideoChat2-IT (QA), VideoInstruct-100K (q, a, video_id), ShareGPT4Video (captions), Video-R1 (problem, solution), MVBench
(question, answer, candidates), captions, prompt and completion, query and response, alpaca, messages with video_url; as JSON,
JSONL, CSV, TSV, Parquet, tar shards, folders of `datasets`; and a folder of videos, whose answers you fill in. A caption becomes
the answer to "Describe the video.". Videos that lie inside SOURCE become files in the folder DEST_media.
"""
MAX_DEFAULT_WORKERS = 8  # more than these wait for the disk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check", help=HELP, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    check.set_defaults(run_action=_check)
    check.add_argument(
        "file", metavar="FILE", help="JSON, JSONL or mixture YAML, tar shards, or a folder of `datasets`"
    )
    check.add_argument("--media-root", metavar="FOLDER", help="where relative paths start (default: FILE's folder)")
    check.add_argument(
        "--processor", metavar="MODEL", help=f"also count tokens with the processor of this model: {MODEL_HELP}"
    )
    check.add_argument(
        "--num-frames",
        type=at_least_one,
        metavar="N",
        help="frames per video (default: the processor's); a record's own num_frames comes first",
    )
    check.add_argument(
        "--max-length", type=at_least_one, metavar="N", help="most tokens of a sample; needs --processor"
    )
    check.add_argument(
        "--whole", action="store_true", help="one sample per dialogue (alignment) instead of one per answer"
    )
    check.add_argument("--no-decode", action="store_true", help="only look whether files are there")
    check.add_argument(
        "--workers",
        type=at_least_one,
        metavar="N",
        default=min(os.cpu_count() or 1, MAX_DEFAULT_WORKERS),
        help="videos read at the same time (default: %(default)s)",
    )
    check.add_argument(
        "--show", type=whole_number, default=10, metavar="N", help="problems listed (default: %(default)s)"
    )
    check.add_argument("--json", action="store_true", help="print the report as JSON, with all problems")
    add_media_arguments(check)
    add_traceback_argument(check)
    _add_convert(actions)


def _add_convert(actions) -> None:
    convert = actions.add_parser(
        "convert",
        help="make a training set of files in another format",
        description=CONVERT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.set_defaults(run_action=_convert)
    convert.add_argument("source", metavar="SOURCE", help="JSON, JSONL, CSV, TSV, Parquet, tar, or a folder")
    convert.add_argument("destination", metavar="DEST", help="a new .json or .jsonl file")
    convert.add_argument(
        "--media-root", metavar="FOLDER", help="where relative paths start (default: SOURCE's folder)"
    )
    convert.add_argument(
        "--on-bad-sample",
        choices=("raise", "skip"),
        default="raise",
        help="skip leaves records out that cannot be used, and lists them (default: %(default)s)",
    )
    add_traceback_argument(convert)


def run(args: argparse.Namespace) -> int:
    return args.run_action(args)


def _convert(args: argparse.Namespace) -> int:
    from ..data.converting import convert_data

    conversion = convert_data(args.source, args.destination, args.media_root, on_bad_sample=args.on_bad_sample)
    print(conversion.summary())
    return 0


def _check(args: argparse.Namespace) -> int:
    if args.max_length is not None and (args.processor is None or args.no_decode):
        args.parser.error("--max-length counts tokens: it needs --processor, and not --no-decode")
    from ..data.checking import check_data
    from ..hub.loading import load_processor

    access = media_access(args)
    processor = None if args.processor is None else load_processor(args.processor)
    report = check_data(
        args.file,
        processor,
        args.media_root,
        num_frames=args.num_frames,
        max_length=args.max_length,
        per_turn=not args.whole,
        decode=not args.no_decode,
        num_workers=args.workers,
        media_access=access,
        progress=_progress_bar,
    )
    print(json.dumps(report.to_dict(), indent=2) if args.json else report.table(args.show).translate(SAFE_TO_PRINT))
    return 1 if report.problems else 0


def _progress_bar(iterable, total: int, name: str):
    from tqdm import tqdm

    return tqdm(iterable, total=total or None, desc=name, file=sys.stderr, leave=False)
