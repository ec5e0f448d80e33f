"""hicom-tiny trained further: on frames that questions choose, on even ones of the same videos, on no long videos.

```
FOLDER/
    films/                  long videos
    data/                   usual videos: part of those that hicom-tiny was trained on, and those of the scores
    records/                what each variant is trained on
    choices/, features/     frames that were chosen, and features; shared by all
    <variant>-<seed>/       instruction_tuning/, needle_<clutter>/ (as `hicom eval` writes it), scores.json
    before/                 scores of the model that all start from
    comparison.json         what the report was written from
```
What is done is kept: an interrupted run is called again. The injection is not trained, so all variants choose the same frames.
"""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hicom_hf.assets import hicom_tiny
from hicom_hf.evaluation.evaluating import evaluate as evaluate_tasks
from hicom_hf.evaluation.needle_report import ALONE, CHOSEN, GROUPS
from hicom_hf.evaluation.questions import Question
from hicom_hf.evaluation.results import read_answers
from hicom_hf.evaluation.runner import Asking
from hicom_hf.evaluation.tasks.needle import needle_task
from hicom_hf.hub.files import write_text
from hicom_hf.inference.session import HiComSession
from hicom_hf.processors.frame_selection_hicom import FrameSelection

from ..hicom_tiny.data_sets import LONG, TALL, WIDE, Dataset, write_datasets
from ..hicom_tiny.evaluating import CONDITIONS, Condition, evaluate
from ..hicom_tiny.making import run_stage, stage_recipe
from ..hicom_tiny.processes import in_parallel, progress_bar
from ..hicom_tiny.record import commit
from ..hicom_tiny.sizes import NUM_FRAMES
from .films import Films, write_films
from .records import (
    TUNING,
    VARIANTS,
    choose_frames,
    long_records,
    repeated_mistakes,
    usual_records,
    write_records,
)

BEFORE = "before"
ASKED_PLACES = (0.25, 0.75)  # of the needle
ASKED_METHODS = (ALONE, CHOSEN)
CHECKPOINT_EVERY = 50  # steps
RATES = {"compressor": 1e-4, "injection": None, "language_model": 3e-4}
Table = dict[
    str, dict[str, dict[str, list[float]]]
]  # by group, method and length: right answers in percent, and how many


@dataclass(frozen=True)
class Budget:
    """How much of everything; the same for all variants.

    Args:
        films: long videos.
        square, wide, tall, longer: usual videos; of the last, 16 or 32 frames are sampled.
        steps, batch_size: of the training.
        needles: by clutter of the haystack, lengths in frames, questions of each group, and of "exist".
        needle_seed: of these questions.
        conditions: of `lab.hicom_tiny.evaluating`.
        test_videos: at most so many of each condition; None for all.
    """

    films: Films = field(default_factory=Films)
    square: int = 110
    wide: int = 45
    tall: int = 45
    longer: int = 15
    steps: int = 200
    batch_size: int = 64
    needles: tuple[tuple[str, tuple[int, ...], int, int], ...] = (
        ("sparse", (256, 1024, 4096), 24, 64),
        ("normal", (256, 1024), 24, 64),
    )
    needle_seed: int = 7
    conditions: tuple[str, ...] = ("unseen videos", "64 frames in the video")
    test_videos: int | None = 100

    def usual(self) -> tuple[Dataset, ...]:
        """Data sets that hicom-tiny was trained on, as far as they are taken."""
        tuning = {"stage": "tuning"}
        return (
            Dataset("square", self.square, 0, tuning),
            Dataset("wide", self.wide, 2, {**WIDE, **tuning}),
            Dataset("tall", self.tall, 3, {**TALL, **tuning}),
            replace(LONG, videos=self.longer),
        )

    def tests(self) -> list[Condition]:
        found = [one for one in CONDITIONS if one.name in self.conditions]
        if self.test_videos is None:
            return found
        return [replace(one, dataset=replace(one.dataset, videos=self.test_videos)) for one in found]


