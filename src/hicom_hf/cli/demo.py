"""See HICom at work in a few seconds: two videos, questions with known answers, their cost, and a picture of the attention.

The first video comes with the package, the second is drawn and encoded on the spot. A model other than hicom-tiny may be shown,
too; the questions are about coloured shapes either way. Nothing is downloaded.

    hicom demo
    hicom demo --seed 7 --output attention.png
"""

import argparse
import json
import sys

from .arguments import SAFE_TO_PRINT, add_model_arguments, check_picture, model_options, seed_number

HELP = "answer questions about two videos, and draw the attention"
SEEDS = 1_000_000  # from which a fresh one is drawn


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
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from pathlib import Path
    from random import SystemRandom
    from tempfile import TemporaryDirectory

    from ..assets import HICOM_TINY, example_scene, example_videos
    from ..hub.loading import check_fits, check_options, load_config, load_model, load_processor
    from ..hub.places import find_model
    from ..inference.demo import ask_all, attention_picture, make_video
    from ..inference.session import model_notes
    from ..shapes import Scene

    # Cheap checks that can fail come before the weights are loaded.
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
    first = ask_all(model, processor, video, Scene.from_seed(**known) if known else None)
    if not args.json:
        print("\n".join([_describe_model(report), "", *_describe(first, video.name)]), flush=True)
    with TemporaryDirectory() as folder:
        path, scene = make_video(folder, seed)
        second = ask_all(model, processor, path, scene)
    if not args.json:
        print("\n".join(["", *_describe(second, f"a new video, seed {seed}")]), flush=True)
    title = f"Attention of {name} on {video.name}, for two questions"
    attention_picture(model, processor, first, title).save(output, format="PNG", optimize=True)
    report |= {"picture": str(output), "videos": [first.to_dict(), second.to_dict()]}
    report["videos"][1]["video"] = None  # the file is gone; the seed makes it again
    if args.json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        print(f"\n{output}: its attention on {video.name}, for two of the questions")
        print(f"hicom demo --seed {seed} makes the same new video again")
    return 0


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
    count = "" if asked.num_right is None else f"{asked.num_right} of {len(asked.answers)} right; "
    further = "" if asked.follow_up_seconds is None else f", every further one {asked.follow_up_seconds:.2f} s"
    lines.append(
        f"  {count}first question {asked.first_seconds:.2f} s (read {asked.frames.seconds:.2f}, encode {video.seconds:.2f}, "
        f"answer {asked.answers[0].seconds:.2f}){further}"
    )
    return lines
