"""Reading the published files of benchmarks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...data.record_files import json_lines
from ...hub.reading import parse_json

VIDEO_SUFFIXES = (".mp4", ".webm", ".avi", ".mov", ".mkv", ".MP4")


def find_file(folder: Path, patterns: Sequence[str], task: str, source: str) -> Path:
    """The first file that one of the patterns fits.

    Args:
        folder: of the benchmark.
        patterns: of `Path.glob`, the likeliest first.
        task, source: for the message.

    Raises:
        FileNotFoundError: there is none.
    """
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return found[0]
    raise FileNotFoundError(
        f"{folder}: this is no folder of {task}: it has no {' or '.join(patterns)}; data: {source}"
    )


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a JSON list, of JSON lines or of a parquet file.

    Args:
        path: of the file.
        columns: that each row must have.

    Raises:
        ValueError: it is something else, or a row lacks a column.
        ModuleNotFoundError: it is parquet and pyarrow is missing.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(path).to_pylist()
    else:
        rows = list(json_lines(path)) if path.suffix == ".jsonl" else parse_json(path.read_bytes(), str(path))
    if not isinstance(rows, list) or not rows:
        raise ValueError(
            f"{path}: expected a list of rows, got {type(rows).__name__}{' without any' if rows == [] else ''}"
        )
    for number, row in enumerate(rows):
        missing = [column for column in columns if not isinstance(row, dict) or column not in row]
        if missing:
            raise ValueError(f"{path}: row {number} has no {missing[0]!r}; is it the published file?")
    return rows


def find_video(folders: Sequence[Path], name: str) -> str:
    """The path of a video in the first folder that has it; where none has, the path in the first one.

    Args:
        folders: where it may lie.
        name: with or without a suffix.
    """
    for folder in folders:
        for suffix in ("", *VIDEO_SUFFIXES):
            path = folder / f"{name}{suffix}"
            if path.exists():
                return str(path)
    return str(folders[0] / (name if Path(name).suffix in VIDEO_SUFFIXES else f"{name}.mp4"))
