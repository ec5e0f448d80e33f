"""What the packets of a video stream say about its frames, found without decoding: from the tables of the file's header or the
headers of its blocks where they state it, otherwise from all packets.
"""

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import accumulate, chain, islice, pairwise
from statistics import median_low
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream

from .matroska_blocks_hicom import Blocks, video_blocks
from .media_bounds_hicom import MediaBounds
from .mp4_tables_hicom import sample_times
from .pyav_hicom import READ_ERRORS, demux, fraction, open_container, reason
from .source_names_hicom import VideoReadError

# Seconds by which the header of a Matroska or FLV file may promise more than its packets give before it counts as cut.
DURATION_TOLERANCE = 1.0
FORMATS_WITH_FRAME_COUNT = ("mov", "mp4")
FORMATS_WITH_BLOCKS = ("matroska", "webm")
CODECS_IN_BLOCKS = (
    "h264",
    "hevc",
    "vp8",
    "vp9",
    "av1",
    "libdav1d",
)  # whose blocks are packets, with the times of presentation
FORMATS_WITH_DURATION = ("matroska", "webm", "flv")
# AVI stores no presentation times. FFmpeg guesses them, and for these codecs, whose frames are reordered, wrongly.
CODECS_WITHOUT_TIMES_IN_AVI = ("h264", "hevc")

# Streams for broadcasting, which may be cut and joined. As in the ffmpeg command, a step of more than this many seconds is there
# no pause of the picture but another clock.
FORMATS_THAT_CHANGE_CLOCKS = ("mpeg", "mpegts", "mpegtsraw")
MAX_CLOCK_STEP = 10.0
KEYFRAME_FLAG = 1  # of an entry of FFmpeg's index (AVINDEX_KEYFRAME)
PACKETS_COMPARED = 8  # with the tables, at either end of the file
MAX_LAST_PACKETS = 2000  # behind the last keyframe of a file in blocks, which state no durations
MAX_IRREGULAR = 0.1  # fraction of intervals; with more of them the times are not worth keeping
INT64 = "q"  # of `array`: 8 bytes a number, where a list takes 36


def _no_numbers() -> "array[int]":
    return array(INT64)


def compact(numbers: np.ndarray) -> "array[int]":
    """Whole numbers as an `array` of int64, whose items are Python's: what bisection and exact arithmetic want."""
    result = array(INT64)
    result.frombytes(np.ascontiguousarray(numbers, dtype=np.int64).tobytes())
    return result


@dataclass
class StreamIndex:
    """What the packets of a stream say, without decoding. All arrays are int64, so that hours of frames stay small.

    Attributes:
        pts: of each frame that is shown, ascending.
        keyframes: pts of the packets where decoding can begin, ascending.
        seek_times: what a seek to each keyframe aims at: its pts, or its dts in a format that is searched by dts.
        packets: pts of each packet, ascending; those that are not shown too.
        places: which packet of the file each of `packets` is.
        break_reason: why the packets end early, None if they do not.
        is_from_tables: whether the header states all this, so that the container knows the place of every packet.
        clusters_are_sound: whether the clusters of a Matroska file were walked through and nothing in them is broken.
    """

    pts: "array[int]" = field(default_factory=_no_numbers)
    keyframes: "array[int]" = field(default_factory=_no_numbers)
    seek_times: "array[int]" = field(default_factory=_no_numbers)
    packets: "array[int]" = field(default_factory=_no_numbers)
    places: "array[int]" = field(default_factory=_no_numbers)
    last_duration: int = 0
    break_reason: str | None = None
    is_from_tables: bool = field(default=False, compare=False)
    clusters_are_sound: bool = field(default=False, compare=False)

    def place(self, pts: int | None) -> int | None:
        """Which packet of the file has this pts; None if none has."""
        if pts is None:
            return None
        number = bisect_left(self.packets, pts)
        return self.places[number] if number < len(self.packets) and self.packets[number] == pts else None


def index_video(
    file: BinaryIO, container: InputContainer, stream: av.VideoStream, name: str, bounds: MediaBounds
) -> StreamIndex:
    """The index of a stream, by the cheapest way that is exact; see `index_tables`, `index_blocks` and `index_packets`.

    Args:
        file: what `container` reads from.
        container: just opened; its position changes.
    """
    arguments = file, container, stream, name, bounds
    index = index_tables(*arguments) or index_blocks(*arguments)
    if index is not None:
        return index
    if not _is_one_of(container, FORMATS_WITH_FRAME_COUNT + FORMATS_WITH_BLOCKS):
        return index_packets(container, stream, name, bounds)
    with open_container(file, {"max_pixels": str(bounds.max_pixels)}) as fresh:  # the other one is not at its start
        again = fresh.streams[stream.index]
        assert isinstance(again, av.VideoStream)
        return index_packets(fresh, again, name, bounds)


