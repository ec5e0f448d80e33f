"""What the packets of a video stream say about its frames, found without decoding."""

from dataclasses import dataclass, field

import av

from .pyav_hicom import READ_ERRORS, demux, reason

# Seconds by which the header of a Matroska or FLV file may promise more than its packets give before it counts as cut.
DURATION_TOLERANCE = 1.0
FORMATS_WITH_FRAME_COUNT = ("mov", "mp4")
FORMATS_WITH_DURATION = ("matroska", "webm", "flv")
# AVI stores no presentation times. FFmpeg guesses them, and for these codecs, whose frames are reordered, wrongly.
CODECS_WITHOUT_TIMES_IN_AVI = ("h264", "hevc")


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


def index_packets(container: av.container.InputContainer, stream: av.VideoStream) -> StreamIndex:
    """Walks through all packets without decoding; stops where the file breaks."""
    index, formats = StreamIndex(), container.format.name.split(",")
    if "avi" in formats and stream.codec_context.name in CODECS_WITHOUT_TIMES_IN_AVI:
        return index
    has_duration = any(name in formats for name in FORMATS_WITH_DURATION)
    shown: dict[int, int] = {}  # pts -> duration
    end, last_is_corrupt, num_packets = 0.0, False, 0
    try:
        for packet in demux(container, *(container.streams if has_duration else [stream])):
            if packet.dts is None and packet.pts is None and packet.size == 0:
                continue  # the request to flush at the end
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index:
                continue
            num_packets += 1
            last_is_corrupt = packet.is_corrupt
            if packet.pts is None:
                return StreamIndex()  # raw streams: no times here
            index.order[packet.pts] = num_packets
            last_pts = packet.pts
            if packet.is_keyframe:
                index.keyframes.append(packet.pts)
            if not packet.is_discard:
                shown[packet.pts] = packet.duration or 0
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
