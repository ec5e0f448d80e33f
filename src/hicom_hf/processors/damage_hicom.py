"""Damage that FFmpeg notices and only writes into its log, found from the bytes: of Matroska, WebM, FLV, ASF, and of FFV1.

FFmpeg's log belongs to the whole process and not to a file, so that threads would see each other's lines. What it says of these
formats follows from their own bytes: elements that do not fit into those around them, and checksums.
"""

import zlib
from itertools import pairwise
from typing import BinaryIO

# Elements of Matroska that hold others (RFC 9559): Segment and Cluster, whose size a live stream leaves open.
SEGMENT, CLUSTER = 0x18538067, 0x1F43B675
# The others: the head, SeekHead, Info, Tracks, Cues, Tags, Attachments, Chapters and BlockGroup, each with those inside.
CLOSED_MASTERS = frozenset({
    0x1A45DFA3,
    0x114D9B74, 0x4DBB,
    0x1549A966, 0x6924,
    0x1654AE6B, 0xAE, 0x41E4, 0x6624, 0xE0, 0x55B0, 0x55D0, 0x7670, 0xE1, 0xE2, 0xE3, 0xE4, 0xE9,
    0x6D80, 0x6240, 0x5034, 0x5035, 0x47E7,
    0x1C53BB6B, 0xBB, 0xB7, 0xDB,
    0x1254C367, 0x7373, 0x63C0, 0x67C8,
    0x1941A469, 0x61A7,
    0x1043A770, 0x45B9, 0xB6, 0x8F, 0x80, 0x6944, 0x6911,
    0xA0, 0x75A1, 0xA6,
})  # fmt: skip
CHECKSUM = b"\xbf\x84"  # the element CRC-32 and its size; the first one of a master that has a checksum
LONGEST_CHECKED = 2**20  # bytes of a master whose checksum is computed
MAX_ID_SIZE, MAX_LENGTH_SIZE = 4, 8  # bytes
WINDOW, SMALL_WINDOW = 2**16, 2**9  # bytes read at once
FAR = 2**12  # bytes to the next place, from which on little is read at once
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")  # the object that holds the packets
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the object that says how long each packet is
ASF_OBJECT, ASF_HEAD = 24, 30  # bytes in front of an object's content, and of the header's first object
ASF_DATA_HEAD = 50  # bytes in front of the first packet
ASF_MAX_OBJECTS, ASF_MAX_PACKET = 10_000, 2**24
FLV_TAG_SIZE, FLV_TAGS = 11, (8, 9, 18)  # sound, picture, text
FFV1_FOOTER = 8  # bytes behind each slice that has a checksum: its size (3), a status, the checksum
FFV1_FIRST_SUMS = (0, 0x7A8C4079)  # that the checksum begins with, by the version of the format
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Window:
    """Bytes of a file by their place, read in pieces: little at a time where the places lie far apart."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.start, self.data = 0, b""

    def at(self, place: int, count: int) -> bytes:
        """Up to `count` bytes, fewer at the end of the file."""
        offset = place - self.start
        if offset < 0 or offset + count > len(self.data):
            is_near = 0 <= offset <= len(self.data) + FAR
            self.file.seek(place)
            self.start, self.data, offset = place, self.file.read(WINDOW if is_near else max(SMALL_WINDOW, count)), 0
        return self.data[offset : offset + count]


def container_damage(file: BinaryIO, formats: list[str], clusters_are_sound: bool = False) -> str | None:
    """What is wrong with how a file is put together, None if nothing is or nothing is known of its format.

    A file that is merely cut is not damaged in this sense; the place in the file is left as it was.

    Args:
        formats: FFmpeg's names of the container.
        clusters_are_sound: whether those of a Matroska file were walked through already.
    """
    here = file.tell()
    try:
        window = Window(file)
        if "matroska" in formats or "webm" in formats:
            place = _broken_element(window, (SEGMENT,) if clusters_are_sound else (SEGMENT, CLUSTER))
        elif "asf" in formats:
            place = _broken_packet(window)
        else:
            place = _broken_tag(window) if "flv" in formats else None
    finally:
        file.seek(here)
    return None if place is None else f"the file is damaged at byte {place}; some frames may be missing or look wrong"


def _broken_element(window: Window, masters: tuple[int, ...]) -> int | None:
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
            if name not in masters:
                return place
            ends, place = [], begin
            continue
        if ends and begin + length > ends[-1]:
            return place
        if name in CLOSED_MASTERS and not _has_right_checksum(window, begin, length):
            return place
        if name in masters or name in CLOSED_MASTERS:
            ends.append(begin + length)
            place = begin
        else:
            place = begin + length
    return None


def _has_right_checksum(window: Window, begin: int, length: int) -> bool:
    """Whether a master has no checksum, or the one of what follows it; RFC 8794, section 11.3.1."""
    if length > LONGEST_CHECKED or window.at(begin, len(CHECKSUM)) != CHECKSUM:
        return True
    window.file.seek(begin)
    content = window.file.read(length)
    return len(content) < length or zlib.crc32(content[6:]) == int.from_bytes(content[2:6], "little")


def _broken_packet(window: Window) -> int | None:
    """The place of the first packet of an ASF file without the mark that opens all of them; ASF 1.20, sections 3 and 5.2."""
    size, place = 0, ASF_HEAD
    for _ in range(ASF_MAX_OBJECTS):
        head = window.at(place, ASF_OBJECT + 76)
        if head.startswith(ASF_DATA):
            place += ASF_DATA_HEAD
            break
        if head.startswith(ASF_PROPERTIES):
            least, most = (int.from_bytes(head[at : at + 4], "little") for at in (92, 96))
            size = most if least == most else 0
        step = int.from_bytes(head[16:ASF_OBJECT], "little")
        if step < ASF_OBJECT:
            return place if len(head) >= ASF_OBJECT else None
        place += step
    if not 3 < size <= ASF_MAX_PACKET or not _opens_packet(window.at(place, 3)):
        return None  # packets of other kinds
    num_packets = int.from_bytes(window.at(place - 10, 8), "little")  # 0 while a file is being written
    number = 0
    while len(head := window.at(place, 3)) == 3 and (not num_packets or number < num_packets):
        if not _opens_packet(head):
            return place
        place, number = place + size, number + 1
    return None


def _opens_packet(head: bytes) -> bool:
    """Two bytes of error correction, both zero, as every known writer gives them."""
    return len(head) == 3 and head[0] & 0x8F == 0x82 and head[1:] == b"\0\0"


def _broken_tag(window: Window) -> int | None:
    """The place of the first tag that is none or whose size is not repeated behind it; Adobe, FLV 10.1, annex E."""
    header = window.at(0, 9)
    place = int.from_bytes(header[5:9]) + 4
    while len(head := window.at(place, FLV_TAG_SIZE)) == FLV_TAG_SIZE:
        if head[0] & 0x1F not in FLV_TAGS:  # also the header of a second file behind the first, at which FFmpeg stops
            return place
        size = FLV_TAG_SIZE + int.from_bytes(head[1:4])
        again = window.at(place + size, 4)
        if len(again) < 4:
            return None
        if int.from_bytes(again) not in (size, 0):  # some writers put zero there
            return place
        place += size + 4
    return None


def has_right_checksums(packet: bytes) -> bool | None:
    """Whether the checksum of each slice of an FFV1 packet is that of the slice; None if it has none or they do not fit.

    Source: FFV1, RFC 9043, section 4.9: each slice ends with its size and, with error correction, with a CRC-32.
    """
    ends = [len(packet)]
    while ends[-1] > 0:  # from the last slice to the first
        begin = ends[-1] - FFV1_FOOTER
        size = int.from_bytes(packet[begin : begin + 3]) if begin >= 0 else begin
        if size < 0 or begin < size:
            return None
        ends.append(begin - size)
    return all(_is_sound(packet[begin:end]) for end, begin in pairwise(ends))


def _is_sound(piece: bytes) -> bool:
    # zlib's CRC-32 has the bits of each byte in the other order, and inverts the sum before and after.
    mirrored = piece.translate(REVERSED_BITS)
    return any(
        zlib.crc32(mirrored, int(f"{first:032b}"[::-1], 2) ^ 0xFFFFFFFF) == 0xFFFFFFFF for first in FFV1_FIRST_SUMS
    )
