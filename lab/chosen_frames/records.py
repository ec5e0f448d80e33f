"""What each variant is trained on, and the frames that questions choose for it.

Records of long videos stand in place of usual ones of as many frames, at the same places, so that the variants see all other
samples in the same order.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hicom_hf.data.datasets import HiComDataset
from hicom_hf.data.selected_frames import SelectedFrames
from hicom_hf.hub.files import read_json_lines, write_text
from hicom_hf.hub.loading import load_processor
from hicom_hf.shapes.dice import Dice
from hicom_hf.training.recipe import Recipe
from hicom_hf.training.run import build_dataset
from hicom_hf.training.stages import load_stage

from ..hicom_tiny.data_sets import FILES, Dataset
from ..hicom_tiny.processes import in_parallel, progress_bar
from ..hicom_tiny.sizes import NUM_FRAMES

CHOSEN_FRAMES, MORE_MISTAKES, EVEN_FRAMES, WITHOUT = "chosen", "mistakes", "even", "without"
VARIANTS = {
    CHOSEN_FRAMES: "frames that questions choose",
    MORE_MISTAKES: 'the same, and more of the "no" to shots that stand out',
    EVEN_FRAMES: "even frames of the same videos",
    WITHOUT: "no long videos",
}
TUNING = "instruction_tuning"
SHUFFLE_STREAM = 32
Record = dict[str, Any]


def usual_records(data: Path, datasets: Sequence[Dataset]) -> list[Record]:
    """Those of all data sets, shuffled."""
    found = []
    for dataset in datasets:
        place = data / dataset.name
        for name in FILES[TUNING]:
            found += [{**one, "video": str(place / one["video"])} for one in json.loads((place / name).read_text())]
    return Dice(SHUFFLE_STREAM).shuffled(found)


def long_records(films: Sequence[Mapping[str, Any]]) -> list[Record]:
    """All questions about the films, shuffled; each chooses among all frames."""
    found = []
    for film in films:
        for kind, question, answer in film["asked"]:
            turns = [{"from": "human", "value": f"<video>\n{question}"}, {"from": "gpt", "value": answer}]
            name = f"{Path(film['video']).stem} {question}"
            found.append({"id": name, "video": film["video"], "kind": kind, "conversations": turns} | _choosing(film))
    return Dice(SHUFFLE_STREAM, 1).shuffled(found)


def _choosing(film: Mapping[str, Any]) -> Record:
    return {"num_frames": film["frames"], "selection": {"num_frames": NUM_FRAMES}}


def write_records(folder: Path, usual: Sequence[Record], long: Sequence[Record], mistakes: Sequence[Record]) -> None:
    """FOLDER/VARIANT.json.

    Raises:
        ValueError: there are too few usual records.
    """
    places = [place for place, one in enumerate(usual) if "num_frames" not in one]
    if len(places) < len(long) + len(mistakes):
        needed = f"{len(long)} records of long videos and {len(mistakes)} of mistakes"
        raise ValueError(f"{needed} need as many usual ones, got {len(places)}; raise `square`")
    even = [
        {**{key: value for key, value in one.items() if key != "selection"}, "num_frames": NUM_FRAMES} for one in long
    ]
    inserted = {CHOSEN_FRAMES: long, MORE_MISTAKES: [*long, *mistakes], EVEN_FRAMES: even, WITHOUT: []}
    for variant, records in inserted.items():
        of_it = list(usual)
        for place, one in zip(places, records, strict=False):
            of_it[place] = one
        write_text(folder / f"{variant}.json", json.dumps(of_it, indent=1))


def repeated_mistakes(long: Sequence[Record], used: Mapping[tuple[str, str], str]) -> list[Record]:
    """Records with the answer "no" although a shot stands out, repeated until there are as many as with the answer "yes".

    Args:
        long: see `long_records`.
        used: of `choose_frames`.
    """
    shown = {answer: [one for one in long if _stands_out(one, answer, used)] for answer in ("yes", "no")}
    missing = max(0, len(shown["yes"]) - len(shown["no"])) if shown["no"] else 0
    return [shown["no"][number % len(shown["no"])] for number in range(missing)]


def _stands_out(record: Record, answer: str, used: Mapping[tuple[str, str], str]) -> bool:
    asked, answered = (turn["value"] for turn in record["conversations"])
    return answered == answer and used[record["video"], asked.removeprefix("<video>\n")] == "question"


def choose_frames(recipe: Recipe, processes: int) -> dict[tuple[str, str], str]:
    """Let the questions of a recipe choose before it runs, in several processes.

    Returns:
        By video and question, the rule that chose in the end.
    """
    [folder] = set(in_parallel([(_choose, recipe, rank, processes) for rank in range(processes)]))
    lines = [line for path in sorted(folder.glob("chosen-*.jsonl")) for line in read_json_lines(path)]
    return {(line["video"], one["instruction"]): one["used"] for line in lines for one in line["choices"].values()}


def _choose(recipe: Recipe, rank: int, processes: int) -> Path:
    dataset = build_dataset(recipe, load_processor(recipe.source))
    assert isinstance(dataset, HiComDataset)  # the records lie in files
    model = load_stage(recipe, attn_implementation=recipe.attn_implementation)
    chosen = SelectedFrames(str(recipe.data.index), model, dataset.encoder.processor, dataset.encoder.reader)
    chosen.fill(model, dataset.items(), rank=rank, world_size=processes, progress=progress_bar)
    return chosen.folder
