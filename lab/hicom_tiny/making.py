"""hicom-tiny from scratch: data, towers, LLM, three stages, scores. Finished steps are kept, so an interrupted run resumes.

```
FOLDER/
    data/<name>/            videos, pictures and questions, see `TRAINING`
    siglip/, llm/           the pre-trained parts, each in its usual format
    start/                  model and processor before the first stage
    alignment/, conditional_pretraining/, instruction_tuning/    the stages, each with `model/`
    logs/                   losses of the pre-trainings
    made_with.json          seed, budget, versions; commit, command and seconds of every step
```
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hicom_hf.assembly.from_parts import assemble, save_new_folder
from hicom_hf.hub.new_folder import new_folder
from hicom_hf.shapes import Scene
from hicom_hf.training.checkpoints import last_checkpoint
from hicom_hf.training.recipe import Recipe
from hicom_hf.training.recipe_reading import read_recipe
from hicom_hf.training.run import MODEL_FOLDER, run_recipe

from .data_sets import (
    FILES,
    FURTHER,
    LONG,
    MORE,
    STAGES,
    TRAINING,
    Dataset,
    check_datasets,
    missing_datasets,
    write_datasets,
)
from .language_model import LanguageTraining, save_language_model, train_language_model
from .optimizing import TrainingLog
from .packed_contexts import pack
from .processes import in_parallel, progress_bar
from .record import Record
from .seen_scenes import read_seen_scenes
from .sizes import COMPRESSOR, NUM_FRAMES
from .towers import TowerTraining, save_siglip, train_towers

RECIPES_DIR = Path(__file__).parent / "recipes"
START = "start"  # model and processor before the first stage
SPARSE_TIMES = 3  # an unconditional context is the same for all questions, and might be memorised


@dataclass(frozen=True)
class Budget:
    """How much of everything.

    Args:
        datasets: training data, all of the split "train"; those of one stage alone are for instruction tuning.
        tower_datasets: of which the towers see frames.
        tower_videos: how many videos of each of them.
        packed_scenes: scenes and pictures from which the LLM's contexts are made, and `SPARSE_TIMES` as many sparse scenes.
        towers, language: the pre-trainings.
        stages: overrides of the stages' recipes.
    """

    datasets: tuple[Dataset, ...] = (*TRAINING, MORE, LONG, FURTHER)
    tower_datasets: tuple[Dataset, ...] = (*TRAINING, MORE, LONG)
    tower_videos: int = 1200
    packed_scenes: int = 3000
    towers: TowerTraining = field(default_factory=TowerTraining)
    language: LanguageTraining = field(default_factory=LanguageTraining)
    stages: tuple[tuple[str, ...], ...] = ((), (), ())


def make_tiny(
    folder: str | Path, seed: int = 0, budget: Budget | None = None, data: str | Path | None = None, threads: int = 2
) -> Path:
    """Make hicom-tiny; steps that were finished before are not repeated.

    Args:
        folder: where everything goes.
        seed: of all weights, and of the order in which everything is learnt.
        budget: how much; None for what the shipped model had.
        data: folder of the data sets, to share it between seeds; None for `folder`/data.
        threads: of the stages; the pre-trainings run side by side, one thread each.

    Returns:
        The folder of the finished model.

    Raises:
        ValueError: the folder holds a run with another seed or budget, or the data are another world's.
    """
    folder, budget = Path(folder).absolute(), budget or Budget()
    data = folder / "data" if data is None else Path(data).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    record = Record(folder / "made_with.json", seed, budget)
    check_datasets(data, budget.datasets)
    if missing_datasets(data, budget.datasets):
        with record.step("data"):
            write_datasets(data, budget.datasets)
    parts = {"siglip": (make_siglip, folder, data, seed, budget), "llm": (make_llm, folder, seed, budget)}
    if missing := [call for name, call in parts.items() if not (folder / name).exists()]:
        with record.step("towers and LLM"):
            in_parallel(missing)
    if not (folder / START).exists():
        with record.step("assembly"):
            start(folder, seed)
    for stage, overrides in zip(STAGES, budget.stages, strict=True):
        if not stage_folder(folder, stage).exists():
            with record.step(stage):
                in_parallel([(run_stage, stage, folder, data, budget.datasets, seed, overrides)], threads)
    return stage_folder(folder, STAGES[-1])


def stage_folder(folder: Path, stage: str) -> Path:
    """Where a stage's finished model is."""
    return folder / stage / MODEL_FOLDER


