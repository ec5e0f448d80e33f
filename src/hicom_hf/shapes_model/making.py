"""hicom-tiny from nothing: data, towers, LLM, three stages, scores. What is done is kept, so an interrupted run goes on.

```
FOLDER/
    data/<name>/            videos, pictures and questions, see `TRAINING`
    siglip/, llm/           the pre-trained parts, each in its usual format
    start/                  model and processor before the first stage
    alignment/, conditional_pretraining/, instruction_tuning/    the stages, each with `model/`
    logs/                   losses of the pre-trainings
    made_with.json          seed, commit, versions, seconds of every step
```
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm

from ..assembly import assemble, save_new_folder
from ..new_folder import new_folder
from ..shapes import Scene, write_dataset
from ..shapes.writing import write_text
from ..training.checkpoints import last_checkpoint
from ..training.recipes import Recipe, read_recipe
from ..training.running import MODEL_FOLDER, run_recipe
from .language_model import LanguageTraining, save_language_model, train_language_model
from .optimizing import TrainingLog
from .packed_contexts import pack
from .seen_scenes import read_seen_scenes
from .sizes import COMPRESSOR, NUM_FRAMES
from .towers import TowerTraining, save_siglip, train_towers

RECIPES_DIR = Path(__file__).parent / "recipes"
FILES = {  # what each stage is trained on, in their order
    "alignment": ("alignment.json",),
    "conditional_pretraining": ("pretraining.json",),
    "instruction_tuning": ("tuning.json", "rare_kinds.json"),
}
STAGES = tuple(FILES)
# For child processes: without them, glibc gives every large tensor back to the system, and training takes a third longer.
MEMORY_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "500000000",
}


@dataclass(frozen=True)
class Dataset:
    """A folder of the shapes world.

    Args:
        name: of the folder.
        videos: how many.
        seed: of its scenes.
        settings: other arguments of `write_dataset`.
    """

    name: str
    videos: int
    seed: int
    settings: dict[str, Any]

    def serves(self, stage: str) -> bool:
        """Whether it has files of one of `STAGES`."""
        return stage == STAGES[-1] or "stage" not in self.settings


WIDE, TALL = {"size": (144, 192)}, {"size": (192, 144)}  # objects are smaller in them once they are padded to a square
TRAINING = (
    Dataset("train_0", 1200, 0, {}),
    Dataset("train_1", 600, 1, {}),
    Dataset("train_wide", 600, 2, WIDE),
    Dataset("train_tall", 600, 3, TALL),
)
# For instruction tuning alone: more scenes, so that fewer are learnt by heart, and scenes of which a model reads twice and
# four times as many frames.
MORE = Dataset("train_2", 1200, 5, {"stage": "tuning"})
LONG = Dataset("train_long", 400, 4, {"stage": "tuning", "num_frames": 64, "sampled_frames": (16, 32)})
SPARSE_TIMES = 3  # an unconditional context is the same for all questions, and might be learnt by heart


@dataclass(frozen=True)
class Budget:
    """How much of everything.

    Args:
        datasets: training data, all of the split "train"; those of one stage alone are for instruction tuning.
        tower_videos: how many videos of each data set the towers see.
        packed_scenes: scenes and pictures from which the LLM's contexts are made, and `SPARSE_TIMES` as many sparse scenes.
        towers, language: the pre-trainings.
        stages: overrides of the stages' recipes.
    """

    datasets: tuple[Dataset, ...] = (*TRAINING, MORE, LONG)
    tower_videos: int = 600
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
    """
    folder, budget = Path(folder).absolute(), budget or Budget()
    data = folder / "data" if data is None else Path(data).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    record = _Record(folder / "made_with.json", seed, budget)
    with record.timed("data"):
        write_datasets(data, budget.datasets)
    with record.timed("towers and LLM"):
        parts = {"siglip": (make_siglip, folder, data, seed, budget), "llm": (make_llm, folder, seed, budget)}
        in_parallel([call for name, call in parts.items() if not (folder / name).exists()])
    with record.timed("assembly"):
        start(folder, seed)
    for stage, overrides in zip(STAGES, budget.stages, strict=True):
        with record.timed(stage):
            if not stage_folder(folder, stage).exists():
                in_parallel([(run_stage, stage, folder, data, budget.datasets, seed, overrides)], threads)
    return stage_folder(folder, STAGES[-1])


