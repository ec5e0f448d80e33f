"""What the packets of a video stream say about its frames, found without decoding: from the tables of the file's header where
they state it, otherwise from all packets.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate, chain, islice, pairwise
from statistics import median_low
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Stream

from .media_bounds_hicom import MediaBounds
from .mp4_tables_hicom import sample_times
from .pyav_hicom import READ_ERRORS, demux, fraction, reason
from .source_names_hicom import VideoReadError

# Seconds by which the header of a Matroska or FLV file may promise more than its packets give before it counts as cut.
DURATION_TOLERANCE = 1.0
FORMATS_WITH_FRAME_COUNT = ("mov", "mp4")
FORMATS_WITH_DURATION = ("matroska", "webm", "flv")
# AVI stores no presentation times. FFmpeg guesses them, and for these codecs, whose frames are reordered, wrongly.
CODECS_WITHOUT_TIMES_IN_AVI = ("h264", "hevc")

# Streams for broadcasting, which may be cut and joined. As in the ffmpeg command, a step of more than this many seconds is there
# no pause of the picture but another clock.
FORMATS_THAT_CHANGE_CLOCKS = ("mpeg", "mpegts", "mpegtsraw")
MAX_CLOCK_STEP = 10.0
KEYFRAME_FLAG = 1  # of an entry of FFmpeg's index (AVINDEX_KEYFRAME)
PACKETS_COMPARED = 8  # with the tables, at either end of the file
MAX_IRREGULAR = 0.1  # fraction of intervals; with more of them the times are not worth keeping


@dataclass
class StreamIndex:
    """What the packets of a stream say, without decoding.

    Attributes:
        pts: of each frame that is shown, ascending.
        keyframes: pts of the packets where decoding can begin, ascending.
        order: place of each packet in the file, by pts.
        break_reason: why the packets end early, None if they do not.
    """

    pts: list[int] = field(default_factory=list)
    keyframes: list[int] = field(default_factory=list)
    order: dict[int, int] = field(default_factory=dict)
    last_duration: int = 0
    break_reason: str | None = None


def index_video(
    file: BinaryIO, container: InputContainer, stream: av.VideoStream, name: str, bounds: MediaBounds
) -> StreamIndex:
    """The index of a stream, by the cheapest way that is exact; see `index_tables` and `index_packets`.

    Args:
        file: what `container` reads from.
        container: just opened; its position changes.
    """
    return index_tables(file, container, stream, name, bounds) or index_packets(container, stream, name, bounds)


def index_tables(
    file: BinaryIO, container: InputContainer, stream: av.VideoStream, name: str, bounds: MediaBounds
) -> StreamIndex | None:
    """Takes the index from the header of an MP4 or MOV file, in a hundredth of the time that its packets take.

    Returns:
        The same as `index_packets`, or None where the header does not state it: the file is cut, in fragments or edited, or the
        packets at its ends are not what the header says.
    """
    if not any(name in container.format.name.split(",") for name in FORMATS_WITH_FRAME_COUNT):
        return None
    num_samples = len(stream.index_entries)
    bounds.check("max_packets", num_samples, name, "the number of packets")
    found = sample_times(file, stream.id, num_samples) if num_samples == stream.frames else None
    if found is None:
        return None
    offsets, last_duration = found
    numbers = chain.from_iterable((one.timestamp, one.pos, one.size, one.flags) for one in stream.index_entries)
    decoded, places, sizes, flags = np.fromiter(numbers, np.int64, 4 * num_samples).reshape(num_samples, 4).T
    here, size = file.tell(), file.seek(0, os.SEEK_END)
    file.seek(here)
    if sizes.min() < 1 or (places + sizes).max() > size or (flags & ~KEYFRAME_FLAG).any():
        return None
    is_keyframe = (flags & KEYFRAME_FLAG).astype(bool)
    pts = _confirmed(container, stream, decoded + offsets, places, is_keyframe)
    if pts is None:
        return None
    in_order = pts.tolist()
    order = dict(zip(in_order, range(1, num_samples + 1), strict=True))
    if len(order) < num_samples:  # two frames at one time
        return None
    last = int(pts.argmax())
    return StreamIndex(
        pts=sorted(in_order),
        keyframes=np.sort(pts[is_keyframe]).tolist(),
        order=order,
        last_duration=last_duration if last == num_samples - 1 else int(decoded[last + 1] - decoded[last]),
    )


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
    index, formats = StreamIndex(), container.format.name.split(",")
    if "avi" in formats and stream.codec_context.name in CODECS_WITHOUT_TIMES_IN_AVI:
        return index
    max_step = _max_clock_step(formats, stream)
    shown: dict[int, int] = {}  # pts -> duration
    last_is_corrupt, num_packets, last_pts = False, 0, 0
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
            if pts in index.order or (num_packets > 1 and abs(pts - last_pts) > max_step):
                return StreamIndex()  # parts with a clock each: only decoding shows the order of their frames
            index.order[pts] = num_packets
            last_pts = pts
            if packet.is_keyframe:
                index.keyframes.append(pts)
            if not packet.is_discard:
                shown[pts] = packet.duration or 0
    except VideoReadError:
        raise
    except READ_ERRORS as error:
        index.break_reason = f"the data ends: {reason(error)}"
    if last_is_corrupt:
        shown.pop(last_pts, None)
        index.order.pop(last_pts)
        index.keyframes = [pts for pts in index.keyframes if pts != last_pts]
        index.break_reason = "the last packet is incomplete"
    if any(name in formats for name in FORMATS_WITH_DURATION):
        index.break_reason = _missing_duration(container, stream, shown) or index.break_reason
    if any(name in formats for name in FORMATS_WITH_FRAME_COUNT) and stream.frames > num_packets:
        index.break_reason = f"the header promises {stream.frames} frames, {num_packets} are in the file"
    index.pts = sorted(shown)
    index.keyframes.sort()
    index.last_duration = shown[index.pts[-1]] if index.pts else 0
    return index


def _packets_alone(container: InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream; those of the others (sound, subtitles) are passed over without being copied."""
    for other in container.streams:
        other.discard = Discard.default if other.index == stream.index else Discard.all
    return demux(container, stream)


def _missing_duration(container: InputContainer, stream: av.VideoStream, shown: dict[int, int]) -> str | None:
    """How the header promises more than the packets give, None if it does not.

    Args:
        container: whose packets of `stream` were walked through.
        shown: duration of each frame by its pts.
    """
    promised = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
    end = max((pts + duration for pts, duration in shown.items()), default=0) * _ticks(stream)
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


def _ticks(stream: Stream) -> float:
    """Seconds of a stream's unit of time."""
    return float(fraction(stream.time_base) or 1)


def _max_clock_step(formats: list[str], stream: av.VideoStream) -> float:
    """Ticks between two packets of one clock."""
    if not any(name in formats for name in FORMATS_THAT_CHANGE_CLOCKS):
        return float("inf")
    return MAX_CLOCK_STEP / _ticks(stream)


def continuous_times(pts: list[int], max_step: Fraction | float) -> list[int] | None:
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
