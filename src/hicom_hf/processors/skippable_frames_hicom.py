"""Which frames of a stream need not be decoded: those that are neither asked for nor used to predict others.

FFmpeg's decoders pass over what the bitstream marks as "no reference" (AVDISCARD_NONREF). In H.264 and MPEG-2 such a frame
predicts no other one. In HEVC the mark speaks for the frames of the same temporal sub-layer only (ITU-T H.265, 7.4.2.2, table
7-1), so that it can be relied upon in the highest one that the sequence parameter sets allow.
"""

from collections.abc import Iterator

import av

CODECS_WITH_MARKS = ("h264", "mpeg2video")
CODEC_WITH_SUB_LAYERS = "hevc"
SEQUENCE_PARAMETERS, FIRST_NO_PICTURE = (
    33,
    32,
)  # types of HEVC's NAL units; those below the second one hold the picture
UNIT_HEAD = 3  # bytes of a NAL unit that are read: its header, and the first byte of a parameter set
HVCC_HEAD = 23  # bytes of an HEVCDecoderConfigurationRecord before its arrays; ISO/IEC 14496-15, 8.3.3.1
START_CODE = b"\0\0\1"


class SkippableFrames:
    """Which packets hold a frame that, if it is marked as "no reference", nothing is predicted from.

    Args:
        codec: FFmpeg's name of the decoder.
        extradata: what the container stores for it beside the packets.

    Attributes:
        are_known: whether the marks of the stream say anything; may be set to False.
    """

    def __init__(self, codec: str, extradata: bytes | None):
        self.are_known = codec in CODECS_WITH_MARKS
        self._is_hevc = codec == CODEC_WITH_SUB_LAYERS
        self._num_sub_layers = 0
        self._length_size = 0  # bytes before each NAL unit; 0 where start codes separate them
        if self._is_hevc and extradata is not None and len(extradata) > HVCC_HEAD:
            is_record = extradata[0] == 1
            self._length_size = (extradata[21] & 3) + 1 if is_record else 0
            for unit in _units_of_record(extradata) if is_record else _units(extradata, 0):
                self._take_note(unit)
            self.are_known = self._num_sub_layers > 0

    def can_skip(self, packet: av.Packet) -> bool:
        """Whether the mark of a packet can be relied upon. Ask for each packet that is decoded, in order: one of HEVC may bring
        other parameters."""
        if not self._is_hevc or not self.are_known or not packet.size:
            return self.are_known
        for unit in _units(memoryview(packet), self._length_size):
            if len(unit) < UNIT_HEAD or unit[0] & 1 or unit[1] >> 3:
                continue  # no unit of the base layer
            if _type(unit) < FIRST_NO_PICTURE:  # parameters come before the picture
                return (unit[1] & 7) - 1 >= self._num_sub_layers - 1
            self._take_note(unit)
        return False

    def _take_note(self, unit: bytes | memoryview) -> None:
        """Keeps the most sub-layers that a sequence parameter set states; other units state none."""
        if len(unit) >= UNIT_HEAD and _type(unit) == SEQUENCE_PARAMETERS and not (unit[0] & 1 or unit[1] >> 3):
            self._num_sub_layers = max(self._num_sub_layers, (unit[2] >> 1 & 7) + 1)


def _type(unit: bytes | memoryview) -> int:
    return unit[0] >> 1 & 63


def _units(data: bytes | memoryview, length_size: int) -> Iterator[bytes | memoryview]:
    """The first bytes of each NAL unit of a packet; what is cut ends the iteration."""
    if not length_size:
        data = bytes(data)
        place = data.find(START_CODE)
        while place >= 0:
            begin = place + len(START_CODE)
            yield data[begin : begin + UNIT_HEAD]
            place = data.find(START_CODE, begin)
        return
    place = 0
    while place + length_size < len(data):
        begin = place + length_size
        yield data[begin : begin + UNIT_HEAD]
        place = begin + int.from_bytes(data[place:begin])


def _units_of_record(record: bytes) -> Iterator[bytes]:
    """The first bytes of each NAL unit of an HEVCDecoderConfigurationRecord."""
    place = HVCC_HEAD
    for _ in range(record[HVCC_HEAD - 1]):  # arrays, one for each type
        num_units = int.from_bytes(record[place + 1 : place + 3])
        place += 3
        for _ in range(num_units):
            begin = place + 2
            yield record[begin : begin + UNIT_HEAD]
            place = begin + int.from_bytes(record[place:begin])
