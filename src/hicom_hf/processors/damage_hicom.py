"""Damage that FFmpeg notices and only writes into its log, found from the bytes: of Matroska, WebM and FLV files, and of FFV1.

FFmpeg's log belongs to the whole process and not to a file, so that threads would see each other's lines. What it says of these
formats follows from their own bytes: elements that do not fit into those around them, and checksums.
"""

import zlib
from itertools import pairwise
from typing import BinaryIO

# Elements of Matroska that hold others: Segment and Cluster.
MASTERS = (0x18538067, 0x1F43B675)
MAX_ID_SIZE, MAX_LENGTH_SIZE = 4, 8  # bytes
WINDOW = 2**16  # bytes read at once
FLV_TAG_SIZE, FLV_TAGS = 11, (8, 9, 18)  # sound, picture, text
FFV1_FOOTER = 8  # bytes behind each slice that has a checksum: its size (3), a status, the checksum
FFV1_FIRST_SUMS = (0, 0x7A8C4079)  # that the checksum begins with, by the version of the format
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class _Window:
    """Bytes of a file by their place, read in pieces."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.start, self.data = 0, b""

    def at(self, place: int, count: int) -> bytes:
        offset = place - self.start
        if offset < 0 or offset + count > len(self.data):
            self.file.seek(place)
            self.start, self.data, offset = place, self.file.read(WINDOW), 0
        return self.data[offset : offset + count]


def container_damage(file: BinaryIO, formats: list[str]) -> str | None:
    """What is wrong with how a file is put together, None if nothing is or nothing is known of its format.

    A file that is merely cut is not damaged in this sense; the place in the file is left as it was.

    Args:
        formats: FFmpeg's names of the container.
    """
    here = file.tell()
    try:
        window = _Window(file)
        if "matroska" in formats or "webm" in formats:
            place = _broken_element(window)
        else:
            place = _broken_tag(window) if "flv" in formats else None
    finally:
        file.seek(here)
    return None if place is None else f"the file is damaged at byte {place}; some frames may be missing or look wrong"


def _broken_element(window: _Window) -> int | None:
    """The place of the first element that is none or does not fit into its master; EBML, RFC 8794."""
    place, ends = 0, []  # of the masters that `place` is in
    while head := window.at(place, MAX_ID_SIZE + MAX_LENGTH_SIZE):
        while ends and place == ends[-1]:
            ends.pop()
        id_size = 9 - head[0].bit_length()
        if id_size > MAX_ID_SIZE:
            return place
        if len(head) <= id_size:
            return None
        length_size = 9 - head[id_size].bit_length()
        if length_size > MAX_LENGTH_SIZE:
            return place
        ones = (1 << 7 * length_size) - 1
        length = int.from_bytes(head[id_size : id_size + length_size]) & ones
        name = int.from_bytes(head[:id_size])
        begin = place + id_size + length_size
        if length == ones:  # a live stream: not known when it was written
            if name not in MASTERS:
                return place
            ends, place = [], begin
            continue
        if ends and begin + length > ends[-1]:
            return place
        if name in MASTERS:
            ends.append(begin + length)
            place = begin
        else:
            place = begin + length
    return None


def _broken_tag(window: _Window) -> int | None:
    """The place of the first tag that is none or whose size is not repeated behind it; Adobe, FLV 10.1, annex E."""
    header = window.at(0, 9)
    place = int.from_bytes(header[5:9]) + 4
    while len(head := window.at(place, FLV_TAG_SIZE)) == FLV_TAG_SIZE:
        size = FLV_TAG_SIZE + int.from_bytes(head[1:4])
        again = window.at(place + size, 4)
        if len(again) < 4:
            return None
        # Some writers put zero there.
        if head[0] & 0x1F not in FLV_TAGS or int.from_bytes(again) not in (size, 0):
            return place
        place += size + 4
    return None


def has_wrong_checksum(packet: bytes) -> bool:
    """Whether a slice of an FFV1 packet has a checksum, and it is not that of the slice.

    Source: FFV1, RFC 9043, section 4.9: each slice ends with its size and, with error correction, with a CRC-32.
    """
    ends = [len(packet)]
    while ends[-1] > 0:  # from the last slice to the first
        begin = ends[-1] - FFV1_FOOTER
        size = int.from_bytes(packet[begin : begin + 3]) if begin >= 0 else begin
        if size < 0 or begin < size:
            return False  # no checksums, or FFmpeg reports that the slices do not fit
        ends.append(begin - size)
    return any(not _is_sound(packet[begin:end]) for end, begin in pairwise(ends))


def _is_sound(piece: bytes) -> bool:
    # zlib's CRC-32 has the bits of each byte in the other order, and inverts the sum before and after.
    mirrored = piece.translate(REVERSED_BITS)
    return any(
        zlib.crc32(mirrored, int(f"{first:032b}"[::-1], 2) ^ 0xFFFFFFFF) == 0xFFFFFFFF for first in FFV1_FIRST_SUMS
    )
