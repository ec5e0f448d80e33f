"""Reads still and animated images with Pillow, which knows how long each picture of an animation is shown."""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from .media_bounds_hicom import MediaBounds
from .picture_settings_hicom import PictureSettings
from .source_names_hicom import VideoReadError
from .video_sources_hicom import PILLOW_ERRORS, rgb_from_pil

PILLOW_FORMATS = ("BMP", "GIF", "ICO", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "AVIF")
MOTION_JPEG_SUFFIXES = (".mjpeg", ".mjpg")  # JPEGs one behind the other; Pillow would see the first one only
# A JPEG photo with a preview or a second view behind it, as cameras and phones write them: only the first one is the picture.
PHOTO_FORMAT = "MPO"
DEFAULT_PICTURE_DURATION = 0.1  # seconds; what browsers use when an animation states none
LONGEST_IGNORED_DELAY = 0.01  # seconds; browsers treat such a delay as a mistake


def open_pictures(file: BinaryIO, name: str) -> Image.Image | None:
    """Opens a still or animated image, None if the file is none that Pillow reads.

    Raises:
        VideoReadError: it is one, and damaged, or larger than Pillow opens.
    """
    try:
        if name.lower().endswith(MOTION_JPEG_SUFFIXES):
            return None
        return Image.open(file, formats=PILLOW_FORMATS)
    except Image.DecompressionBombError as error:
        raise VideoReadError(f"{name}: the picture is too large ({error})") from error
    except (OSError, SyntaxError):  # no image, or one that is left to FFmpeg
        return None
    except PILLOW_ERRORS as error:
        raise VideoReadError(f"{name}: the image cannot be opened ({error}); it may be incomplete") from error


class AnimationReader:
    """A GIF, an animated WebP or PNG, or a still image, with Pillow; the attributes are those of `StreamReader`."""

    stream_index = None
    rotation = 0

    def __init__(self, image: Image.Image, name: str, bounds: MediaBounds, settings: PictureSettings):
        self.settings = settings
        self.image = image
        self.name = name
        self.failure: str | None = None
        self.warnings: list[str] = []
        self.times: list[float] = []
        now = 0.0
        num_pixels = image.width * image.height
        bounds.check("max_pixels", num_pixels, name, "the number of pixels")
        self.num_promised = self._count()
        bounds.check("max_pictures", self.num_promised, name, "the number of pictures")
        bounds.check(
            "max_animation_pixels", self.num_promised * num_pixels, name, "the number of pixels of all pictures"
        )
        for index in range(self.num_promised):
            if not self._go_to(index):
                break
            self.times.append(now)
            # Animations write 0 for "unknown".
            delay = (self.image.info.get("duration") or 0) / 1000 or DEFAULT_PICTURE_DURATION
            is_short = settings.browser_delays and delay <= LONGEST_IGNORED_DELAY
            now += DEFAULT_PICTURE_DURATION if is_short else delay
        self.num_readable = len(self.times)
        if not self.times:
            raise VideoReadError(f"{name}: no picture of the {image.format} file can be decoded ({self.failure})")
        self.duration = now if self.num_promised > 1 else None
        self.frame_rate = len(self.times) / now if self.num_promised > 1 else None

    def read(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        """Yields (index, frame) for each index, which must ascend; None for a frame that cannot be decoded."""
        first_shape = None
        for index in indices:
            if not self._go_to(index):
                yield index, None
                continue
            frame = rgb_from_pil(self.image, self.name, self.settings)
            first_shape = first_shape or frame.shape
            if frame.shape != first_shape:
                raise VideoReadError(
                    f"{self.name}: picture {index} is {frame.shape[1]}x{frame.shape[0]} (width x height), the first one is "
                    f"{first_shape[1]}x{first_shape[0]}; pass the pictures one by one as images"
                )
            yield index, frame

    def _count(self) -> int:
        if self.image.format == PHOTO_FORMAT:
            return 1
        try:
            return getattr(self.image, "n_frames", 1)
        except PILLOW_ERRORS as error:
            self.failure = f"the frames cannot be counted: {error}"
            return 1

    def _go_to(self, index: int) -> bool:
        try:
            self.image.seek(index)
            self.image.load()
        except PILLOW_ERRORS as error:
            self.failure = self.failure or f"decoding fails: {error}"
            return False
        return True
