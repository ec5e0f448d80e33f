"""What may differ between a run and its resumption: nothing that would give another result.

Recipe and fingerprints of the data lie in `output_dir` beside the checkpoints, and are compared before a model is loaded.
"""

import json
from pathlib import Path

from ..data.mixtures import files_of_records
from ..data.record_files import TAR_SUFFIXES
from ..data.tar_shards import expand_shards
from ..hub.files import file_fingerprint, write_text
from .checkpoints import last_checkpoint
from .recipe import Recipe
from .recipe_reading import recipe_from_dict, recipe_text
from .typed_yaml import load_yaml

RECIPE_FILE = "recipe.yaml"
DATA_FILE = "data.json"
# What may change without changing the result. `model` and `media_root` may have moved.
MAY_CHANGE = (
    "model",
    "output_dir",
    "batch_size_per_device",
    "data.media_root",
    "data.num_workers",
    "data.max_skipped",
    "data.feature_cache",
    "data.index",
    "gradient_checkpointing",
    "checkpoints",
    "logging",
    "cpu",
    "trainer.report_to",
    "trainer.run_name",
)
ORDERS_STREAMS = (
    "data.num_workers",
    "batch_size_per_device",
)  # readers take turns at a stream, so their number decides its order


def claim_run(recipe: Recipe, output_dir: Path, processes: int, write: bool = True) -> None:
    """Refuse to resume a run with other settings or data; note those of this run.

    Args:
        recipe: of the run.
        output_dir: where its checkpoints lie.
        processes: that train together.
        write: note them; false in all processes but one.

    Raises:
        ValueError: with the keys or files that differ.
    """
    held_out = recipe.eval.files if recipe.eval is not None else []
    data = {"files": data_fingerprints([*recipe.data.files, *held_out]), "processes": processes}
    if last_checkpoint(output_dir) is not None:
        _check_recipe(recipe, output_dir)
        _check_data(data, recipe.data.is_stream, output_dir)
    if write:
        write_text(output_dir / RECIPE_FILE, recipe_text(recipe))
        write_text(output_dir / DATA_FILE, json.dumps(data, indent=1))


def data_fingerprints(sources: list[str]) -> dict[str, dict]:
    """Size and digest of every file of records, by its path; of tar shards, which are large, the size.

    Videos and images are not read, and data sets of the Hub are not checked.
    """
    found = {}
    for source in sources:
        if "://" in source:
            continue
        if source.lower().endswith(TAR_SUFFIXES):
            found |= {shard: {"size": Path(shard).stat().st_size} for shard in expand_shards(source)}
            continue
        found |= {
            str(path): {"size": path.stat().st_size, "sha256": file_fingerprint(path)}
            for path in files_of_records(source)
        }
    return found


def _check_recipe(recipe: Recipe, output_dir: Path) -> None:
    path = output_dir / RECIPE_FILE
    if not path.is_file():
        return
    before = recipe_from_dict(load_yaml(path.read_text(encoding="utf-8"), str(path)), str(path))
    old, new = _flat(before.to_dict()), _flat(recipe.to_dict())
    fixed = ORDERS_STREAMS if recipe.data.is_stream else ()
    if recipe.data.answers_together:  # the videos of a batch on one GPU decide the order
        fixed = (*fixed, "batch_size_per_device")
    changed = [
        f"{key} (was {old.get(key)!r}, is {new.get(key)!r})"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and (key in fixed or not key.startswith(MAY_CHANGE))
    ]
    if changed:
        raise ValueError(
            f"{output_dir} holds checkpoints of another recipe, which differs in {', '.join(changed)}; choose another "
            "output_dir, or remove the checkpoints"
        )


def _check_data(data: dict, is_stream: bool, output_dir: Path) -> None:
    path = output_dir / DATA_FILE
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    old, new = before["files"], data["files"]
    if changed := sorted(name for name in {*old, *new} if old.get(name) != new.get(name)):
        raise ValueError(
            f"{output_dir} holds checkpoints of a run on other data: {', '.join(changed)} changed since it began; restore "
            "the files, choose another output_dir, or remove the checkpoints"
        )
    if is_stream and before["processes"] != data["processes"]:
        raise ValueError(
            f"{output_dir} holds checkpoints of a run on a stream with {before['processes']} processes, which share it; with "
            f"{data['processes']} its order would be another one. Use as many, choose another output_dir, or remove the "
            "checkpoints"
        )


def _flat(values: dict, prefix: str = "") -> dict:
    """Nested values by their dotted keys."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
