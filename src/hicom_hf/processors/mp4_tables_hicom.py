"""When the frames of an MP4 or MOV file are shown, from the tables of its header and fragments: nothing of the video is read.

FFmpeg's index of such a file holds when each sample is decoded, not when it is shown. The difference is in the file's `ctts`
table, and in the `trun` tables of its fragments.

Letters: N samples of a track.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

HEADER_BYTES = 8  # of a box: its size and its name
SAMPLE_TABLE = (b"mdia", b"minf", b"stbl")
EDIT_LIST = (b"edts", b"elst")
LONGEST_INTERVAL = 2**31  # ticks; FFmpeg takes longer ones for errors of the file

# Flags of a `tfhd` box: the fields in front of the default duration, and that it is there; of those that FFmpeg knows.
TFHD_FIELDS_BEFORE = ((0x1, 8), (0x2, 4))  # flag, bytes
TFHD_HAS_DURATION = 0x8
# Flags of a `trun` box: its fields in front of the samples, and those of each sample in this order.
TRUN_FIELDS_BEFORE = ((0x1, 4), (0x4, 4))
TRUN_DURATION, TRUN_SIZE, TRUN_FLAGS, TRUN_OFFSET = 0x100, 0x200, 0x400, 0x800

Box = tuple[bytes, int, int]  # name, where its content begins and where it ends, in bytes of the file
Table = tuple[np.ndarray, np.ndarray]  # offsets and durations of samples, ticks, int64


@dataclass(frozen=True)
class SampleTimes:
    """What the tables of a track say of its N samples, in the order of the file; int64 (N,).

    Attributes:
        offsets: ticks by which a sample is shown later than it is decoded, up to a number that is the same for all.
        durations: ticks of each sample.
        num_in_header: samples before the first fragment.
    """

    offsets: np.ndarray
    durations: np.ndarray
    num_in_header: int


def sample_times(file: BinaryIO, track_id: int, num_samples: int, num_in_header: int) -> SampleTimes | None:
    """How much later than it is decoded each sample of a track is shown, and how long it lasts.

    Args:
        file: seekable; its position is kept.
        track_id: of the `tkhd` box, which is FFmpeg's `stream.id`.
        num_samples: N, as FFmpeg counts them.
        num_in_header: those of the header, as FFmpeg counts them; the others are in fragments.

    Returns:
        None where the tables are not that simple: several edits, fragments that are cut, or tables that do not fit together.

    Source: ISO/IEC 14496-12, sections 8.6.1 (times), 8.6.6 (edit list) and 8.8 (fragments).
    """
    position = file.tell()
    try:
        size = file.seek(0, os.SEEK_END)
        moov = _first(_boxes(file, 0, size), b"moov")
        if moov is None:
            return None
        track = next((box for box in _boxes(file, *moov[1:]) if _track_id(file, box) == track_id), None)
        if track is None or _num_edits(file, track) > 1:
            return None
        tables = [] if num_in_header == 0 else [_header_tables(file, track, num_in_header)]
        extends = _first(_boxes(file, *moov[1:]), b"mvex")
        if extends is not None:
            tables += _fragment_tables(file, size, track_id, _default_duration(file, extends, track_id))
        found = [table for table in tables if table is not None]
        if len(found) < len(tables) or sum(len(durations) for _, durations in found) != num_samples:
            return None
        offsets, durations = (np.concatenate(columns) for columns in zip(*found, strict=True))
        if durations.min() < 0 or durations.max() >= LONGEST_INTERVAL:
            return None
        return SampleTimes(offsets, durations, num_in_header)
    except (struct.error, OSError):
        return None
    finally:
        file.seek(position)


def _header_tables(file: BinaryIO, track: Box, num_samples: int) -> Table | None:
    """Offsets and durations of the samples that the header lists."""
    durations = _runs(file, _inside(file, track, *SAMPLE_TABLE, b"stts"), num_samples)
    if durations is None:
        return None
    table, offsets = _inside(file, track, *SAMPLE_TABLE, b"ctts"), np.zeros(num_samples, dtype=np.int64)
    if table is not None:
        runs = _runs(file, table, num_samples)
        if runs is None:
            return None
        offsets = np.repeat(runs[1], runs[0])
    return offsets, np.repeat(durations[1], durations[0])


def _fragment_tables(file: BinaryIO, size: int, track_id: int, default: int | None) -> list[Table | None]:
    """Offsets and durations of each `trun` box of a track; None for what cannot be read, and for a file that is cut."""
    tables, end = [], 0
    for name, start, end in _boxes(file, 0, size):
        for kind, *inside in _boxes(file, start, end) if name == b"moof" else ():
            if kind != b"traf":
                continue
            duration = default
            for part, begin, stop in _boxes(file, *inside):
                file.seek(begin)
                content = file.read(stop - begin) if part in (b"tfhd", b"trun") else b""
                if part == b"tfhd":
                    number, own = _fragment_header(content)
                    if number != track_id:
                        break
                    duration = default if own is None else own
                elif part == b"trun":
                    tables.append(_run_of_samples(content, duration))
    return tables if end == size else [None]


def _fragment_header(content: bytes) -> tuple[int, int | None]:
    """Number of the track and default duration of the samples, None if the header of the file states it."""
    flags, number = struct.unpack_from(">II", content)
    place = 8 + sum(size for flag, size in TFHD_FIELDS_BEFORE if flags & flag)
    return number, struct.unpack_from(">I", content, place)[0] if flags & TFHD_HAS_DURATION else None


def _run_of_samples(content: bytes, duration: int | None) -> Table | None:
    """Offsets and durations of a `trun` box.

    Args:
        duration: of samples that state none.
    """
    flags, count = struct.unpack_from(">II", content)
    columns = [flag for flag in (TRUN_DURATION, TRUN_SIZE, TRUN_FLAGS, TRUN_OFFSET) if flags & flag]
    place = 8 + sum(size for flag, size in TRUN_FIELDS_BEFORE if flags & flag)
    if len(content) < place + 4 * count * len(columns) or (duration is None and TRUN_DURATION not in columns):
        return None
    numbers = np.frombuffer(content, ">i4", count * len(columns), place).reshape(count, len(columns)).astype(np.int64)
    found = {flag: numbers[:, column] for column, flag in enumerate(columns)}
    durations = found.get(TRUN_DURATION, np.full(count, duration or 0, dtype=np.int64))
    return found.get(TRUN_OFFSET, np.zeros(count, dtype=np.int64)), durations


def _default_duration(file: BinaryIO, extends: Box, track_id: int) -> int | None:
    """Of the samples of a track's fragments, from the `mvex` box."""
    for name, start, _ in _boxes(file, *extends[1:]):
        if name != b"trex":
            continue
        file.seek(start)
        _, number, _, duration = struct.unpack(">IIII", file.read(16))
        if number == track_id:
            return duration
    return None


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[Box]:
    """The boxes that lie one behind the other between two places of the file; ends where one does not fit."""
    while start + HEADER_BYTES <= stop:
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(HEADER_BYTES))
        content = start + HEADER_BYTES
        if size == 1:
            [size] = struct.unpack(">Q", file.read(8))
            content += 8
        end = stop if size == 0 else start + size
        if end < content or end > stop:
            return
        yield name, content, end
        start = end