def _is_one_of(container: InputContainer, formats: tuple[str, ...]) -> bool:
    return any(name in container.format.name.split(",") for name in formats)


def index_blocks(
    file: BinaryIO, container: InputContainer, stream: av.VideoStream, name: str, bounds: MediaBounds
) -> StreamIndex | None:
    """Takes the index from the headers of a Matroska or WebM file's blocks; what they hold is passed over.

    Returns:
        The same as `index_packets`, or None where the blocks do not state it: see `video_blocks`; or the header promises more
        than they hold, or the packets at their ends are not what they say. The blocks may mark other keyframes than the packets,
        which the reader asks before it decodes from there.
    """
    if not _is_one_of(container, FORMATS_WITH_BLOCKS) or stream.codec_context.name not in CODECS_IN_BLOCKS:
        return None
    blocks = video_blocks(file, bounds.max_packets)
    if blocks is None or not blocks.is_keyframe.any() or blocks.num_tracks != _num_tracks(container):
        return None
    keyframe = int(blocks.pts[blocks.is_keyframe].max())
    last = _last_packets(container, stream, blocks, keyframe)
    order = np.argsort(blocks.pts, kind="stable")
    if not last or not (np.diff(blocks.pts[order]) > 0).all() or last[-1].pts is None:
        return None
    durations = {packet.pts: packet.duration or 0 for packet in last}
    pts = blocks.pts[order]
    end = max(time + length for time, length in durations.items() if time is not None)
    if pts[-1] not in durations or _promised(container) - end * _ticks(stream) > DURATION_TOLERANCE:
        return None
    index = _from_headers(blocks.pts, blocks.is_keyframe, order, durations[int(pts[-1])])
    return replace(index, clusters_are_sound=True)


def _from_headers(pts: np.ndarray, is_keyframe: np.ndarray, order: np.ndarray, last_duration: int) -> StreamIndex:
    """The index of frames whose times, in the order of storage, are those of the container's own headers.

    Args:
        pts: (T,), in ticks.
        is_keyframe: (T,) bool.
        order: (T,), from the order of presentation to that of storage.
        last_duration: of the frame that is shown last, in ticks.
    """
    in_order, keyframes = compact(pts[order]), compact(np.sort(pts[is_keyframe]))
    return StreamIndex(
        pts=in_order,
        keyframes=keyframes,
        seek_times=keyframes,
        packets=in_order,
        places=compact(order),
        last_duration=last_duration,
    )


def _num_tracks(container: InputContainer) -> int:
    """Streams that are no attachments."""
    kinds, pictures = ("video", "audio", "subtitle"), Disposition.attached_pic
    return sum(one.type in kinds and not one.disposition & pictures for one in container.streams)


def _last_packets(container: InputContainer, stream: av.VideoStream, blocks: Blocks, keyframe: int) -> list[av.Packet]:
    """The packets from the last keyframe on, if they and those at the beginning are what the blocks say."""
    try:
        first = list(islice(demux(container, stream), PACKETS_COMPARED))
        container.seek(keyframe, stream=stream)
        last = list(islice(demux(container, stream), MAX_LAST_PACKETS + 1))
    except READ_ERRORS:
        return []
    last = [packet for packet in last if packet.pos is not None and packet.size]
    for packet in (*first, *last):
        if packet.dts is None and packet.pts is None and packet.size == 0:
            continue  # the request to flush at the end
        number = int(np.searchsorted(blocks.places[:-1], -1 if packet.pos is None else packet.pos))  # they ascend
        if packet.pos != blocks.places[number] or packet.is_corrupt or packet.is_discard:
            return []
        if (packet.pts, packet.is_keyframe) != (blocks.pts[number], blocks.is_keyframe[number]):
            return []
    is_last = bool(last) and last[-1].pos == blocks.places[-1] and len(last) <= MAX_LAST_PACKETS
    return last if is_last else []


