"""Which shots become clips."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .detectors import make_detector
from .keyframes import find_keyframes
from .settings import BuildSettings, ClipSettings
from .shots import shots_between

KEPT = "kept"
NO_KEYFRAME, TOO_SHORT, TOO_LONG = "no keyframe", "too short", "too long"


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


def choose_clips(video_id: str, watched: dict[str, np.ndarray], settings: BuildSettings) -> dict[str, Any]:
    """Shots, keyframes and clips of a video from what was seen when it was watched (see `watching.watch`)."""
    duration = float(watched["duration"])
    cuts = make_detector(settings.shots).cuts(watched["times"], watched["distances"], settings.shots)
    kept, similarities = find_keyframes(watched["vectors"], settings.keyframes.threshold, settings.keyframes.rule)
    keyframe_times = [round(float(watched["sampled_times"][index]), 3) for index in kept]
    shots = []
    for start, end in shots_between(cuts, duration):
        start, end = round(start, 3), round(end, 3)
        shots.append(
            {
                "id": f"{video_id}-{round(start * 1000):08d}-{round(end * 1000):08d}",
                "start": start,
                "end": end,
                "verdict": verdict(start, end, keyframe_times, settings.clips),
                "keyframes": [time for time in keyframe_times if start <= time < end],
            }
        )
    return {
        "video": video_id,
        "duration": duration,
        "cuts": [round(cut, 3) for cut in cuts],
        "keyframes": keyframe_times,
        "similarities": [round(value, 4) for value in similarities],
        "shots": shots,
        "lost_frames": int(watched["lost_frames"]),
    }
