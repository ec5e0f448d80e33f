"""Which videos are taken: those most like each of the paper's categories, and some at random."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..shapes.dice import Dice

# Table A2 of the paper, word for word; finance and commerce occur twice, with and without "knowledge".
CATEGORIES = (
    "A video about cooking activity.",
    "A video about writing activity.",
    "A video about travel.",
    "A video about sight-seeing activity.",
    "A life record video about exercise.",
    "A life record video about daily life.",
    "A life record video about handcraft.",
    "A life record video about food.",
    "A TV news report video.",
    "A video about computer games.",
    "A video about sports.",
    "A video about football.",
    "A video about basketball.",
    "A video about pets and animals.",
    "A video about action movie scene.",
    "A video about comedy movie scene.",
    "A video about sci-fi movie scene.",
    "A video about crime movie scene.",
    "A video about horror movie scene.",
    "A video about magic show.",
    "A video about acrobatics.",
    "A documentary or TV show about humanity and history.",
    "A documentary or TV show about biography.",
    "A documentary or TV show about geography.",
    "A documentary or TV show about finance and commerce.",
    "A documentary or TV show about literature and art.",
    "A documentary or TV show about biology and medicine knowledge.",
    "A documentary or TV show about finance and commerce knowledge.",
    "A documentary or TV show about technology knowledge.",
)
RANDOM = "at random"
SELECTION_STREAM = 13


def choose_videos(
    scores: Mapping[str, Sequence[float]], per_category: int, num_random: int, seed: int
) -> dict[str, list[str]]:
    """The videos of highest score for each category, then some of the others at random.

    Args:
        scores: of each video, one per category, 29.
        per_category, num_random: how many, at most. A video may be among the first of several categories and counts for each.
        seed: of the random ones.

    Returns:
        Each chosen video with the categories it was chosen for, or "at random".

    Source: paper, section 3.2. Appendix B.2 draws the random ones from all videos, which would draw some twice.
    """
    videos = sorted(scores)
    if not videos:
        return {}
    table = np.array([scores[video] for video in videos])
    chosen: dict[str, list[str]] = {}
    for number, category in enumerate(CATEGORIES):
        for place in np.argsort(-table[:, number], kind="stable")[:per_category].tolist():
            chosen.setdefault(videos[place], []).append(category)
    others = [video for video in videos if video not in chosen]
    for video in Dice(seed, SELECTION_STREAM).shuffled(others)[:num_random]:
        chosen[video] = [RANDOM]
    return chosen
