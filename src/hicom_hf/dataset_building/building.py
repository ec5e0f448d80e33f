"""The stages of a build in their order, from videos to pairs, each done for what is missing."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..hub.files import FolderLock, append_json_line, read_json_lines, remove_leftovers, write_text
from ..hub.progress import Progress, no_progress
from ..processors.frame_sampling_hicom import FrameSampling
from ..processors.video_reading_hicom import read_video
from .asking import Asker, answer_stages
from .categories import CATEGORIES, choose_videos
from .clips import KEPT, choose_clips
from .decontamination import benchmark_names, names_of, shows_a_benchmark, task_names
from .deduplication import clip_vector, find_duplicates
from .detectors import make_detector
from .embedders import Embedder, make_embedder
from .engine_local import LocalEngine, run_stage
from .probe import SourceVideo, find_videos, probe
from .settings import BuildSettings, KeyframeSettings, ShotSettings
from .stages import ARRAYS, LOG_FILE, Stage
from .watching import watch

# Raised whenever the same settings give another result of a stage.
PROBE_VERSION, MATCH_VERSION, WATCH_VERSION, CLIPS_VERSION = 1, 1, 3, 2
DUPLICATE, CONTAMINATED = "duplicate", "of a benchmark"
DELETED_FILE = "deleted.jsonl"
STAGES = ("probe", "select", "watch", "clips", "captions")


class Engine(Protocol):
    """Who does the missing work of a stage: `engine_local.LocalEngine` or `engine_ray.RayEngine`."""

    def run_stage(
        self, stage: Stage, values: Mapping[str, Any], work: Callable[[Any], dict[str, Any]], progress: Progress
    ) -> None:
        """Make the results of a stage that are missing, and write down what fails."""


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
    """A build; its whole state is in its files.

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
        self.output_dir = Path(settings.output_dir)
        deleted = {entry["video"] for entry in read_json_lines(self.output_dir / DELETED_FILE)}
        videos = find_videos(settings.videos, settings.media_root)[shard[0] :: shard[1]]
        self.videos = {video.id: video for video in islice(videos, limit) if video.id not in deleted}
        keyframes = settings.to_dict()["keyframes"]
        watched = {"version": WATCH_VERSION} | {
            key: keyframes[key] for key in ("embedder", "model", "fps", "max_side")
        }
        watched["detector"] = settings.shots.detector
        chosen = {"watch": watched, "version": CLIPS_VERSION, "rule": keyframes["rule"]}
        chosen |= {"threshold": keyframes["threshold"]}
        chosen["shots"] = {"threshold": settings.shots.chosen_threshold, "min_length": settings.shots.min_length}
        chosen["clips"] = settings.to_dict()["clips"]
        self.probed = Stage(self.output_dir, "probe", {"version": PROBE_VERSION})
        matched = {"version": MATCH_VERSION, "categories": list(CATEGORIES)}
        matched |= {key: keyframes[key] for key in ("embedder", "model")}
        matched |= {"num_frames": settings.select.num_frames} if settings.select else {}
        self.matched = Stage(self.output_dir, "match", matched)
        self.watched = Stage(self.output_dir, "watch", watched, ARRAYS)
        self.chosen = Stage(self.output_dir, "clips", chosen)
        self.captions, self.pairs = (None, None) if settings.captions is None else answer_stages(settings)
        self.engine: Engine = LocalEngine(settings.workers)
        self._left_out: tuple[Any, dict[str, str]] | None = None  # what it was found for, and what was found

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """The stages that process videos, by name."""
        matched = {} if self.settings.select is None else {"match": self.matched}
        return {"probe": self.probed, **matched, "watch": self.watched, "clips": self.chosen}

    @cached_property
    def clip_stages(self) -> dict[str, Stage]:
        """The stages that process clips, by name; none if the build ends with clips."""
        return {} if self.captions is None or self.pairs is None else {"captions": self.captions, "pairs": self.pairs}

    # Work ------------------------------------------------------------------------------------------------------------------

    def run(
        self,
        until: str = STAGES[-1],
        retry_failed: bool = False,
        progress: Progress = no_progress,
        engine: Engine | None = None,
    ) -> None:
        """Compute the results that are missing.

        Args:
            until: the last stage.
            retry_failed: also what failed before.
            progress: of each stage.
            engine: who does it; None for this machine, with as many processes as the settings say.

        Raises:
            BlockingIOError: another process builds this part.
            EndpointError: the captioner's server does not answer; answers that arrived are kept.
            ImportError: the detector needs a package that is not installed.
        """
        make_detector(self.settings.shots)  # refused at once, not for each video
        self.engine = engine or LocalEngine(self.settings.workers)
        name = "whole" if self.shard == (0, 1) else f"shard-{self.shard[0]}-of-{self.shard[1]}"
        with FolderLock(self.output_dir / "locks" / name, "hicom build-data run"):
            for folder in (self.output_dir, *self.output_dir.glob("*-*/??")):
                remove_leftovers(folder)  # of runs that were killed
            if retry_failed:
                for stage in self.stages.values():
                    stage.forget_failures([*self.videos, *self._benchmark_videos])
                for stage in self.clip_stages.values():
                    stage.forget_failures(clip.id for clip in self.clips())
            for stage in STAGES[: STAGES.index(until) + 1]:
                steps = {
                    "probe": self._probe,
                    "select": self._match,
                    "watch": self._watch,
                    "clips": self._choose,
                    "captions": self._ask,
                }
                steps[stage](progress)

    def _probe(self, progress: Progress) -> None:
        self.engine.run_stage(self.probed, self.videos, probe, progress)

    def _match(self, progress: Progress) -> None:
        if self.settings.select is not None:
            known = {item: video.path for item, video in self.videos.items() if self.probed.is_done(item)}
            work = partial(match_with, self.settings.keyframes, self.settings.select.num_frames, self.settings.device)
            self.engine.run_stage(self.matched, known, work, progress)

    def selected_videos(self) -> dict[str, list[str]]:
        """Videos that are watched, each with the categories that it was selected for."""
        select = self.settings.select
        if select is None:
            return {item: [] for item in self.videos}
        scores = {item: self.matched.read(item)["scores"] for item in self.videos if self.matched.is_done(item)}
        return choose_videos(scores, select.per_category, select.random, select.seed)

    def _watch(self, progress: Progress) -> None:
        paths = {item: video.path for item, video in self._benchmark_videos.items()}
        paths |= {item: self.videos[item].path for item in self.selected_videos() if self.probed.is_done(item)}
        work = partial(watch_with, self.settings.keyframes, self.settings.shots, self.settings.device)
        self.engine.run_stage(self.watched, paths, work, progress)

    def _choose(self, progress: Progress) -> None:
        watched = {item: item for item in self.videos if self.watched.is_done(item)}
        run_stage(self.chosen, watched, self._choose_one, 1, progress)  # takes almost no time

    def _choose_one(self, item: str) -> dict[str, Any]:
        return choose_clips(item, self.watched.read(item), self.settings)

    def _ask(self, progress: Progress) -> None:
        """Captions and pairs of all clips."""
        if self.captions is None or self.pairs is None:
            return
        asker = Asker(self.settings, (self.captions, self.pairs))
        left_out = self.left_out()
        missing = [clip for clip in self.clips() if clip.id not in left_out and asker.is_missing(clip)]
        loop = asyncio.new_event_loop()
        answers = asker.run(missing)
        try:
            for _ in progress(_drawn(loop, answers), len(missing), "captions"):
                pass
        finally:
            loop.run_until_complete(answers.aclose())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    # What is there ---------------------------------------------------------------------------------------------------------

    def chosen_videos(self) -> Iterator[tuple[SourceVideo, dict[str, Any]]]:
        """Each video whose clips are chosen, with shots, keyframes and clips."""
        selected = self.selected_videos()
        for item, video in self.videos.items():
            if item in selected and self.chosen.is_done(item):
                yield video, self.chosen.read(item)

    def clips(self) -> Iterator[Clip]:
        """All clips that are kept."""
        for video, chosen in self.chosen_videos():
            for shot in chosen["shots"]:
                if shot["verdict"] == KEPT:
                    yield Clip(shot["id"], video, shot["start"], shot["end"], tuple(shot["keyframes"]))

    def left_out(self) -> dict[str, str]:
        """Clips that are not captioned although they are kept, with the reason; found once for the same clips."""
        clips = list(self.clips())
        known = [item for item in self._benchmark_videos if self.watched.is_done(item)]
        state = ([clip.id for clip in clips], known)
        if self._left_out is None or self._left_out[0] != state:
            self._left_out = (state, self._find_left_out(clips))
        return self._left_out[1]

    def _find_left_out(self, clips: list[Clip]) -> dict[str, str]:
        settings, chosen = self.settings, self.settings.decontaminate
        found: dict[str, str] = {}
        vectors = []
        names = benchmark_names(chosen.benchmark_files or []) if chosen else set()
        names |= task_names(chosen.benchmarks or {}) if chosen else set()
        shown = self._benchmark_vectors()
        for clip in clips:
            if names & names_of(clip.video.path):
                found[clip.id] = CONTAMINATED
            if settings.deduplicate is None and not len(shown):
                continue
            watched = self.watched.read(clip.video.id)
            times, frames = watched["sampled_times"], watched["vectors"]
            inside = (times >= clip.start) & (times < clip.end)
            if chosen and chosen.threshold is not None and shows_a_benchmark(frames[inside], shown, chosen.threshold):
                found[clip.id] = CONTAMINATED
            vectors.append(clip_vector(times, frames, clip.start, clip.end))
        if settings.deduplicate is not None and vectors:
            for number in find_duplicates(np.stack(vectors), settings.deduplicate.threshold):
                found.setdefault(clips[number].id, DUPLICATE)
        return found

    def selected_clips(self) -> list[Clip]:
        """Clips that are captioned."""
        left_out = self.left_out()
        return [clip for clip in self.clips() if clip.id not in left_out]

    @cached_property
    def _benchmark_videos(self) -> dict[str, SourceVideo]:
        chosen = self.settings.decontaminate
        if chosen is None or chosen.benchmark_videos is None:
            return {}
        return {video.id: video for video in find_videos([chosen.benchmark_videos], self.settings.media_root)}

    def benchmark_videos_not_seen(self) -> int:
        """Videos of `benchmark_videos` that clips were not compared with: not watched yet, or they cannot be read."""
        return sum(not self.watched.is_done(item) for item in self._benchmark_videos)

    def _benchmark_vectors(self) -> np.ndarray:
        """Vectors of all sampled frames of the benchmarks' videos that could be read."""
        known = [self.watched.read(item)["vectors"] for item in self._benchmark_videos if self.watched.is_done(item)]
        return np.concatenate(known) if known else np.empty((0, 0))

    def delete_video(self, video_id: str) -> int:
        """Remove the results of a video, and keep it away from later runs; `export.delete_video` removes all that came from it.

        Returns:
            How many files were removed.

        Raises:
            ValueError: the build has no such video.
        """
        if video_id not in self.videos:
            raise ValueError(f"{video_id!r} is no video of this build; the exported records' provenance names them")
        append_json_line(self.output_dir / DELETED_FILE, {"video": video_id})
        del self.videos[video_id]
        files = [path for path in self.output_dir.glob(f"*/{video_id[:2]}/{video_id}*") if path.is_file()]
        for path in files:
            path.unlink()
        log = self.output_dir / LOG_FILE  # its errors may quote the file's name
        kept = [json.dumps(entry) for entry in read_json_lines(log) if not entry["item"].startswith(video_id)]
        write_text(log, "".join(f"{line}\n" for line in kept))
        return len(files)

    def failures(self) -> list[dict[str, str]]:
        """One row for each video or clip of each stage that failed, with the video's path."""
        rows = [row for stage in self.stages.values() for row in stage.failures(self.videos)]
        clips = [clip.id for clip in self.clips()]
        rows += [row for stage in self.clip_stages.values() for row in stage.failures(clips)]
        return [{**row, "path": self.videos[row["item"].partition("-")[0]].relative} for row in rows]

    def status(self) -> dict[str, Any]:
        """How far the build is: results and failures of each stage, and what became of the shots."""
        shots = Counter(shot["verdict"] for _, chosen in self.chosen_videos() for shot in chosen["shots"])
        clips = [clip.id for clip in self.selected_clips()]
        counted = {name: _count(stage, self.items_of(name)) for name, stage in self.stages.items()}
        counted |= {name: _count(stage, clips) for name, stage in self.clip_stages.items()}
        return {
            "videos": len(self.videos),
            "stages": counted,
            "shots": {"all": shots.total(), **dict(sorted(shots.items()))},
            "left out": dict(sorted(Counter(self.left_out().values()).items())),
        }

    def items_of(self, name: str) -> list[str]:
        """Videos that a stage is for: those that are selected, as far as it comes after, and did not fail before."""
        chosen: Collection[str] = self.selected_videos() if name in ("watch", "clips") else self.videos
        before = list(self.stages.values())[: list(self.stages).index(name)]
        return [item for item in chosen if not any(stage.has_failed(item) for stage in before)]

    def has_too_many_failures(self) -> bool:
        """Whether more videos, or more clips, failed than `max_failures` allows."""
        counts = [stage for stage in self.status()["stages"].values() if sum(stage.values())]
        return any(count["failed"] > self.settings.max_failures * sum(count.values()) for count in counts)


def _count(stage: Stage, items: Collection[str]) -> dict[str, int]:
    done = sum(map(stage.is_done, items))
    failed = sum(map(stage.has_failed, items))
    return {"done": done, "failed": failed, "missing": len(items) - done - failed}


def _drawn(loop: asyncio.AbstractEventLoop, answers: AsyncGenerator[str]) -> Iterator[str]:
    """What an asynchronous iterator yields."""
    while True:
        try:
            yield loop.run_until_complete(anext(answers))
        except StopAsyncIteration:
            return


def watch_with(settings: KeyframeSettings, shots: ShotSettings, device: str, path: str) -> dict[str, Any]:
    return watch(path, settings, _embedder(settings, device), shots)


def match_with(settings: KeyframeSettings, num_frames: int, device: str, path: str) -> dict[str, Any]:
    """Mean similarity of a video's frames to each category."""
    frames, _ = read_video(path, FrameSampling(num_frames=num_frames), on_decode_error="keep")
    return {"scores": _embedder(settings, device).match(list(frames), CATEGORIES).mean(axis=0).round(6).tolist()}


@lru_cache(maxsize=1)
def _embedder(settings: KeyframeSettings, device: str) -> Embedder:
    """One for each process."""
    return make_embedder(settings, device)
