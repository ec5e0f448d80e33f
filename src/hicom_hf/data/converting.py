"""`hicom data convert`: files of other formats to one JSON or JSONL file of training records.

| source | what is read |
|---|---|
| `.json`, `.jsonl` | records of the formats in `formats` |
| `.csv`, `.tsv` | the same, a record per row |
| `.parquet`, a folder of them or of `datasets` | the same; videos inside become files |
| `.tar` | samples of a shard; videos become files |
| a folder with `metadata.jsonl` or `metadata.csv` | rows with `file_name` (a `videofolder` of `datasets`) |
| any other folder | a record per video, its answer empty: to be filled in |
"""

import csv
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..hub.files import atomic_file, require_file
from .bad_samples import (
    BAD_RECORD,
    MISSING_MEDIA,
    OnBadSample,
    SampleError,
    SkippedSample,
    check_on_bad_sample,
    raise_or_skip,
)
from .conversations import converted_by, training_items
from .formats import (
    MEDIA_KEYS,
    TURN_KEYS,
    VIDEO_SUFFIXES,
    from_caption,
    id_of_video,
    nearest_format,
    record_format,
)
from .record_files import JSON_SUFFIXES, TAR_SUFFIXES, file_records
from .record_keys import misspelt_key
from .record_media import URL, Record
from .row_sources import open_stream
from .streaming import records_of_row
from .tar_shards import expand_shards, tar_rows

logger = logging.getLogger(__name__)

OWN_FORMAT = "conversations or messages"
SKELETON = "videos of a folder, answers to fill in"
TABLE_DELIMITERS = {".csv": ",", ".tsv": "\t"}
NUMBER_COLUMNS = ("start", "end")
DESCRIBING_COLUMNS = ("num_frames", "nframes", "fps", "max_frames", "frame_rate")  # in a table, of the file as it is
METADATA_FILES = ("metadata.jsonl", "metadata.csv")
SAVED_FILES = ("dataset_info.json", "dataset_dict.json")  # one of them is in a folder that `datasets` has saved


@dataclass
class Conversion:
    """What was converted.

    Attributes:
        destination: the file of records.
        formats: records by the name of their format.
        num_media_files: videos and images that lay inside the source and are files now.
        skipped: records that were left out, with the reason.
    """

    destination: Path
    formats: Counter[str] = field(default_factory=Counter)
    num_media_files: int = 0
    skipped: list[SkippedSample] = field(default_factory=list)

    def summary(self) -> str:
        """One line for a person."""
        formats = ", ".join(f"{count} of {name}" for name, count in self.formats.items())
        files = f", {self.num_media_files} videos and images written as files" if self.num_media_files else ""
        skipped = f", {len(self.skipped)} records skipped" if self.skipped else ""
        return f"{self.destination}: {sum(self.formats.values())} records ({formats}){files}{skipped}"


