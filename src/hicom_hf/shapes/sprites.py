"""Shapes and textures as anti-aliased masks, at any size and any quarter of a pixel.

Whether a point belongs to an object is decided in the object's own coordinates: x to the right, y down, both from -1 to 1.
"""

from functools import lru_cache

import numpy as np

SUBSAMPLES = 4  # per pixel and axis; positions and radii are whole multiples of 1 / SUBSAMPLES pixel
FULL_COVER = SUBSAMPLES**2
OUTLINE = 0.24  # width of a hollow object's line
STRIPE_PERIOD = 0.72
DOT_PITCH, DOT_RADIUS, DOT_RIM = 0.62, 0.21, 0.1  # holes on a lattice; none cuts the edge


@lru_cache(maxsize=8192)
def sprite_cover(shape: str, texture: str, radius: int, right: int, down: int) -> np.ndarray:
    """How much of each pixel an object covers.

    Args:
        shape, texture: names.
        radius: quarters of a pixel.
        right, down: place of the object's centre inside the middle pixel, quarters of a pixel, 0 to 3.

    Returns:
        int32 (side, side), 0 to `FULL_COVER`; side is odd and the middle pixel holds the centre. Do not change it.
    """
    reach = -(-radius // SUBSAMPLES) + 1  # pixels on either side of the middle one
    points = np.arange(-reach * SUBSAMPLES, (reach + 1) * SUBSAMPLES) + 0.5
    x, y = ((points - right) / radius)[None, :], ((points - down) / radius)[:, None]
    depth = _outside(shape, x, y)
    inside = (depth <= 0) & _drawn(texture, depth, x, y)
    side = 2 * reach + 1
    return inside.reshape(side, SUBSAMPLES, side, SUBSAMPLES).sum(axis=(1, 3), dtype=np.int32)


def _outside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the shape's edge, negative inside; only operations that every machine rounds alike."""
    wide, high = np.abs(x), np.abs(y)
    if shape == "circle":
        return np.sqrt(x * x + y * y) - 0.94
    if shape == "square":
        return np.maximum(wide, high) - 0.82
    if shape == "triangle":  # tip (0, -0.95), base from (-0.98, 0.75) to (0.98, 0.75)
        return np.maximum(y - 0.75, (wide * 1.7 - (y + 0.95) * 0.98) / 1.9622)
    if shape == "diamond":
        return (wide + high - 1.0) * 0.7071
    if shape == "cross":
        return np.maximum(np.maximum(wide, high) - 0.94, np.minimum(wide, high) - 0.4)
    if shape == "moon":
        hole = np.sqrt((x - 0.56) * (x - 0.56) + y * y)
        return np.maximum(np.sqrt(x * x + y * y) - 0.95, 0.7 - hole)
    raise ValueError(f"unknown shape {shape!r}")


def _drawn(texture: str, depth: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where inside the shape a texture puts colour."""
    if texture == "solid":
        return np.ones_like(depth, dtype=bool)
    if texture == "hollow":
        return depth >= -OUTLINE
    if texture == "striped":
        return np.broadcast_to(np.abs(_from_nearest(y, STRIPE_PERIOD)) < STRIPE_PERIOD / 4, depth.shape)
    if texture == "dotted":
        across, down = _from_nearest(x, DOT_PITCH), _from_nearest(y, DOT_PITCH)
        return (across * across + down * down > DOT_RADIUS * DOT_RADIUS) | (depth >= -DOT_RIM)
    raise ValueError(f"unknown texture {texture!r}")


def _from_nearest(value: np.ndarray, pitch: float) -> np.ndarray:
    """Signed distance to the nearest multiple of `pitch`."""
    return value - pitch * np.floor(value / pitch + 0.5)
