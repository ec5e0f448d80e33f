"""From a video or image of a training item to its frames: one request for all, which a record may override for its own.

Letters: T frames, S image side in pixels.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ..processors.candidate_frames_hicom import scored_tiles
from ..processors.chat_content_hicom import FRAME_KEYS, with_own_frames
from ..processors.frame_sampling_hicom import FrameSampling
from ..processors.frame_selection_hicom import FrameSelection
from ..processors.frame_tiles_hicom import FrameTiles
from ..processors.media_access_hicom import OPEN_ACCESS, MediaAccess
from ..processors.tiled_video_hicom import ReadTiles, check_overview, cut_tiles
from ..processors.video_reading_hicom import OnDecodeError
from ..processors.video_sources_hicom import VideoReadError
from .bad_samples import BAD_RECORD, MISSING_MEDIA, UNREADABLE_MEDIA, SampleError
from .record_media import URL, Medium


class MediaReader:
    """Reads the videos and images of training items.

    Args:
        video_processor: a `HiComVideoProcessor`.
        sampling: which frames of videos whose record says nothing of their number; None: the processor's own request.
        on_decode_error: see `read_video`; None: the processor's own.
        media_access: which files and servers may be read, see `read_video`.
        selection: how a question chooses among these frames, for videos whose record says nothing of it; None: it sees all.
        tiles: as which squares frames are encoded, for videos and images whose record says nothing of it; None: padded.

    Raises:
        TypeError: `sampling` is no `FrameSampling`.
        ValueError: `tiles` wants the overview of a model that does not pad.

    Example:
        >>> reader = MediaReader(processor.video_processor, FrameSampling(num_frames=32))  # doctest: +SKIP
        >>> reader.frames(Medium("video", "cat.mp4")).shape  # doctest: +SKIP
        (32, 3, 384, 384)
    """

    def __init__(
        self,
        video_processor,
        sampling: FrameSampling | None = None,
        on_decode_error: OnDecodeError | None = None,
        media_access: MediaAccess = OPEN_ACCESS,
        selection: FrameSelection | None = None,
        tiles: FrameTiles | None = None,
    ):
        if sampling is not None and type(sampling).__name__ != FrameSampling.__name__:  # remote code has its own class
            raise TypeError(
                f"sampling must be a FrameSampling or None, got {type(sampling).__name__}; "
                "FrameSampling(num_frames=32), for example"
            )
        self.video_processor = video_processor
        self.sampling = video_processor.frame_sampling() if sampling is None else sampling
        self.on_decode_error = on_decode_error or video_processor.on_decode_error
        self.media_access = media_access
        if tiles is not None:
            check_overview(tiles, video_processor)
        self.selection, self.tiles = selection, tiles

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the frames of a medium, as plain values."""
        sampling = asdict(self.sampling)
        for name in ("indices", "min_frames"):  # so that what was kept before there were these stays valid
            if sampling[name] is None:
                del sampling[name]
        choices = {"selection": self.selection, "tiles": self.tiles and self.tiles.of_chosen()}
        return {
            "sampling": sampling,
            "on_decode_error": self.on_decode_error,
            "video_processor": self.video_processor.to_dict(),
            **{name: asdict(choice) for name, choice in choices.items() if choice is not None},
        }

    def selection_of(self, medium: Medium) -> FrameSelection | None:
        """How a question chooses among the frames of a medium; None where it sees all of them, or they are chosen."""
        if medium.kind == "image" or medium.indices is not None:
            return None
        return medium.selection or self.selection

    def tiles_of(self, medium: Medium) -> FrameTiles | None:
        """As which squares the frames of a medium are encoded; None where they are padded."""
        return medium.tiles or self.tiles

    def scored_tiles(self, medium: Medium) -> FrameTiles | None:
        """By which squares a question chooses among the frames of a medium; None where it does by padded frames."""
        return scored_tiles(self.selection_of(medium), self.tiles_of(medium))

    def request(self, medium: Medium) -> FrameSampling:
        """Which frames of a video are taken: what its record says comes before the request for all.

        Under a selection these are the candidates.
        """
        if medium.indices is not None:
            return FrameSampling(indices=medium.indices)
        own = {name: value for name in FRAME_KEYS if (value := getattr(medium, name)) is not None}
        own.pop("frame_rate", None)
        return FrameSampling(**with_own_frames(asdict(self.sampling), own))

    def most_frames(self, medium: Medium) -> int | None:
        """Frames that a medium gives at most, those that a question chooses where it does; None where only its length
        decides."""
        if medium.kind == "image":
            return 1
        if medium.indices is not None:
            return len(medium.indices)
        request = self.request(medium)
        counts = [count for count in (request.num_frames, request.max_frames) if isinstance(count, int)]
        selection = self.selection_of(medium)
        if selection is not None and selection.num_frames is not None:
            counts.append(selection.num_frames)
        return min(counts, default=None)

    def frames(self, medium: Medium) -> torch.Tensor:
        """Frames of a video or image before they are normalised, uint8 (T, 3, S, S), T = 1 for an image.

        Raises:
            SampleError: it is not there or cannot be read; the message names it.
        """
        with sample_errors(medium):
            if medium.kind == "image":
                frames = self.video_processor.square_images([medium.source], self.media_access)
            else:
                frames, _ = self.video_processor.square_frames(
                    medium.source,
                    self.request(medium),
                    on_decode_error=self.on_decode_error,
                    frame_rate=medium.frame_rate,
                    media_access=self.media_access,
                )
        return torch.from_numpy(frames).movedim(-1, 1)

    def squares(self, medium: Medium) -> ReadTiles:
        """Frames of a video or image as the squares that `tiles_of` asks for; an image is a video of one frame.

        Raises:
            SampleError: it is not there, cannot be read or makes too many squares, or the overview of a model that does not
                pad is wanted.
        """
        tiles = self.tiles_of(medium)
        assert tiles is not None  # the caller asks only then
        try:
            check_overview(tiles, self.video_processor)
        except ValueError as error:
            raise SampleError(media_name(medium), BAD_RECORD, f'"tiles": {error}') from error
        is_image = medium.kind == "image"

        def read(transform: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, Any]:
            return self.video_processor.square_frames(
                [medium.source] if is_image else medium.source,
                FrameSampling(num_frames="all") if is_image else self.request(medium),
                on_decode_error=self.on_decode_error,
                frame_rate=medium.frame_rate,
                transform=transform,
                media_access=self.media_access,
            )

        with sample_errors(medium):
            return cut_tiles(read, self.video_processor, tiles.of_chosen(), media_name(medium))

    def pixels(self, medium: Medium) -> torch.Tensor:
        """Pixels as the vision tower takes them, float32 (T, 3, S, S); errors as of `frames`."""
        return self.video_processor.normalised(self.frames(medium))


@contextmanager
def sample_errors(medium: Medium) -> Iterator[None]:
    """Turns errors of reading a medium into a `SampleError` that names it."""
    try:
        yield
    except (VideoReadError, OSError) as error:
        kind = MISSING_MEDIA if is_missing(medium) else UNREADABLE_MEDIA
        reason = str(error).removeprefix(f"{media_name(medium)}: ")
        raise SampleError(media_name(medium), kind, reason) from error


def is_missing(medium: Medium) -> bool:
    """Whether a medium is a path at which nothing is."""
    source = medium.source
    return isinstance(source, (str, os.PathLike)) and not URL.match(os.fspath(source)) and not os.path.exists(source)


def media_name(medium: Medium) -> str:
    """How messages call a medium: its path, or what it is."""
    if isinstance(medium.source, (str, os.PathLike)):
        return os.fspath(medium.source)
    return f"<{medium.kind} in memory>"