def convert_data(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    media_root: str | os.PathLike | None = None,
    *,
    on_bad_sample: OnBadSample = "raise",
) -> Conversion:
    """Write the records of a source in our format; the destination is complete or not there.

    Every record is checked by `training_items`, as when it is read for training. Whether its videos can be read is what
    `check_data` looks at.

    Args:
        source: a file or folder, see the table above.
        destination: `.json` (a list, to be edited by hand) or `.jsonl`. Paths in it are relative to its folder; videos that lie
            inside the source are written to the folder `<name>_media` beside it.
        media_root: folder that paths in the source start from; default: the source's folder.
        on_bad_sample: "raise", or "skip", which leaves records out that cannot be used, logged and listed in `skipped`.

    Raises:
        FileExistsError: the destination is there.
        FileNotFoundError: the source is not there.
        SampleError: a record cannot be used (with "raise"): it is of no known format, with the nearest one, its turns or
            placeholders do not fit, or a video that it names without its suffix is not there.
        ValueError: the source is of no known kind, or no record is left.

    Example:
        >>> print(convert_data("videochat2.json", "train.jsonl").summary())  # doctest: +SKIP
        train.jsonl: 200 records (200 of VideoChat2-IT (QA))
    """
    check_on_bad_sample(on_bad_sample)
    source, destination = Path(source), Path(destination)
    if destination.exists():
        raise FileExistsError(f"{destination} exists already; choose another file")
    if destination.suffix.lower() not in JSON_SUFFIXES:
        raise ValueError(f"{destination}: the records are written as .json or .jsonl")
    conversion = Conversion(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    records = _usable(source_records(source, media_root), conversion, on_bad_sample)
    with atomic_file(destination) as path, path.open("w", encoding="utf-8") as file:
        if destination.suffix.lower() == ".json":
            json.dump(list(records), file, ensure_ascii=False, indent=1)
        else:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        if conversion.skipped and not conversion.formats:
            first = conversion.skipped[0]
            raise ValueError(
                f"{source}: none of its {len(conversion.skipped)} records can be used; "
                f"the first one: {first.source}: {first.reason}"
            )
        if not conversion.formats:
            raise ValueError(f"{source} holds no record and no video ({', '.join(VIDEO_SUFFIXES)})")
    return conversion


# Sources -----------------------------------------------------------------------------------------------------------------


def source_records(source: Path, media_root: str | os.PathLike | None = None) -> Iterator[Record]:
    """Records of a source as they are there; arguments and errors as of `convert_data`."""
    name = source.name.lower()
    if source.is_dir():
        yield from _folder_records(source, media_root)
    elif name.endswith(TAR_SUFFIXES):
        for row in tar_rows(expand_shards(str(source))):
            yield from records_of_row(row, None)
    elif not source.is_file():
        raise FileNotFoundError(f"{source} does not exist")
    elif source.suffix.lower() in TABLE_DELIMITERS:
        yield from _table_records(source, media_root)
    elif source.suffix.lower() == ".parquet":
        yield from _parquet_records([source], media_root)
    elif source.suffix.lower() in JSON_SUFFIXES:
        yield from file_records(source, media_root)
    else:
        raise ValueError(
            f"{source} is of no known kind: JSON, JSONL, CSV, TSV, Parquet, tar, or a folder of `datasets` or of videos"
        )


def _folder_records(folder: Path, media_root: str | os.PathLike | None) -> Iterator[Record]:
    metadata = next((folder / name for name in METADATA_FILES if (folder / name).is_file()), None)
    tables = sorted(folder.rglob("*.parquet"))
    if metadata is not None:
        is_table = metadata.suffix in TABLE_DELIMITERS
        yield from _table_records(metadata, media_root) if is_table else file_records(metadata, media_root)
    elif any((folder / name).is_file() for name in SAVED_FILES):
        from datasets import DatasetDict, load_from_disk

        found = load_from_disk(folder)
        if isinstance(found, DatasetDict):
            raise ValueError(f"{folder} holds several splits; give one of its folders: {', '.join(map(str, found))}")
        for row in open_stream(found):
            yield from records_of_row(row, _root(folder, media_root))
    elif tables:
        yield from _parquet_records(tables, media_root)
    else:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower().removeprefix(".") in VIDEO_SUFFIXES:
                name = str(path.relative_to(folder))
                yield Record({"video": name}, f"{folder}: {name}", str(folder))


def _table_records(path: Path, media_root: str | os.PathLike | None) -> Iterator[Record]:
    with require_file(path).open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter=TABLE_DELIMITERS[path.suffix.lower()])):
            filled = {key: value for key, value in row.items() if value not in (None, "")}
            source = f"{path}: row {number}"
            filled = _without_descriptions(filled, path, number)
            filled |= {key: _number(filled[key], key, source) for key in NUMBER_COLUMNS if key in filled}
            yield Record(filled, source, _root(path.parent, media_root))


