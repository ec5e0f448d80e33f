"""The data sets of hicom-tiny: those of training, and how any of them is written."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hicom_hf.shapes import write_dataset
from hicom_hf.shapes.writing import WORLD_FILE

from .processes import in_parallel, progress_bar

FILES = {  # what each stage is trained on, in their order
    "alignment": ("alignment.json",),
    "conditional_pretraining": ("pretraining.json",),
    "instruction_tuning": ("tuning.json", "rare_kinds.json"),
}
STAGES = tuple(FILES)


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
# Of the stages, for instruction tuning alone: more scenes, so that fewer are memorised, and scenes of which a model
# reads twice and four times as many frames.
MORE = Dataset("train_2", 1200, 5, {"stage": "tuning"})
# Again more scenes: what most objects have in common ("What is this video mainly about?") is memorised first.
FURTHER = Dataset("train_3", 2400, 6, {"stage": "tuning"})
LONG = Dataset("train_long", 400, 4, {"stage": "tuning", "num_frames": 64, "sampled_frames": (16, 32)})


def check_datasets(folder: Path, datasets: Iterable[Dataset]) -> None:
    """Refuse data sets that are there and were made in another way.

    Raises:
        ValueError: one of another version of the world, or with other settings.
    """
    for dataset in datasets:
        if not _is_there(folder, dataset):
            continue
        place = folder / dataset.name
        note, asked = place / WORLD_FILE, _world_of(dataset)
        there = json.loads(note.read_text()) if note.exists() else {}
        differing = [key for key in {**asked, **there} if asked.get(key) != there.get(key)]
        if differing:
            pairs = ", ".join(f"{key} {there.get(key)!r} there and {asked.get(key)!r} asked for" for key in differing)
            raise ValueError(f"{place} holds another world ({pairs}); choose another folder of data")


def missing_datasets(folder: Path, datasets: Iterable[Dataset]) -> list[Dataset]:
    """Those that are not there, or not complete."""
    return [one for one in datasets if not _is_there(folder, one)]


def write_datasets(folder: Path, datasets: Iterable[Dataset]) -> None:
    """Write all data sets that are not there, two at a time.

    Raises:
        ValueError: one that is there was made in another way.
    """
    datasets = tuple(datasets)
    check_datasets(folder, datasets)
    missing = sorted(missing_datasets(folder, datasets), key=lambda dataset: -dataset.videos)
    in_parallel([(_write, folder, share) for share in (missing[::2], missing[1::2]) if share])


def _write(folder: Path, datasets: Iterable[Dataset]) -> None:
    for dataset in datasets:
        write_dataset(folder / dataset.name, dataset.videos, dataset.seed, progress=progress_bar, **dataset.settings)


def _is_there(folder: Path, dataset: Dataset) -> bool:
    return (folder / dataset.name / "tuning.json").exists()


def _world_of(dataset: Dataset) -> dict[str, Any]:
    """What `write_dataset` notes beside such data; found out with a single picture."""
    with TemporaryDirectory() as folder:
        write_dataset(folder, 1, dataset.seed, **{**dataset.settings, "stage": "alignment"})
        return json.loads((Path(folder) / WORLD_FILE).read_text())
