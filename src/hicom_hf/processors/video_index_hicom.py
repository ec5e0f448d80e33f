"""What the packets of a video stream say about its frames, found without decoding."""

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate, pairwise
from statistics import median_low

import av
from av.container import InputContainer

from .media_bounds_hicom import MediaBounds
from .pyav_hicom import READ_ERRORS, demux, reason
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


def index_packets(container: InputContainer, stream: av.VideoStream, name: str, bounds: MediaBounds) -> StreamIndex:
    """Walks through all packets without decoding; stops where the file breaks.

    Returns:
        What they say; without `pts` if they have no times, or not one clock for all of them.
    """
    index, formats = StreamIndex(), container.format.name.split(",")
    if "avi" in formats and stream.codec_context.name in CODECS_WITHOUT_TIMES_IN_AVI:
        return index
    has_duration = any(name in formats for name in FORMATS_WITH_DURATION)
    may_jump = any(name in formats for name in FORMATS_THAT_CHANGE_CLOCKS)
    shown: dict[int, int] = {}  # pts -> duration
    end, last_is_corrupt, num_packets, last_pts = 0.0, False, 0, 0
    try:
        for packet in demux(container, *(container.streams if has_duration else [stream])):
            if packet.dts is None and packet.pts is None and packet.size == 0:
                continue  # the request to flush at the end
            if has_duration and packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index:
                continue
            num_packets += 1
            bounds.check("max_packets", num_packets, name, "the number of packets")
            last_is_corrupt = packet.is_corrupt
            if packet.pts is None:
                return StreamIndex()  # raw streams: no times here
            if packet.pts in index.order or (may_jump and num_packets > 1 and _jumps(packet, last_pts)):
                return StreamIndex()  # parts with a clock each: only decoding tells the order of their frames
            index.order[packet.pts] = num_packets
            last_pts = packet.pts
            if packet.is_keyframe:
                index.keyframes.append(packet.pts)
            if not packet.is_discard:
                shown[packet.pts] = packet.duration or 0
    except VideoReadError:
        raise
    except READ_ERRORS as error:
        index.break_reason = f"the data ends: {reason(error)}"
    if last_is_corrupt:
        shown.pop(last_pts, None)
        index.order.pop(last_pts)
        index.keyframes = [pts for pts in index.keyframes if pts != last_pts]
        index.break_reason = "the last packet is incomplete"
    promised = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
    if has_duration and promised - end > DURATION_TOLERANCE:
        index.break_reason = f"the header promises {promised:.1f} s, the data end at {end:.1f} s"
    if any(name in formats for name in FORMATS_WITH_FRAME_COUNT) and stream.frames > num_packets:
        index.break_reason = f"the header promises {stream.frames} frames, {num_packets} are in the file"
    index.pts = sorted(shown)
    index.keyframes.sort()
    index.last_duration = shown[index.pts[-1]] if index.pts else 0
    return index


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


def _jumps(packet: av.Packet, last_pts: int) -> bool:
    assert packet.pts is not None  # asked before
    return abs(packet.pts - last_pts) * packet.time_base > MAX_CLOCK_STEP
