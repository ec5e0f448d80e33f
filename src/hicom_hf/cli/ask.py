"""Answer questions about a video or an image.

The answer is written to stdout as it is generated. With several questions the video is read and encoded once.

    hicom ask cooking.mp4 "What is the cook doing?" "Which pan is used?" --model hicom-7b

    hicom ask --from questions.jsonl --output answers.jsonl

asks many questions about many videos, each {"video": ..., "question": ...}; an interrupted run resumes.

Without --model answers hicom-tiny, which comes with the package and knows only its synthetic world of coloured shapes.
"""

import argparse
import json
import re
import sys
from dataclasses import asdict, replace
from time import perf_counter

from .arguments import (
    CONTROL_CHARACTERS,
    FPS_HELP,
    FRAMES_HELP,
    SAFE_TO_PRINT,
    SELECTION_RULES,
    SYSTEM_HELP,
    above_zero,
    add_media_arguments,
    add_model_arguments,
    add_tiles_argument,
    all_or_at_least_one,
    at_least_one,
    frame_tiles,
    media_access,
    model_options,
    not_negative,
    part_of_parts,
    progress_bar,
    readable_text,
    seed_number,
)
from .choices import describe_selection, describe_tiles

HELP = "answer questions about a video or an image"
SAMPLING = ("num_frames", "fps", "start", "end", "max_video_tokens", "short_video", "on_decode_error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "video", metavar="VIDEO", nargs="?", help="video, image, GIF or folder of frames; a path or an http(s) URL"
    )
    parser.add_argument(
        "questions",
        metavar="QUESTION",
        nargs="*",
        type=readable_text,
        help="what to ask; the video is encoded once",
    )
    parser.add_argument(
        "--instruction",
        type=readable_text,
        metavar="TEXT",
        help="condition the compression on these words, in place of those of each question",
    )
    parser.add_argument("--system", type=readable_text, help=SYSTEM_HELP)
    parser.add_argument("--json", action="store_true", help="write one JSON object instead of the streamed answer")
    _add_many(parser)
    _add_frames(parser)
    add_media_arguments(parser)
    _add_answer(parser)
    add_model_arguments(parser)


def _add_many(parser: argparse.ArgumentParser) -> None:
    """Questions of a file."""
    many = parser.add_argument_group("many videos")
    many.add_argument("--from", dest="questions_file", metavar="FILE", help="JSON lines with video and question")
    many.add_argument("--output", metavar="FILE", help="JSON lines to write; FILE.run holds the run so far")
    many.add_argument("--shard", type=part_of_parts, metavar="I/N", help="part I of N, by video")
    many.add_argument(
        "--batch-size",
        type=at_least_one,
        default=16,
        metavar="N",
        help="questions of one video at a time (default 16)",
    )
    many.add_argument(
        "--workers", type=seed_number, default=0, metavar="N", help="processes that read videos ahead (default 0)"
    )


def _add_frames(parser: argparse.ArgumentParser) -> None:
    """Which frames are read, and which of them a question sees."""
    frames = parser.add_argument_group("which frames")
    count = frames.add_mutually_exclusive_group()
    count.add_argument(
        "--num-frames", type=all_or_at_least_one, metavar="N", help=f"{FRAMES_HELP}; all for every frame"
    )
    count.add_argument("--fps", type=above_zero, help=FPS_HELP)
    frames.add_argument("--start", type=not_negative, metavar="SECONDS", help="use the video from here on")
    frames.add_argument("--end", type=not_negative, metavar="SECONDS", help="use the video up to here")
    frames.add_argument(
        "--max-video-tokens", type=at_least_one, metavar="N", help="as many frames as fit N visual tokens"
    )
    frames.add_argument(
        "--short-video",
        choices=("once", "repeat"),
        help="a video with fewer frames than asked for gives each once "
        "(default), or repeats them as the authors' release does",
    )
    frames.add_argument(
        "--on-decode-error",
        choices=("raise", "keep"),
        help="a file that breaks after some frames is an error (default), or gives the frames before",
    )
    frames.add_argument(
        "--select",
        choices=SELECTION_RULES,
        help="let each question choose among these frames, of a video of any length: --fps 1 --select question --frames 32",
    )
    frames.add_argument(
        "--frames",
        type=at_least_one,
        metavar="N",
        help="with --select: how many are chosen (or as --max-video-tokens fits)",
    )
    add_tiles_argument(frames)


