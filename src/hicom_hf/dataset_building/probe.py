"""The videos of a build, and what their files say before anything is decoded."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..processors.media_bounds_hicom import MediaBounds
from ..processors.picture_settings_hicom import PictureSettings
from ..processors.video_decoding_hicom import StreamReader
from .settings import VIDEO_SUFFIXES

ID_LENGTH = 16  # hexadecimal digits
ID = re.compile(f"[0-9a-f]{{{ID_LENGTH}}}")


@dataclass(frozen=True)
class SourceVideo:
    """A video file of a build.

    Attributes:
        id: of its path relative to the media root, and its size: a file that was changed is another video.
        path: where it lies.
        relative: its path in the result; absolute without a media root. Bytes of it that are no UTF-8 are written as "\\xe9".
        num_bytes: size.
    """

    id: str
    path: str
    relative: str
    num_bytes: int


def find_videos(sources: Sequence[str], media_root: str | None) -> list[SourceVideo]:
    """Files, and the videos of folders, each once, in the order of their paths.

    Raises:
        FileNotFoundError: one of the sources does not exist, or there is no video in them.
    """
    paths: set[Path] = set()
    for source in sources:
        path = Path(source)
        if path.is_dir():
            paths |= {found for found in path.rglob("*") if found.suffix.lower() in VIDEO_SUFFIXES and found.is_file()}
        elif path.is_file():
            paths.add(path)
        else:
            raise FileNotFoundError(f"videos: {source} does not exist")
    if not paths:
        raise FileNotFoundError(f"videos: no video in {', '.join(sources)}; looked for {', '.join(VIDEO_SUFFIXES)}")
    return [_source(path, media_root) for path in sorted(paths)]


def _source(path: Path, media_root: str | None) -> SourceVideo:
    relative = path.resolve().as_posix() if media_root is None else Path(os.path.relpath(path, media_root)).as_posix()
    num_bytes = path.stat().st_size
    name = hashlib.sha256(os.fsencode(f"{relative}\0{num_bytes}")).hexdigest()[:ID_LENGTH]
    return SourceVideo(name, str(path), os.fsencode(relative).decode("utf-8", "backslashreplace"), num_bytes)


def probe(video: SourceVideo) -> dict[str, Any]:
    """What a file says of itself: its packets are read, nothing is decoded unless they state no times.

    Raises:
        VideoReadError: it is not a video.
        ValueError: no record can name it.
    """
    if any("\udc80" <= sign <= "\udcff" for sign in video.path):  # how Python holds bytes that are no UTF-8
        raise ValueError(f"the name of {video.relative} is not UTF-8, so no record can name it; rename the file")
    with open(video.path, "rb") as file:
        reader = StreamReader(file, video.path, MediaBounds(), PictureSettings())
        reader.close()
    return {
        "path": video.relative,
        "num_bytes": video.num_bytes,
        "duration": reader.duration,
        "num_frames": len(reader.times),
        "frame_rate": reader.frame_rate,
        "failure": reader.failure,
        "warnings": reader.warnings,
    }