def compare(
    folder: str | Path, budget: Budget | None = None, seeds: Sequence[int] = (0,), processes: int = 2
) -> dict[str, Any]:
    """Make the data, train the variants, score them and the model that they start from.

    Args:
        folder: where everything goes.
        budget: how much.
        seeds: of the order of the samples; each variant is trained with each.
        processes: variants that are trained and scored at a time.

    Returns:
        What comparison.json holds: the budget, the records, and the scores by variant and seed ("chosen-0") and "before".

    Raises:
        ValueError: the folder was made with another budget.
    """
    folder, budget = Path(folder).absolute(), budget or Budget()
    _claim(folder, budget)
    films = write_films(folder / "films", budget.films)
    write_datasets(
        folder / "data", (*budget.usual(), *{one.dataset.name: one.dataset for one in budget.tests()}.values())
    )
    counts = _write_records(folder, budget, films, processes)
    record = {"budget": asdict(budget), "commit": commit(), "records": counts, "scores": {}}
    for number, seed in enumerate(seeds):
        jobs = [(BEFORE, seed)] * (number == 0) + [(variant, seed) for variant in VARIANTS]
        lanes = [
            (_trained_and_scored, folder, budget, lane)
            for lane in (jobs[first::processes] for first in range(processes))
            if lane
        ]
        for scores in in_parallel(lanes):
            record["scores"] |= scores
        used = os.times()
        record["cpu_seconds_of_the_last_call"] = round(sum(used[:4]))
        write_text(folder / "comparison.json", json.dumps(record, indent=1))
    return record


