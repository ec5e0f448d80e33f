"""Which settings the results of a stage depend on: its own, and those of the stages before it.

Those of captions and pairs are in `asking.py`, those of deduplicate and decontaminate in `leaving_out.py`.
"""

from .categories import CATEGORIES
from .filtering import rules
from .settings import BuildSettings
from .stages import ARRAYS, Stage

# Raised whenever the same settings give another result of a stage.
PROBE_VERSION, SELECT_VERSION, WATCH_VERSION = 1, 1, 4
SHOTS_VERSION, KEYFRAMES_VERSION, CLIPS_VERSION, FILTER_VERSION = 1, 1, 3, 1


def video_stages(settings: BuildSettings) -> dict[str, Stage]:
    """The stages that process videos, by name."""
    values, output_dir = settings.to_dict(), settings.output_dir
    embedder = {key: values["keyframes"][key] for key in ("embedder", "model")}
    selected = {"version": SELECT_VERSION, "categories": list(CATEGORIES), **embedder}
    selected |= {"num_frames": settings.select.num_frames} if settings.select else {}
    watched = {"version": WATCH_VERSION, **embedder, "detector": settings.shots.detector}
    watched |= {key: values["keyframes"][key] for key in ("fps", "max_side")}
    shots = {"version": SHOTS_VERSION, "watch": watched, "min_length": settings.shots.min_length}
    shots["threshold"] = settings.shots.chosen_threshold
    keyframes = {"version": KEYFRAMES_VERSION, "watch": watched}
    keyframes |= {key: values["keyframes"][key] for key in ("rule", "threshold")}
    clips = {"version": CLIPS_VERSION, "shots": shots, "keyframes": keyframes, **values["clips"]}
    found = (
        Stage(output_dir, "probe", {"version": PROBE_VERSION}),
        Stage(output_dir, "select", selected),
        Stage(output_dir, "watch", watched, ARRAYS),
        Stage(output_dir, "shots", shots),
        Stage(output_dir, "keyframes", keyframes),
        Stage(output_dir, "clips", clips),
    )
    return {stage.name: stage for stage in found}


def filter_stage(settings: BuildSettings, pairs: Stage) -> Stage:
    """The stage that decides which pairs are dropped."""
    return Stage(
        settings.output_dir, "filter", {"version": FILTER_VERSION, "pairs": pairs.settings, **rules(settings.filter)}
    )
