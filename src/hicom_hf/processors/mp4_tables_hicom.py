"""When the frames of an MP4 or MOV file are shown, from the tables of its header: nothing of the video itself is read.

FFmpeg's index of such a file holds when each sample is decoded, not when it is shown. The difference is the file's `ctts` table.

Letters: N samples of a track.
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

HEADER_BYTES = 8  # of a box: its size and its name
SAMPLE_TABLE = (b"mdia", b"minf", b"stbl")
EDIT_LIST = (b"edts", b"elst")
LONGEST_INTERVAL = 2**31  # ticks; FFmpeg takes longer ones for errors of the file

Box = tuple[bytes, int, int]  # name, where its content begins and where it ends, in bytes of the file


def sample_times(file: BinaryIO, track_id: int, num_samples: int) -> tuple[np.ndarray, int] | None:
    """How much later than it is decoded each sample of a track is shown, and how long the last one lasts.

    Args:
        file: seekable; its position is kept.
        track_id: of the `tkhd` box, which is FFmpeg's `stream.id`.
        num_samples: N, as FFmpeg counts them.

    Returns:
        Ticks, int64 (N,), up to a number that is the same for all, and the ticks of the last sample in the file; None where the
        tables are not that simple: a file of fragments, several edits, or tables that do not fit together.

    Source: ISO/IEC 14496-12, sections 8.6.1 (times) and 8.6.6 (edit list).
    """
    position = file.tell()
    try:
        moov = _first(_boxes(file, 0, file.seek(0, os.SEEK_END)), b"moov")
        if moov is None or _first(_boxes(file, *moov[1:]), b"mvex") is not None:
            return None
        track = next((box for box in _boxes(file, *moov[1:]) if _track_id(file, box) == track_id), None)
        if track is None or _num_edits(file, track) > 1:
            return None
        durations = _runs(file, _inside(file, track, *SAMPLE_TABLE, b"stts"), num_samples)
        if durations is None or durations[1].min() < 0 or durations[1].max() >= LONGEST_INTERVAL:
            return None
        table, offsets = _inside(file, track, *SAMPLE_TABLE, b"ctts"), np.zeros(num_samples, dtype=np.int64)
        if table is not None:
            runs = _runs(file, table, num_samples)
            if runs is None:
                return None
            offsets = np.repeat(runs[1], runs[0])
        return offsets, int(durations[1][-1])
    except (struct.error, OSError):
        return None
    finally:
        file.seek(position)


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
