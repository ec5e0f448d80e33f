"""Which frames show something new, by the similarity of their vectors.

Letters: n frames, D width of a vector.
"""

from typing import Literal

import numpy as np

COMPARED = (
    1000  # frames of a video whose similarities are looked at in pairs; ten hours at one per second would take 20 GB
)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, D) of length 1, float32."""
    vectors = vectors.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def find_keyframes(
    vectors: np.ndarray, threshold: float, rule: Literal["all", "last"] = "all"
) -> tuple[list[int], list[float]]:
    """Frames that are less similar than `threshold` to the keyframes before; the first one always.

    Args:
        vectors: (n, D).
        threshold: a cosine.
        rule: "all" keyframes before, or the "last" one.

    Returns:
        Their numbers, and of each frame its greatest similarity to the keyframes it was compared with (-1 for the first).

    Source: ShareGPT4Video compares with the last keyframe. `Differs:` "all" lets a scene that returns count once, which is what
    the paper drops such clips for ("redundant with repeat semantics").

    Example:
        >>> find_keyframes(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), 0.5)[0]
        [0, 1]
        >>> find_keyframes(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), 0.5, "last")[0]
        [0, 1, 2]
    """
    vectors = unit(vectors)
    kept: list[int] = []
    similarities: list[float] = []
    for index, vector in enumerate(vectors):
        compared = kept if rule == "all" else kept[-1:]
        similarity = float((vectors[compared] @ vector).max()) if compared else -1.0
        similarities.append(similarity)
        if similarity < threshold:
            kept.append(index)
    return kept, similarities


def similarity_quantiles(
    vectors: np.ndarray, shot_of_frame: np.ndarray, quantiles: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)
) -> dict[str, list[float]]:
    """Similarity of two frames of one shot, and of two shots: a threshold of keyframes lies between them.

    Args:
        vectors: (n, D). Of more than `COMPARED`, so many are taken, spread evenly.
        shot_of_frame: int (n,).
        quantiles: which.
    """
    if len(vectors) > COMPARED:
        places = np.linspace(0, len(vectors) - 1, COMPARED).round().astype(int)
        vectors, shot_of_frame = vectors[places], shot_of_frame[places]
    vectors = unit(vectors)
    first, second = np.triu_indices(len(vectors), 1)
    similarity = (vectors @ vectors.T)[first, second]
    same = shot_of_frame[first] == shot_of_frame[second]
    found = {}
    for name, chosen in (("within a shot", same), ("between shots", ~same)):
        values = similarity[chosen]
        found[name] = [] if not len(values) else [float(value) for value in np.quantile(values, quantiles)]
    return found