def stage_folder(folder: Path, stage: str) -> Path:
    """Where a stage's finished model is."""
    return folder / stage / MODEL_FOLDER


# Data ----------------------------------------------------------------------------------------------------------------------


def write_datasets(folder: Path, datasets: Iterable[Dataset]) -> None:
    """Write all data sets that are not there, two at a time."""
    datasets = tuple(datasets)
    missing = [one for one in datasets if not (folder / one.name / "tuning.json").exists()]
    missing.sort(key=lambda dataset: -dataset.videos)
    in_parallel([(_write_datasets, folder, share) for share in (missing[::2], missing[1::2]) if share])


def _write_datasets(folder: Path, datasets: Iterable[Dataset]) -> None:
    for dataset in datasets:
        write_dataset(folder / dataset.name, dataset.videos, dataset.seed, progress=progress_bar, **dataset.settings)


def in_parallel(calls: list[tuple], threads: int = 1) -> list:
    """Run functions with their arguments, each in a process of its own.

    Args:
        calls: a function and its arguments each; all of a module's top level.
        threads: of PyTorch, for each process.

    Returns:
        What they returned.

    Raises:
        Exception: that of the first call that failed.
    """
    if not calls:
        return []
    os.environ.update(MEMORY_SETTINGS)
    with ProcessPoolExecutor(
        len(calls), mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        return [future.result() for future in [pool.submit(*call) for call in calls]]


def progress_bar(iterable: Iterable, total: int, name: str) -> Iterable:
    return tqdm(iterable, total=total, desc=name, disable=None, file=sys.stderr)


# Parts ---------------------------------------------------------------------------------------------------------------------


def make_siglip(folder: Path, data: Path, seed: int, budget: Budget) -> None:
    """Pre-train both towers into `folder`/siglip, unless they are there."""
    if (folder / "siglip").exists():
        return
    scenes = []
    for dataset in (one for one in budget.datasets if one.serves(STAGES[0])):
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


def start(folder: Path, seed: int, compressor: dict[str, Any] | None = None, name: str = "start") -> Path:
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
    before = "start" if place == 0 else f"{STAGES[place - 1]}/{MODEL_FOLDER}"
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


# Record --------------------------------------------------------------------------------------------------------------------


class _Record:
    """What was made with what, and how long it took, so that a file can be traced to a commit and a command."""

    def __init__(self, path: Path, seed: int, budget: Budget):
        self.path = path
        self.values = json.loads(path.read_text()) if path.exists() else {"seconds": {}}
        self.values |= {
            "seed": seed,
            "commit": commit(),
            "command": " ".join(sys.argv),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "budget": asdict(budget),
        }

    def timed(self, name: str) -> "_Timer":
        return _Timer(lambda seconds: self._add(name, seconds))

    def _add(self, name: str, seconds: float) -> None:
        times = self.values["seconds"]
        times[name] = times.get(name, 0.0) + seconds
        write_text(self.path, json.dumps(self.values, indent=2))


class _Timer:
    def __init__(self, report: Callable[[float], None]):
        self.report = report

    def __enter__(self):
        self.begin = time.perf_counter()

    def __exit__(self, *error):
        self.report(time.perf_counter() - self.begin)


def commit() -> str | None:
    """The commit of this source tree, with "+" behind it if files of the package differ from it; None without git."""
    place = Path(__file__).parents[1]
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=place, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "."], cwd=place, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")