def index_tables(
    file: BinaryIO, container: InputContainer, stream: av.VideoStream, name: str, bounds: MediaBounds
) -> StreamIndex | None:
    """Takes the index from the header of an MP4 or MOV file, in a hundredth of the time that its packets take.

    Returns:
        The same as `index_packets`, or None where header and fragments do not state it: the file is cut or edited, or the
        packets at its ends are not what they say. A keyframe whose data are damaged is one by the tables, and may be none by
        its packet; the reader asks the packet before it decodes from there.
    """
    if not _is_one_of(container, FORMATS_WITH_FRAME_COUNT):
        return None
    num_samples = len(stream.index_entries)
    bounds.check("max_packets", num_samples, name, "the number of packets")
    found = sample_times(file, stream.id, num_samples, stream.frames) if num_samples else None
    if found is None:
        return None
    numbers = chain.from_iterable((one.timestamp, one.pos, one.size, one.flags) for one in stream.index_entries)
    decoded, places, sizes, flags = np.fromiter(numbers, np.int64, 4 * num_samples).reshape(num_samples, 4).T
    here, size = file.tell(), file.seek(0, os.SEEK_END)
    file.seek(here)
    if sizes.min() < 1 or (places + sizes).max() > size or (flags & ~KEYFRAME_FLAG).any():
        return None
    is_keyframe = (flags & KEYFRAME_FLAG).astype(bool)
    if (np.diff(places[found.num_in_header :]) <= 0).any():  # fragments in another order than that of their times
        return None
    pts = _confirmed(container, stream, decoded + found.offsets, places, is_keyframe)
    if pts is None:
        return None
    order = np.argsort(pts, kind="stable")
    if not (np.diff(pts[order]) > 0).all():  # two frames at one time
        return None
    return replace(_from_headers(pts, is_keyframe, order, int(found.durations[order[-1]])), is_from_tables=True)


def _confirmed(
    container: InputContainer, stream: av.VideoStream, times: np.ndarray, places: np.ndarray, is_keyframe: np.ndarray
) -> np.ndarray | None:
    """The pts of all samples, if the packets at the beginning and behind the last keyframe are those of the tables.

    Args:
        times: int64 (N,), pts up to a number that is the same for all.
        places: int64 (N,), of the samples in the file, in bytes.
        is_keyframe: bool (N,).
    """
    keyframes = np.flatnonzero(is_keyframe)
    if not len(keyframes):
        return None
    try:
        packets = list(islice(demux(container, stream), PACKETS_COMPARED))
        container.seek(int(stream.index_entries[int(keyframes[-1])].timestamp), stream=stream)
        packets += islice(demux(container, stream), PACKETS_COMPARED)
    except READ_ERRORS:
        return None
    shifts = set()
    for packet in packets:
        if packet.dts is None and packet.pts is None and packet.size == 0:
            continue  # the request to flush at the end
        [numbers] = np.nonzero(places == packet.pos)
        if len(numbers) != 1 or packet.pts is None or packet.is_keyframe != is_keyframe[numbers[0]]:
            return None
        shifts.add(packet.pts - int(times[numbers[0]]))
    return times + shifts.pop() if len(shifts) == 1 else None


