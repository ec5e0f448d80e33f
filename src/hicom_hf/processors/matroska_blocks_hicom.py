"""When the frames of a Matroska or WebM file are shown, from the headers of its blocks: the frames themselves are passed over.

Letters: N blocks of a track.
"""

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from .damage_hicom import Window

EBML, SEGMENT, CLUSTER, TRACKS = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75", b"\x16\x54\xae\x6b"
TRACK, TRACK_NUMBER, TRACK_TYPE = b"\xae", b"\xd7", b"\x83"
# Of a track: times in another unit or moved, and frames stored otherwise than they are decoded.
UNUSUAL = (b"\x23\x31\x4f", b"\x56\xaa", b"\x53\x7f", b"\x6d\x80")
VIDEO, SOUND, SUBTITLES = 1, 2, 17
TIMESTAMP, SIMPLE_BLOCK, BLOCK_GROUP = 0xE7, 0xA3, 0xA0  # of a cluster
BLOCK, REFERENCE = b"\xa1", b"\xfb"  # of a group
REST_OF_GROUP = (REFERENCE, b"\x9b", b"\x75\xa2", b"\xfa")  # and duration, samples of sound to leave out, priority
PADDING = 0xEC
REST_OF_CLUSTER = (0xA7, 0xAB, PADDING, 0xBF)  # its position, the size of the one before, padding, a checksum
KEYFRAME_FLAG, LACING_FLAGS = 0x80, 0x06
LONGEST_HEADER = 2**20  # bytes of the list of tracks
LONGEST_NUMBER = 8  # bytes


class UnusualFileError(Exception):
    """Only the packets say what is in this file."""


@dataclass(frozen=True)
class Blocks:
    """The blocks of the only video track, in the order of the file.

    Attributes:
        pts: int64 (N,), in the file's unit of time.
        is_keyframe: bool (N,).
        places: int64 (N,), where the content of each block begins, in bytes of the file; ascending.
        num_tracks: of the file; FFmpeg drops the rest of a cluster behind a block of a track that it does not know.
    """

    pts: np.ndarray
    is_keyframe: np.ndarray
    places: np.ndarray
    num_tracks: int


def video_blocks(file: BinaryIO, max_blocks: int) -> Blocks | None:
    """The blocks of a file that has one video track and is whole.

    Args:
        file: seekable; its position is kept.
        max_blocks: of the track.

    Returns:
        None for a file that is cut, damaged or unusual: sizes that were not known when it was written, several frames in a
        block, several video tracks, more blocks than allowed.

    Source: Matroska, RFC 9559, sections 5.1.3 (clusters) and 10 (blocks); EBML, RFC 8794.
    """
    here = file.tell()
    try:
        return _Walk(file).blocks(max_blocks)
    except (UnusualFileError, IndexError):  # an index behind the end of what was read: the file is cut
        return None
    finally:
        file.seek(here)


