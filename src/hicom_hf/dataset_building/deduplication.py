"""Clips that show what another clip shows, by the vectors of their frames.

Letters: n clips, D width.
"""

import numpy as np

from .keyframes import unit

BLOCK = 2048  # clips that are compared with all kept ones at once


def clip_vector(times: np.ndarray, vectors: np.ndarray, start: float, end: float) -> np.ndarray:
    """The mean (D,) of the unit vectors of a clip's sampled frames; of the frame nearest to its middle if it has none."""
    inside = (times >= start) & (times < end)
    if not inside.any():
        inside = np.zeros(len(times), dtype=bool)
        inside[np.abs(times - (start + end) / 2).argmin()] = True
    return unit(vectors[inside]).mean(axis=0)


def find_duplicates(vectors: np.ndarray, threshold: float) -> dict[int, int]:
    """Which clips show what an earlier one shows.

    Args:
        vectors: (n, D).
        threshold: a cosine from which on two clips are the same.

    Returns:
        Number of each duplicate, and of the earlier clip that stays.

    Example:
        >>> find_duplicates(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), 0.99)
        {2: 0}
    """
    vectors = unit(vectors)
    kept: list[int] = []
    found: dict[int, int] = {}
    for first in range(0, len(vectors), BLOCK):
        block = vectors[first : first + BLOCK]
        known = list(kept)
        before = block @ vectors[known].T if known else np.full((len(block), 1), -1.0)
        within = block @ block.T
        for row in range(len(block)):
            if before[row].max() >= threshold:
                found[first + row] = known[int(before[row].argmax())]
                continue
            same = [number - first for number in kept if number >= first and within[row, number - first] >= threshold]
            if same:
                found[first + row] = first + same[0]
            else:
                kept.append(first + row)
    return found
