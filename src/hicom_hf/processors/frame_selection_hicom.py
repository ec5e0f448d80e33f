"""Which of many candidate frames a question needs: scores in, frame numbers out.

`FrameSampling` says which frames of a video are candidates; `FrameSelection` says which of them the LLM gets to see. Frames
are chosen by shots: the frames of a group of the local branch are consecutive ones of one shot, so that motion and order stay
visible. Nothing here knows of models. Letters: T candidates, P parts of a question, S shots, n frames wanted, a frames per group
of the local branch.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from .frame_sampling_hicom import check_count, check_is_number, uniform_indices
from .frame_shots_hicom import (
    MAX_SHOT_FRAMES,
    Standing,
    fit_of_frames,
    group_scores,
    prominence,
    shot_scores,
    standings_of,
)

Rule = Literal["uniform", "question", "mixture"]
RULES = ("uniform", "question", "mixture")
# Our choices, measured in the shapes world (docs/long_video.md).
MIN_PROMINENCE = 6.0
MAX_P_VALUE = 0.05
PART_BOUNDARIES = re.compile(r"[,;]|\b(?:or|and)\b")
# A group becomes one row of tokens, so that a movement is the difference between two groups.
GROUPS_PER_SHOT = 2


@dataclass(frozen=True)
class FrameSelection:
    """How the frames that the LLM sees are chosen among the candidates; checked at construction.

    Exactly one budget holds: `num_frames`, or as many frames as fit `max_video_tokens`.

    Args:
        rule: "question" takes the shots that fit the question best; "uniform" spreads the frames evenly for every question;
            "mixture" gives half of the groups to the best shots, the other half to shots spread evenly over the video.
        num_frames: n, at least 1; fewer are seen where whole groups do not fill it.
        max_video_tokens: as many frames as fit this many visual tokens.
        max_shots: upper bound on the shots that the question chooses; None for as many as there are groups. Where these have too
            few frames, fewer than the budget are seen.
        max_p_value: shots stand out if the gap below them is found in at most this fraction of videos in which nothing fits, see
            `outstanding`. Where none stand out, rule "question" chooses as "mixture" does.
        min_prominence: standard deviations (robustly estimated) by which the best group must exceed the median group; otherwise
            no shot that does not stand out is taken, and frames are spread evenly.
        max_shot_frames: longer shots are cut into equal parts, in candidates.
        min_spacing: least seconds between the best frames of two shots that the question chooses, likewise; 0 for any. Shots
            that are spread evenly over the video are bound by neither.

    Raises:
        TypeError: a count is no whole number, or another value no number.
        ValueError: a value is out of its range, or there is no budget, or there are two.

    Example:
        >>> FrameSelection(num_frames=8).rule
        'question'
    """

    rule: Rule = "question"
    num_frames: int | None = None
    max_video_tokens: int | None = None
    max_shots: int | None = None
    max_p_value: float = MAX_P_VALUE
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
            check_count(name, getattr(self, name))
        for name in ("max_p_value", "min_prominence", "min_spacing"):
            check_is_number(name, getattr(self, name))
        if not 0 <= self.max_p_value <= 1:
            raise ValueError(f"max_p_value must be from 0 to 1, got {self.max_p_value!r}")
        for name in ("min_prominence", "min_spacing"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class SelectionRecord:
    """Which candidates were chosen for a question, and why.

    Attributes:
        rule: that was asked for.
        used: the rule that chose; "mixture" or "uniform" where nothing stood out.
        reason: in sentences.
        num_candidates: T.
        prominence: of the best group of consecutive frames, see `prominence`; None without scores.
        p_value: of the shots that stand out most, see `outstanding`; None without scores.
        frames: numbers of the chosen candidates, ascending.
        times: seconds of the chosen frames; empty for a video without a clock.
        scores: of the chosen frames, of a question of several parts that of the best part, on one scale; empty without scores.
        shots: first candidate, the candidate behind the last, and the score of each shot that was taken, in order of time.
        indices: numbers of the chosen frames in the video; empty where only the candidates are known, as in `choose_frames`.
    """

    rule: str
    used: str
    reason: str
    num_candidates: int
    prominence: float | None
    p_value: float | None
    frames: tuple[int, ...]
    times: tuple[float, ...]
    scores: tuple[float, ...]
    shots: tuple[tuple[int, int, float], ...]
    indices: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values that JSON can write; an infinite prominence is None, as JSON has no infinity."""
        plain = asdict(self)
        if self.prominence == float("inf"):
            plain["prominence"] = None
        return plain


