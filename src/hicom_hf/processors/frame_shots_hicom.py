"""The shots of a video, and how well each fits what a question names: numbers in, numbers out.

`frame_selection_hicom.py` chooses by them. Letters: T candidates, P parts of a question, S shots, a frames per group of the
local branch.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

MAD_TO_DEVIATION = 1.4826  # of a normal distribution: standard deviation over median absolute deviation
# Our choices, measured in the shapes world (docs/long_video.md).
CUT_RATIO = 2.0
MAX_SHOT_FRAMES = 32
MIN_CHANGES_AROUND = 4  # on either side


class Standing(NamedTuple):
    """How the shots of a video fit one part of a question.

    Attributes:
        p_value: of the `count` best shots, see `outstanding`.
        count: how many shots stand out together.
        order: numbers of all shots, best first.
        prominence: of the best group.
        scores: of the frames, (T).
    """

    p_value: float
    count: int
    order: list[int]
    prominence: float
    scores: np.ndarray


def find_shots(
    changes: Sequence[float], min_frames: int, max_frames: int = MAX_SHOT_FRAMES, ratio: float = CUT_RATIO
) -> list[tuple[int, int]]:
    """Cut candidates into shots where more changes than usual.

    A cut lies where the change is over `ratio` times the median of those around it, `min_frames` on either side; so a restless
    shot beside calm ones is not cut to pieces. Stronger cuts come first; a cut that would leave a shot of less than `min_frames`
    is left out. Shots longer than `max_frames` are then cut into equal parts.

    Args:
        changes: how much each candidate but the first differs from the one before, (T - 1); see `frame_changes`.
        min_frames: least number of frames of a shot; a video with fewer is one shot.
        max_frames: greatest number, raised to twice `min_frames` less 1 where it is less, so that parts can be long enough.
        ratio: see above.

    Returns:
        (start, stop) of each shot, `stop` exclusive, covering all candidates in order.

    Example:
        >>> find_shots([0, 0, 0, 9, 0, 0, 0], min_frames=2)
        [(0, 4), (4, 8)]
    """
    steps = np.asarray(changes, dtype=float)
    strong = np.flatnonzero(steps > ratio * _median_around(steps, max(min_frames, MIN_CHANGES_AROUND))) + 1
    taken = np.zeros(len(steps) + 2, dtype=bool)
    taken[[0, -1]] = True
    for cut in strong[np.lexsort((strong, -steps[strong - 1]))].tolist():
        if not taken[max(cut - min_frames + 1, 0) : cut + min_frames].any():
            taken[cut] = True
    max_frames = max(max_frames, 2 * min_frames - 1)
    shots = []
    for start, stop in pairwise(np.flatnonzero(taken).tolist()):
        parts = -(-(stop - start) // max_frames)
        marks = [start + (stop - start) * part // parts for part in range(parts + 1)]
        shots += list(pairwise(marks))
    return shots


def _median_around(steps: np.ndarray, reach: int) -> np.ndarray:
    """The median of the `reach` values before and behind each value, fewer at the ends; that of a single value is itself."""
    if len(steps) < 2:
        return steps
    padded = np.pad(steps, reach, constant_values=np.nan)
    around = np.delete(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1), reach, axis=1)
    return np.nanmedian(around, axis=1)


def prominence(scores: Sequence[float] | np.ndarray) -> float:
    """By how many standard deviations the best score stands out, estimated by medians: (max - median) / (1.4826 MAD)."""
    values = np.asarray(scores, dtype=float)
    middle = np.median(values)
    spread = MAD_TO_DEVIATION * float(np.median(np.abs(values - middle)))
    above = float(values.max() - middle)
    return above / spread if spread else (float("inf") if above else 0.0)


def outstanding(scores: Sequence[float] | np.ndarray, most: int) -> tuple[float, int]:
    """Whether the best few of many scores are separate from the rest, however many there are.

    Above its median, a score's distribution falls about exponentially. Then the gaps between neighbours in the sorted list, the
    k-th times k, are independent and equally distributed; so the gap below the k best, over the mean of those behind it, has
    Fisher's distribution with 2 and 2 (m - k) degrees of freedom, m being the number of scores above the median. The k of least
    probability counts, times the number of k that were tried (Bonferroni).

    A threshold on the best score would be passed ever more often the longer a video is; this probability does not change.

    Args:
        scores: (S).
        most: the greatest k.

    Returns:
        The probability of such a gap where nothing fits, at most 1; and k.

    Source: A. Renyi, On the theory of order statistics (1953), for the gaps.

    Example:
        >>> outstanding([9.0, 8.8, 1.0, 0.9, 0.8, 0.6, 0.5, 0.4, 0.2, 0.1], 2)[1]
        2
    """
    falling = np.sort(np.asarray(scores, dtype=float))[::-1]
    num_above = len(falling) // 2
    most = min(most, num_above - 1)
    gaps = (falling[:num_above] - falling[1 : num_above + 1]) * np.arange(1, num_above + 1)
    best = (1.0, 1)
    for k in range(1, most + 1):
        rest, freedom = float(gaps[k:].mean()), num_above - k
        ratio = float(gaps[k - 1]) / rest if rest > 0 else float("inf") if gaps[k - 1] > 0 else 0.0
        probability = (1 + ratio / freedom) ** -freedom
        best = min(best, (min(1.0, most * probability), k))
    return best


def group_scores(scores: np.ndarray, group_length: int) -> np.ndarray:
    """The frame that fits least, of each `group_length` consecutive ones: (T) -> (T - a + 1), by their first frame."""
    count = len(scores) - group_length + 1
    return np.minimum.reduce([scores[place : place + count] for place in range(group_length)])


def shot_scores(groups: np.ndarray, shots: Sequence[tuple[int, int]], group_length: int) -> np.ndarray:
    """The best group of each shot: `group_scores` -> (S). A group belongs to the shot of its middle."""
    firsts = [max(start - group_length // 2, 0) for start, _ in shots]
    return np.maximum.reduceat(groups, firsts)


def standings_of(
    rows: np.ndarray, shots: Sequence[tuple[int, int]], group_length: int, num_groups: int
) -> list[Standing]:
    """The standing of each part: scores (P, T) -> P; `num_groups` is the most shots that may stand out together."""
    found = []
    for row in rows:
        groups = group_scores(row, group_length)
        scores = shot_scores(groups, shots, group_length)
        order = np.argsort(-scores, kind="stable").tolist()
        found.append(Standing(*outstanding(scores, num_groups), order, prominence(groups), row))
    return found


def fit_of_frames(found: Sequence[Standing]) -> np.ndarray:
    """One score per frame, (T): that of a single part as it is; of several that of the best, on a scale where the median of
    each part is 0 and its best frame 1."""
    if len(found) == 1:
        return found[0].scores
    middles = [float(np.median(one.scores)) for one in found]
    heights = [
        (one.scores - middle) / (float(one.scores.max() - middle) or 1.0)  # a part may have one and the same score
        for one, middle in zip(found, middles, strict=True)
    ]
    return np.max(heights, axis=0)
