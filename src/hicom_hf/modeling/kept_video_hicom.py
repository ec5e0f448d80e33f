"""What the compressor computes of a video alone, kept from the second question about it on.

Letters: T frames, H/W patch rows and columns, D vision width, G groups, K patches per group, N = T * H * W patches.
"""

import weakref
from dataclasses import dataclass
from typing import Protocol

import torch

from .compressor_hicom import HiComCompressor, HiComVideoParts

MAX_KEPT_BYTES = 512 * 2**20  # 150 frames of so400m in bf16; longer videos are prepared for each question


class HiComMemoryBound(Protocol):
    """Who keeps features of videos within a number of bytes, and counts these parts with them."""

    def make_room(self, needed: int) -> bool:
        """Whether so many bytes may be kept; drops what was used least recently for it."""
        ...


@dataclass(frozen=True)
class _Kept:
    features: "weakref.ref[torch.Tensor]"
    version: int
    parts: HiComVideoParts | None  # None after the first question

    def is_of(self, features: torch.Tensor) -> bool:
        return self.features() is features and self.version == features._version


class HiComKeptVideo:
    """The parts of the last video, for the next question about it: a fifth of the compressor's time on a CPU.

    A single question about a video costs no memory; from the second one on, twice that of its features, for one video at a time.
    Features are known by the tensor itself. They are computed anew where gradients are wanted, where the tensor was written to
    or may have been (inference tensors do not count that).
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None  # replaced as a whole: threads may ask at once
        self._bound: weakref.ref[HiComMemoryBound] | None = None

    @property
    def num_bytes(self) -> int:
        """Of the parts that are kept."""
        parts = None if self._kept is None else self._kept.parts
        return 0 if parts is None else _num_bytes(parts)

    def count_in(self, bound: HiComMemoryBound) -> None:
        """Keep parts only within this bound, for as long as its owner exists; the last call counts."""
        self._bound = weakref.ref(bound)

    def drop(self) -> None:
        """Forget the parts; the next question computes them."""
        self._kept = None

    def parts_of(self, compressor: HiComCompressor, features: torch.Tensor) -> HiComVideoParts | None:
        """The parts of a video, or None if the compressor is to compute them.

        Args:
            features: (T, H, W, D), the caller's own tensor, on the compressor's device and in its type.
        """
        if torch.is_grad_enabled() or features.is_inference() or features.is_meta:
            return None
        if 2 * features.nbytes > MAX_KEPT_BYTES:
            return None
        kept = self._kept
        if kept is None or not kept.is_of(features):
            self._kept = _Kept(weakref.ref(features, self._forget), features._version, None)
            return None
        if kept.parts is None:
            parts = compressor.video_parts(features[None])
            bound = None if self._bound is None else self._bound()
            if bound is not None and not bound.make_room(_num_bytes(parts)):
                return parts
            kept = _Kept(kept.features, kept.version, parts)
            self._kept = kept
        return kept.parts

    def _forget(self, features: "weakref.ref[torch.Tensor]") -> None:
        kept = self._kept
        if kept is not None and kept.features is features:
            self._kept = None

    def __deepcopy__(self, memo: dict) -> "HiComKeptVideo":
        return HiComKeptVideo()

    def __reduce__(self) -> tuple:
        return HiComKeptVideo, ()


def _num_bytes(parts: HiComVideoParts) -> int:
    return sum(part.nbytes for part in (parts.members, parts.keys) if part is not None)