def question_parts(instruction: str) -> list[str]:
    """What an instruction names, apart from each other: "A or B", "A and B", "A, B". One pooled vector of several things finds
    the frames of none of them reliably (docs/long_video.md).

    Example:
        >>> question_parts("Which comes first, the hollow moon or the red circle?")
        ['Which comes first', 'the hollow moon', 'the red circle?']
    """
    parts = [part.strip() for part in PART_BOUNDARIES.split(instruction)]
    return [part for part in parts if any(map(str.isalnum, part))] or [instruction]


def choose_frames(
    selection: FrameSelection,
    num_frames: int,
    group_length: int,
    num_candidates: int,
    *,
    scores: Any = None,
    shots: Sequence[tuple[int, int]] | None = None,
    times: Sequence[float] = (),
) -> SelectionRecord:
    """Choose frames; the same arguments give the same frames.

    A shot's score is that of its best `group_length` consecutive frames, of which the one that fits least counts: what is there
    stays for a while, what a vision tower sees by mistake comes and goes.

    For each part of the question, the shots that stand out are taken (`outstanding`); parts for which none do are left out. The
    best shot of each part comes first. A shot gets `GROUPS_PER_SHOT` groups before another gets any, but the best shots of two
    parts get one each before either gets more. Groups that are left go to the shots that have the fewest; where these have no
    frames any more, to the next best shots, unless `max_shots` or `min_spacing` exclude them. The frames of a shot are spread
    evenly over it.

    If no shot stands out, but a group is prominent, half of the groups go to the best shot, the others to shots spread evenly
    over the video. If none is, the frames are spread evenly.

    Args:
        selection: the request.
        num_frames: n, the budget in frames.
        group_length: a.
        num_candidates: T.
        scores: (P, T), or (T) for a single part, how well each candidate fits each part of the question; needed by all rules but
            "uniform".
        shots: of `find_shots`, each of `group_length` frames at least; likewise.
        times: (T) seconds, or empty.

    Raises:
        ValueError: scores or shots are missing or do not fit the number of candidates; or a spacing in seconds is asked for of
            candidates that have no times.
    """
    rows = None if scores is None else np.atleast_2d(np.asarray(scores, dtype=float))
    record = partial(_record, selection, num_candidates, rows, times)
    if num_candidates <= num_frames:
        return record("uniform", "The budget holds all candidates.", range(num_candidates))
    evenly = uniform_indices(num_candidates, num_frames)
    if selection.rule == "uniform":
        return record("uniform", "Frames are spread evenly, as asked for.", evenly)
    if rows is None or shots is None or rows.shape[1] != num_candidates or shots[-1][1] != num_candidates:
        raise ValueError(f'rule "{selection.rule}" needs scores and shots of all {num_candidates} candidates')
    if selection.min_spacing and not times:
        raise ValueError("min_spacing is in seconds, but this video has no clock; pass frame_rate, or leave it out")
    num_groups = max(1, num_frames // group_length)
    shot_length = min(group_length, num_candidates)  # a video of fewer frames is one shot
    standings = standings_of(rows, shots, shot_length, num_groups)
    found = sorted((one for one in standings if one.p_value <= selection.max_p_value), key=lambda one: one.p_value)
    used, reasons = selection.rule, []
    if not found:
        best = max(standings, key=lambda one: one.prominence)
        if best.prominence < selection.min_prominence:
            shown = f"{best.prominence:.1f} deviations, {selection.min_prominence:g} are needed"
            reason = f"Frames are spread evenly, because no shot stands out for this question ({shown})."
            return record("uniform", reason, evenly, standings)
        found = [best._replace(count=1)]
        used = "mixture"
        done = "half of the groups are spread evenly" if num_groups > 1 else "the one with the highest score is taken"
        reasons = [f"No shot is clearly better than the others, so {done}."]
    fit = fit_of_frames(found)
    num_spread = num_groups // 2 if used == "mixture" else 0
    quotas, num_left = _quotas(found, fit, shots, selection, (num_groups, num_spread, group_length), times)
    frames = []
    for shot, quota in quotas.items():
        start, stop = shots[shot]
        wanted = min(quota * group_length, num_frames, stop - start)
        frames += [start + place for place in uniform_indices(stop - start, wanted)]
    heights = shot_scores(group_scores(fit, shot_length), shots, shot_length)
    taken = [(*shots[shot], float(heights[shot])) for shot in sorted(quotas)]
    if len(frames) < num_frames:
        bound = "max_shots or min_spacing excludes other shots"
        why = bound if num_left else f"a shot gives whole groups of {group_length} frames"
        reasons.append(f"These are {len(frames)} frames and not {num_frames}, because {why}.")
    reason = " ".join([f"Frames are from {len(quotas)} of {len(shots)} shots.", *reasons])
    return record(used, reason, sorted(frames), standings, fit, taken)


def _record(
    selection: FrameSelection,
    num_candidates: int,
    rows: np.ndarray | None,
    times: Sequence[float],
    used: str,
    reason: str,
    frames: Sequence[int],
    standings: Sequence[Standing] = (),
    fit: np.ndarray | None = None,
    shots: Sequence[tuple[int, int, float]] = (),
) -> SelectionRecord:
    if fit is None and rows is not None:
        fit = rows[0] if len(rows) == 1 else max(rows, key=prominence)
    return SelectionRecord(
        rule=selection.rule,
        used=used,
        reason=reason,
        num_candidates=num_candidates,
        prominence=max((one.prominence for one in standings), default=None),
        p_value=min((one.p_value for one in standings), default=None),
        frames=tuple(frames),
        times=tuple(times[frame] for frame in frames) if times else (),
        scores=() if fit is None else tuple(fit[list(frames)].tolist()),
        shots=tuple(shots),
    )


def _quotas(
    found: Sequence[Standing],
    fit: np.ndarray,
    shots: Sequence[tuple[int, int]],
    selection: FrameSelection,
    groups: tuple[int, int, int],
    times: Sequence[float],
) -> tuple[dict[int, int], int]:
    """How many groups each shot gets, and how many the bounds of the request leave over; `groups` are their number, how many
    are spread evenly, and the frames of each."""
    num_groups, num_spread, group_length = groups
    may_join = _bounds(fit, shots, selection, times)
    taken = _taken(found, num_groups - num_spread, may_join)
    spread = dict.fromkeys(uniform_indices(len(shots), num_spread), 1) if num_spread else {}
    following = [shot for shot in found[0].order if shot not in taken]
    room = [max(1, (stop - start) // group_length) for start, stop in shots]
    return _deal(spread, taken, following, num_groups - len(spread), room, may_join)


def _bounds(
    fit: np.ndarray, shots: Sequence[tuple[int, int]], selection: FrameSelection, times: Sequence[float]
) -> Callable[[int, Sequence[int]], bool]:
    """Whether `max_shots` and `min_spacing` let a shot be chosen beside others."""
    best = [int(start + fit[start:stop].argmax()) for start, stop in shots] if selection.min_spacing else []

    def may_join(shot: int, others: Sequence[int]) -> bool:
        is_apart = not best or all(
            abs(times[best[shot]] - times[best[other]]) >= selection.min_spacing for other in others
        )
        return is_apart and len(others) < (selection.max_shots or len(shots))

    return may_join


def _taken(found: Sequence[Standing], num_groups: int, may_join: Callable[[int, Sequence[int]], bool]) -> list[int]:
    """The numbers of the shots that are taken: the best one of each part, then others that stand out, the parts in turn."""
    taken: list[int] = []
    for rank in range(max(one.count for one in found)):
        bound = num_groups if rank == 0 else max(len(taken), num_groups // GROUPS_PER_SHOT)
        for shot in (one.order[rank] for one in found if rank < one.count):
            if shot not in taken and len(taken) < bound and may_join(shot, taken):
                taken.append(shot)
    return taken


def _deal(
    quotas: dict[int, int],
    taken: Sequence[int],
    following: Sequence[int],
    num_groups: int,
    room: Sequence[int],
    may_join: Callable[[int, Sequence[int]], bool],
) -> tuple[dict[int, int], int]:
    """How many groups each shot gets, beside those of `quotas`: the shots with the fewest first, as long as they have frames;
    and how many groups are left because the next shots may not join."""
    served, waiting, is_bound = list(taken), iter(following), False
    for number in range(num_groups):
        roomy = [shot for shot in served if quotas.get(shot, 0) < room[shot]]
        while not roomy:
            shot = next(waiting, None)
            if shot is None:
                return quotas, num_groups - number if is_bound else 0
            if quotas.get(shot, 0) < room[shot]:
                is_allowed = may_join(shot, served)
                is_bound |= not is_allowed
                roomy = [shot] if is_allowed else []
        served += [shot for shot in roomy if shot not in served]
        least = min(roomy, key=lambda shot: quotas.get(shot, 0))
        quotas[least] = quotas.get(least, 0) + 1
    return quotas, 0