def index_packets(container: InputContainer, stream: av.VideoStream, name: str, bounds: MediaBounds) -> StreamIndex:
    """Walks through all packets without decoding; stops where the file breaks.

    Returns:
        What they say; without `pts` if they have no times, or not one clock for all of them.
    """
    formats = container.format.name.split(",")
    if "avi" in formats and stream.codec_context.name in CODECS_WITHOUT_TIMES_IN_AVI:
        return StreamIndex()
    max_step = _max_clock_step(formats, stream)
    numbers = _no_numbers()  # pts, duration, flags and dts of each packet, one behind the other
    last_is_corrupt, num_packets, break_reason, last_pts = False, 0, None, None
    try:
        for packet in _packets_alone(container, stream):
            pts = packet.pts
            if pts is None and packet.dts is None and packet.size == 0:
                continue  # the request to flush at the end
            num_packets += 1
            if num_packets > bounds.max_packets:
                bounds.check("max_packets", num_packets, name, "the number of packets")
            last_is_corrupt = packet.is_corrupt
            if pts is None:
                return StreamIndex()  # raw streams: no times here
            if last_pts is not None and abs(pts - last_pts) > max_step:
                return StreamIndex()  # parts with a clock each: only decoding shows the order of their frames
            last_pts = pts
            flags = packet.is_keyframe + 2 * packet.is_discard
            numbers.extend((pts, packet.duration or 0, flags, pts if packet.dts is None else packet.dts))
    except VideoReadError:
        raise
    except READ_ERRORS as error:
        break_reason = f"the data ends: {reason(error)}"
    walked = np.asarray(numbers).reshape(-1, 4)
    if len(np.unique(walked[:, 0])) < len(walked):
        return StreamIndex()  # the same time twice: parts with a clock each
    if last_is_corrupt:
        walked, break_reason = walked[:-1], "the last packet is incomplete"
    pts, durations, flags, dts = walked.T
    is_shown = flags < 2
    if any(name in formats for name in FORMATS_WITH_DURATION):
        end = float((pts[is_shown] + durations[is_shown].astype(float)).max(initial=0.0))
        break_reason = _missing_duration(container, stream, end) or break_reason
    if any(name in formats for name in FORMATS_WITH_FRAME_COUNT) and stream.frames > num_packets:
        break_reason = f"the header promises {stream.frames} frames, {num_packets} are in the file"
    order = np.argsort(pts, kind="stable")
    shown, keyframes = order[is_shown[order]], order[(flags[order] & 1) == 1]
    is_searched_by_dts = any(name in formats for name in FORMATS_THAT_CHANGE_CLOCKS)
    return StreamIndex(
        pts=compact(pts[shown]),
        keyframes=compact(pts[keyframes]),
        seek_times=compact((dts if is_searched_by_dts else pts)[keyframes]),
        packets=compact(pts[order]),
        places=compact(order),
        last_duration=int(durations[shown[-1]]) if len(shown) else 0,
        break_reason=break_reason,
    )


def _packets_alone(container: InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream; those of the others (sound, subtitles) are passed over without being copied."""
    for other in container.streams:
        other.discard = Discard.default if other.index == stream.index else Discard.all
    return demux(container, stream)


def _missing_duration(container: InputContainer, stream: av.VideoStream, end: float) -> str | None:
    """How the header promises more than the packets give, None if it does not.

    Args:
        container: whose packets of `stream` were walked through.
        end: when the last frame leaves the screen, in ticks of the stream.
    """
    promised = _promised(container)
    end *= _ticks(stream)
    if promised - end <= DURATION_TOLERANCE:
        return None
    ends: dict[int, int] = {}  # of each stream, in its ticks: sound may continue behind the picture
    try:
        for other in container.streams:
            other.discard = Discard.default
        container.seek(0)
        for packet in demux(container, *container.streams):
            if packet.pts is not None:
                last = packet.pts + (packet.duration or 0)
                ends[packet.stream_index] = max(last, ends.get(packet.stream_index, last))
    except READ_ERRORS:  # the file breaks, and ends where the walk did
        pass
    end = max(end, *(last * _ticks(container.streams[number]) for number, last in ends.items()), 0.0)
    if promised - end <= DURATION_TOLERANCE:
        return None
    return f"the header promises {promised:.1f} s, the data end at {end:.1f} s"


def _promised(container: InputContainer) -> float:
    """Seconds until the end, by the header."""
    # Where times begin late, some writers (FFmpeg's own) count the duration from zero, others from the first frame.
    return (min(container.start_time or 0, 0) + (container.duration or 0)) / av.time_base


def _ticks(stream: Stream) -> float:
    """Seconds of a stream's unit of time."""
    return float(fraction(stream.time_base) or 1)


def _max_clock_step(formats: list[str], stream: av.VideoStream) -> float:
    """Ticks between two packets of one clock."""
    if not any(name in formats for name in FORMATS_THAT_CHANGE_CLOCKS):
        return float("inf")
    return MAX_CLOCK_STEP / _ticks(stream)


def continuous_times(pts: Sequence[int], max_step: Fraction | float) -> Sequence[int] | None:
    """Makes one clock of the times of decoded frames: where it steps back, stands or leaps, the usual interval is put in.

    Args:
        pts: in the order of the frames.
        max_step: the longest interval that is no leap, in units of `pts`.

    Returns:
        `pts` or new ones, strictly ascending; None if too many intervals are of that kind.
    """
    steps = [late - early for early, late in pairwise(pts)]
    regular = [step for step in steps if 0 < step <= max_step]
    if len(regular) == len(steps):
        return pts
    if len(steps) - len(regular) > MAX_IRREGULAR * len(steps):
        return None
    usual = median_low(regular)
    steps = [step if 0 < step <= max_step else usual for step in steps]
    return list(accumulate(steps, initial=pts[0]))
