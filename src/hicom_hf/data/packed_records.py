"""Records as JSON, one after another, in one block of memory."""

import json
from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from .record_media import Record


def packed_record(record: Record) -> bytes:
    """A record as JSON.

    Raises:
        TypeError, ValueError: JSON cannot hold it.
    """
    if record.open_media is not None:
        raise TypeError("a function")
    content = json.dumps([record.data, record.source, record.media_root], ensure_ascii=False)
    return content.encode("utf-8", "surrogatepass")


def unpacked_record(content: np.ndarray) -> Record:
    """The record of the bytes of `packed_record`, as an array of uint8."""
    return Record(*json.loads(content.tobytes().decode("utf-8", "surrogatepass")))


class PackedRecords(Sequence):
    """Records as JSON in one block of memory.

    Millions of Python objects take several times the memory, and once more in every loader process, because counting
    references writes into the pages that processes share. Records that JSON cannot hold stay as they are.
    """

    def __init__(self, records: Iterable[Record]):
        buffer, offsets = bytearray(), array("q", [0])
        self._unpacked: dict[int, Record] = {}
        for number, record in enumerate(records):
            try:
                buffer += packed_record(record)
            except (TypeError, ValueError):
                self._unpacked[number] = record
            offsets.append(len(buffer))
        self._buffer = np.frombuffer(buffer, dtype=np.uint8)
        self._offsets = np.array(offsets, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        if index in self._unpacked:
            return self._unpacked[index]
        return unpacked_record(self._buffer[self._offsets[index] : self._offsets[index + 1]])
