"""Reads the frames that a request asks for, from any source, with a record of what was taken.

Letters: T frames. Frames are uint8 RGB (T, height, width, 3), upright; times are seconds from the first frame.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import torch

from .animation_reading_hicom import AnimationReader, open_pictures
from .decoder_objects_hicom import DecoderReader, is_decord, is_torchcodec
from .frame_sampling_hicom import FrameSampling, num_requested, select_frames
from .media_access_hicom import OPEN_ACCESS, MediaAccess
from .media_bounds_hicom import DEFAULT_BOUNDS, MediaBounds
from .picture_settings_hicom import DEFAULT_SETTINGS, PictureSettings
from .source_names_hicom import VideoReadError, source_name, url_scheme
from .video_decoding_hicom import StreamReader, TimesChangedError
from .video_sources_hicom import (
    as_uint8_frames,
    list_frame_files,
    load_image,
    local_path,
    open_binary,
)

OnDecodeError = Literal["raise", "keep"]
KEEP_HINT = 'on_decode_error="keep" goes on with the frames that can be read'


@dataclass
class SamplingRecord:
    """What was taken from a video.

    Attributes:
        source: path, URL, or what it was in angle brackets.
        indices: number of each returned frame in the video, in order of presentation.
        times: seconds of each returned frame from the first frame of the video; empty for frames without a clock.
        num_source_frames: frames that the video has.
        duration: seconds, None without a clock.
        frame_rate: average frames per second, None without a clock or with a single frame.
        stream_index: number of the video stream in its file, None if it is not a stream.
        rotation: degrees clockwise by which the stored picture was turned to be upright: 0, 90, 180 or 270.
        height: pixels of the upright picture, before any transform.
        width: likewise.
        requested_frames: number of frames asked for, None for "every frame".
        fewer_than_requested: whether fewer different frames than asked for were there.
        warnings: what was noticed while reading.
        settings: pixel shape, transparency and delays that were read with.
    """

    source: str
    indices: list[int]
    times: list[float]
    num_source_frames: int
    duration: float | None
    frame_rate: float | None
    stream_index: int | None
    rotation: int
    height: int
    width: int
    requested_frames: int | None
    fewer_than_requested: bool
    warnings: list[str] = field(default_factory=list)
    settings: PictureSettings | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values that json can write."""
        return asdict(self)


def check_on_decode_error(value: str) -> None:
    """Refuse what is no `OnDecodeError`; raises ValueError."""
    if value not in get_args(OnDecodeError):
        raise ValueError(f'on_decode_error must be "raise" or "keep", got {value!r}')


def read_video(
    source: Any,
    sampling: FrameSampling,
    *,
    on_decode_error: OnDecodeError = "raise",
    frame_rate: float | None = None,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
    bounds: MediaBounds = DEFAULT_BOUNDS,
    settings: PictureSettings = DEFAULT_SETTINGS,
    media_access: MediaAccess = OPEN_ACCESS,
    on_chosen: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, SamplingRecord]:
    """Reads the frames that a request asks for.

    At most the chosen frames and one more are in memory at a time.

    Args:
        source: path of a video, animation, image or folder of images; http(s), file or data URL; bytes; binary file object;
            {"bytes", "path"} as the library datasets gives it; uint8 array or tensor (T, height, width, 3) or
            (T, 3, height, width); list of images (PIL, array, tensor, path); a decoder of torchcodec or decord.
        sampling: the request.
        on_decode_error: for a file that breaks after some frames: "raise", or "keep" those that can be read.
        frame_rate: frames per second of a source that has no clock (folder, array, list); only for those.
        transform: applied to each upright frame (height, width, 3) as it is read, so that large frames need not be
            held together; all results must have the same shape.
        bounds: what the source may cost.
        settings: pixel shape, transparency and delays.
        media_access: which files and servers may be read; `MediaAccess.guarded()` for sources that strangers name.
        on_chosen: called with the number of different frames before the first is read, which may be more than a broken file
            gives; again where the file's times turn out to be wrong and it is read again.

    Returns:
        uint8 array (T, height, width, 3), or what `transform` made of each frame, stacked; and the record.

    Raises:
        VideoReadError: the source cannot be read, or does not hold what was asked for.
        TypeError: the source, `bounds` or `media_access` is of no known type.
        ValueError: `on_decode_error` or `frame_rate` is not one of the allowed values.

    Example:
        >>> frames, record = read_video("cooking.mp4", FrameSampling(num_frames=8))  # doctest: +SKIP
        >>> frames.shape, record.times[:2]  # doctest: +SKIP
        ((8, 360, 640, 3), [0.633, 1.9])
    """
    check_on_decode_error(on_decode_error)
    if frame_rate is not None and not 0 < frame_rate < float("inf"):
        raise ValueError(f"frame_rate must be above 0 frames per second and finite, got {frame_rate!r}")
    if not isinstance(bounds, MediaBounds) or not isinstance(media_access, MediaAccess):
        raise TypeError(
            f"bounds are a MediaBounds and media_access a MediaAccess, got {bounds!r} and {media_access!r}"
        )
    file = reader = None
    try:
        if _is_frames(source, media_access):
            reader = FramesReader(source, frame_rate, media_access, bounds, settings)
        elif frame_rate is not None:
            raise VideoReadError(
                f"{source_name(source)}: frame_rate={frame_rate:g} is for frames without a clock, "
                "and this source has its own times; leave it out"
            )
        elif is_torchcodec(source) or is_decord(source):
            reader = DecoderReader(source, bounds)
        else:
            file = open_binary(source, media_access)
            reader = _open_reader(file, source_name(source), bounds, settings)
        frames, record = _read(reader, sampling, on_decode_error == "keep", transform, bounds, on_chosen)
        record.settings = settings
        return frames, record
    finally:
        if isinstance(reader, StreamReader):
            reader.close()
        if file is not None and file is not source:
            file.close()


