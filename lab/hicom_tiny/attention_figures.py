"""Measures which fraction of the attention lies on the object that a question names: `python -m lab.hicom_tiny.attention_figures
MODEL`."""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from hicom_hf.hub.files import write_text
from hicom_hf.hub.loading import load_model, load_processor
from hicom_hf.inference import attention_fraction, attention_maps
from hicom_hf.modeling.modeling_hicom import HiComForConditionalGeneration
from hicom_hf.processors.answering_hicom import encode_video, read_frames
from hicom_hf.processors.processing_hicom import HiComProcessor
from hicom_hf.shapes import Scene, patch_cover, questions, render, write_video
from hicom_hf.shapes.rendering import DEFAULT_NUM_FRAMES

BRANCHES = ("local", "global")
SCENES = tuple(Scene.from_seed(seed, "normal", "test") for seed in range(24))
RED_CIRCLE_SCENES = tuple(Scene.from_seed(seed, "normal", "held_out_pairs") for seed in range(60))


def times_even(
    model: HiComForConditionalGeneration,
    processor: HiComProcessor,
    scenes: Iterable[Scene] = SCENES,
    words: str = "",
) -> dict[str, list[float]]:
    """How much of the attention lies on the one object that a question names, against an even spread.

    Args:
        model, processor: of one folder, with both branches.
        scenes: to ask about; each is encoded as a video first.
        words: only the questions that have these in them.

    Returns:
        By branch ("local", "global"), one number per question about a single object: see `attention_fraction`.
    """
    found: dict[str, list[float]] = {branch: [] for branch in BRANCHES}
    with TemporaryDirectory() as folder:
        for number, scene in enumerate(scenes):
            asked = [one for one in questions(scene) if len(one.referents) == 1 and words in one.text]
            if not asked:
                continue
            frames = read_frames(processor, write_video(Path(folder) / f"{number}.mp4", render(scene)[0]))
            video = encode_video(model, frames)
            for question in asked:
                cover = patch_cover(question.referents, DEFAULT_NUM_FRAMES, grid=model.config.grid)
                maps = attention_maps(model, processor, video, question.text)
                for branch, values in zip(BRANCHES, (maps.local_map, maps.global_map), strict=True):
                    found[branch].append(attention_fraction(values, cover[0, frames.sampling.indices]).times_even)
    return found


def main() -> None:
    """Print how much lies on what is named."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of the model")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    try:
        model, processor = load_model(args.model, "cpu", "float32"), load_processor(args.model)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name, found in (
        ("unseen videos", times_even(model, processor)),
        ("red circles", times_even(model, processor, RED_CIRCLE_SCENES, "the red circle")),
    ):
        results[name] = {}
        for branch, values in found.items():
            above = mean(value > 1 for value in values)
            results[name][branch] = {
                "times even": round(mean(values), 3),
                "above 1": round(above, 3),
                "questions": len(values),
            }
            print(
                f"{name}, {branch} attention: {mean(values):.2f} times an even spread on the named object, above 1 for "
                f"{above:.1%} of {len(values)} questions"
            )
    if args.json:
        write_text(args.json, json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