# Parts ---------------------------------------------------------------------------------------------------------------------


def make_siglip(folder: Path, data: Path, seed: int, budget: Budget) -> None:
    """Pre-train both towers into `folder`/siglip, unless they are there."""
    if (folder / "siglip").exists():
        return
    scenes = []
    for dataset in budget.tower_datasets:
        scenes += read_seen_scenes(data / dataset.name, budget.tower_videos, progress_bar)
    towers = train_towers(scenes, budget.towers, seed, TrainingLog(folder / "logs" / "towers.jsonl", "towers"))
    with new_folder(folder / "siglip") as destination:
        save_siglip(towers, destination)


def make_llm(folder: Path, seed: int, budget: Budget) -> None:
    """Pre-train the LLM into `folder`/llm, unless it is there."""
    if (folder / "llm").exists():
        return
    count = budget.packed_scenes
    numbers, more = range(count), range(SPARSE_TIMES * count)
    scenes = [pack(Scene.from_seed(number, "mixed", "text")) for number in progress_bar(numbers, count, "scenes")]
    sparse = [
        pack(Scene.from_seed(number, "sparse", "text")) for number in progress_bar(more, len(more), "sparse scenes")
    ]
    pictures = [pack(Scene.still(number, "text"), frames=(1,)) for number in progress_bar(numbers, count, "pictures")]
    log = TrainingLog(folder / "logs" / "language_model.jsonl", "LLM")
    reader = train_language_model(scenes, sparse, pictures, budget.language, seed, log)
    with new_folder(folder / "llm") as destination:
        save_language_model(reader, destination)


def start(folder: Path, seed: int, compressor: dict[str, Any] | None = None, name: str = START) -> Path:
    """Put towers, a fresh compressor and LLM together.

    Args:
        folder: holds `siglip` and `llm`.
        seed: of the compressor.
        compressor: fields of its config, over those of hicom-tiny.
        name: of the folder below `folder`, or a path.
    """
    destination = folder / name
    if not destination.exists():
        model, processor = assemble(folder / "siglip", folder / "llm", {**COMPRESSOR, **(compressor or {})}, seed=seed)
        processor.video_processor.num_frames = NUM_FRAMES
        save_new_folder(model, processor, destination)
    return destination


# Stages --------------------------------------------------------------------------------------------------------------------


def stage_recipe(
    stage: str, folder: Path, data: Path, datasets: Iterable[Dataset], seed: int, overrides: Iterable[str] = ()
) -> Recipe:
    """A stage's recipe in a folder: the shipped YAML with its paths, the seed and what is to differ.

    Args:
        stage: one of `STAGES`.
        folder: in which the stages follow each other, `start` first.
        data: holds the data sets.
        datasets: what is trained on.
        seed: of the order of samples.
        overrides: as of `read_recipe`.
    """
    place = STAGES.index(stage)
    before = START if place == 0 else f"{STAGES[place - 1]}/{MODEL_FOLDER}"
    files = [str(data / dataset.name / name) for dataset in datasets if dataset.serves(stage) for name in FILES[stage]]
    paths = [
        f"model={json.dumps(str(folder / before))}",
        f"output_dir={json.dumps(str(folder / stage))}",
        f"data.files={json.dumps(files)}",
        f"data.feature_cache={json.dumps(str(folder / 'features'))}",
        f"seed={seed}",
    ]
    return read_recipe(RECIPES_DIR / f"{stage}.yaml", [*paths, *overrides])


def run_stage(stage: str, folder: Path, data: Path, datasets, seed: int, overrides: Iterable[str] = ()) -> Path:
    """Run a stage unless its model is there; errors as of `run_recipe`."""
    finished = stage_folder(folder, stage)
    if not finished.exists():
        recipe = stage_recipe(stage, folder, data, datasets, seed, overrides)
        if run_recipe(recipe, name=stage) is None:
            raise KeyboardInterrupt
    return finished


def stage_losses(folder: Path) -> list[tuple[int, float]]:
    """Steps and losses of a stage, from the last checkpoint in its folder; none if there is none."""
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        return []
    history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [(line["step"], line["loss"]) for line in history if "loss" in line]
