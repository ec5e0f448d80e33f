"""Which of many candidate frames a question needs: scores in, frame numbers out.

`FrameSampling` says which frames of a video are candidates; `FrameSelection` says which of them the LLM gets to see. Frames
are chosen by shots: the frames of a group of the local branch are consecutive ones of one shot, so that motion and order stay
visible. Nothing here knows of models. Letters: T candidates, n frames wanted, a frames per group of the local branch.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any, Literal, NamedTuple

from .frame_sampling_hicom import uniform_indices

Rule = Literal["uniform", "question", "mixture"]
RULES = ("uniform", "question", "mixture")
MAD_TO_DEVIATION = 1.4826  # of a normal distribution: standard deviation over median absolute deviation
# Our choices, measured in the shapes world (docs/long_video.md).
MIN_PROMINENCE = 3.0
SHOT_THRESHOLD = 0.5
CUT_RATIO = 2.0
PART_BOUNDARIES = re.compile(r"[,;]|\b(?:or|and)\b")
MAX_SHOT_FRAMES = 32


@dataclass(frozen=True)
class FrameSelection:
    """How the frames that the LLM sees are chosen among the candidates; checked at construction.

    Exactly one budget holds: `num_frames`, or as many frames as fit `max_video_tokens`.

    Args:
        rule: "question" takes the shots that fit the question best; "uniform" spreads the frames evenly for every question;
            "mixture" gives half of the groups to shots spread evenly over the video, the other half to the best ones.
        num_frames: n, at least 1.
        max_video_tokens: as many frames as fit this many visual tokens.
        max_shots: upper bound on the shots that the question chooses; None for as many as there are groups.
        shot_threshold: a shot is taken beside the best one if its score is above this value, on a scale where the median shot is
            0 and the best shot is 1.
        min_prominence: standard deviations (robustly estimated) by which the best frame must exceed the median frame; otherwise
            the scores carry no information and frames are spread evenly.
        max_shot_frames: longer shots are cut into equal parts, in candidates.
        min_spacing: seconds between the best frames of two shots that are taken.

    Raises:
        TypeError: a budget is no whole number.
        ValueError: a value is out of its range, or there is no budget, or there are two.

    Example:
        >>> FrameSelection(num_frames=8).rule
        'question'
    """

    rule: Rule = "question"
    num_frames: int | None = None
    max_video_tokens: int | None = None
    max_shots: int | None = None
    shot_threshold: float = SHOT_THRESHOLD
    min_prominence: float = MIN_PROMINENCE
    max_shot_frames: int = MAX_SHOT_FRAMES
    min_spacing: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {self.rule!r}")
        if (self.num_frames is None) == (self.max_video_tokens is None):
            raise ValueError(
                "a selection needs one budget: num_frames or max_video_tokens, "
                f"got num_frames={self.num_frames!r} and max_video_tokens={self.max_video_tokens!r}"
            )
        for name in ("num_frames", "max_video_tokens", "max_shots", "max_shot_frames"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"{name} must be a whole number, got {value!r}")
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}")
        if not 0 <= self.shot_threshold <= 1:
            raise ValueError(f"shot_threshold must be from 0 to 1, got {self.shot_threshold!r}")
        for name in ("min_prominence", "min_spacing"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class SelectionRecord:
    """Which candidates were chosen for a question, and why.

    Attributes:
        rule: that was asked for.
        used: the rule that chose; "uniform" where nothing stood out.
        reason: in words.
        num_candidates: T.
        prominence: of the best frame, see `prominence`; None without scores.
        frames: numbers of the chosen candidates, ascending.
        times: seconds of the chosen frames; empty for a video without a clock.
        scores: of the chosen frames; empty without scores.
        shots: first candidate, the candidate behind the last, and the score of each shot that was taken, in order of time.
    """

    rule: str
    used: str
    reason: str
    num_candidates: int
    prominence: float | None
    frames: tuple[int, ...]
    times: tuple[float, ...]
    scores: tuple[float, ...]
    shots: tuple[tuple[int, int, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values that json can write."""
        return asdict(self)


