"""See HICom at work in a few seconds: two videos, questions with known answers, their cost, and a picture of the attention.

The first video comes with the package, the second is drawn and encoded on the spot. A model other than hicom-tiny may be shown,
too; the questions are about coloured shapes either way. Nothing is downloaded.

    hicom demo
    hicom demo --seed 7 --output attention.png
    hicom demo --select question --tiles 1

With --select the second video is a film of 24 scenes, one of which is asked about; with --tiles it is wide. Each question then
chooses what it sees.
"""

import argparse
import json
import sys

from .arguments import (
    SAFE_TO_PRINT,
    SELECTION_RULES,
    above_zero,
    add_model_arguments,
    add_tiles_argument,
    at_least_one,
    check_picture,
    frame_tiles,
    model_options,
    seed_number,
)
from .choices import describe_selection, describe_tiles, timeline

HELP = "answer questions about two videos, and draw the attention"
SEEDS = 1_000_000  # from which a fresh one is drawn
DEFAULT_FRAMES, DEFAULT_FPS = 8, 4.0  # with --select; new videos have 4 frames per second


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--video", metavar="FILE", help="the first video (default: one that comes with the package)")
    parser.add_argument("--seed", type=seed_number, help="of the second video (default: drawn at random, and printed)")
    parser.add_argument(
        "--output",
        default="demo.png",
        metavar="FILE",
        help="PNG to write, replaced if it is there (default: demo.png)",
    )
    parser.add_argument("--json", action="store_true", help="write one JSON object")
    chosen = parser.add_argument_group("what each question chooses")
    chosen.add_argument("--select", choices=SELECTION_RULES, help="let each question choose frames of the videos")
    chosen.add_argument("--frames", type=at_least_one, metavar="N", help="with --select: how many (default 8)")
    chosen.add_argument(
        "--fps", type=above_zero, help="with --select: among so many frames per second of video (default 4)"
    )
    add_tiles_argument(chosen)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from pathlib import Path
    from random import SystemRandom

    from ..assets import HICOM_TINY, example_scene, example_videos
    from ..hub.loading import check_fits, check_options, load_config, load_model, load_processor
    from ..hub.places import find_model
    from ..inference.session import model_notes
    from ..shapes import Scene

    # Cheap checks that can fail come before the weights are loaded.
    if args.select is None and (args.frames is not None or args.fps is not None):
        args.parser.error(f"argument --{'fps' if args.frames is None else 'frames'}: goes with --select")
    frame_tiles(args)
    output = Path(args.output)
    check_picture(output, "--output")
    check_options(args.device, args.device_map, args.quantize, args.attn_implementation, args.compile)
    place, name = find_model(args.model), args.model or HICOM_TINY
    config, processor = load_config(place), load_processor(place)
    check_fits(config, processor, place)
    seed = SystemRandom().randrange(SEEDS) if args.seed is None else args.seed
    video = Path(args.video) if args.video else example_videos()[0]
    known = example_scene(video)
    note = model_notes(place, config)
    if note:
        print(f"hicom: note: {note}", file=sys.stderr, flush=True)

    model = load_model(place, **model_options(args))
    report = {"model": name, "num_parameters": model.num_parameters(), "note": note, "seed": seed, "videos": []}
    if not args.json:
        print(f"{_describe_model(report)}\n", flush=True)
    show = _show_choices if args.select is not None or args.tiles is not None else _show
    asked, drawn, shown = show(args, model, processor, video, Scene.from_seed(**known) if known else None, seed)
    title = f"Attention of {name} on {shown}, for two questions"
    drawn(title).save(output, format="PNG", optimize=True)
    report |= {"picture": str(output), "videos": [one.to_dict() for one in asked]}
    report["videos"][1]["video"] = None  # the file is gone; the seed makes it again
    if args.json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        print(f"\n{output}: its attention on {shown}, for two of the questions")
        print(f"hicom demo --seed {seed}{_choice_arguments(args)} makes the same new video again")
    return 0


def _show(args, model, processor, video, scene, seed):
    """Ask about both videos; all questions about one see the same frames. The picture is of the first."""
    from functools import partial
    from tempfile import TemporaryDirectory

    from ..inference.demo import ask_all, attention_picture, make_video

    first = ask_all(model, processor, video, scene)
    _print(args, _describe(first, video.name))
    with TemporaryDirectory() as folder:
        path, made = make_video(folder, seed)
        second = ask_all(model, processor, path, made)
    _print(args, ["", *_describe(second, f"a new video, seed {seed}")])
    return [first, second], partial(attention_picture, model, processor, first), video.name


