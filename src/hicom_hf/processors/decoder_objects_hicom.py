"""Frames from decoder objects of other libraries: torchcodec's `VideoDecoder` (what `datasets.Video` gives) and decord's
`VideoReader`. They are known by their methods, so that neither library is needed.

Letters: T frames. Frames are uint8 RGB (height, width, 3).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .media_bounds_hicom import MediaBounds
from .source_names_hicom import VideoReadError, source_name
from .video_sources_hicom import as_uint8_frames

# What these libraries raise on damaged data.
DECODER_ERRORS = (RuntimeError, OSError, ValueError, IndexError)


def is_torchcodec(source: Any) -> bool:
    """Whether an object decodes as `torchcodec.decoders.VideoDecoder` does."""
    return callable(getattr(source, "get_frame_at", None)) and hasattr(source, "metadata")


def is_decord(source: Any) -> bool:
    """Whether an object decodes as `decord.VideoReader` does."""
    return callable(getattr(source, "get_avg_fps", None)) and callable(getattr(source, "get_batch", None))


class DecoderReader:
    """Frames of a decoder object, which has opened its file itself; the attributes are those of `StreamReader`."""

    stream_index = failure = None
    rotation = 0

    def __init__(self, decoder: Any, bounds: MediaBounds):
        self.decoder, self.name = decoder, source_name(decoder)
        self.warnings: list[str] = []
        try:
            num_frames = len(decoder)
            rate = decoder.metadata.average_fps if is_torchcodec(decoder) else decoder.get_avg_fps()
        except DECODER_ERRORS as error:
            raise VideoReadError(f"{self.name}: the decoder does not state its number of frames ({error})") from error
        if num_frames < 1 or not rate or rate <= 0:
            raise VideoReadError(f"{self.name}: the decoder has {num_frames} frames at {rate} frames per second")
        bounds.check("max_packets", num_frames, self.name, "the number of frames")
        self.frame_rate = float(rate)
        self.times = [index / self.frame_rate for index in range(num_frames)]
        self.duration = num_frames / self.frame_rate
        self.num_readable = self.num_promised = num_frames

    def read(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        """Yields (index, frame) for each index; None for a frame that the decoder does not give."""
        for index in indices:
            try:
                frame = self._frame(index)
            except DECODER_ERRORS as error:
                self.num_readable = min(self.num_readable, index)
                self.failure = self.failure or f"its decoder fails: {error}"
                yield index, None
                continue
            yield index, as_uint8_frames(frame, f"{self.name}[{index}]", num_axes=3)

    def _frame(self, index: int) -> Any:
        if is_torchcodec(self.decoder):
            return self.decoder.get_frame_at(index).data
        frame = self.decoder[index]
        return frame if isinstance(frame, (np.ndarray, torch.Tensor)) else frame.asnumpy()