def as_markdown(record: Mapping[str, Any]) -> str:
    """A table per clutter, right answers in percent by length, and one of the ordinary figures; the mean of all seeds."""
    columns = {name: _runs(record, name) for name in (BEFORE, *VARIANTS)}
    titles = ["before", *(VARIANTS[name] for name in VARIANTS)]
    parts = []
    for clutter in record["scores"][BEFORE]["needle"]:
        lines = [f"| {clutter} | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
        for method in ASKED_METHODS:
            for group in GROUPS:
                cells = [_cell([run["needle"][clutter] for run in runs], group, method) for runs in columns.values()]
                if any(cells):
                    lines.append(f"| {method}: {group} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    lines = [f"| usual videos | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for condition, kinds in record["scores"][BEFORE]["usual"].items():
        for kind in kinds:
            cells = [_mean([run["usual"][condition][kind]["right"] for run in runs]) for runs in columns.values()]
            lines.append(f"| {condition}: {kind} ({kinds[kind]['questions']}) | {' | '.join(cells)} |")
    return "\n\n".join([*parts, "\n".join(lines)])


def _runs(record: Mapping[str, Any], variant: str) -> list[Mapping[str, Any]]:
    """The scores of a variant with each of its seeds."""
    return [scores for name, scores in record["scores"].items() if name.split("-")[0] == variant]


def _cell(tables: Sequence[Table], group: str, method: str) -> str:
    rows = [table.get(group, {}).get(method, {}) for table in tables]
    lengths = list(rows[0]) if rows else []
    return " / ".join(_mean([row[length][0] for row in rows]) for length in lengths)


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.1f}" if values else "-"


# Data ----------------------------------------------------------------------------------------------------------------------


def _claim(folder: Path, budget: Budget) -> None:
    note, asked = folder / "budget.json", json.dumps(asdict(budget))
    if note.exists() and json.loads(note.read_text()) != json.loads(asked):
        raise ValueError(f"{folder} was made with another budget ({note}); choose another folder")
    write_text(note, asked)


def _write_records(folder: Path, budget: Budget, films: Sequence[Mapping[str, Any]], processes: int) -> dict[str, int]:
    """The records of each variant; returns how many there are, how many of them about long videos, and mistakes beside them."""
    usual, long = usual_records(folder / "data", budget.usual()), long_records(films)
    write_text(folder / "records" / "long.json", json.dumps(long, indent=1))
    recipe = stage_recipe(TUNING, folder / "choosing", folder, (), 0, _overrides(folder, budget, "long"))
    mistakes = repeated_mistakes(long, choose_frames(recipe, processes))
    write_records(folder / "records", usual, long, mistakes)
    return {"all": len(usual), "long": len(long), "mistakes": len(mistakes)}


# Training and scores -------------------------------------------------------------------------------------------------------


def _trained_and_scored(folder: Path, budget: Budget, jobs: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """The scores of some variants and seeds."""
    found = {}
    for variant, seed in jobs:
        name = BEFORE if variant == BEFORE else f"{variant}-{seed}"
        model = hicom_tiny() if variant == BEFORE else _trained(folder, budget, variant, seed)
        found[name] = _scores(folder / name, folder, budget, model)
    return found


def _trained(folder: Path, budget: Budget, variant: str, seed: int) -> Path:
    place = folder / f"{variant}-{seed}"
    model = run_stage(TUNING, place, folder / "data", (), seed, _overrides(folder, budget, variant))
    for checkpoint in (place / TUNING).glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return model


def _overrides(folder: Path, budget: Budget, records: str) -> list[str]:
    """What differs from the recipe of hicom-tiny."""
    shared = {"model": hicom_tiny(), "data.feature_cache": folder / "features", "data.index": folder / "choices"}
    return [
        f"data.files={json.dumps([str(folder / 'records' / f'{records}.json')])}",
        *(f"{key}={json.dumps(str(path))}" for key, path in shared.items()),
        *(f"learning_rates.{part}={json.dumps(rate)}" for part, rate in RATES.items()),
        f"max_steps={budget.steps}",
        f"batch_size={budget.batch_size}",
        f"batch_size_per_device={budget.batch_size}",
        f"checkpoints.every={CHECKPOINT_EVERY}",
        "logging.progress_bar=false",
    ]


def _scores(place: Path, folder: Path, budget: Budget, model: Path) -> dict[str, Any]:
    done = place / "scores.json"
    if not done.exists():
        session = HiComSession.load(model, device="cpu", dtype="float32", cache_bytes=0, cache_dir=folder / "features")
        needle = {
            one[0]: _needle_scores(place / f"needle_{one[0]}", session, budget.needle_seed, *one)
            for one in budget.needles
        }
        usual = evaluate(model, folder / "data", budget.tests())
        write_text(done, json.dumps({"needle": needle, "usual": usual}, indent=1))
    return json.loads(done.read_text())


def _needle_scores(
    place: Path, session: HiComSession, seed: int, clutter: str, lengths: tuple[int, ...], number: int, exist: int
) -> dict[str, Any]:
    """Right answers of `hicom eval needle` with the needle at two places; those of "no" apart by how frames were chosen."""
    task = needle_task(lengths, clutter, max(number, exist), seed)
    read = task.read

    def fewer(*arguments: Any) -> list[Question]:
        return [one for one in read(*arguments) if _is_asked(one, number, exist)]

    asking = Asking(selection=FrameSelection(num_frames=NUM_FRAMES))
    evaluate_tasks([replace(task, read=fewer)], session, place, asking=asking, progress=progress_bar)
    lines = read_answers(place / task.name)
    rows = [(one.details, lines[one.id]) for one in fewer(place, "ours")]
    return by_group(rows)


def _is_asked(question: Question, number: int, exist: int) -> bool:
    details = question.details
    most = exist if details["group"].startswith("exist") else number
    places = (0.0,) if details["method"] == ALONE else ASKED_PLACES  # the scene alone is noted at 0
    of_trial = int(question.video.rsplit(" ", 1)[1])
    return details["method"] in ASKED_METHODS and details["place"] in places and of_trial < most


def by_group(rows: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Table:
    """Right answers in percent, and how many: by group, method and length. Questions that choose are counted again by what was
    used in the end: "question: question" where a shot stood out, "question: mixture", "question: uniform".
    """
    marks: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for details, line in rows:
        group, method, length = details["group"], details["method"], str(details["length"])
        marks[group, method, length].append(line["value"])
        if method == CHOSEN:
            marks[group, f"{CHOSEN}: {line['selection']['used']}", length].append(line["value"])
    table: Table = {}
    for (group, method, length), values in marks.items():
        table.setdefault(group, {}).setdefault(method, {})[length] = [100 * sum(values) / len(values), len(values)]
    return table