def _first(boxes: Iterator[Box], name: bytes) -> Box | None:
    return next((box for box in boxes if box[0] == name), None)


def _inside(file: BinaryIO, box: Box | None, *path: bytes) -> Box | None:
    """The box that a path of names leads to."""
    for name in path:
        box = None if box is None else _first(_boxes(file, *box[1:]), name)
    return box


def _track_id(file: BinaryIO, box: Box) -> int | None:
    header = _inside(file, box, b"tkhd") if box[0] == b"trak" else None
    if header is None:
        return None
    file.seek(header[1])
    content = file.read(24)
    # Version and flags, two times of 4 bytes (8 in version 1), then the number.
    [number] = struct.unpack_from(">I", content, 20 if content[:1] == b"\x01" else 12)
    return number


def _num_edits(file: BinaryIO, track: Box) -> int:
    """Parts of the media that the edit list shows; an empty part, which only delays the start, is none of them."""
    table = _inside(file, track, *EDIT_LIST)
    if table is None:
        return 0
    file.seek(table[1])
    content = file.read(min(table[2] - table[1], 2**12))
    is_long = content[:1] == b"\x01"
    [count] = struct.unpack_from(">I", content, 4)
    step, place, kind = (20, 8, ">q") if is_long else (12, 4, ">i")
    starts = [struct.unpack_from(kind, content, 8 + number * step + place)[0] for number in range(min(count, 100))]
    return sum(start >= 0 for start in starts)


def _runs(file: BinaryIO, table: Box | None, num_samples: int) -> tuple[np.ndarray, np.ndarray] | None:
    """A table of runs, how many samples have which number, both int64; None if it is not one of `num_samples` samples."""
    if table is None or num_samples < 1:
        return None
    file.seek(table[1])
    [count] = struct.unpack(">4xI", file.read(8))
    if not 1 <= count <= num_samples or table[1] + 8 + 8 * count > table[2]:
        return None
    pairs = np.frombuffer(file.read(8 * count), dtype=">i4").reshape(count, 2).astype(np.int64)
    lengths, numbers = pairs.T
    if lengths.min() < 0 or lengths.sum() != num_samples:
        return None
    return lengths, numbers
