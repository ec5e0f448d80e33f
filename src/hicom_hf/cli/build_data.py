"""Build instruction-conditioned training data from untrimmed videos, as HICom-248K was built (paper, section 3.2).

    hicom build-data plan build.yaml      what there is to do, and what it will cost; reads what the files say of themselves
    hicom build-data run build.yaml       do what is missing; may be killed and repeated at any time
    hicom build-data status build.yaml    how far it is, and what failed
    hicom build-data export build.yaml    records for `hicom train`, their provenance, a data card
    hicom build-data report build.yaml    a page with pictures: report.html in the build's folder
    hicom build-data delete build.yaml ID   remove what came from one video
    hicom build-data demo DIR             all of it offline, on films of the built-in world

docs/building_data.md explains the file.
"""

import argparse
import json
import sys

from .arguments import add_traceback_argument, at_least_one, progress_bar

HELP = "build training data from untrimmed videos, as HICom-248K was built"
FORMATS = ("jsonl", "parquet", "webdataset")
ENGINES = ("local", "ray")
STAGES = (
    "probe",
    "select",
    "watch",
    "shots",
    "keyframes",
    "clips",
    "deduplicate",
    "decontaminate",
    "captions",
    "pairs",
    "filter",
)
STAGE_HELP = """stages, in their order; each does what is missing, and may be killed and repeated at any time:
  probe          what each file says of itself; broken files become rows
  select         similarity to the paper's categories (with `select` in the build file)
  watch          decodes each video once, for both shots and keyframes
  shots          cuts, from what watch has stored; decodes nothing
  keyframes      frames that show something new, from what watch has stored; decodes nothing
  clips          shots with a keyframe, of 5 to 120 s
  deduplicate    copies of other clips (with `deduplicate` in the build file)
  decontaminate  clips of benchmarks (with `decontaminate` in the build file)
  captions       first request about each clip
  pairs          second request; without --stage, captions and pairs are asked for together, so that frames are read once
  filter         which pairs are dropped, and why
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    plan = actions.add_parser("plan", help="read what the files say of themselves, and print what there is to do")
    run_ = actions.add_parser(
        "run",
        help="do what is missing",
        epilog=STAGE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    status = actions.add_parser("status", help="print how far the build is, and what failed")
    export = actions.add_parser("export", help="write train.jsonl, train.provenance.parquet and data_card.md")
    delete = actions.add_parser(
        "delete", help="remove everything that came from one video, and export again without it"
    )
    report = actions.add_parser("report", help="write a page with pictures of what the build did")
    for action in (plan, run_, status, report, export, delete):
        action.add_argument("build", metavar="BUILD.yaml", help="the build; docs/building_data.md explains its keys")
        action.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="replace a value, such as shots.threshold=0.2",
        )
        action.add_argument("--json", action="store_true", help="print JSON")
        add_traceback_argument(action)
    for action in (plan, run_, status, report, export):  # a deletion is from the whole build
        action.add_argument("--limit", type=at_least_one, metavar="N", help="only the first N videos")
        action.add_argument(
            "--shard", type=_shard, default=(0, 1), metavar="I/N", help="only part I of N, from 0/N on"
        )
    _add_run_arguments(run_)
    for action in (run_, export):
        _add_engine_arguments(action)
    export.add_argument(
        "--format",
        choices=FORMATS,
        nargs="+",
        default=list(FORMATS[:2]),
        help="what to write; webdataset needs --clips (default: jsonl parquet)",
    )
    export.add_argument(
        "--clips",
        type=_height,
        metavar="HEIGHT",
        help="cut clips of this height, such as 360p, and name them in place of times of the videos",
    )
    delete.add_argument("video", metavar="ID", help="of the video, as in the provenance")
    _add_demo(actions)
    report.set_defaults(do=_report)
    export.set_defaults(do=_export)
    delete.set_defaults(do=_delete)
    plan.set_defaults(do=_plan)
    run_.set_defaults(do=_run)
    status.set_defaults(do=_status)


def _add_run_arguments(run_: argparse.ArgumentParser) -> None:
    which = run_.add_mutually_exclusive_group()
    which.add_argument(
        "--until",
        choices=STAGES,
        default=STAGES[-1],
        metavar="STAGE",
        help="the last stage (default: %(default)s); stages are listed below",
    )
    which.add_argument(
        "--stage", choices=STAGES, metavar="STAGE", help="this stage and no other; those that it needs must be done"
    )
    run_.add_argument("--retry-failed", action="store_true", help="try again what failed before")


def _add_demo(actions: argparse._SubParsersAction) -> None:
    demo = actions.add_parser(
        "demo", help="build from films of the built-in world, offline, and compare with the truth"
    )
    demo.add_argument("folder", metavar="DIR", help="folder to write to")
    demo.add_argument("--films", type=at_least_one, default=4, metavar="N", help="films (default: %(default)s)")
    demo.add_argument("--json", action="store_true", help="print JSON")
    add_traceback_argument(demo)
    demo.set_defaults(do=_demo)


def _add_engine_arguments(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="who decodes: processes of this machine, or a Ray cluster that sees the same folders (default: %(default)s)",
    )
    action.add_argument(
        "--ray-address", metavar="ADDRESS", help="of the cluster, such as auto (default: one on this machine)"
    )
    action.add_argument(
        "--ray-gpus", type=float, default=0.0, metavar="X", help="fraction of a GPU for each task (default: 0)"
    )


def run(args: argparse.Namespace) -> int:
    return args.do(args)


def _build(args: argparse.Namespace):
    from ..dataset_building.building import Build
    from ..dataset_building.settings import read_settings

    return Build(read_settings(args.build, args.set), args.shard, args.limit)


def _plan(args: argparse.Namespace) -> int:
    from ..dataset_building.planning import plan

    build = _build(args)
    try:
        build.run(until="probe", progress=progress_bar)
    except BlockingIOError:  # a run has probed the videos first, or is about to
        print("a run is in progress; hours and costs are those of the videos that it has probed", file=sys.stderr)
    _print(plan(build), args.json)
    return 0


def _engine(args: argparse.Namespace, workers: int):
    """A context manager; errors as of the engines."""
    if args.engine == "ray":
        from ..dataset_building.engine_ray import RayEngine

        return RayEngine(args.ray_address, None if args.ray_address else workers, args.ray_gpus)
    from ..dataset_building.engine_local import LocalEngine

    return LocalEngine(workers)


def _run(args: argparse.Namespace) -> int:
    build = _build(args)
    with _engine(args, build.settings.workers) as engine:
        build.run(args.until, args.retry_failed, progress_bar, engine, args.stage)
    _print(build.status(), args.json)
    for needed, count in build.waiting(args.stage).items() if args.stage else ():
        print(f"{args.stage}: the stage {needed} is missing for {count}, which wait for it", file=sys.stderr)
    failures = build.failures()
    for failure in failures[:10]:
        print(f"{failure['stage']}: {failure['error']}", file=sys.stderr)
    if build.has_too_many_failures():
        print(
            f"{len(failures)} failures are more than max_failures allows; --retry-failed tries them again",
            file=sys.stderr,
        )
        return 1
    return 0


def _status(args: argparse.Namespace) -> int:
    build = _build(args)
    status = build.status()
    _print({**status, "failures": build.failures()} if args.json else status, args.json)
    for failure in [] if args.json else build.failures():
        print(f"{failure['path']}\t{failure['stage']}\t{failure['error']}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from ..dataset_building.export import decontamination_note, export

    build = _build(args)
    with _engine(args, build.settings.workers) as build.engine:
        found = export(build, tuple(args.format), args.clips, progress_bar)
    counts = {"folder": str(build.output_dir), "clips": found.clips, "pairs": len(found.records)}
    _print({**counts, "dropped": dict(found.dropped), "benchmarks": decontamination_note(build)}, args.json)
    return 0


def _report(args: argparse.Namespace) -> int:
    from ..dataset_building.report import write_report

    _print({"report": write_report(_build(args))}, args.json)
    return 0


def _demo(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ..dataset_building.demo import BUILD_FILE, run_demo
    from ..dataset_building.export import RECORDS_FILE
    from ..dataset_building.stages import REPORT_FILE

    build, truth, num_problems = run_demo(args.folder, args.films, progress_bar)
    shown = asdict(truth)
    if not args.json:  # the report lists them
        shown["missed_cuts"], shown["doubtful_clips"] = len(truth.missed_cuts), len(truth.doubtful_clips)
    truth = {key: list(value) if isinstance(value, tuple) else value for key, value in shown.items()}
    files = {"records": str(build.output_dir / RECORDS_FILE), "report": str(build.output_dir / REPORT_FILE)}
    files["build file"] = str(build.output_dir.parent / BUILD_FILE)
    _print({**build.status(), "truth": truth, "data check": {"problems": num_problems}, "files": files}, args.json)
    return 1 if num_problems else 0


def _delete(args: argparse.Namespace) -> int:
    from ..dataset_building.building import Build
    from ..dataset_building.export import delete_video
    from ..dataset_building.settings import read_settings

    count = delete_video(Build(read_settings(args.build, args.set)), args.video)
    _print({"files removed": count}, args.json)
    return 0


def _print(values: dict, as_json: bool) -> None:
    if as_json:
        print(json.dumps(values, indent=1))
        return
    for key, value in values.items():
        for name, entry in value.items() if isinstance(value, dict) else [("", value)]:
            text = ", ".join(f"{k} {v}" for k, v in entry.items()) if isinstance(entry, dict) else entry
            text = f"{text:.3g}" if isinstance(text, float) else text
            print(f"{key} {name}".strip() + f"\t{text}")


def _shard(text: str) -> tuple[int, int]:
    """ "I/N" with 0 <= I < N."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and int(first) < int(second)):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 0 to N-1, such as 0/8; got {text!r}")
    return int(first), int(second)


def _height(text: str) -> int:
    """ "360p" or "360"."""
    number = text.removesuffix("p")
    if not (number.isdecimal() and int(number) >= 16):
        raise argparse.ArgumentTypeError(f"must be a height of at least 16 pixels, such as 360p; got {text!r}")
    return int(number)
