"""Three small hicom-tinys that differ in their conditional pre-training: on built pairs, on the world's own, on none.

```
FOLDER/
    build/              untrimmed films, and the pairs that the whole pipeline of `hicom build-data` made of them
    data/               the world's own clips, and what alignment, instruction tuning and the scores take
    alignment/          shared by all
    <variant>/          conditional_pretraining/, instruction_tuning/, scores.json
    features/           SigLIP's features of all of them
    comparison.json     what the report was written from
```
What is done is kept: an interrupted run is called again. Towers and LLM are those of `lab/ablations/record/parts`.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hicom_hf.dataset_building.demo import run_demo
from hicom_hf.dataset_building.export import RECORDS_FILE
from hicom_hf.hub.files import write_text
from hicom_hf.hub.loading import load_model, load_processor
from hicom_hf.shapes.dice import Dice

from ..ablations.campaign import LEVELS
from ..hicom_tiny.data_sets import WIDE, Dataset, write_datasets
from ..hicom_tiny.making import MODEL_FOLDER, run_stage, stage_recipe, start
from ..hicom_tiny.processes import progress_bar
from ..hicom_tiny.record import commit
from ..hicom_tiny.scoring import score, table

PARTS = Path(__file__).parents[1] / "ablations" / "record" / "parts"
BUILT, WORLD, NONE = "built", "own", "without"
VARIANTS = {
    BUILT: "pairs built from films",
    WORLD: "the world's own clips and descriptions",
    NONE: "no conditional pre-training",
}
PAIRS_PER_CLIP = 3
PAIRS_STREAM = 17
ALIGNMENT, PRETRAINING, TUNING = "alignment", "conditional_pretraining", "instruction_tuning"
CHECKPOINT_EVERY = 25  # steps
RECORDS = "records.json"


@dataclass(frozen=True)
class Budget:
    """How much of everything; the same for all variants.

    Args:
        films: untrimmed ones, of six takes each.
        clips: of the world, from which as many pairs are taken as were built.
        videos: of alignment (pictures) and instruction tuning.
        test_videos: at each level of clutter.
        steps: of each stage. Without conditional pre-training its steps go to instruction tuning, as in the ablations.
        batch_size: of all stages; half of the recipes'.
        seed: of the compressor's first weights and of the order of the data.
    """

    films: int = 20
    clips: int = 110
    videos: int = 160
    test_videos: int = 15
    steps: tuple[tuple[str, int], ...] = ((ALIGNMENT, 150), (PRETRAINING, 100), (TUNING, 150))
    batch_size: int = 32
    seed: int = 0

    def own_clips(self) -> Dataset:
        # As large and as cluttered as the films. No other data have its scenes.
        return Dataset("own_clips", self.clips, 21, {**WIDE, "clutter": "normal", "stage": "pretraining"})

    def pictures(self) -> Dataset:
        return Dataset("pictures", self.videos, 22, {"stage": "alignment"})

    def tuning(self) -> Dataset:
        return Dataset("tuning", self.videos, 22, {"stage": "tuning"})

    def tests(self) -> dict[str, Dataset]:
        values = {"split": "test", "stage": "tuning"}
        return {
            level: Dataset(f"test_{level}", self.test_videos, 2000, {**values, "clutter": level}) for level in LEVELS
        }


def compare(folder: str | Path, budget: Budget | None = None) -> dict[str, Any]:
    """Make the data, train the variants, score them.

    Returns:
        What comparison.json holds: the budget, how true the built pairs are, how many there are, and the scores by variant.

    Raises:
        ValueError: the folder was made with another budget.
    """
    folder, budget = Path(folder).absolute(), budget or Budget()
    _claim(folder, budget)
    begin = time.process_time()
    datasets = (budget.own_clips(), budget.pictures(), budget.tuning(), *budget.tests().values())
    write_datasets(folder / "data", datasets)
    truth = _build(folder, budget)
    num_pairs = _write_pairs(folder, budget)
    _align(folder, budget)
    found = {}
    for variant in VARIANTS:
        found[variant] = _trained_and_scored(folder, budget, variant)
        print(f"{VARIANTS[variant]}: {overall(found[variant]):.1f} % right", flush=True)
    record = {"budget": asdict(budget), "commit": commit(), "truth": truth, "pairs": num_pairs, "scores": found}
    record["cpu_seconds_of_the_last_call"] = round(time.process_time() - begin)
    write_text(folder / "comparison.json", json.dumps(record, indent=1))
    return record


def overall(scores: dict[str, dict]) -> float:
    """Right answers in percent over the questions of all levels."""
    rows = [rows["all"] for rows in scores.values()]
    return sum(row["right"] * row["questions"] for row in rows) / sum(row["questions"] for row in rows)


def as_markdown(record: dict[str, Any]) -> str:
    """One row per variant."""
    lines = [f"| | all | {' | '.join(LEVELS)} | questions |", "|---" * (len(LEVELS) + 3) + "|"]
    for variant, scores in record["scores"].items():
        cells = " | ".join(f"{scores[level]['all']['right']:.1f}" for level in LEVELS)
        number = sum(scores[level]["all"]["questions"] for level in LEVELS)
        lines.append(f"| {VARIANTS[variant]} | {overall(scores):.1f} | {cells} | {number} |")
    return "\n".join(lines)


# Steps ---------------------------------------------------------------------------------------------------------------------


def _claim(folder: Path, budget: Budget) -> None:
    note, asked = folder / "budget.json", json.dumps(asdict(budget))
    if note.exists() and json.loads(note.read_text()) != json.loads(asked):
        raise ValueError(f"{folder} was made with another budget ({note}); choose another folder")
    write_text(note, asked)


def _build(folder: Path, budget: Budget) -> dict[str, Any]:
    """Films, and pairs from them by way of the whole pipeline."""
    done = folder / "truth.json"
    if not done.exists():
        _, truth, num_problems = run_demo(folder / "build", budget.films, progress_bar)
        write_text(done, json.dumps({**asdict(truth), "data_check_problems": num_problems}))
    return json.loads(done.read_text())


def _write_pairs(folder: Path, budget: Budget) -> int:
    """The records of both pre-trainings, as many of each; returns how many."""
    lines = (folder / "build" / "build" / RECORDS_FILE).read_text().splitlines()
    built = [json.loads(line) for line in lines]
    for record in built:
        record["video"] = str(folder / "build" / "films" / record["video"])
    place = folder / "data" / budget.own_clips().name
    own: dict[str, list[dict]] = {}
    for record in json.loads((place / "pretraining.json").read_text()):
        record["video"] = str(place / record["video"])
        own.setdefault(record["video"], []).append(record)
    dice = Dice(budget.seed, PAIRS_STREAM)
    chosen = [record for records in own.values() for record in dice.shuffled(records)[:PAIRS_PER_CLIP]]
    count = min(len(built), len(chosen))
    for variant, records in ((BUILT, built), (WORLD, chosen)):
        write_text(folder / variant / RECORDS, json.dumps(dice.shuffled(records)[:count], indent=1))
    return count


def _align(folder: Path, budget: Budget) -> None:
    if (folder / ALIGNMENT / MODEL_FOLDER).exists():
        return
    start(PARTS, budget.seed, name=str(folder / "start"))
    _run(ALIGNMENT, folder, folder, budget, dict(budget.steps)[ALIGNMENT], [])


def _trained_and_scored(folder: Path, budget: Budget, variant: str) -> dict[str, dict]:
    done = folder / variant / "scores.json"
    if not done.exists():
        steps, model = dict(budget.steps), folder / ALIGNMENT / MODEL_FOLDER
        place = folder / variant
        if variant == NONE:
            steps[TUNING] += steps[PRETRAINING]
        else:
            files = f"data.files={json.dumps([str(place / RECORDS)])}"
            model = _run(
                PRETRAINING, place, folder, budget, steps[PRETRAINING], [f"model={json.dumps(str(model))}", files]
            )
        model = _run(TUNING, place, folder, budget, steps[TUNING], [f"model={json.dumps(str(model))}"])
        write_text(done, json.dumps(_scores(folder, model, budget)))
        for stage in (PRETRAINING, TUNING):
            for checkpoint in (place / stage).glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
    return json.loads(done.read_text())


def _run(stage: str, place: Path, folder: Path, budget: Budget, steps: int, more: Sequence[str]) -> Path:
    """A stage of hicom-tiny's recipe in a folder, with the features that all share."""
    dataset = budget.pictures() if stage == ALIGNMENT else budget.tuning()
    dataset = Dataset(dataset.name, dataset.videos, dataset.seed, {})  # serves any stage
    overrides = [
        f"max_steps={steps}",
        f"batch_size={budget.batch_size}",
        f"batch_size_per_device={budget.batch_size}",
        f"data.feature_cache={json.dumps(str(folder / 'features'))}",
        f"checkpoints.every={CHECKPOINT_EVERY}",
        "logging.progress_bar=false",
        *more,
    ]
    stage_recipe(stage, place, folder / "data", (dataset,), budget.seed, overrides)  # refuses what is wrong at once
    return run_stage(stage, place, folder / "data", (dataset,), budget.seed, overrides)


def _scores(folder: Path, model_folder: Path, budget: Budget) -> dict[str, dict]:
    model, processor = load_model(model_folder, "cpu", "float32"), load_processor(model_folder)
    return {
        level: table(score(model, processor, folder / "data" / dataset.name / "tuning.json", progress=progress_bar))
        for level, dataset in budget.tests().items()
    }