def _show_choices(args, model, processor, video, scene, seed):
    """Ask about both videos; each question chooses what it sees. The picture is of the second, unless a video was named."""
    from tempfile import TemporaryDirectory

    from ..inference.demo_film import FILM_SCENES, SQUARE, WIDE, Film, ask_choosing, choice_picture, make_film
    from ..processors.frame_selection_hicom import FrameSelection

    selection = None if args.select is None else FrameSelection(args.select, args.frames or DEFAULT_FRAMES)
    choice = {"selection": selection, "tiles": frame_tiles(args), "fps": args.fps or DEFAULT_FPS}
    film = Film.of_video(video, scene)
    first = ask_choosing(model, processor, film, **choice)
    _print(args, _describe(first, video.name))
    with TemporaryDirectory() as folder:
        size = SQUARE if args.tiles is None else WIDE
        made = make_film(folder, seed, size, 1 if args.select is None else FILM_SCENES)
        second = ask_choosing(model, processor, made, **choice)
        name = f"a new {'video' if args.select is None else 'film'}, seed {seed}"
        _print(args, ["", *_describe(second, name)])
        shown = (film, first, video.name) if args.video else (made, second, name)
        picture = choice_picture(processor, *shown[:2], f"Attention of {args.model or 'hicom-tiny'} on {shown[2]}")
    return [first, second], lambda title: picture, shown[2]


def _choice_arguments(args: argparse.Namespace) -> str:
    """The arguments of choices, as they were given."""
    tiles = "" if args.tiles is None else f" --tiles {','.join(map(str, args.tiles))}"
    scored = {None: "", True: " --score-tiles", False: " --no-score-tiles"}[args.score_tiles]
    return (f" --select {args.select}" if args.select else "") + tiles + scored


def _print(args: argparse.Namespace, lines: list[str]) -> None:
    if not args.json:
        print("\n".join(lines), flush=True)


def _describe_model(report: dict) -> str:
    return f"{report['model']}, {report['num_parameters'] / 1e6:,.1f} million parameters"


def _describe(asked, name: str) -> list[str]:
    """Questions, answers and costs, as lines for a person."""
    from ..shapes import is_right

    video, sampling = asked.video, asked.video.sampling
    lines = [
        f"{name}: {video.num_frames} of {sampling.num_source_frames} frames, {video.num_patches:,} patches become "
        f"{video.num_visual_tokens:,} visual tokens ({video.num_patches / video.num_visual_tokens:.1f} times fewer)"
    ]
    width = max(len(question.text) for question in asked.questions)
    answer_width = max(len(answer.answer) for answer in asked.answers)
    for question, answer in zip(asked.questions, asked.answers, strict=True):
        verdict = ""
        if asked.scene is not None:
            verdict = "right" if is_right(answer.answer, question.answer) else f"wrong, it is {question.answer}"
        line = f"  {question.text:<{width}}  {' '.join(answer.answer.split()):<{answer_width}}  {verdict}"
        lines.append(line.rstrip().translate(SAFE_TO_PRINT))
        lines += _describe_choices(answer, sampling.duration)
    count = "" if asked.num_right is None else f"{asked.num_right} of {len(asked.answers)} right; "
    further = "" if asked.follow_up_seconds is None else f", every further one {asked.follow_up_seconds:.2f} s"
    lines.append(
        f"  {count}first question {asked.first_seconds:.2f} s (read {asked.read_seconds:.2f}, encode {video.seconds:.2f}, "
        f"answer {asked.answers[0].seconds:.2f}){further}"
    )
    return lines


def _describe_choices(answer, duration: float | None) -> list[str]:
    """What an answer's question chose; nothing where it chose nothing."""
    lines = []
    if answer.selection is not None:
        lines += [timeline(answer.selection, duration), describe_selection(answer.selection)]
    if answer.tiles is not None:
        lines.append(describe_tiles(answer.tiles))
    return [f"    {line}".translate(SAFE_TO_PRINT) for line in lines if line]