class Shot(NamedTuple):
    """Consecutive candidates that show one scene: from `start` to before `stop`, scored by the best of its frames."""

    start: int
    stop: int
    score: float
    best: int  # the candidate with the highest score


def find_shots(
    changes: Sequence[float], min_frames: int, max_frames: int = MAX_SHOT_FRAMES, ratio: float = CUT_RATIO
) -> list[tuple[int, int]]:
    """Cut candidates into shots where more changes than usual.

    A cut lies where the change is over `ratio` times the median change. Stronger cuts come first; a cut that would leave a shot
    of less than `min_frames` is left out. Shots longer than `max_frames` are then cut into equal parts.

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
    num_candidates = len(changes) + 1
    threshold = ratio * median(changes) if changes else 0.0
    strong = [place + 1 for place, change in enumerate(changes) if change > threshold]
    bounds = {0, num_candidates}
    for cut in sorted(strong, key=lambda cut: (-changes[cut - 1], cut)):
        if all(other not in bounds for other in range(cut - min_frames + 1, cut + min_frames)):
            bounds.add(cut)
    max_frames = max(max_frames, 2 * min_frames - 1)
    shots = []
    edges = sorted(bounds)
    for start, stop in pairwise(edges):
        parts = -(-(stop - start) // max_frames)
        marks = [start + (stop - start) * part // parts for part in range(parts + 1)]
        shots += list(pairwise(marks))
    return shots


def prominence(scores: Sequence[float]) -> float:
    """By how many standard deviations the best score stands out, estimated by medians: (max - median) / (1.4826 MAD)."""
    middle = median(scores)
    spread = MAD_TO_DEVIATION * median(abs(score - middle) for score in scores)
    above = max(scores) - middle
    return above / spread if spread else (float("inf") if above else 0.0)


def question_parts(instruction: str) -> list[str]:
    """What an instruction names, apart from each other: "A or B", "A and B", "A, B". One pooled vector of several things finds
    the frames of none of them reliably (docs/long_video.md).

    Example:
        >>> question_parts("Which comes first, the hollow moon or the red circle?")
        ['Which comes first', 'the hollow moon', 'the red circle?']
    """
    parts = [part.strip() for part in PART_BOUNDARIES.split(instruction)]
    return [part for part in parts if any(map(str.isalnum, part))] or [instruction]


def combine_scores(rows: Sequence[Sequence[float]], min_prominence: float = MIN_PROMINENCE) -> list[float]:
    """One score per candidate from the scores for each part of a question.

    Each part that stands out is brought to one scale, 0 for its median and 1 for its best frame; a frame has the best of them.
    So the scene of every part counts as much as that of any other. A single row is returned as it is, and where no part stands
    out, the row of which that is least true.

    Args:
        rows: (P, T).
        min_prominence: what standing out means, see `FrameSelection`.
    """
    if len(rows) == 1:
        return list(rows[0])
    heights = []
    for row in rows:
        middle, best = median(row), max(row)
        if best > middle and prominence(row) >= min_prominence:
            heights.append([(score - middle) / (best - middle) for score in row])
    if not heights:
        return list(max(rows, key=prominence))
    return [max(column) for column in zip(*heights, strict=True)]


def choose_frames(
    selection: FrameSelection,
    num_frames: int,
    group_length: int,
    num_candidates: int,
    *,
    scores: Sequence[float] | None = None,
    shots: Sequence[tuple[int, int]] | None = None,
    times: Sequence[float] = (),
) -> SelectionRecord:
    """Choose frames; the same arguments give the same frames.

    A shot's score is the mean of its `group_length` best frames. The best shot is taken, and others by `shot_threshold`, best
    first. Each gets one group; further groups are dealt out in the same order among shots that have frames for them, then to
    the next best shots. The frames of a shot are spread evenly over it.

    Args:
        selection: the request.
        num_frames: n, the budget in frames.
        group_length: a.
        num_candidates: T.
        scores: (T), how well each candidate fits the question; needed by all rules but "uniform".
        shots: of `find_shots`, each of `group_length` frames at least; likewise.
        times: (T) seconds, or empty.

    Raises:
        ValueError: scores or shots are missing or do not fit the number of candidates.
    """
    scored = () if scores is None else [float(score) for score in scores]

    def record(used: str, reason: str, frames: Sequence[int], taken: Sequence[Shot] = ()) -> SelectionRecord:
        return SelectionRecord(
            rule=selection.rule,
            used=used,
            reason=reason,
            num_candidates=num_candidates,
            prominence=prominence(scored) if scored else None,
            frames=tuple(frames),
            times=tuple(times[frame] for frame in frames) if times else (),
            scores=tuple(scored[frame] for frame in frames) if scored else (),
            shots=tuple((shot.start, shot.stop, shot.score) for shot in sorted(taken)),
        )

    if num_candidates <= num_frames:
        return record("uniform", "the budget holds all candidates", range(num_candidates))
    evenly = uniform_indices(num_candidates, num_frames)
    if selection.rule == "uniform":
        return record("uniform", "spread evenly, as asked for", evenly)
    if scores is None or shots is None or len(scored) != num_candidates or shots[-1][1] != num_candidates:
        raise ValueError(f'rule "{selection.rule}" needs scores and shots of all {num_candidates} candidates')
    found = prominence(scored)
    if found < selection.min_prominence:
        reason = (
            f"no frame stands out for this question ({found:.1f} deviations, {selection.min_prominence:g} are needed)"
        )
        return record("uniform", reason, evenly)
    scored_shots = [_scored(start, stop, scored, group_length) for start, stop in shots]
    num_groups = max(1, num_frames // group_length)
    ordered = _in_order(scored_shots, selection, num_groups, times)
    quotas = _deal(ordered, num_groups, group_length)
    frames = []
    for shot, quota in quotas.items():
        wanted = min(quota * group_length, num_frames, shot.stop - shot.start)
        frames += [shot.start + place for place in uniform_indices(shot.stop - shot.start, wanted)]
    return record(selection.rule, f"{len(quotas)} of {len(shots)} shots", sorted(frames), list(quotas))


def _scored(start: int, stop: int, scores: Sequence[float], group_length: int) -> Shot:
    best = sorted(scores[start:stop], reverse=True)[:group_length]
    return Shot(start, stop, sum(best) / len(best), max(range(start, stop), key=lambda frame: scores[frame]))


def _in_order(
    shots: list[Shot], selection: FrameSelection, num_groups: int, times: Sequence[float]
) -> list[list[Shot]]:
    """The shots that are taken, and those that follow while there are groups left."""
    ranked = sorted(shots, key=lambda shot: (-shot.score, shot.start))
    middle = median(shot.score for shot in shots)
    least = middle + selection.shot_threshold * (ranked[0].score - middle)
    num_spread = num_groups // 2 if selection.rule == "mixture" else 0
    taken = [shots[place] for place in dict.fromkeys(uniform_indices(len(shots), num_spread))] if num_spread else []
    bound = min(num_groups - len(taken), selection.max_shots or num_groups)
    fitting: list[Shot] = []
    for shot in ranked:
        if len(fitting) == bound or shot.score < least:
            break
        if shot not in taken and _is_apart(shot, fitting, selection.min_spacing, times):
            fitting.append(shot)
    taken = fitting + taken
    return [taken, [shot for shot in ranked if shot not in taken]]


def _is_apart(shot: Shot, others: list[Shot], spacing: float, times: Sequence[float]) -> bool:
    return not times or all(abs(times[shot.best] - times[other.best]) >= spacing for other in others)


def _deal(ordered: list[list[Shot]], num_groups: int, group_length: int) -> dict[Shot, int]:
    """How many groups each shot gets."""
    taken, following = ordered
    quotas = dict.fromkeys(taken, 1)
    left = num_groups - len(quotas)
    while left > 0:
        roomy = [shot for shot in quotas if (quotas[shot] + 1) * group_length <= shot.stop - shot.start]
        if not roomy and not following:
            break
        if not roomy:
            roomy = [following.pop(0)]
            quotas[roomy[0]] = 0
        for shot in roomy[:left]:
            quotas[shot] += 1
            left -= 1
    return quotas
