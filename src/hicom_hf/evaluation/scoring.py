"""Scores with intervals that respect that the questions of one video belong together.

Letters: V videos, K groups of questions (categories), R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95  # of the interval
HIGHEST_POINTS = 5  # of a judge
SEED = 0  # of the resamples: the same answers have the same interval


@dataclass(frozen=True)
class Score:
    """A mean with its interval.

    Attributes:
        mean: of the questions, or of the groups' means.
        low, high: interval of 95 %; equal to the mean where there is a single video.
        num_questions, num_videos: that it was measured on.
    """

    mean: float
    low: float
    high: float
    num_questions: int
    num_videos: int


def score_answers(
    values: Sequence[float], videos: Sequence[str], groups: Sequence[str] | None = None, resamples: int = RESAMPLES
) -> Score:
    """The mean of what was measured per question, with a cluster bootstrap over videos.

    Videos are drawn with replacement, each with all its questions. With one question per video this is the usual bootstrap.

    Args:
        values: one per question: 0 or 1 for accuracy, a judge's points, or differences of two runs.
        videos: the video of each question.
        groups: the group of each question, where the score is the mean of the groups' means (MLVU); None for the mean of all.
        resamples: R.

    Raises:
        ValueError: there are no questions, or lists of different lengths.

    Example:
        >>> score_answers([1, 1, 0, 1], ["a", "a", "b", "b"]).mean
        0.75
    """
    if not len(values):
        raise ValueError("there are no answers to score")
    group_names = groups if groups is not None else [""] * len(values)
    rows, num_videos = _numbers(videos)
    columns, num_groups = _numbers(group_names)
    sums, counts = np.zeros((2, num_videos, num_groups))  # (V, K)
    np.add.at(sums, (rows, columns), np.asarray(values, dtype=float))
    np.add.at(counts, (rows, columns), 1.0)
    mean = float(_means(sums.sum(0), counts.sum(0)))
    draws = np.random.default_rng(SEED).multinomial(num_videos, np.full(num_videos, 1 / num_videos), size=resamples)
    drawn = _means(draws @ sums, draws @ counts)  # (R)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Score(mean, float(low), float(high), len(values), num_videos)


def paper_text(paper: float | None) -> str:
    """A number as the paper prints it: percent with one decimal, a judge's points (0 to 5) with two."""
    return "" if paper is None else f"{paper:.{1 if paper > HIGHEST_POINTS else 2}f}"


def _numbers(names: Sequence[str]) -> tuple[list[int], int]:
    """Each name's number, and how many different ones there are."""
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [known[name] for name in names], len(known)


def _means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean over groups of each group's mean; a group that was not drawn does not count. (..., K) to (...)."""
    present = counts > 0
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=present)
    return means.sum(-1) / present.sum(-1)
