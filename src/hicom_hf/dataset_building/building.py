"""The stages of a build in their order, from videos to pairs, each done for what is missing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..hub.files import FolderLock, append_json_line, read_json_lines
from ..hub.progress import Progress, no_progress
from ..processors.frame_sampling_hicom import FrameSampling
from ..processors.video_reading_hicom import read_video
from .asking import Asker, answer_stages
from .categories import CATEGORIES, choose_videos
from .clips import KEPT, choose_clips
from .decontamination import benchmark_names, shows_a_benchmark
from .deduplication import clip_vector, find_duplicates
from .embedders import Embedder, make_embedder
from .engine_local import run_stage
from .probe import SourceVideo, find_videos, probe
from .settings import BuildSettings, KeyframeSettings
from .stages import ARRAYS, Stage
from .watching import watch

# Raised whenever the same settings give another result of a stage.
PROBE_VERSION, MATCH_VERSION, WATCH_VERSION, CLIPS_VERSION = 1, 1, 2, 1
DUPLICATE, CONTAMINATED = "duplicate", "of a benchmark"
DELETED_FILE = "deleted.jsonl"
STAGES = ("probe", "select", "watch", "clips", "captions")
# CPU seconds of one core per hour of 720p video at 24 frames per second, without the embedder (benchmarks/building_data.py).
WATCH_CPU_SECONDS_PER_HOUR = 363


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
        self.output_dir = Path(settings.output_dir)
        deleted = {entry["video"] for entry in read_json_lines(self.output_dir / DELETED_FILE)}
        videos = find_videos(settings.videos, settings.media_root)[shard[0] :: shard[1]]
        self.videos = {video.id: video for video in islice(videos, limit) if video.id not in deleted}
        keyframes = settings.to_dict()["keyframes"]
        watched = {"version": WATCH_VERSION} | {
            key: keyframes[key] for key in ("embedder", "model", "fps", "max_side")
        }
        chosen = {"watch": watched, "version": CLIPS_VERSION, "rule": keyframes["rule"]}
        chosen |= {"threshold": keyframes["threshold"]}
        chosen |= {key: settings.to_dict()[key] for key in ("shots", "clips")}
        self.probed = Stage(self.output_dir, "probe", {"version": PROBE_VERSION})
        matched = {"version": MATCH_VERSION, "categories": list(CATEGORIES)}
        matched |= {key: keyframes[key] for key in ("embedder", "model")}
        matched |= {"num_frames": settings.select.num_frames} if settings.select else {}
        self.matched = Stage(self.output_dir, "match", matched)
        self.watched = Stage(self.output_dir, "watch", watched, ARRAYS)
        self.chosen = Stage(self.output_dir, "clips", chosen)
        self.captions, self.pairs = (None, None) if settings.captions is None else answer_stages(settings)

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """Of videos."""
        matched = {} if self.settings.select is None else {"match": self.matched}
        return {"probe": self.probed, **matched, "watch": self.watched, "clips": self.chosen}

    @cached_property
    def clip_stages(self) -> dict[str, Stage]:
        """Of clips; none if the build ends with clips."""
        return {} if self.captions is None else {"captions": self.captions, "pairs": self.pairs}

    # Work ------------------------------------------------------------------------------------------------------------------

    def run(self, until: str = STAGES[-1], retry_failed: bool = False, progress: Progress = no_progress) -> None:
        """Do what is missing.

        Args:
            until: the last stage.
            retry_failed: also what failed before.
            progress: of each stage.

        Raises:
            BlockingIOError: another process builds this part.
            EndpointError: the captioner's server is dead; what it has answered is kept.
        """
        name = "whole" if self.shard == (0, 1) else f"shard-{self.shard[0]}-of-{self.shard[1]}"
        with FolderLock(self.output_dir / "locks" / name, "hicom build-data run"):
            if retry_failed:
                for stage in self.stages.values():
                    stage.forget_failures(self.videos)
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
        run_stage(self.probed, self.videos, probe, self.settings.workers, progress)

    def _match(self, progress: Progress) -> None:
        if self.settings.select is not None:
            known = {item: video.path for item, video in self.videos.items() if self.probed.is_done(item)}
            work = partial(match_with, self.settings.keyframes, self.settings.select.num_frames, self.settings.device)
            run_stage(self.matched, known, work, self.settings.workers, progress)

    def selected_videos(self) -> dict[str, list[str]]:
        """Videos that are watched, each with the categories that it was selected for."""
        select = self.settings.select
        if select is None:
            return {item: [] for item in self.videos}
        scores = {item: self.matched.read(item)["scores"] for item in self.videos if self.matched.is_done(item)}
        return choose_videos(scores, select.per_category, select.random, select.seed)

    def _watch(self, progress: Progress) -> None:
        known = self._benchmark_videos()
        work = partial(watch_with, self.settings.keyframes, self.settings.device)
        run_stage(self.watched, {item: known[item].path for item in known}, work, self.settings.workers, progress)
        known = {item: self.videos[item].path for item in self.selected_videos() if self.probed.is_done(item)}
        work = partial(watch_with, self.settings.keyframes, self.settings.device)
        run_stage(self.watched, known, work, self.settings.workers, progress)

    def _choose(self, progress: Progress) -> None:
        watched = {item: item for item in self.videos if self.watched.is_done(item)}
        run_stage(self.chosen, watched, self._choose_one, 1, progress)

    def _choose_one(self, item: str) -> dict[str, Any]:
        return choose_clips(item, self.watched.read(item), self.settings)

    def _ask(self, progress: Progress) -> None:
        """Captions and pairs of all clips."""
        if self.captions is None:
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
        """Clips that are not captioned although they are kept, with the reason."""
        settings, clips = self.settings, list(self.clips())
        found: dict[str, str] = {}
        vectors = []
        names = benchmark_names((settings.decontaminate and settings.decontaminate.benchmark_files) or [])
        shown = self._benchmark_vectors()
        for clip in clips:
            if Path(clip.video.path).stem in names:
                found[clip.id] = CONTAMINATED
            if settings.deduplicate is None and not len(shown):
                continue
            watched = self.watched.read(clip.video.id)
            times, frames = watched["sampled_times"], watched["vectors"]
            inside = (times >= clip.start) & (times < clip.end)
            if len(shown) and shows_a_benchmark(frames[inside], shown, settings.decontaminate.threshold):
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

    def _benchmark_videos(self) -> dict[str, SourceVideo]:
        chosen = self.settings.decontaminate
        if chosen is None or chosen.benchmark_videos is None:
            return {}
        return {video.id: video for video in find_videos([chosen.benchmark_videos], self.settings.media_root)}

    def _benchmark_vectors(self) -> np.ndarray:
        """Vectors of all sampled frames of the benchmarks' videos that could be read."""
        known = [self.watched.read(item)["vectors"] for item in self._benchmark_videos() if self.watched.is_done(item)]
        return np.concatenate(known) if known else np.empty((0, 0))

    def delete_video(self, video_id: str) -> int:
        """Remove everything that came from a video, for good: later runs leave it out. Export again afterwards.

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
        return len(files)

    def failures(self) -> list[dict[str, str]]:
        """One row for each video or clip of each stage that failed, with the video's path."""
        rows = [row for stage in self.stages.values() for row in stage.failures(self.videos)]
        clips = [clip.id for clip in self.clips()]
        rows += [row for stage in self.clip_stages.values() for row in stage.failures(clips)]
        return [{**row, "path": self.videos[row["item"].partition("-")[0]].relative} for row in rows]

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
            "requests": self._num_requests(),
        }

    def _num_requests(self) -> int:
        """Two for each chosen clip that has no answer yet; before clips are chosen nobody knows how many there will be."""
        clips = [clip.id for clip in self.selected_clips()]
        return sum(len(stage.missing(clips)) for stage in self.clip_stages.values())

    def status(self) -> dict[str, Any]:
        """How far the build is: results and failures of each stage, and what became of the shots."""
        shots = Counter(shot["verdict"] for _, chosen in self.chosen_videos() for shot in chosen["shots"])
        clips = [clip.id for clip in self.selected_clips()]
        selected = self.selected_videos()
        later = ("watch", "clips")
        counted = {
            name: _count(stage, selected if name in later else self.videos) for name, stage in self.stages.items()
        }
        counted |= {name: _count(stage, clips) for name, stage in self.clip_stages.items()}
        return {
            "videos": len(self.videos),
            "stages": counted,
            "shots": {"all": shots.total(), **dict(sorted(shots.items()))},
            "left out": dict(sorted(Counter(self.left_out().values()).items())),
        }

    def has_too_many_failures(self) -> bool:
        """Whether more videos, or more clips, failed than `max_failures` allows."""
        counts = [stage for stage in self.status()["stages"].values() if sum(stage.values())]
        return any(count["failed"] > self.settings.max_failures * sum(count.values()) for count in counts)


def _count(stage: Stage, items: Collection[str]) -> dict[str, int]:
    done = sum(map(stage.is_done, items))
    failed = sum(map(stage.has_failed, items))
    return {"done": done, "failed": failed, "missing": len(items) - done - failed}


def _drawn(loop: asyncio.AbstractEventLoop, answers: AsyncIterator[str]) -> Iterator[str]:
    """What an asynchronous iterator yields."""
    while True:
        try:
            yield loop.run_until_complete(anext(answers))
        except StopAsyncIteration:
            return


def watch_with(settings: KeyframeSettings, device: str, path: str) -> dict[str, Any]:
    return watch(path, settings, _embedder(settings, device))


def match_with(settings: KeyframeSettings, num_frames: int, device: str, path: str) -> dict[str, Any]:
    """Mean similarity of a video's frames to each category."""
    frames, _ = read_video(path, FrameSampling(num_frames=num_frames), on_decode_error="keep")
    return {"scores": _embedder(settings, device).match(list(frames), CATEGORIES).mean(axis=0).round(6).tolist()}


@lru_cache(maxsize=1)
def _embedder(settings: KeyframeSettings, device: str) -> Embedder:
    """One for each process."""
    return make_embedder(settings, device)
