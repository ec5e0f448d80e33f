"""The stages of a build in their order, from videos to clips, each done for what is missing."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

from ..hub.files import FolderLock
from ..hub.progress import Progress, no_progress
from .clips import KEPT, choose_clips
from .embedders import Embedder, make_embedder
from .engine_local import run_stage
from .probe import SourceVideo, find_videos, probe
from .settings import BuildSettings, KeyframeSettings
from .stages import ARRAYS, Stage
from .watching import watch

# Raised whenever the same settings give another result of a stage.
PROBE_VERSION = WATCH_VERSION = CLIPS_VERSION = 1
STAGES = ("probe", "watch", "clips")
# CPU seconds of one core per hour of 720p video at 30 frames per second, measured (docs/building_data.md).
WATCH_CPU_SECONDS_PER_HOUR = 285


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


class Build:
    """A build, of which all is known that its files say.

    Args:
        settings: what is built.
        shard: (i, n): only every n-th video from the i-th on, for several machines.
        limit: only so many videos.

    Raises:
        FileNotFoundError: no videos.

    Example:
        >>> build = Build(read_settings("build.yaml"))  # doctest: +SKIP
        >>> build.run(until="clips")  # doctest: +SKIP
    """

    def __init__(self, settings: BuildSettings, shard: tuple[int, int] = (0, 1), limit: int | None = None):
        self.settings, self.shard = settings, shard
        videos = find_videos(settings.videos, settings.media_root)[shard[0] :: shard[1]]
        self.videos = {video.id: video for video in islice(videos, limit)}
        self.output_dir = Path(settings.output_dir)
        keyframes = settings.to_dict()["keyframes"]
        watched = {"version": WATCH_VERSION} | {
            key: keyframes[key] for key in ("embedder", "model", "fps", "max_side")
        }
        chosen = {"watch": watched, "version": CLIPS_VERSION, "rule": keyframes["rule"]}
        chosen |= {"threshold": keyframes["threshold"]}
        chosen |= {key: settings.to_dict()[key] for key in ("shots", "clips")}
        self.probed = Stage(self.output_dir, "probe", {"version": PROBE_VERSION})
        self.watched = Stage(self.output_dir, "watch", watched, ARRAYS)
        self.chosen = Stage(self.output_dir, "clips", chosen)

    @cached_property
    def stages(self) -> dict[str, Stage]:
        return {"probe": self.probed, "watch": self.watched, "clips": self.chosen}

    # Work ------------------------------------------------------------------------------------------------------------------

    def run(self, until: str = STAGES[-1], retry_failed: bool = False, progress: Progress = no_progress) -> None:
        """Do what is missing.

        Args:
            until: the last stage.
            retry_failed: also what failed before.
            progress: of each stage.

        Raises:
            BlockingIOError: another process builds this part.
        """
        name = "whole" if self.shard == (0, 1) else f"shard-{self.shard[0]}-of-{self.shard[1]}"
        with FolderLock(self.output_dir / "locks" / name, "hicom build-data run"):
            if retry_failed:
                for stage in self.stages.values():
                    stage.forget_failures(self.videos)
            for stage in STAGES[: STAGES.index(until) + 1]:
                {"probe": self._probe, "watch": self._watch, "clips": self._choose}[stage](progress)

    def _probe(self, progress: Progress) -> None:
        run_stage(self.probed, self.videos, probe, self.settings.workers, progress)

    def _watch(self, progress: Progress) -> None:
        known = {item: self.videos[item].path for item in self.videos if self.probed.is_done(item)}
        work = partial(watch_with, self.settings.keyframes, self.settings.device)
        run_stage(self.watched, known, work, self.settings.workers, progress)

    def _choose(self, progress: Progress) -> None:
        watched = {item: item for item in self.videos if self.watched.is_done(item)}
        run_stage(self.chosen, watched, self._choose_one, 1, progress)

    def _choose_one(self, item: str) -> dict[str, Any]:
        return choose_clips(item, self.watched.read(item), self.settings)

    # What is there ---------------------------------------------------------------------------------------------------------

    def chosen_videos(self) -> Iterator[tuple[SourceVideo, dict[str, Any]]]:
        """Each video whose clips are chosen, with shots, keyframes and clips."""
        for item, video in self.videos.items():
            if self.chosen.is_done(item):
                yield video, self.chosen.read(item)

    def clips(self) -> Iterator[Clip]:
        """All clips that are kept."""
        for video, chosen in self.chosen_videos():
            for shot in chosen["shots"]:
                if shot["verdict"] == KEPT:
                    yield Clip(shot["id"], video, shot["start"], shot["end"], tuple(shot["keyframes"]))

    def failures(self) -> list[dict[str, str]]:
        """One row for each video of each stage that failed, with its path."""
        return [
            {**failure, "path": self.videos[failure["item"]].relative}
            for stage in self.stages.values()
            for failure in stage.failures(self.videos)
        ]

    def plan(self) -> dict[str, Any]:
        """What there is to do, from what the probed files say; probes nothing itself."""
        probed = [self.probed.read(item) for item in self.videos if self.probed.is_done(item)]
        hours = sum(facts["duration"] or 0 for facts in probed) / 3600
        return {
            "videos": len(self.videos),
            "gigabytes": sum(video.num_bytes for video in self.videos.values()) / 1e9,
            "probed": len(probed),
            "hours": hours,
            "sampled_frames": round(hours * 3600 * self.settings.keyframes.fps),
            "watch_cpu_hours_of_720p": hours * WATCH_CPU_SECONDS_PER_HOUR / 3600,
            "missing": {name: len(stage.missing(self.videos)) for name, stage in self.stages.items()},
        }

    def status(self) -> dict[str, Any]:
        """How far the build is: results and failures of each stage, and what became of the shots."""
        shots = Counter(shot["verdict"] for _, chosen in self.chosen_videos() for shot in chosen["shots"])
        return {
            "videos": len(self.videos),
            "stages": {
                name: {
                    "done": sum(map(stage.is_done, self.videos)),
                    "failed": sum(map(stage.has_failed, self.videos)),
                    "missing": len(stage.missing(self.videos)),
                }
                for name, stage in self.stages.items()
            },
            "shots": {"all": shots.total(), **dict(sorted(shots.items()))},
        }

    def has_too_many_failures(self) -> bool:
        failed = {failure["item"] for failure in self.failures()}
        return len(failed) > self.settings.max_failures * len(self.videos)


def watch_with(settings: KeyframeSettings, device: str, path: str) -> dict[str, Any]:
    return watch(path, settings, _embedder(settings, device))


@lru_cache(maxsize=1)
def _embedder(settings: KeyframeSettings, device: str) -> Embedder:
    """One for each process."""
    return make_embedder(settings, device)