class _Walk:
    def __init__(self, file: BinaryIO):
        self.size = file.seek(0, os.SEEK_END)
        self.window = Window(file)
        self.marks: frozenset[int] = frozenset()  # first byte of the blocks of each track

    def blocks(self, max_blocks: int) -> Blocks:
        elements = list(self._elements(0, self.size))
        if [name for name, _, _ in elements] != [EBML, SEGMENT] or elements[1][2] != self.size:
            raise UnusualFileError
        track, found = None, array("q")  # pts, whether it is a keyframe, and place, one block behind the other
        for name, begin, end in self._elements(*elements[1][1:]):
            if name == TRACKS:
                track = self._video_track(begin, end)
            elif name == CLUSTER:
                if track is None:
                    raise UnusualFileError
                self._walk_cluster(begin, end, track, found)
                if len(found) > 3 * max_blocks:
                    raise UnusualFileError
        pts, is_keyframe, places = np.asarray(found).reshape(-1, 3).T
        return Blocks(pts, is_keyframe.astype(bool), places, len(self.marks))

    def _elements(self, place: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
        """The elements that fill the bytes between two places: name, where the content begins and where it ends."""
        while place < stop:
            head = self.window.at(place, 12)
            id_size = 9 - head[0].bit_length()
            size_size = 9 - head[id_size].bit_length()
            if id_size > 4 or size_size > 8:
                raise UnusualFileError
            begin = place + id_size + size_size
            length = int.from_bytes(head[id_size : id_size + size_size]) & ((1 << 7 * size_size) - 1)
            if length == (1 << 7 * size_size) - 1 or begin + length > stop:
                raise UnusualFileError
            yield head[:id_size], begin, begin + length
            place = begin + length

    def _video_track(self, begin: int, end: int) -> int:
        """The number of the only video track, below 128."""
        if end - begin > LONGEST_HEADER:
            raise UnusualFileError
        numbers, videos = [], []
        for name, *inside in self._elements(begin, end):
            if name != TRACK:
                continue
            fields = {part: self.window.at(first, last - first) for part, first, last in self._elements(*inside)}
            kind = int.from_bytes(fields.get(TRACK_TYPE, b""))
            numbers.append(int.from_bytes(fields.get(TRACK_NUMBER, b"")))
            if kind not in (VIDEO, SOUND, SUBTITLES) or not 0 < numbers[-1] < 0x7F:
                raise UnusualFileError
            if kind == VIDEO:
                videos.append(numbers[-1])
                if any(part in fields for part in UNUSUAL):
                    raise UnusualFileError
        if len(videos) != 1 or len(set(numbers)) < len(numbers):
            raise UnusualFileError
        self.marks = frozenset(0x80 | number for number in numbers)
        return videos[0]

    def _walk_cluster(self, place: int, stop: int, track: int, found: "array[int]") -> None:
        """Appends pts, keyframe mark and place of the track's blocks of a cluster to `found`."""
        time, mark = None, 0x80 | track
        while place < stop:
            head = self.window.at(place, min(16, stop - place))
            name, width = head[0], 9 - head[1].bit_length()
            begin = place + 1 + width
            length = int.from_bytes(head[1 : 1 + width]) & ((1 << 7 * width) - 1)
            end = begin + length
            if end > stop or width > 8:
                raise UnusualFileError
            if name in (SIMPLE_BLOCK, BLOCK_GROUP):
                block = begin
                is_keyframe = None
                if name == BLOCK_GROUP:
                    block, end_of_block, is_keyframe = self._block_of_group(begin, end)
                    head, width = self.window.at(block, 4), -1
                    length = end_of_block - block
                if length < 5 or head[1 + width] not in self.marks:
                    raise UnusualFileError
                if head[1 + width] == mark:
                    flags = head[4 + width]
                    if time is None or flags & LACING_FLAGS:
                        raise UnusualFileError
                    offset = (head[2 + width] << 8) | head[3 + width]
                    pts = time + offset - ((offset & 0x8000) << 1)
                    if pts < 0:
                        raise UnusualFileError
                    found.extend((pts, bool(flags & KEYFRAME_FLAG) if is_keyframe is None else is_keyframe, block))
            elif name == TIMESTAMP:
                if time is not None or length >= LONGEST_NUMBER:
                    raise UnusualFileError
                time = int.from_bytes(self.window.at(begin, length))
            elif name not in REST_OF_CLUSTER or (length > LONGEST_NUMBER and name != PADDING):
                raise UnusualFileError
            place = end

    def _block_of_group(self, begin: int, end: int) -> tuple[int, int, bool]:
        """Where the content of the block in a group begins and ends, and whether it refers to no other."""
        block, is_keyframe = None, True
        for name, first, last in self._elements(begin, end):
            if name == BLOCK:
                if block is not None:
                    raise UnusualFileError
                block = first, last
            elif name not in REST_OF_GROUP or last - first > LONGEST_NUMBER:
                raise UnusualFileError
            is_keyframe = is_keyframe and name != REFERENCE
        if block is None:
            raise UnusualFileError
        return *block, is_keyframe
