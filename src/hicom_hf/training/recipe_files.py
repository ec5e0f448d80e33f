"""The files that a recipe names: there, and of a kind that is read."""

import re
from pathlib import Path

from ..assets import HICOM_TINY
from ..data.mixtures import check_mixture
from ..data.record_files import JSON_SUFFIXES, MIXTURE_SUFFIXES, TAR_SUFFIXES
from .recipe import HUB_DATASETS, HUB_PREFIX, Recipe


def check_files(recipe: Recipe, name: str = "recipe") -> None:
    """Refuse a recipe whose files are not there, or whose result is.

    Raises:
        FileNotFoundError: `model`, one of `data.files` or `eval.files`, a file that a mixture among them names, or
            `data.media_root` does not exist.
        ValueError: one of `data.files` is of a kind that is not read, or a mixture has a wrong key or strategy.
        FileExistsError: `output_dir` holds a finished model.
    """
    if not recipe.model.startswith(HUB_PREFIX):
        folder = Path(recipe.source)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{name}: model: {recipe.model} is not the folder of a model (no config.json there). Make one with `hicom "
                f"init`, finish the stage before, or write {HUB_PREFIX}OWNER/NAME for a model of the Hub or {HICOM_TINY}"
            )
    _check_sources(recipe.data.files, "data.files", name)
    if recipe.eval is not None:
        _check_sources(recipe.eval.files, "eval.files", name)
    if recipe.data.media_root is not None and not Path(recipe.data.media_root).is_dir():
        raise FileNotFoundError(f"{name}: data.media_root: {recipe.data.media_root} is not a folder")
    finished = Path(recipe.output_dir) / "model"
    if finished.exists():
        raise FileExistsError(
            f"{name}: output_dir: {finished} exists already, so this run has finished; choose another output_dir or remove it"
        )


def _check_sources(sources: list[str], key: str, name: str) -> None:
    """Refuse files of records that are not there, of a kind that is not read, or wrong mixtures."""
    for source in sources:
        if "://" in source:
            continue
        _check_source(source, f"{name}: {key}")
        if source.lower().endswith(MIXTURE_SUFFIXES):
            try:
                check_mixture(source)
            except (ValueError, FileNotFoundError) as error:
                raise type(error)(f"{name}: {key}: {error}") from error


def _check_source(source: str, place: str) -> None:
    if not _exists(source):
        raise FileNotFoundError(f"{place}: {source} does not exist")
    known = (*JSON_SUFFIXES, *MIXTURE_SUFFIXES, *TAR_SUFFIXES)
    if not source.lower().endswith(known) or Path(source).is_dir():
        kind = "a folder" if Path(source).is_dir() else "of another kind"
        raise ValueError(
            f"{place}: {source} is {kind}; records are read from JSON and JSONL files (.json, .jsonl), mixtures "
            f"(.yaml), tar shards (.tar) and {HUB_DATASETS}OWNER/NAME; `hicom data convert` makes JSON of other files"
        )


def _exists(source: str) -> bool:
    """Whether a data file is there; tar shards may be written as a pattern."""
    source = re.sub(r"\{\d+\.\.\d+\}", "*", source)
    if any(sign in source for sign in "*?["):
        anchor = Path(source)
        return any(anchor.parent.glob(anchor.name))
    return Path(source).exists()