def _add_answer(parser: argparse.ArgumentParser) -> None:
    """How the answer is generated."""
    answer = parser.add_argument_group("the answer")
    answer.add_argument(
        "--max-new-tokens", type=at_least_one, default=256, metavar="N", help="cut it here (default 256)"
    )
    answer.add_argument(
        "--temperature", type=not_negative, default=0.0, help="0 (default) takes the likeliest words, above 0 draws"
    )
    answer.add_argument(
        "--seed", type=seed_number, default=0, help="of the draw, the same for every question (default 0)"
    )


def run(args: argparse.Namespace) -> int:
    if args.questions_file is not None:
        return _run_file(args)
    _check(args)

    from ..assets import HICOM_TINY
    from ..hub.loading import check_fits, check_options, load_config, load_model, load_processor
    from ..hub.places import find_model
    from ..inference.session import HiComSession, model_notes
    from ..processors.answering_hicom import read_frames

    # Cheap checks that can fail come before the weights are loaded.
    access, loading = media_access(args), model_options(args)
    check_options(args.device, args.device_map, args.quantize, args.attn_implementation, args.compile)
    place, name = find_model(args.model), args.model or HICOM_TINY
    config, processor = load_config(place), load_processor(place)
    check_fits(config, processor, place)
    frames = None
    if args.select or args.tiles:
        _check_file(args.video, access)
    else:
        frames = _read(read_frames, processor, args, access)
    if frames is not None:
        _say_frames(frames, config)
    started = perf_counter()
    _say(f"loading {name}")
    model = load_model(place, **loading)
    load_seconds = perf_counter() - started
    session = HiComSession(model, processor, note=model_notes(place, config))
    if frames is not None:
        video = session.encode(frames)
    else:
        video = _open(session, args, access) if args.select else _open_tiled(session, args, access)
    if session.note:
        _say(f"note: {session.note}")
    answers = []
    for question in args.questions:
        if len(args.questions) > 1 and not args.json:
            print(f"{'' if not answers else chr(10)}Q: {question}\nA: ", end="", flush=True)
        options = {name: getattr(args, name) for name in ("instruction", "system", "max_new_tokens", "temperature")}
        on_text = None if args.json else _print_piece
        answers.append(video.ask(question, seed=args.seed, on_text=on_text, **options))
        if not args.json:
            print(flush=True)
            _say(_describe_answer(answers[-1]))
            if answers[-1].selection is not None:
                _say(describe_selection(answers[-1].selection))
            if answers[-1].tiles is not None:
                _say(describe_tiles(answers[-1].tiles))
    if args.json:
        seconds = {"load": load_seconds, "decode": 0.0, "encode": video.encoded.seconds}
        if frames is not None:
            seconds["decode"] = frames.seconds
        seen = _seen(video, config, answers) if args.select else video.encoded
        print(_as_json(_report(name, config, seen, answers, seconds, session.note)))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse arguments that are missing or contradict each other."""
    if not args.questions:
        args.parser.error("the following arguments are required: VIDEO, QUESTION")
    if args.output is not None or args.shard is not None:
        args.parser.error(f"argument --{'shard' if args.output is None else 'output'}: goes with --from")
    for number, question in enumerate(args.questions, start=1):
        if not question.strip():
            args.parser.error(f"argument QUESTION: question {number} is empty")
    frame_tiles(args)
    if args.end is not None and args.end <= (args.start or 0):
        args.parser.error(f"argument --end: must be after --start ({args.start or 0:g} s), got {args.end:g}")
    _check_selection(args)


def _check_selection(args: argparse.Namespace) -> None:
    if args.select is not None and args.short_video == "repeat":
        args.parser.error("argument --short-video: repeat goes without --select, which chooses among different frames")
    if (args.frames is None) != (args.select is None or args.max_video_tokens is not None):
        args.parser.error(
            "argument --select: takes --frames or --max-video-tokens, one of them; --frames is for --select only"
        )


def _check_file(video: str, access) -> None:
    """Refuse a local file that cannot be opened; what is in it, and what a URL gives, is read later."""
    from ..processors.source_names_hicom import url_scheme
    from ..processors.video_sources_hicom import local_path, open_binary

    if url_scheme(video) in (None, "file") and not local_path(video, access).is_dir():
        open_binary(video, access).close()


def _run_file(args: argparse.Namespace) -> int:
    """Answer the questions of a file."""
    parser: argparse.ArgumentParser = args.parser
    if args.video is not None:
        parser.error("argument --from: goes without VIDEO and QUESTION")
    _check_selection(args)
    if args.output is None:
        parser.error("argument --from: --output is missing, the file to write")
    if args.instruction:
        parser.error("argument --instruction: goes without --from; a line of the file may state its own")
    if args.temperature:
        parser.error("argument --temperature: --from takes the likeliest words, so that a run can be resumed")

    from ..evaluation.bulk import RUN_SUFFIX, questions_task
    from ..evaluation.evaluating import evaluate
    from ..evaluation.runner import Asking

    wanted = {name: getattr(args, name) for name in SAMPLING}
    sampling = {name: value for name, value in wanted.items() if value is not None}
    selection = _selection(args)
    if selection is not None:
        sampling.pop("max_video_tokens", None)  # it is the selection's budget
    [summary] = evaluate(
        [questions_task(args.questions_file, args.output, args.max_new_tokens)],
        args.model,
        args.output + RUN_SUFFIX,
        asking=Asking(
            sampling, args.system, args.batch_size, args.workers, media_access(args), selection, frame_tiles(args)
        ),
        part=args.shard or (1, 1),
        progress=progress_bar,
        **model_options(args),
    )
    for video, reason in summary["failed_videos"].items():
        _say(f"{video} was not read: {reason}")
    _say(
        f"{summary['num_answered']} of {summary['num_questions']} questions have an answer, or the reason why there is none"
    )
    if args.json:
        print(json.dumps(summary, indent=2))
    return 0


def _selection(args: argparse.Namespace):
    """The `FrameSelection` that `--select` asks for; None without it."""
    from ..processors.frame_selection_hicom import FrameSelection

    return None if args.select is None else FrameSelection(args.select, args.frames, args.max_video_tokens)


def _open(session, args: argparse.Namespace, access):
    """Encode the candidates of a selection, and say what they are."""
    selection, tiles = _selection(args), frame_tiles(args)
    names = [name for name in SAMPLING if name != "max_video_tokens"]

    def read(_, video, **request):
        return session.open(video, selection=selection, tiles=tiles, **request)

    video = _read(read, None, args, access, names)
    candidates = video.candidates
    for warning in candidates.sampling.warnings:
        _say(f"warning: {args.video}: {warning}")
    squares = 1 if candidates.has_features else candidates.keys.shape[0]
    by_squares = f", each as {squares} squares" if squares > 1 else ""
    # A choice by shots takes whole groups of frames, which may be fewer than the budget.
    is_exact = args.select == "uniform" or video.encoded.num_frames == len(candidates)
    _say(
        f"{candidates.sampling.source}: {len(candidates)} candidate{'s' if len(candidates) > 1 else ''} of "
        f"{candidates.sampling.num_source_frames} frame{'s' if candidates.sampling.num_source_frames > 1 else ''}"
        f"{by_squares}, {candidates.num_bytes / 1e6:.0f} MB of features; "
        f"each question sees {'' if is_exact else 'at most '}{video.encoded.num_frames} of them, "
        f"{video.encoded.num_visual_tokens} visual tokens"
    )
    if args.num_frames is None and len(candidates) < min(args.frames or 0, candidates.sampling.num_source_frames):
        _say(f"fewer candidates than --frames; --num-frames {args.frames} or a higher --fps may give more")
    return video


def _open_tiled(session, args: argparse.Namespace, access):
    """Encode the squares of all frames, and say what they are."""
    tiles = frame_tiles(args)

    def read(_, video, **request):
        return session.open(video, tiles=tiles, **request)

    video = _read(read, None, args, access)
    sampling, levels = video.tiled.sampling, video.tiled.levels
    for warning in sampling.warnings:
        _say(f"warning: {args.video}: {warning}")
    _say(
        f"{sampling.source}: {video.encoded.num_frames} of {sampling.num_source_frames} frames, "
        f"{sampling.width}x{sampling.height}; {sum(len(level.squares) for level in levels)} squares of each, "
        f"{video.tiled.num_bytes / 1e6:.0f} MB of features; each question sees {video.encoded.num_patches} patches, "
        f"{video.encoded.num_visual_tokens} visual tokens"
    )
    return video


def _say_frames(frames, config) -> None:
    _say(_describe(frames, config))
    for warning in frames.sampling.warnings:
        _say(f"warning: {frames.sampling.source}: {warning}")


def _read(read_frames, processor, args: argparse.Namespace, access, names=SAMPLING):
    """Read the video; what an error recommends is said in the command's own words."""
    try:
        sampling = {name: getattr(args, name) for name in names}
        return read_frames(processor, args.video, media_access=access, **sampling)
    except ValueError as error:
        raise ValueError(str(error).replace('on_decode_error="keep"', "--on-decode-error keep")) from error


