"""Files of records: one JSON or JSONL file, read; and the suffixes by which all kinds of sources are recognised."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..hub.files import require_file
from ..hub.reading import parse_json
from .record_media import Record

JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
JSON_SUFFIXES = (".json", *JSON_LINES_SUFFIXES)
MIXTURE_SUFFIXES = (".yaml", ".yml")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


def file_records(path: str | os.PathLike, media_root: str | os.PathLike | None = None) -> Iterator[Record]:
    """Records of one JSON or JSONL file.

    Args:
        path: a JSON file with a list, or a JSONL file with one entry per line (its suffix decides).
        media_root: folder that relative paths start from; default: the file's own folder.

    Raises:
        ValueError: not JSON, with the line; or not a list of records.
        OSError: the file cannot be read.
    """
    path = require_file(path)
    root = os.fspath(path.parent if media_root is None else media_root)
    entries = json_lines(path) if path.suffix.lower() in JSON_LINES_SUFFIXES else _json_list(path)
    for number, entry in enumerate(entries):
        yield Record(entry, record_name(f"{path}: ", entry, number), root)


def _json_list(path: Path) -> list:
    try:
        content = parse_json(path.read_bytes(), str(path))
    except ValueError as error:
        if path.suffix.lower() not in JSON_SUFFIXES:
            raise ValueError(
                f"{error}; `hicom data convert` makes JSON of CSV, TSV, Parquet and other files"
            ) from error
        if "Extra data" not in str(error):
            raise
        raise ValueError(f"{error}; a file with one record per line must end in .jsonl") from error
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a list of records, got {type(content).__name__}")
    return content


def json_lines(path: Path) -> Iterator:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield parse_json(line, f"{path}, line {number}")


def record_name(prefix: str, entry: Any, number: int) -> str:
    """How messages call a record: by its place in the file, counted from 0, and its id."""
    record_id = entry.get("id") if isinstance(entry, dict) else None
    return f"{prefix}record {number}" + ("" if record_id is None else f" (id {record_id})")