def _without_descriptions(row: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    """A row of a table without what it says of its files: frames per second, for example, are no wish for samples."""
    found = [name for name in DESCRIBING_COLUMNS if name in row]
    if found and not number:
        logger.warning(
            "%s: %s left out: in a table they describe the files. How many frames are sampled, the recipe says.",
            path,
            ", ".join(found),
        )
    return {name: value for name, value in row.items() if name not in found}


def _number(text: str, column: str, source: str) -> int | float:
    try:
        return int(text) if text.strip().isdecimal() else float(text)
    except ValueError:
        raise ValueError(f"{source}: {column} must be a number, got {text!r}") from None


def _parquet_records(paths: list[Path], media_root: str | os.PathLike | None) -> Iterator[Record]:
    from datasets import load_dataset

    rows = open_stream(
        load_dataset("parquet", data_files=[str(path) for path in paths], split="train", streaming=True)
    )
    for number, row in enumerate(rows):
        data = {key: value for key, value in row.items() if value is not None}
        data = _without_descriptions(data, paths[0].parent, number)
        yield Record(data, f"{paths[0].parent}: row {number}", _root(paths[0].parent, media_root))


def _root(folder: Path, media_root: str | os.PathLike | None) -> str:
    return str(folder if media_root is None else media_root)


# Records -----------------------------------------------------------------------------------------------------------------


def _usable(records: Iterator[Record], conversion: Conversion, on_bad_sample: OnBadSample) -> Iterator[dict[str, Any]]:
    """Records in our format; those that cannot be used are an error or noted."""
    for record in records:
        try:
            converted = _converted(record, conversion)
        except SampleError as error:
            conversion.skipped.append(raise_or_skip(error, on_bad_sample))
        else:
            yield converted


def _converted(record: Record, conversion: Conversion) -> dict[str, Any]:
    """A record in our format, its videos and images as files.

    Raises:
        SampleError: it cannot be used.
    """
    data, known = record.data, record_format(record.data)
    if isinstance(data, Mapping) and (wrong := misspelt_key(data)) is not None:
        raise SampleError(record.source, BAD_RECORD, wrong)
    if known is not None:
        name, data = known.name, converted_by(known, record)
        video_id = data["video"] if known.needs_files else id_of_video(record.data, data)
        if video_id is not None:
            data["video"] = _file_of_id(str(video_id), record)
    elif isinstance(data, Mapping) and any(data.get(key) is not None for key in TURN_KEYS):
        name = OWN_FORMAT
    elif isinstance(data, Mapping) and set(data) == {"video"}:
        name, data = SKELETON, from_caption({**data, "caption": ""})
    else:
        hint = f" {nearest_format(data)}." if isinstance(data, Mapping) else ""
        keys = sorted(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
        raise SampleError(record.source, BAD_RECORD, f"this is no known format of records; its keys are {keys}.{hint}")
    # The answers of a skeleton are still to be written. No file is opened for the check.
    checked = from_caption({**data, "caption": "to be written"}) if name == SKELETON else data
    training_items(replace(record, data=checked, open_media=None))
    converted = _with_files(data, record, conversion)
    conversion.formats[name] += 1
    return converted


def _file_of_id(name: str, record: Record) -> str:
    """The file of a video that is named without its suffix."""
    root = Path(record.media_root or "")
    candidates = [name, *(f"{name}.{suffix}" for suffix in VIDEO_SUFFIXES)]
    found = next((candidate for candidate in candidates if (root / candidate).is_file()), None)
    if found is None:
        raise SampleError(
            record.source,
            MISSING_MEDIA,
            f"there is no video {root / name}.* ({', '.join(VIDEO_SUFFIXES)}); check --media-root",
        )
    return found


def _with_files(data: Mapping[str, Any], record: Record, conversion: Conversion) -> dict[str, Any]:
    """The record with every video and image as a path from the destination's folder."""
    data = dict(data)
    for kind, keys in MEDIA_KEYS.items():
        for key in keys:
            value = data.get(key)
            if isinstance(value, (list, tuple)):
                data[key] = [_file(kind, source, record, conversion) for source in value]
            elif value:
                data[key] = _file(kind, value, record, conversion)
    for key in TURN_KEYS:
        if isinstance(data.get(key), (list, tuple)):
            data[key] = [_turn_with_files(turn, record, conversion) for turn in data[key]]
    return data


def _turn_with_files(turn: Any, record: Record, conversion: Conversion) -> Any:
    content = turn.get("content") if isinstance(turn, Mapping) else None
    if not isinstance(content, (list, tuple)):
        return turn
    parts = []
    for part in content:
        part = {key: value for key, value in part.items() if value is not None} if isinstance(part, Mapping) else part
        kind: Any = part.get("type") if isinstance(part, Mapping) else None
        source = next((key for key in (kind, "path", "url", "bytes") if kind in MEDIA_KEYS and key in part), None)
        if isinstance(kind, str) and source is not None:
            rest = {key: value for key, value in part.items() if key != source}
            part = {**rest, kind: _file(kind, part[source], record, conversion)}
        parts.append(part)
    return {**turn, "content": parts}


def _file(kind: str, source: Any, record: Record, conversion: Conversion) -> str:
    """A path from the destination's folder; content is written to a file."""
    suffix = ".mp4" if kind == "video" else ".png"
    if isinstance(source, Mapping):  # as `datasets` stores undecoded files
        suffix = Path(source.get("path") or suffix).suffix or suffix
        source = source.get("bytes") or source.get("path")
    if record.open_media is not None:
        suffix = f".{str(source).rpartition('.')[2]}" if isinstance(source, str) else suffix
        source = record.open_media(kind, source)
    if isinstance(source, (bytes, bytearray)):
        return _written(bytes(source), suffix, conversion)
    if not isinstance(source, (str, os.PathLike)):
        raise SampleError(
            record.source, BAD_RECORD, f"a {kind} must be a path or content, got {type(source).__name__}"
        )
    path = os.fspath(source)
    if URL.match(path):
        return path
    if kind == "video" and not Path(path).suffix and not (Path(record.media_root or "") / path).exists():
        path = _file_of_id(path, record)
    return os.path.relpath(os.path.join(record.media_root or "", path), conversion.destination.parent)


def _written(content: bytes, suffix: str, conversion: Conversion) -> str:
    folder = conversion.destination.parent / f"{conversion.destination.stem}_media"
    folder.mkdir(exist_ok=True)
    name = f"{conversion.num_media_files:08d}{suffix}"
    with atomic_file(folder / name, durable=False) as path:
        path.write_bytes(content)
    conversion.num_media_files += 1
    return f"{folder.name}/{name}"