def _as_json(report: dict) -> str:
    """Indented, with each list of numbers on one line; inside a JSON string a line break is never a plain one."""
    text = json.dumps(report, ensure_ascii=False, indent=2)
    return re.sub(r'\[\n([^\[\]{}"]*)\n *\]', lambda found: f"[{' '.join(found[1].split())}]", text)


def _seen(video, config, answers):
    """The frames that questions chose, those of all of them together; the numbers are of the question that saw the most."""
    from ..processors.candidate_frames_hicom import chosen_sampling

    records = [answer.selection for answer in answers]
    frames = sorted({frame for record in records for frame in record.frames})
    num_frames = max(len(record.frames) for record in records)
    rows, columns = config.grid
    return replace(
        video.encoded,
        sampling=chosen_sampling(video.candidates, replace(records[0], frames=tuple(frames))),
        num_frames=num_frames,
        num_patches=num_frames * rows * columns,
        num_visual_tokens=config.num_visual_tokens(num_frames),
    )


def _report(model, config, video, answers, seconds, note) -> dict:
    """What `--json` writes."""
    return {
        "model": model,
        "untrained_parts": config.untrained_parts,
        "note": note,
        "video": video.sampling.to_dict(),
        "num_frames": video.num_frames,
        "num_visual_tokens": video.num_visual_tokens,
        "num_uncompressed_patches": video.num_patches,
        "seconds": seconds,
        "answers": [_answer_report(answer) for answer in answers],
    }


