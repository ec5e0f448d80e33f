"""Videos and clips that benchmarks ask about, which must not be trained on: by name, and by their appearance.

The paper does not say whether it did so; EgoSchema is cut from Ego4D, and VideoMME is from YouTube as Panda-70M is.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .keyframes import unit

YOUTUBE = re.compile(r"(?:v=|youtu\.be/|/embed/|/shorts/)([\w-]{11})")
DOWNLOADED = re.compile(r"\[([\w-]{11})\]$|^v_([\w-]{11})$")  # as yt-dlp and ActivityNet name files
NOT_DECONTAMINATED = "not decontaminated"
SEEN_FRACTION = 0.5  # of a clip's frames, that a benchmark's video shows as well


def names_of(path: str) -> set[str]:
    """What a video may be called in a benchmark's files: its stem, and the id of YouTube that stands in it.

    Example:
        >>> sorted(names_of("films/A day out [abcdefghijk].mp4"))
        ['A day out [abcdefghijk]', 'abcdefghijk']
    """
    stem = Path(path).stem
    found = DOWNLOADED.search(stem)
    return {stem} | ({found[1] or found[2]} if found else set())


def task_names(benchmarks: Mapping[str, str]) -> set[str]:
    """Names of the videos of evaluation tasks, by the readers of `hicom eval`.

    Args:
        benchmarks: folder with the published files of each task, by the task's name.

    Raises:
        FileNotFoundError: a folder holds no such files.
        ValueError: there is no such task, or a file is not the published one.
    """
    from ..evaluation.tasks import task_named

    return {
        name
        for task, folder in benchmarks.items()
        for question in task_named(task).read(Path(folder), "ours")
        for name in names_of(question.video)
    }


def benchmark_names(files: Sequence[str]) -> set[str]:
    """All names that a benchmark's files hold: texts of JSON, JSON lines, CSV, parquet and plain lines, ids of YouTube, stems.

    Raises:
        FileNotFoundError: one of the files does not exist.
        ValueError: a file is of another kind, or is damaged.
    """
    names: set[str] = set()
    for file in files:
        for text in _texts(Path(file)):
            names |= {text, *names_of(text), *YOUTUBE.findall(text)}
    return {name for name in names if len(name) > 2}


def _texts(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise FileNotFoundError(f"decontaminate.benchmark_files: {path} does not exist")
    try:
        if path.suffix in (".json",):
            yield from _strings(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix in (".jsonl", ".ndjson"):
            for line in path.read_text(encoding="utf-8").splitlines():
                yield from _strings(json.loads(line) if line.strip() else None)
        elif path.suffix in (".csv", ".tsv"):
            with open(path, newline="", encoding="utf-8") as file:
                for row in csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","):
                    yield from row
        elif path.suffix == ".parquet":
            import pyarrow.parquet

            yield from _strings(pyarrow.parquet.read_table(path).to_pylist())
        elif path.suffix == ".txt":
            yield from (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
        else:
            raise ValueError(
                "of a kind that is not read; take .json, .jsonl, .csv, .tsv, .parquet, or .txt with a name per line"
            )
    except ValueError as error:
        raise ValueError(f"decontaminate.benchmark_files: {path}: {error}") from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield key
            yield from _strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)


def shows_a_benchmark(frames: np.ndarray, benchmark: np.ndarray, threshold: float) -> bool:
    """Whether half of a clip's frames (n, D) are as similar to a frame of a benchmark's videos (m, D) as `threshold` says."""
    if not len(frames) or not len(benchmark):
        return False
    return float((unit(frames) @ unit(benchmark).T >= threshold).any(axis=1).mean()) >= SEEN_FRACTION
