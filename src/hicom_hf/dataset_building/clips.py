"""Cuts, keyframes and clips of one video, from what was seen when it was watched (see `watching.watch`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .detectors import make_detector
from .keyframes import find_keyframes
from .probe import SourceVideo
from .settings import ClipSettings, KeyframeSettings, ShotSettings
from .shots import shots_between

KEPT = "kept"
NO_KEYFRAME, TOO_SHORT, TOO_LONG = "no keyframe", "too short", "too long"


@dataclass(frozen=True)
class Clip:
    """A part of a video that is captioned.

    Attributes:
        id: of the clip.
        video: its video.
        start, end: seconds.
        keyframes: seconds.
    """

    id: str
    video: SourceVideo
    start: float
    end: float
    keyframes: tuple[float, ...]


def verdict(start: float, end: float, keyframe_times: Sequence[float], settings: ClipSettings) -> str:
    """ "kept", or why a shot is dropped; the order of the reasons is the paper's.

    Example:
        >>> verdict(0.0, 3.0, [1.0], ClipSettings())
        'too short'
    """
    if settings.needs_keyframe and not any(start <= time < end for time in keyframe_times):
        return NO_KEYFRAME
    if end - start < settings.min_length:
        return TOO_SHORT
    if end - start > settings.max_length:
        return TOO_LONG
    return KEPT


def choose_shots(watched: dict[str, np.ndarray], settings: ShotSettings) -> dict[str, Any]:
    """Duration and cuts of a video in seconds, the first frame of each shot that cannot be read, and how many there are."""
    duration, lost = float(watched["duration"]), watched["lost_times"]
    cuts = make_detector(settings).cuts(watched["times"], watched["distances"], settings)
    cuts = [round(cut, 3) for cut in cuts if cut < duration]
    _, first = np.unique(np.searchsorted(cuts, lost, side="right"), return_index=True)
    return {
        "duration": duration,
        "cuts": cuts,
        "breaks": lost[first].tolist(),
        "lost_frames": int(watched["lost_frames"]),
    }


def choose_keyframes(watched: dict[str, np.ndarray], settings: KeyframeSettings) -> dict[str, Any]:
    """Times of a video's keyframes, and of each sampled frame its greatest similarity to the keyframes before."""
    kept, similarities = find_keyframes(watched["vectors"], settings.threshold, settings.rule)
    return {
        "keyframes": [round(float(watched["sampled_times"][index]), 3) for index in kept],
        "similarities": [round(value, 4) for value in similarities],
    }


def choose_clips(
    video_id: str, found_shots: dict[str, Any], found_keyframes: dict[str, Any], settings: ClipSettings
) -> dict[str, Any]:
    """Both together, with what becomes of each shot. One with frames that cannot be read ends before the first of them.

    Args:
        video_id: of the video.
        found_shots: of `choose_shots`.
        found_keyframes: of `choose_keyframes`.
        settings: which shots are kept.
    """
    times, shots = found_keyframes["keyframes"], []
    for start, end in shots_between(found_shots["cuts"], found_shots["duration"]):
        start, end = round(start, 3), round(end, 3)
        end = min([end, *(time for time in found_shots["breaks"] if start <= time < end)])
        shots.append(
            {
                "id": f"{video_id}-{round(start * 1000):08d}-{round(end * 1000):08d}",
                "start": start,
                "end": end,
                "verdict": verdict(start, end, times, settings),
                "keyframes": [time for time in times if start <= time < end],
            }
        )
    return {"video": video_id, **found_shots, **found_keyframes, "shots": shots}