def _answer_report(answer) -> dict:
    fields = asdict(answer)
    for name in ("selection", "tiles"):
        record = getattr(answer, name)
        if record is None:
            del fields[name]
        else:
            fields[name] = record.to_dict()
    seconds = {"first_token": fields.pop("first_token_seconds"), "generate": fields.pop("seconds")}
    return {**fields, "seconds": seconds}


def _describe(frames, config) -> str:
    """One line about the frames that were read, for stderr."""
    sampling, num_frames = frames.sampling, len(frames.pixel_values)
    taken = "one picture"
    if sampling.num_source_frames > 1:
        taken = f"{num_frames} of {sampling.num_source_frames} frames"
        if sampling.fewer_than_requested:
            taken += f" ({sampling.requested_frames} were asked for)"
    line = f"{sampling.source}: {taken}, {sampling.width}x{sampling.height}"
    if sampling.duration is not None:
        line += f", {sampling.times[0]:.2f} to {sampling.times[-1]:.2f} s of {sampling.duration:.2f} s"
    patches, tokens = num_frames * config.grid[0] * config.grid[1], config.num_visual_tokens(num_frames)
    return f"{line}; {tokens} visual tokens for {patches} patches ({patches / tokens:.1f} times fewer)"


def _describe_answer(answer) -> str:
    cut = "" if answer.finished else "; cut there, --max-new-tokens takes more"
    return (
        f"first token after {answer.first_token_seconds:.2f} s, {answer.num_new_tokens} tokens after "
        f"{answer.seconds:.2f} s{cut}; compressed on: {answer.instruction.translate(CONTROL_CHARACTERS)}"
    )


def _print_piece(text: str) -> None:
    """Print a piece of the answer; what could command a terminal is shown, not sent."""
    print(text.translate(SAFE_TO_PRINT), end="", flush=True)


def _say(line: str) -> None:
    print(f"hicom: {line}".translate(SAFE_TO_PRINT), file=sys.stderr, flush=True)
