"""A frame of any shape as a square of one size: padded, then resized; squares, or features, of several videos as one tensor."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image

PAD_VALUE = 127  # grey, in every channel; official release
ALIGNMENT = 64  # bytes; that of memory which torch allocates
BICUBIC = 3  # Pillow's number
TORCH_FILTERS = {2: "bilinear", BICUBIC: "bicubic"}  # by Pillow's number; the others have no counterpart in torch


def pad_to_square(frame: np.ndarray, value: int) -> np.ndarray:
    """Puts a frame in the centre of a square, half a pixel up or left where the margin is odd.

    Args:
        frame: uint8 (height, width, 3).
        value: 0 to 255, of the margin, in all channels.

    Returns:
        uint8 (side, side, 3), side being the larger of height and width.

    Source: official release, `image_aspect_ratio="pad"`.
    """
    height, width = frame.shape[:2]
    if height == width:
        return np.ascontiguousarray(frame)
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:top] = square[top + height :] = value
    square[top : top + height, :left] = square[top : top + height, left + width :] = value
    square[top : top + height, left : left + width] = frame
    return square


def resize_frame(frame: np.ndarray, height: int, width: int, resample: int | Literal["exact"] = BICUBIC) -> np.ndarray:
    """Resizes a frame with antialiasing.

    Bicubic and bilinear frames are resized by torch on uint8, whose result depends on neither the number of threads nor the
    processor's vector instructions. "exact" gives the bytes of the official release: bicubic by Pillow, horizontal pass
    first (Pillow 13 starts tall pictures with the vertical pass, and each pass rounds). Other filters are Pillow's as well.

    Differs: torch rounds the weights of its filters to 16 bits, the official release (Pillow) to 22. On frames of
    real videos, shrunk or enlarged, the two are within one grey level; of random pixels, 6 values of a million differ by two.

    Args:
        frame: uint8 (rows, columns, 3).
        height, width: of the result, in pixels.
        resample: Pillow's number of the filter, or "exact".

    Returns:
        uint8 (height, width, 3).
    """
    if frame.shape[:2] == (height, width):
        return frame
    if resample in TORCH_FILTERS:
        frame = np.require(frame, requirements=("C", "W"))  # torch warns about arrays that it must not write into
        pixels = torch.from_numpy(frame).movedim(-1, 0)[
            None
        ]  # (1, 3, rows, columns), channels last: torch's fast path
        filter_name = TORCH_FILTERS[resample]
        resized = torch.nn.functional.interpolate(pixels, size=(height, width), mode=filter_name, antialias=True)
        return np.ascontiguousarray(resized[0].movedim(0, -1).numpy())
    filter_number = BICUBIC if resample == "exact" else resample
    picture = Image.fromarray(frame)
    return np.asarray(picture.resize((width, picture.height), filter_number).resize((width, height), filter_number))


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors (n, ...) one behind the other. A single one is given as it is: copying 32 frames (57 MB) takes an eighth of
    the time from a file to tensors. One that begins between two multiples of `ALIGNMENT` (a file mapped into memory, say) is
    copied all the same: kernels of a CPU may round differently there."""
    if len(parts) == 1 and parts[0].data_ptr() % ALIGNMENT == 0:
        return parts[0]
    return torch.cat(list(parts))


def concatenated_features(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Features of several videos, `HiComVideoFeatures` each, as those of one batch; at least one."""
    return {name: joined([part[name] for part in parts]) for name in parts[0]}
