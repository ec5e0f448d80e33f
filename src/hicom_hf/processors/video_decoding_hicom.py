"""Reads chosen frames of a video file with PyAV: index the packets, seek to keyframes, decode only what is needed.

`pts` are presentation timestamps in the stream's own whole-number unit; times are seconds from the first frame.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import BinaryIO

import av
import numpy as np

from .video_sources_hicom import VideoReadError

# Frames. Decoding up to this many unneeded frames is cheaper than a seek, which empties the decoder's pipeline.
MIN_SEEK_DISTANCE = 16
# Seconds by which the header of a Matroska or FLV file may promise more than its packets give before it counts as cut.
DURATION_TOLERANCE = 1.0
FORMATS_WITH_FRAME_COUNT = ("mov", "mp4")
FORMATS_WITH_DURATION = ("matroska", "webm", "flv")
# AVI stores no presentation times. FFmpeg guesses them, and for these codecs, whose frames are reordered, wrongly.
CODECS_WITHOUT_TIMES_IN_AVI = ("h264", "hevc")
# In these codecs a frame marked as "no reference" is one that no other frame is predicted from.
CODECS_WITH_SKIPPABLE_FRAMES = ("h264", "mpeg2video")
# Containers and raw streams of video, by FFmpeg's names. Its other formats are not video that people bring, and some are unsafe
# on files of strangers: "tty" draws any text as a film, "concat", "hls" and "dash" are lists of other files.
VIDEO_FORMATS = (
    "3g2,3gp,apv,asf,av1,avi,avs2,avs3,cavsvideo,dirac,dnxhd,dv,evc,flv,gxf,h261,h263,h264,hevc,ivf,live_flv,lxf,m4v,matroska,"
    "mjpeg,mov,mp4,mpeg,mpegts,mpegtsraw,mpegvideo,mpjpeg,mxf,nut,nuv,obu,ogg,pva,rm,swf,vc1,vvc,webm,wtv,yuv4mpegpipe"
)
# Read as well, so that the error about a file without a video stream can say so.
AUDIO_FORMATS = "aac,ac3,aiff,amr,flac,mp3,wav"
# Pictures that Pillow does not read; one is a video of one frame.
IMAGE_FORMATS = "apng,exr_pipe,j2k_pipe,jpegls_pipe,jpegxl_anim,jpegxl_pipe,jpeg_pipe,png_pipe,webp_pipe"
# Data comes through a file object, so FFmpeg itself has nothing to open: a playlist cannot make it read other files.
OPEN_OPTIONS = {
    "protocol_whitelist": "none",
    "format_whitelist": f"{VIDEO_FORMATS},{AUDIO_FORMATS},{IMAGE_FORMATS}",
}
IO_BUFFER_SIZE = 2**18  # bytes
FIXED_POINT_ONE = 2**16  # the display matrix holds 16.16 fixed-point numbers


class TimesChangedError(Exception):
    """The decoder does not give the frames that the packets promise; the reader has new times, so choose again."""


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


class StreamReader:
    """One video stream of a file: its times at construction, then any of its frames.

    Args:
        file: seekable binary file; stays open.
        name: what messages call it.

    Attributes:
        times: seconds of each frame from the first one, ascending, T of them.
        duration: seconds until the last frame leaves the screen.
        frame_rate: average frames per second, None for a single frame.
        stream_index: number of the stream in the file.
        rotation: degrees clockwise that turn the stored picture upright: 0, 90, 180 or 270.
        failure: why frames are missing, None while none are.
        num_readable: number of leading frames that can be read, as far as known.
        num_promised: number of frames that the file promises.
        warnings: what else was noticed.

    Raises:
        VideoReadError: not a video file, no video stream, or no frame in it.
    """

    def __init__(self, file: BinaryIO, name: str):
        self.file = file
        self.name = name
        self.warnings: list[str] = []
        self.failure: str | None = None
        self.rotation = 0
        self._size: tuple[int, int] | None = None  # (width, height) as stored
        self._linear = False
        self._num_damaged = 0
        self._container: av.container.InputContainer | None = None
        with self._open() as container:
            self.stream_index = self._choose_stream(container)
            stream = container.streams[self.stream_index]
            self._time_base = stream.time_base
            self._guessed_rate = stream.guessed_rate
            self._index = _index_packets(container, stream)
            self.num_promised = len(self._index.pts)
            if self._index.break_reason is not None:
                self.num_promised = max(self.num_promised, stream.frames)
            self._can_skip = stream.codec_context.name in CODECS_WITH_SKIPPABLE_FRAMES
        if not self._index.pts:
            self._index_by_decoding()
        else:
            self._set_times(self._index.pts)
        self.failure = self.failure or self._index.break_reason
        self.num_readable = len(self.times)

    def read(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        """Decodes frames.

        Args:
            indices: into `times`, ascending, each once.

        Yields:
            (index, upright RGB frame uint8 (height, width, 3)), or (index, None) for a frame lost to a decoding error,
            which `failure` describes.

        Raises:
            TimesChangedError: the file does not hold the frames that its packets promise; `times` are new.
        """
        targets = deque(indices)
        self._restart()
        try:
            while targets:
                try:
                    yield from self._read_run(targets)
                except (av.FFmpegError, UnicodeError) as error:
                    if self._can_skip:  # once more with every frame, to know exactly how far the file can be read
                        self._can_skip = False
                        continue
                    self._record_failure(error)
                    for index in self._lost_targets(targets):
                        yield index, None
        finally:
            self._container.close()
        if self._num_damaged:
            self.warnings.append(f"the decoder marked {self._num_damaged} of the frames as damaged")

    def _read_run(self, targets: deque[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        """Decodes from the keyframe before the first target up to where a seek is better; takes targets off."""
        self._position = -1  # index of the last frame that came out
        for frame in self._frames_from(targets):
            position = self._position + 1 if self._linear else bisect_left(self._index.pts, frame.pts)
            if position > targets[0]:
                break
            self._position = position
            if position < targets[0] or (not self._linear and frame.pts != self._index.pts[position]):
                continue
            yield targets[0], self._upright_rgb(frame)
            targets.popleft()
            if not targets or self._should_seek(position, targets[0]):
                return
        # The stream ended or went past the target without giving it: the packets do not tell which frames there are.
        self._index_by_decoding()
        raise TimesChangedError

    def _restart(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container = self._open()
        self._container.streams[self.stream_index].thread_type = "AUTO"
        self._at_start = True

    def _frames_from(self, targets: deque[int]) -> Iterator[av.VideoFrame]:
        """Frames in order of presentation, from the last keyframe at or before the first target."""
        first = None if self._linear else self._seek_before(targets[0])
        if first is None and not self._at_start:
            self._restart()
        self._at_start = False
        stream = self._container.streams[self.stream_index]
        if self._linear:
            yield from _decode(self._container, stream)
            return
        wanted = {self._index.pts[target] for target in targets}
        for packet in chain([] if first is None else [first], _demux(self._container, stream)):
            if packet.pts is not None and packet.pts not in self._index.order:
                continue  # the incomplete last packet of a truncated file
            if self._can_skip:  # what nobody wants and no frame is predicted from need not be decoded
                stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            yield from packet.decode()

    def _seek_before(self, target: int) -> av.Packet | None:
        """Seeks to the last keyframe at or before the target; returns the packet there, None for the very start."""
        stream = self._container.streams[self.stream_index]
        place = bisect_right(self._index.keyframes, self._index.pts[target]) - 1
        while place > 0:
            keyframe = self._index.keyframes[place]
            self._container.seek(keyframe, stream=stream)
            self._at_start = False
            first = next(_demux(self._container, stream), None)
            order = self._index.order
            if first is not None and first.pts in order and order[first.pts] <= order[keyframe]:
                return first
            place -= 1  # landed behind the keyframe: aim for an earlier one
        return None

    def _should_seek(self, position: int, target: int) -> bool:
        if self._linear:
            return False
        place = bisect_right(self._index.keyframes, self._index.pts[target]) - 1
        return place > 0 and bisect_left(self._index.pts, self._index.keyframes[place]) - position > MIN_SEEK_DISTANCE

    def _lost_targets(self, targets: deque[int]) -> list[int]:
        """Takes off and returns the targets up to the next keyframe: the error makes them unreadable."""
        if self._linear:
            lost = list(targets)
        else:
            place = bisect_right(self._index.keyframes, self._index.pts[targets[0]])
            stop = self._index.keyframes[place] if place < len(self._index.keyframes) else float("inf")
            lost = [target for target in targets if self._index.pts[target] < stop]
        for _ in lost:
            targets.popleft()
        return lost

    def _record_failure(self, error: Exception) -> None:
        if self.failure is None or self._position + 1 < self.num_readable:
            self.num_readable = self._position + 1
        if self.failure is None:
            self.failure = f"decoding fails: {_reason(error)}"

    def _upright_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        if self._size is None:
            self._size = (frame.width, frame.height)
            self._orientation = _orientation(frame)
            self.rotation = -self._orientation[0] * 90 % 360
            self._note_first_frame(frame)
        elif self._size != (frame.width, frame.height):
            text = f"the picture size changes within the stream; frames were scaled to {self._size[0]}x{self._size[1]}"
            if text not in self.warnings:
                self.warnings.append(text)
        self._num_damaged += frame.is_corrupt
        width, height = self._size
        # One thread: a frame would keep the scaler's threads, and a forked process that collects it would wait for them.
        image = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)
        num_turns, mirrored = self._orientation
        image = image[:, ::-1] if mirrored else image
        return np.ascontiguousarray(np.rot90(image, num_turns))

    def _note_first_frame(self, frame: av.VideoFrame) -> None:
        matrix = _display_matrix(frame)
        if matrix is not None and not all(abs(x) in (0, FIXED_POINT_ONE) for x in (matrix[:2, :2]).flat):
            self.warnings.append(f"the display matrix is not a right angle; it was turned by {self.rotation} degrees")

    def _index_by_decoding(self) -> None:
        """Takes the times from the decoded frames: slow, but right where packets have no times or hide frames."""
        pts, self._linear = [], True
        with self._open() as container:
            stream = container.streams[self.stream_index]
            stream.thread_type = "AUTO"
            try:
                for frame in _decode(container, stream):
                    pts.append(frame.pts)
            except (av.FFmpegError, UnicodeError) as error:
                self._index.break_reason = self.failure = f"decoding fails: {_reason(error)}"
        if not pts:
            reason = f" ({self.failure})" if self.failure else ""
            raise VideoReadError(f"{self.name}: no frame of the video stream can be decoded{reason}")
        if None in pts or any(late <= early for early, late in pairwise(pts)):
            rate = self._guessed_rate or 25
            self.warnings.append(f"the file states no frame times; {float(rate):g} frames per second are assumed")
            self._time_base = 1 / rate
            pts = list(range(len(pts)))
        else:
            self.warnings.append("the packets do not tell the frame times; the whole stream was decoded to find them")
        self._set_times(pts)
        self.num_readable = len(pts)
        self.num_promised = len(pts) if self.failure is None else max(len(pts), self.num_promised)

    def _set_times(self, pts: list[int]) -> None:
        self.times = [float((value - pts[0]) * self._time_base) for value in pts]
        mean_interval = self.times[-1] / (len(pts) - 1) if len(pts) > 1 else 0.0
        last = float(self._index.last_duration * self._time_base) if not self._linear else mean_interval
        self.duration = self.times[-1] + (last or mean_interval)
        self.frame_rate = 1 / mean_interval if mean_interval else None

    def _open(self) -> av.container.InputContainer:
        self.file.seek(0)
        try:
            return av.open(self.file, "r", options=OPEN_OPTIONS, metadata_errors="replace", buffer_size=IO_BUFFER_SIZE)
        except av.FFmpegError as error:
            raise VideoReadError(
                f"{self.name}: this is not a video file that FFmpeg can read ({_reason(error)}); "
                "it may be incomplete or of another type than its name says"
            ) from error

    def _choose_stream(self, container: av.container.InputContainer) -> int:
        pictures = av.stream.Disposition.attached_pic  # cover art of a music file
        streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
        if not streams:
            kinds = ", ".join(stream.type or "unknown" for stream in container.streams) or "none"
            raise VideoReadError(f"{self.name}: the file has no video stream (its streams: {kinds}); pass a video")
        streams = [stream for stream in streams if stream.codec_context is not None]
        if not streams:
            raise VideoReadError(f"{self.name}: FFmpeg has no decoder for the video stream; convert it to H.264")
        best = container.streams.best("video")
        if best in streams:
            return best.index
        return max(streams, key=lambda stream: stream.width * stream.height).index


def _demux(container: av.container.InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
    try:
        yield from container.demux(*streams)
    except IndexError:  # PyAV's, behind the last packet, if a damaged file seemed to open a new stream on the way
        return


def _decode(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    for packet in _demux(container, stream):
        yield from packet.decode()


def _index_packets(container: av.container.InputContainer, stream: av.VideoStream) -> StreamIndex:
    """Walks through all packets without decoding; stops where the file breaks."""
    index, formats = StreamIndex(), container.format.name.split(",")
    if "avi" in formats and stream.codec_context.name in CODECS_WITHOUT_TIMES_IN_AVI:
        return index
    has_duration = any(name in formats for name in FORMATS_WITH_DURATION)
    shown: dict[int, int] = {}  # pts -> duration
    end, last_is_corrupt, num_packets = 0.0, False, 0
    try:
        for packet in _demux(container, *(container.streams if has_duration else [stream])):
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
    except av.FFmpegError as error:
        index.break_reason = f"the data ends: {_reason(error)}"
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


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    for side_data in frame.side_data:
        if side_data.type == av.sidedata.sidedata.Type.DISPLAYMATRIX:
            return np.frombuffer(bytes(side_data), dtype=np.int32).reshape(3, 3)
    return None


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """(quarter turns counter-clockwise, mirror left-right before) that make the stored picture upright."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return 0, False
    (a, b), (c, d) = matrix[:2, :2].tolist()
    mirrored = a * d - b * c < 0
    if mirrored:  # x' = a x + c y, y' = b x + d y: mirroring first changes the sign of what x is multiplied with
        a, b = -a, -b
    # The picture's x axis goes to (a, b), with y downwards.
    return round(np.degrees(np.arctan2(-b, a)) / 90) % 4, mirrored


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
