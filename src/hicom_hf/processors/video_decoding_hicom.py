"""Reads chosen frames of a video file with PyAV: index the packets, seek to keyframes, decode only what is needed.

`pts` are presentation timestamps in the stream's own whole-number unit; times are seconds from the first frame.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Generator, Iterator
from fractions import Fraction
from itertools import chain
from typing import BinaryIO, cast

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from .damage_hicom import container_damage
from .decoding_ahead_hicom import ahead
from .media_bounds_hicom import MediaBounds
from .picture_settings_hicom import PictureSettings, on_white
from .pyav_hicom import (
    FIXED_POINT_ONE,
    READ_ERRORS,
    StreamDecoder,
    converted,
    decode_past_errors,
    demux,
    display_matrix,
    fraction,
    open_container,
    orientation,
    reason,
)
from .skippable_frames_hicom import SkippableFrames
from .source_names_hicom import VideoReadError
from .video_index_hicom import (
    FORMATS_THAT_CHANGE_CLOCKS,
    INT64,
    MAX_CLOCK_STEP,
    StreamIndex,
    continuous_times,
    index_video,
)

# Frames. Decoding up to this many unneeded frames is cheaper than a seek, which empties the decoder's pipeline.
MIN_SEEK_DISTANCE = 16
# Frames that may be decoded before they are converted and resized, which happens in parallel.
FRAMES_AHEAD = 2
# Photos (HEIC, AVIF), whose picture may be cut into tiles that are a stream each.
TILED_BRANDS = ("avif", "avis", "heic", "heis", "heix", "mif1", "msf1")
# Decoders that output nothing before the first frame from which decoding can begin, which need not be a keyframe (intra
# refresh).
CODECS_THAT_CHECK_KEYFRAMES = ("h264",)

HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # by their number in ITU-T H.273
# Decoders conceal the errors that they can and report them only in a log that all threads share. With these flags they
# return the errors to the caller; the reader records the first one and continues without the flags.
STRICT_OPTIONS = {"err_detect": "crccheck+bitstream+buffer+explode"}


class TimesChangedError(Exception):
    """The decoder does not give the frames that the packets promise; the reader has new times, so choose again."""


class StreamReader:
    """One video stream of a file: its times at construction, then any of its frames.

    Args:
        file: seekable binary file; stays open.
        name: what messages call it.
        bounds: what it may cost.
        settings: pixel shape and transparency.
        max_side: frames are made smaller while they are converted so that no side is longer than this many pixels, which
            costs less than converting them whole; None for their own size.

    Attributes:
        times: seconds of each frame from the first one, ascending, T of them, an `array` of float64.
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

    def __init__(
        self, file: BinaryIO, name: str, bounds: MediaBounds, settings: PictureSettings, max_side: int | None = None
    ):
        self.settings = settings
        self.max_side = max_side
        self.bounds = bounds
        self.file = file
        self.name = name
        self.warnings: list[str] = []
        self.failure: str | None = None
        self.rotation = 0
        self._size: tuple[int, int] | None = None  # (width, height) as stored
        self._linear = False
        self._strict = True
        self._num_damaged = 0
        self._opened: InputContainer | None = None
        self._scaler = VideoReformatter()
        self._kept: InputContainer | None = None  # open since the index was found, for the first `read`
        container = self._open()
        try:
            self._examine(container)
        except BaseException:
            container.close()
            raise
        if self._index.is_from_tables:  # a second one would read the tables again, and hold them twice
            self._kept = container
        else:
            container.close()
        if not self._index.pts:
            self._index_by_decoding()
        else:
            self._set_times(self._index.pts)
        self.failure = self.failure or self._index.break_reason

    def _examine(self, container: InputContainer) -> None:
        """Chooses the stream and finds its index."""
        bounds, name = self.bounds, self.name
        self.stream_index = self._choose_stream(container)
        stream = self._stream(container)
        bounds.check("max_pixels", stream.width * stream.height, name, "the number of pixels")
        bounds.check("max_packets", stream.frames, name, "the number of frames")
        self._time_base = fraction(stream.time_base) or Fraction(1)  # seconds
        self._changes_clocks = any(name in FORMATS_THAT_CHANGE_CLOCKS for name in container.format.name.split(","))
        self._guessed_rate = fraction(stream.guessed_rate)
        shapes = (stream.sample_aspect_ratio, stream.codec_context.sample_aspect_ratio)
        self._pixel_shape = fraction(shapes[0]) or fraction(shapes[1]) or Fraction(1)
        self._index: StreamIndex = index_video(self.file, container, stream, name, bounds)
        self.num_promised = len(self._index.pts)
        if self._index.break_reason is not None:
            self.num_promised = max(self.num_promised, stream.frames)
        damage = container_damage(self.file, container.format.name.split(","), self._index.clusters_are_sound)
        if damage is not None:
            self.warnings.append(damage)
        self._checks_keyframes = stream.codec_context.name in CODECS_THAT_CHECK_KEYFRAMES
        self._skippable = SkippableFrames(stream.codec_context.name, stream.codec_context.extradata)

    def close(self) -> None:
        """Lets go of what the file was opened with, if nothing is going to be read; `read` does so itself."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

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
        decoded = self._decoded(deque(indices))
        for index, frame in decoded if len(indices) == 1 else ahead(decoded, FRAMES_AHEAD):
            yield index, None if frame is None else self._converted(index, frame)
        if self._num_damaged:
            self.warnings.append(f"the decoder marked {self._num_damaged} of the frames as damaged")

    def _decoded(self, targets: deque[int]) -> Generator[tuple[int, av.VideoFrame | None], None, None]:
        """The targets as they come from the decoder; None for lost ones."""
        if self._kept is None:
            self._restart()
        else:
            self._opened, self._kept, self._at_start = self._kept, None, False
            self._renew_decoder()
        try:
            while targets:
                try:
                    yield from self._read_run(targets)
                except VideoReadError:
                    raise
                except READ_ERRORS as error:
                    if self._strict:  # from here on as FFmpeg decodes by default: it conceals what is damaged
                        self._strict = False
                        self.warnings.append(f"the data are damaged ({reason(error)}); some frames may look wrong")
                        self._restart()
                        continue
                    if self._skippable.are_known:  # again with every frame, to find exactly how far it can be read
                        self._skippable.are_known = False
                        continue
                    self._record_failure(error)
                    for index in self._lost_targets(targets):
                        yield index, None
        finally:
            self._container.close()
            del self._decoder  # ends its threads; a forked process would wait for them if it had to

    def _read_run(self, targets: deque[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decodes from the keyframe before the first target up to where a seek is better; takes targets off."""
        self._position = -1  # index of the last frame that came out
        for frame in self._frames_from(targets):
            if self._falsely_marked(frame):
                return
            position = self._position + 1 if self._linear else bisect_left(self._index.pts, cast(int, frame.pts))
            if position > targets[0]:
                break
            self._position = position
            if position < targets[0] or (not self._linear and frame.pts != self._index.pts[position]):
                continue
            yield targets[0], frame
            targets.popleft()
            if not targets or self._should_seek(position, targets[0]):
                return
        if self._linear:  # damaged so that the decoder does not give all of its frames again
            raise ValueError("the decoder gives fewer frames than before")
        # The stream ended or went past the target without giving it: the packets do not state which frames there are.
        self._index_by_decoding()
        raise TimesChangedError

    def _falsely_marked(self, frame: av.VideoFrame) -> bool:
        """Whether a seek led to a packet that is marked as a keyframe and is none; then the marks are given up for good."""
        if not self._after_seek:
            return False
        self._after_seek = False
        if frame.key_frame or self._checks_keyframes:
            return False
        self._index.keyframes = array(INT64)
        self.warnings.append("the file marks frames as keyframes that are not; it was decoded from its beginning")
        return True

    def _stream(self, container: InputContainer) -> av.VideoStream:
        stream = container.streams[self.stream_index]
        assert isinstance(stream, av.VideoStream)  # `_choose_stream` takes no other
        return stream

    def _new_decoder(self, container: InputContainer, options: dict[str, str]) -> StreamDecoder:
        options = {"max_pixels": str(self.bounds.max_pixels), **options}
        return StreamDecoder(self._stream(container), options, self.settings.alpha_on_white)

    @property
    def _container(self) -> InputContainer:
        """What is being read; `_restart` opens it."""
        assert self._opened is not None
        return self._opened

    def _restart(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = self._open()
        self._at_start = True
        self._renew_decoder()

    def _renew_decoder(self) -> None:
        self._decoder = self._new_decoder(self._container, STRICT_OPTIONS if self._strict else {})
        self._after_seek = False
        self._is_unused = True

    def _frames_from(self, targets: deque[int]) -> Iterator[av.VideoFrame]:
        """Frames in order of presentation, from the last keyframe at or before the first target."""
        first = None if self._linear else self._seek_before(targets[0])
        if first is None and not self._at_start:
            self._restart()
        self._at_start = self._is_unused = False
        stream = self._stream(self._container)
        if self._linear and not self._strict:  # gives the frames that `_index_by_decoding` found
            yield from decode_past_errors(self._container, stream, self._decoder, [])
            return
        if self._linear:
            for packet in demux(self._container, stream):
                yield from self._decoder.decode(packet)
            return
        wanted = {self._index.pts[target] for target in targets}
        for packet in chain([] if first is None else [first], demux(self._container, stream)):
            if packet.pts is not None and self._index.place(packet.pts) is None:
                continue  # the incomplete last packet of a truncated file
            can_skip = self._skippable.can_skip(packet) and packet.pts not in wanted
            self._decoder.codec.skip_frame = "NONREF" if can_skip else "DEFAULT"
            yield from self._decoder.decode(packet)

    def _seek_before(self, target: int) -> av.Packet | None:
        """Seeks to the last keyframe at or before the target; returns the packet there, None if the file is to be read from its
        start."""
        stream = self._stream(self._container)
        place = bisect_right(self._index.keyframes, self._index.pts[target]) - 1
        # A container that was kept is at any place: by its tables, the first packet is found as well.
        is_kept = self._index.is_from_tables and self._is_unused and not self._at_start
        while place > 0 or (place == 0 and is_kept):
            self._container.seek(self._index.seek_times[place], stream=stream)
            self._decoder.codec.flush_buffers()
            self._at_start = False
            aimed = self._index.place(self._index.keyframes[place])
            first = self._first_keyframe(stream, aimed if place else 0)
            if first is not None:
                self._after_seek = place > 0
                return first
            place -= 1  # landed behind the keyframe: aim for an earlier one
        return None

    def _first_keyframe(self, stream: av.VideoStream, last: int | None) -> av.Packet | None:
        """The first packet from here on where decoding can begin; None if it or what comes before lies behind the packet that
        is number `last` of the file."""
        for packet in demux(self._container, stream):
            place = self._index.place(packet.pts)
            if place is None or last is None or place > last:
                return None
            if packet.is_keyframe:
                return packet
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
            self.failure = f"decoding fails: {reason(error)}"

    def _converted(self, index: int, frame: av.VideoFrame) -> np.ndarray | None:
        """The upright RGB frame, None if FFmpeg cannot convert what the decoder gave."""
        try:
            return self._upright_rgb(frame)
        except READ_ERRORS as error:
            self.num_readable = min(self.num_readable, index)
            self.failure = self.failure or f"decoding fails: {reason(error)}"
            return None

    def _upright_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        if self._size is None:
            self._size = (frame.width, frame.height)
            self._orientation = orientation(frame)
            self.rotation = -self._orientation[0] * 90 % 360
            self._note_first_frame(frame)
        elif self._size != (frame.width, frame.height):
            text = f"the picture size changes within the stream; frames were scaled to {self._size[0]}x{self._size[1]}"
            if text not in self.warnings:
                self.warnings.append(text)
        self._num_damaged += frame.is_corrupt
        width, height = self._shown_size()
        has_alpha = self.settings.alpha_on_white and any(part.is_alpha for part in frame.format.components)
        image = converted(frame, self._scaler, "rgba" if has_alpha else "rgb24", width, height)
        image = on_white(image) if has_alpha else image
        num_turns, mirrored = self._orientation
        image = image[:, ::-1] if mirrored else image
        return np.ascontiguousarray(np.rot90(image, num_turns))

    def _shown_size(self) -> tuple[int, int]:
        """(width, height) of the stored picture with square pixels, if the settings ask for that and the bounds allow it,
        and no side longer than `max_side`."""
        assert self._size is not None  # `_note_first_frame` comes first
        width, height = self._size
        square = max(1, round(width * self._pixel_shape))
        if self.settings.square_pixels and square * height <= self.bounds.max_pixels:
            width = square
        if self.max_side is None or max(width, height) <= self.max_side:
            return width, height
        ratio = self.max_side / max(width, height)
        return max(1, round(width * ratio)), max(1, round(height * ratio))

    def _note_first_frame(self, frame: av.VideoFrame) -> None:
        if frame.color_trc in HDR_TRANSFERS:
            self.warnings.append(
                f"the video is HDR ({HDR_TRANSFERS[frame.color_trc]}); it is shown without tone mapping"
            )
        matrix = display_matrix(frame)
        if matrix is not None and not all(abs(x) in (0, FIXED_POINT_ONE) for x in (matrix[:2, :2]).flat):
            self.warnings.append(f"the display matrix is not a right angle; it was turned by {self.rotation} degrees")

    def _index_by_decoding(self) -> None:
        """Takes the times from the decoded frames: slow, but right where packets have no times or hide frames."""
        pts, errors, num_readable, self._linear = [], [], 0, True
        with self._open() as container:
            stream, decoder = self._stream(container), self._new_decoder(container, {})
            for frame in decode_past_errors(container, stream, decoder, errors):
                pts.append(frame.pts)
                num_readable += not errors
        if errors:
            self._index.break_reason = self.failure = f"decoding fails: {errors[0]}"
        if not pts:
            why = f" ({self.failure})" if self.failure else ""
            raise VideoReadError(f"{self.name}: no frame of the video stream can be decoded{why}")
        one_clock = None if None in pts else pts
        if one_clock is not None:
            one_clock = continuous_times(
                pts, MAX_CLOCK_STEP / self._time_base if self._changes_clocks else float("inf")
            )
        if one_clock is None:
            rate = self._guessed_rate or Fraction(25)
            self.warnings.append(f"the file states no frame times; {float(rate):g} frames per second are assumed")
            self._time_base = 1 / rate
            pts = list(range(len(pts)))
        elif one_clock is not pts:
            self.warnings.append("the file's clock restarts or jumps; its parts are put one behind the other")
            pts = one_clock
        else:
            self.warnings.append("the packets do not tell the frame times; the whole stream was decoded to find them")
        self._set_times(array(INT64, pts))
        self.num_readable = num_readable
        self.num_promised = len(pts) if self.failure is None else max(len(pts), self.num_promised)

    def _set_times(self, pts: "array[int]") -> None:
        # As float(Fraction), which is slow for a million frames: Python rounds the quotient of whole numbers once.
        ticks, first = self._time_base.as_integer_ratio(), pts[0]
        self.times = array("d", ((value - first) * ticks[0] / ticks[1] for value in pts))
        mean_interval = self.times[-1] / (len(pts) - 1) if len(pts) > 1 else 0.0
        last = float(self._index.last_duration * self._time_base) if not self._linear else mean_interval
        self.duration = self.times[-1] + (last or mean_interval)
        self.frame_rate = 1 / mean_interval if mean_interval else None
        self.num_readable = len(pts)

    def _open(self) -> InputContainer:
        try:
            return open_container(self.file, {"max_pixels": str(self.bounds.max_pixels)})
        except READ_ERRORS as error:
            raise VideoReadError(
                f"{self.name}: this is not a video file that FFmpeg can read ({reason(error)}); "
                "it may be incomplete or of another type than its name says"
            ) from error

    def _choose_stream(self, container: InputContainer) -> int:
        pictures = Disposition.attached_pic  # cover art of a music file
        streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
        if not streams:
            kinds = ", ".join(stream.type or "unknown" for stream in container.streams) or "none"
            raise VideoReadError(f"{self.name}: the file has no video stream (its streams: {kinds}); pass a video")
        streams = [stream for stream in streams if stream.codec_context is not None]
        if not streams:
            raise VideoReadError(f"{self.name}: FFmpeg has no decoder for the video stream; convert it to H.264")
        best = container.streams.best("video")
        if best not in streams:
            best = max(streams, key=lambda stream: stream.width * stream.height)
        if best.disposition & Disposition.dependent and container.metadata.get("major_brand") in TILED_BRANDS:
            raise VideoReadError(
                f"{self.name}: the photo is made of tiles, which cannot be joined here; save it as JPEG or PNG"
            )
        return best.index
