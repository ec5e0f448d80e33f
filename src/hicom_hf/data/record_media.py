"""A record of a data set, and its videos and images: what is read, which frames, what questions choose. Opens nothing."""

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from ..processors.chat_content_hicom import frame_options
from ..processors.frame_sampling_hicom import from_fields
from ..processors.frame_selection_hicom import FrameSelection
from ..processors.frame_tiles_hicom import FrameTiles
from .bad_samples import BAD_RECORD, SampleError

MEDIA_KEYS: dict[Literal["video", "image"], tuple[str, ...]] = {
    "video": ("video", "videos"),
    "image": ("image", "images"),
}
URL = re.compile(r"[a-z][a-z0-9+.-]*://", flags=re.IGNORECASE)


@dataclass(frozen=True)
class Record:
    """One entry of a data set.

    Attributes:
        data: the entry.
        source: file and record, for messages.
        media_root: folder that relative paths of its videos and images start from; None for the current one.
        open_media: called with "video" or "image" and the path or content that the record gives; returns what is read
            instead, where media are no files on a disk.
    """

    data: Mapping[str, Any]
    source: str
    media_root: str | None = None
    open_media: Callable[[str, Any], Any] | None = None


class Medium(NamedTuple):
    """A video or an image of an item.

    Attributes:
        kind: "video" or "image".
        source: absolute path, URL, bytes or anything else that the video processor reads.
        start, end: seconds of a video that are used, None for its own.
        frame_rate: frames per second of a folder or list of frames, if they have a clock.
        num_frames, fps, max_frames: frames sampled from a video, in place of the data set's own setting; None keeps that
            setting.
        selection: how a question chooses among these frames, in place of the data set's own setting.
        indices: numbers of the frames that are read, once they are chosen; then nothing else is said of the frames.
        tiles: as which squares the frames are encoded, among whose patches a question chooses, in place of the data set's own
            setting.
    """

    kind: Literal["video", "image"]
    source: Any
    start: float | None = None
    end: float | None = None
    frame_rate: float | None = None
    num_frames: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    selection: FrameSelection | None = None
    indices: tuple[int, ...] | None = None
    tiles: FrameTiles | None = None


def same_medium(medium: Medium) -> tuple:
    """What two uses of the same medium have in common.

    Paths, bytes and lists of them (frames) are compared. Other contents in memory are distinguished by identity, so they must
    live as long as what is returned.
    """
    return (medium.kind, _same_source(medium.source), *medium[2:])


def _same_source(source: Any) -> Any:
    if isinstance(source, (list, tuple)):  # read anew from JSON each time, so its identity says nothing
        return tuple(map(_same_source, source))
    return source if isinstance(source, (str, bytes)) else id(source)


def record_media(record: Record) -> dict[str, list[Medium]]:
    """Videos and images that the record itself names, in order."""
    media = {}
    for kind, keys in MEDIA_KEYS.items():
        sources = []
        for key in keys:
            value = record.data.get(key)
            if value is not None and value != "":
                sources.extend(value if isinstance(value, (list, tuple)) else [value])
        media[kind] = [medium_of(kind, source, record.data, record) for source in sources]
    return media


def medium_of(kind: Literal["video", "image"], source: Any, options: Mapping, record: Record) -> Medium:
    """A medium with its source resolved; `options` may say which frames of a video are taken."""
    if isinstance(source, Mapping):  # as `datasets` stores undecoded files
        source = source.get("bytes") or source.get("path")
    if source is None:
        raise SampleError(record.source, BAD_RECORD, f"a {kind} has neither a path nor content")
    if isinstance(source, (int, float)):
        raise SampleError(record.source, BAD_RECORD, f"a {kind} must be a path or content, got {source!r}")
    if isinstance(source, (str, os.PathLike)) and not URL.match(os.fspath(source)):
        # An absolute path stays as it is.
        source = os.path.join(record.media_root or "", os.fspath(source))
    if record.open_media is not None:
        source = record.open_media(kind, source)
    if kind == "image":
        return Medium(kind, source, tiles=_tiles(record))
    return Medium(kind, source, **_frames(options, record), selection=_selection(record), tiles=_tiles(record))


def _selection(record: Record) -> FrameSelection | None:
    """How the record asks for frames to be chosen."""
    return _choice(record, "selection", _budgeted, '{"num_frames": 8}')


def _tiles(record: Record) -> FrameTiles | None:
    """As which squares the record asks for frames to be seen."""
    return _choice(record, "tiles", partial(from_fields, FrameTiles), '{"zooms": [1]}')


def _budgeted(values: Mapping[str, Any]) -> FrameSelection:
    selection = from_fields(FrameSelection, values)
    if selection.num_frames is None:
        raise ValueError("its budget must be num_frames")
    return selection


def _choice(record: Record, key: str, make: Callable[[Mapping[str, Any]], Any], example: str) -> Any:
    """What a question is to choose among, as a key of the record says."""
    given = record.data.get(key)
    if given is None:
        return None
    try:
        if not isinstance(given, Mapping):
            raise TypeError(f"it must be a dictionary such as {example}")
        return make(given)
    except (TypeError, ValueError) as error:
        raise SampleError(record.source, BAD_RECORD, f'"{key}" {shortened(given)}: {error}') from error


def _frames(options: Mapping, record: Record) -> dict[str, Any]:
    """What is said of a video's frames, checked; what its part does not say of their number, the record may."""
    try:
        values = frame_options(options, "a video")
        if not {"num_frames", "fps"} & set(values):
            of_record = frame_options(record.data, "a record")
            values |= {name: of_record[name] for name in ("num_frames", "fps", "max_frames") if name in of_record}
    except ValueError as error:
        raise SampleError(record.source, BAD_RECORD, str(error)) from error
    for name, value in values.items():
        if name in ("num_frames", "max_frames"):
            is_fine, what = isinstance(value, int) and value >= 1, "a whole number of at least 1"
        else:
            is_fine = isinstance(value, (int, float)) and 0 <= value <= sys.float_info.max
            what = "a number of at least 0"
        if isinstance(value, bool) or not is_fine:
            raise SampleError(record.source, BAD_RECORD, f"{name} must be {what}, got {shortened(value)}")
        if value == 0 and name in ("frame_rate", "fps"):
            raise SampleError(record.source, BAD_RECORD, f"{name} must be above 0")
    start, end = values.get("start", 0), values.get("end")
    if end is not None and end <= start:
        raise SampleError(record.source, BAD_RECORD, f"end={end} s must be after start={start} s")
    if "num_frames" in values and "fps" in values:
        raise SampleError(record.source, BAD_RECORD, "a video has either num_frames or fps, not both")
    return values


def shortened(value: Any, length: int = 120) -> str:
    text = repr(dict(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= length else f"{text[:length]}..."
