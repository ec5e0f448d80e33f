"""Records and their table on disk, memory-mapped: opened at once, and in memory once for all processes of a machine.

```
FOLDER/<fingerprint>/
    records.bin     records as JSON, one after another
    offsets.npy     (records + 1,) where each begins
    places.npy, lengths.npy, visual_tokens.npy, modalities.npy, media.npy
    index.json      what it was made of, records that were left out
```
The first process that needs an index makes it; the others wait for it.
"""

import json
import logging
import os
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..hub.files import FolderLock, atomic_folder, settings_fingerprint
from .bad_samples import SkippedSample
from .packed_records import packed_record, unpacked_record
from .record_media import Record
from .sample_table import SampleTable

logger = logging.getLogger(__name__)

INDEX_VERSION = 4  # raised when the same settings give other files
RECORDS, OFFSETS, NOTE = "records.bin", "offsets.npy", "index.json"
ARRAYS = ("places", "characters", "visual_tokens", "modalities", "media")
WAITING_SECONDS = 0.5  # between two looks at whether an index is made


class MappedRecords(Sequence):
    """Records of an index. Each process maps the same pages of the file, also where it was started afresh.

    Args:
        folder: of a complete index.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self._offsets = np.load(self.folder / OFFSETS, mmap_mode="r")
        self._buffer = np.memmap(self.folder / RECORDS, dtype=np.uint8, mode="r")

    def __reduce__(self):  # a pickled memmap would be a copy of the file
        return type(self), (self.folder,)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return unpacked_record(self._buffer[self._offsets[index] : self._offsets[index + 1]])


def open_index(
    folder: str | os.PathLike,
    settings: dict[str, Any],
    records: Callable[[], Iterable[Record]],
    describe: Callable[[Iterable[Record]], SampleTable],
) -> tuple[MappedRecords, SampleTable]:
    """Open an index, or make it.

    Args:
        folder: where indices lie, one for each kind of settings.
        settings: plain values on which records and table depend; another value makes another index.
        records: gives the records from the beginning.
        describe: their table, see `describe_samples`.

    Raises:
        TypeError, ValueError: a record cannot be stored as JSON.
        OSError: the disk is full.
    """
    settings = {"version": INDEX_VERSION, **settings}
    place = Path(folder).absolute() / settings_fingerprint(settings)
    told = False
    while not (place / NOTE).is_file():
        try:
            with FolderLock(place.parent, "making an index of records"):
                if not (place / NOTE).is_file():
                    logger.info(
                        "Making an index of the records, %s; further runs and processes open it at once.", place
                    )
                    _make(place, settings, records(), describe)
        except BlockingIOError as error:
            if not told:
                logger.info("Waiting for another process: %s.", error)
            told = True
            time.sleep(WAITING_SECONDS)
    note = json.loads((place / NOTE).read_text(encoding="utf-8"))
    arrays = {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    table = SampleTable(
        **arrays,
        skipped=[SkippedSample(*row) for row in note["skipped"]],
        formats=Counter(note["formats"]),
        num_choosing=note["num_choosing"],
        num_tiled=note["num_tiled"],
    )
    return MappedRecords(place), table


def _make(place: Path, settings: dict, records: Iterable[Record], describe: Callable) -> None:
    with atomic_folder(place) as folder:
        offsets = array("q", [0])
        with (folder / RECORDS).open("wb") as file:
            table = describe(_written(records, file, offsets))
        np.save(folder / OFFSETS, np.array(offsets, dtype=np.int64))
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(table, name))
        note = {"settings": settings, "skipped": table.skipped, "formats": dict(table.formats)}
        note |= {"num_choosing": table.num_choosing, "num_tiled": table.num_tiled}
        (folder / NOTE).write_text(json.dumps(note, indent=1), encoding="utf-8")


def _written(records: Iterable[Record], file, offsets: array) -> Iterator[Record]:
    """The records, each written to the file before it is handed on."""
    for record in records:
        offsets.append(offsets[-1] + file.write(packed_record(record)))
        yield record
