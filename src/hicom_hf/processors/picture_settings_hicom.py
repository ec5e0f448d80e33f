"""How stored pictures become the pictures that people see: pixel shape, transparency, delays of animations."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PictureSettings:
    """What the reader does beyond decoding. All on is what players show; all off is what the official release reads.

    Attributes:
        square_pixels: a video whose pixels are not square is made wider or narrower until they are.
        alpha_on_white: transparent pixels are put on white; otherwise the hidden colours show.
        browser_delays: delays of an animation of at most 10 ms count as 100 ms, as in browsers.
    """

    square_pixels: bool = True
    alpha_on_white: bool = True
    browser_delays: bool = True


DEFAULT_SETTINGS = PictureSettings()


def on_white(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGBA (height, width, 4) on a white ground, uint8 RGB (height, width, 3), rounded to the nearest value."""
    colours, alpha = pixels[..., :3].astype(np.uint16), pixels[..., 3:].astype(np.uint16)
    return ((colours * alpha + (255 - alpha) * 255 + 127) // 255).astype(np.uint8)