class FramesReader:
    """Frames that exist one by one: a folder of images, an array, or a list of images.

    The attributes are those of `StreamReader`. Without `frame_rate` there are no times.
    """

    stream_index = failure = None
    rotation = 0

    def __init__(
        self,
        source: Any,
        frame_rate: float | None,
        access: MediaAccess,
        bounds: MediaBounds = DEFAULT_BOUNDS,
        settings: PictureSettings = DEFAULT_SETTINGS,
    ):
        self.name, self.access, self.bounds, self.settings = source_name(source), access, bounds, settings
        if isinstance(source, (np.ndarray, torch.Tensor)):
            self.items: Sequence[Any] | np.ndarray = as_uint8_frames(source, self.name, num_axes=4)
        else:
            self.items = source if isinstance(source, (list, tuple)) else list_frame_files(local_path(source, access))
        if len(self.items) == 0:
            raise VideoReadError(f"{self.name}: the list of frames is empty; pass at least one image")
        self.frame_rate = frame_rate
        self.times = None if frame_rate is None else [index / frame_rate for index in range(len(self.items))]
        self.duration = None if frame_rate is None else len(self.items) / frame_rate
        self.num_readable = self.num_promised = len(self.items)
        self.warnings: list[str] = []

    def read(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        """Yields (index, frame) for each index, which must ascend."""
        first_shape = None
        for index in indices:
            item = self.items[index]
            name = source_name(item) if isinstance(item, (str, os.PathLike)) else f"{self.name}[{index}]"
            frame = load_image(item, name, self.access, self.bounds, self.settings)
            first_shape = first_shape or frame.shape
            if frame.shape != first_shape:
                raise VideoReadError(
                    f"{name}: this frame is {frame.shape[1]}x{frame.shape[0]} (width x height), the first one is "
                    f"{first_shape[1]}x{first_shape[0]}; the frames of a video must have one size"
                )
            yield index, frame


Reader = FramesReader | DecoderReader | AnimationReader | StreamReader


def _is_frames(source: Any, access: MediaAccess) -> bool:
    if isinstance(source, (np.ndarray, torch.Tensor, list, tuple)):
        return True
    if not isinstance(source, (str, os.PathLike)) or url_scheme(source) not in (None, "file"):
        return False
    return os.path.isdir(local_path(source, access))


def _open_reader(
    file: BinaryIO, name: str, bounds: MediaBounds, settings: PictureSettings
) -> AnimationReader | StreamReader:
    image = open_pictures(file, name)
    return (
        StreamReader(file, name, bounds, settings) if image is None else AnimationReader(image, name, bounds, settings)
    )


def _read(
    reader: Reader,
    sampling: FrameSampling,
    keep: bool,
    transform: Callable[[np.ndarray], np.ndarray] | None,
    bounds: MediaBounds,
    on_chosen: Callable[[int], None] | None,
) -> tuple[np.ndarray, SamplingRecord]:
    """Chooses and reads; again if the decoder shows that the packets gave wrong times."""
    try:
        indices, requested = _choose(reader, sampling, keep)
        frames, kept, size = _collect(reader, indices, keep, transform, bounds, on_chosen)
    except TimesChangedError:
        indices, requested = _choose(reader, sampling, keep)
        frames, kept, size = _collect(reader, indices, keep, transform, bounds, on_chosen)
    warnings = list(reader.warnings)
    if reader.failure is not None and (kept != indices or _reaches_the_break(reader, sampling)):
        warnings.append(f"{_breaks_after(reader)}; {len(kept)} of {len(indices)} chosen frames were read")
    if reader.times is not None and sampling.end is not None and sampling.end > (reader.duration or 0) + 1e-3:
        warnings.append(f"end={sampling.end:g} s is after the end of the video, {reader.duration or 0:.3f} s")
    record = SamplingRecord(
        source=reader.name,
        indices=kept,
        times=[] if reader.times is None else [reader.times[index] for index in kept],
        num_source_frames=reader.num_promised,
        duration=reader.duration,
        frame_rate=reader.frame_rate,
        stream_index=reader.stream_index,
        rotation=reader.rotation,
        height=size[0],
        width=size[1],
        requested_frames=requested,
        fewer_than_requested=requested is not None and len(set(kept)) < requested,
        warnings=warnings,
    )
    return frames, record


def _choose(reader: Reader, sampling: FrameSampling, keep: bool) -> tuple[list[int], int | None]:
    """Indices that the request chooses, and how many it asks for."""
    times = reader.times
    if times is None:
        if sampling.needs_clock:
            raise VideoReadError(
                f"{reader.name}: fps, start and end need times, and frames in memory or in a folder have none; "
                "pass frame_rate (their frames per second), or use num_frames"
            )
        times = range(reader.num_promised)
    if not keep and reader.failure is not None and _reaches_the_break(reader, sampling):
        raise VideoReadError(f"{reader.name}: {_breaks_after(reader)}. {KEEP_HINT}")
    try:
        return select_frames(times, sampling), num_requested(times, sampling)
    except ValueError as error:
        raise VideoReadError(f"{reader.name}: {error}") from error


def _collect(
    reader: Reader,
    indices: list[int],
    keep: bool,
    transform: Callable[[np.ndarray], np.ndarray] | None,
    bounds: MediaBounds,
    on_chosen: Callable[[int], None] | None,
) -> tuple[np.ndarray, list[int], tuple[int, int]]:
    """Reads each index once. Returns the frames, the indices that could be read, and (height, width)."""
    if reader.duration is not None:
        bounds.check("max_seconds", math.ceil(reader.duration), reader.name, "the length in seconds")
    unique = list(dict.fromkeys(indices))
    if on_chosen is not None:
        on_chosen(len(unique))
    stack, places, size = None, {}, (0, 0)
    for index, frame in reader.read(unique):
        if frame is None:
            if not keep:
                raise VideoReadError(
                    f"{reader.name}: {_breaks_after(reader)}; {len(places)} of the {len(unique)} chosen frames were "
                    f"read before. {KEEP_HINT}"
                )
            continue
        size = frame.shape[:2]
        result = frame if transform is None else transform(frame)
        if stack is None:
            bounds.check(
                "max_result_bytes", len(indices) * result.nbytes, reader.name, "the number of bytes of all frames"
            )
            stack = np.empty((len(unique), *result.shape), dtype=result.dtype)
        stack[len(places)] = result
        places[index] = len(places)
    if stack is None:
        raise VideoReadError(f"{reader.name}: {_breaks_after(reader)}; none of the chosen frames can be read")
    kept = [index for index in indices if index in places]
    if kept == unique:
        return stack, kept, size
    return stack[[places[index] for index in kept]], kept, size


def _reaches_the_break(reader: Reader, sampling: FrameSampling) -> bool:
    """Whether the request covers the point at which the file breaks."""
    if sampling.indices is not None:
        return sampling.indices[-1] >= reader.num_readable
    if sampling.end is None or reader.num_readable == 0 or reader.times is None:
        return True
    return sampling.end > reader.times[reader.num_readable - 1]


def _breaks_after(reader: Reader) -> str:
    promised = f" of {reader.num_promised}" if reader.num_promised > reader.num_readable else ""
    return f"the file breaks after {reader.num_readable}{promised} frames ({reader.failure})"
