"""The stages of a build in their order, from videos to pairs, each done for what is missing."""

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from ..evaluation.client import read_key
from ..hub.files import append_json_line, read_json_lines, remove_leftovers, write_text
from ..hub.progress import Progress, no_progress
from .asking import CAPTIONS, PAIRS, Asker, answer_stages
from .categories import choose_videos
from .clips import KEPT, Clip, choose_clips
from .detectors import make_detector
from .engine_local import LocalEngine, run_stage
from .filtering import verdicts
from .leaving_out import (
    DECONTAMINATE,
    DEDUPLICATE,
    REASONS,
    ClipSetStage,
    benchmarks_stage,
    duplicates_stage,
    named_videos,
)
from .probe import ID, SourceVideo, find_videos, probe
from .run_locks import WHOLE_BUILD, part_lock
from .settings import BuildSettings
from .stage_settings import filter_stage, video_stages
from .stages import LOG_FILE, STAGES, Stage
from .video_work import keyframes_of, match_with, shots_of, watch_with

DELETED_FILE = "deleted.jsonl"
# What a stage needs. With one name, what is there is enough, and the rest waits; those of `WHOLE` must be complete.
NEEDED = {
    "select": ("probe",),
    "watch": ("probe", "select"),
    "shots": ("select", "watch"),
    "keyframes": ("select", "watch"),
    "clips": ("select", "shots", "keyframes"),
    "deduplicate": ("select", "clips"),
    "decontaminate": ("select", "watch", "clips"),
    "captions": ("select", "clips", "deduplicate", "decontaminate"),
    "pairs": ("select", "clips", "deduplicate", "decontaminate", "captions"),
    "filter": ("select", "clips", "pairs"),
}
WHOLE = ("select", "deduplicate", "decontaminate")  # they compare all videos or all clips with one another


class Engine(Protocol):
    """Who does the missing work of a stage: `engine_local.LocalEngine` or `engine_ray.RayEngine`."""

    def run_stage(
        self, stage: Stage, values: Mapping[str, Any], work: Callable[[Any], dict[str, Any]], progress: Progress
    ) -> None:
        """Make the results of a stage that are missing, and write down what fails."""


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
        known = video_stages(settings)
        self.probed, self.matched, self.watched = known["probe"], known["select"], known["watch"]
        self.shots, self.keyframes, self.chosen = known["shots"], known["keyframes"], known["clips"]
        self.captions, self.pairs, self.filtered = None, None, None
        if settings.captions is not None:
            self.captions, self.pairs = answer_stages(settings)
            self.filtered = filter_stage(settings, self.pairs)
        self.engine: Engine = LocalEngine(settings.workers)
        self._left_out: tuple[Any, dict[str, str]] | None = None  # what it was found for, and what was found

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """The stages that process videos, by name."""
        found = (self.probed, self.matched, self.watched, self.shots, self.keyframes, self.chosen)
        return {stage.name: stage for stage in found if stage is not self.matched or self.settings.select is not None}

    @property
    def set_stages(self) -> dict[str, ClipSetStage]:
        """The stages that compare all clips, by name; errors as of `named_videos`."""
        settings, found = self.settings, {}
        if settings.deduplicate is not None:
            found[DEDUPLICATE] = duplicates_stage(self.watched, settings.deduplicate.threshold)
        if settings.decontaminate is not None:
            names = self._benchmark_names
            found[DECONTAMINATE] = benchmarks_stage(
                self.watched, settings.decontaminate, names, self._benchmark_videos
            )
        return found

    @cached_property
    def clip_stages(self) -> dict[str, Stage]:
        """The stages that process clips, by name; none if the build ends with clips."""
        found = (self.captions, self.pairs, self.filtered)
        return {stage.name: stage for stage in found if stage is not None}

    # Work ------------------------------------------------------------------------------------------------------------------

    def run(
        self,
        until: str = STAGES[-1],
        retry_failed: bool = False,
        progress: Progress = no_progress,
        engine: Engine | None = None,
        only: str | None = None,
    ) -> None:
        """Compute the results that are missing.

        Args:
            until: the last stage.
            retry_failed: also what failed before, in these stages.
            progress: of each stage.
            engine: who does it; None for this machine, with as many processes as the settings say.
            only: this stage and no other, in place of `until`; what it needs must be there. Videos or clips for which a
                stage before it is not done wait, see `waiting`.

        Raises:
            BlockingIOError: another process builds this part, or videos of it.
            EndpointError: the captioner's server does not answer; answers that arrived are kept.
            ImportError: the detector needs a package that is not installed.
            EmbedderError: the embedder cannot be loaded.
            ValueError: `only` is not part of this build, or what it needs is not there; there is no key of the captioner.
            FileNotFoundError: the videos or files of a benchmark are not there.
        """
        chosen = STAGES[: STAGES.index(until) + 1] if only is None else (only,)
        if self.output_dir.exists() and not self.output_dir.is_dir():
            raise NotADirectoryError(
                f"output_dir: {self.output_dir} is a file; name a folder, which is made if it is missing"
            )
        make_detector(self.settings.shots)  # refused at once, not for each video or after hours
        known = self.set_stages
        if self.settings.captions is not None and {CAPTIONS, PAIRS} & set(chosen):
            read_key(self.settings.captions.api_key_variable)
        if only is not None:
            if only not in {**self.stages, **known, **self.clip_stages}:
                key = CAPTIONS if only in (PAIRS, "filter") else only
                raise ValueError(f"stage {only}: this build has none, because its file has no {key!r}")
            self._refuse_without_what_it_needs(only)
        self.engine = engine or LocalEngine(self.settings.workers)
        with part_lock(self.output_dir, self.shard, "hicom build-data run"):
            for folder in (self.output_dir, *self.output_dir.glob("*-*/??")):
                remove_leftovers(folder)  # of runs that were killed
            if retry_failed:
                self._forget_failures(chosen)
            for stage in chosen:
                self._run_stage(stage, chosen, progress)

    def _run_stage(self, stage: str, chosen: Collection[str], progress: Progress) -> None:
        if stage in (DEDUPLICATE, DECONTAMINATE):
            if stage in self.set_stages:
                self.set_stages[stage].left_out(list(self.clips()), store=True)
        elif stage in (CAPTIONS, PAIRS):  # a clip's frames are read once for both
            self._ask(tuple(kind for kind in (CAPTIONS, PAIRS) if kind in chosen), progress)
        else:
            steps = {
                "probe": self._probe,
                "select": self._match,
                "watch": self._watch,
                "shots": self._find_shots,
                "keyframes": self._find_keyframes,
                "clips": self._choose,
                "filter": self._filter,
            }
            steps[stage](progress)

    def _forget_failures(self, chosen: Collection[str]) -> None:
        for name in chosen:
            if name in self.stages:
                self.stages[name].forget_failures([*self.videos, *self._benchmark_videos])
            elif name in self.clip_stages:
                self.clip_stages[name].forget_failures(clip.id for clip in self.clips())

    def waiting(self, name: str) -> dict[str, int]:
        """How many videos or clips of a stage wait for which stage before it."""
        known, found = {**self.stages, **self.set_stages, **self.clip_stages}, {}
        for needed in NEEDED.get(name, ()):
            if needed in known and (count := self.count(needed)["missing"]):
                found[needed] = count
        return found

    def _refuse_without_what_it_needs(self, name: str) -> None:
        for needed, count in self.waiting(name).items():
            needs_all = needed in WHOLE or name in WHOLE[1:]
            if needs_all or not self.count(needed)["done"]:
                what = "clips" if needed in (*self.set_stages, *self.clip_stages) else "videos"
                raise ValueError(
                    f"stage {name} needs the stage {needed}{' of all' if needs_all else ''}, which is missing for {count} "
                    f"{what}; run it first (--stage {needed}), or all stages up to this one (--until {name})"
                )

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

    def _find_shots(self, progress: Progress) -> None:
        work = partial(shots_of, self.watched, self.settings.shots)
        run_stage(self.shots, self._done_in(self.watched), work, 1, progress)  # takes almost no time, as the next two

    def _find_keyframes(self, progress: Progress) -> None:
        work = partial(keyframes_of, self.watched, self.settings.keyframes)
        run_stage(self.keyframes, self._done_in(self.watched), work, 1, progress)

    def _choose(self, progress: Progress) -> None:
        def work(item: str) -> dict[str, Any]:
            return choose_clips(item, self.shots.read(item), self.keyframes.read(item), self.settings.clips)

        run_stage(self.chosen, self._done_in(self.shots, self.keyframes), work, 1, progress)

    def _done_in(self, *stages: Stage) -> dict[str, str]:
        return {item: item for item in self.videos if all(stage.is_done(item) for stage in stages)}

    def _ask(self, kinds: tuple[str, ...], progress: Progress) -> None:
        """Captions, pairs, or both, of all clips."""
        if self.captions is None or self.pairs is None:
            return
        asker = Asker(self.settings, (self.captions, self.pairs), kinds)
        missing = [clip for clip in self.selected_clips(store=True) if asker.is_missing(clip)]
        if not missing:
            return
        loop = asyncio.new_event_loop()
        answers = asker.run(missing)
        try:
            for _ in progress(_drawn(loop, answers), len(missing), " and ".join(kinds)):
                pass
        finally:
            left = asyncio.all_tasks(loop)  # after Ctrl-C, of which they know nothing
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left))
            loop.run_until_complete(answers.aclose())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def _filter(self, progress: Progress) -> None:
        if self.filtered is None or self.pairs is None:
            return
        pairs, settings = self.pairs, self.settings.filter
        answered = {clip.id: clip.id for clip in self.selected_clips() if pairs.is_done(clip.id)}

        def work(item: str) -> dict[str, Any]:
            return {"verdicts": verdicts(pairs.read(item)["pairs"], settings)}

        run_stage(self.filtered, answered, work, 1, progress)

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

    def left_out(self, store: bool = False) -> dict[str, str]:
        """Clips that are not captioned although they are kept, with the reason; found once for the same clips.

        Args:
            store: keep what was found in the build's folder, as the stages deduplicate and decontaminate do.
        """
        known = self.set_stages
        if not known:
            return {}
        clips = list(self.clips())
        state = ([clip.id for clip in clips], [stage.stage.fingerprint for stage in known.values()])
        if store or self._left_out is None or self._left_out[0] != state:
            found = {}
            for name, stage in known.items():
                found |= dict.fromkeys(stage.left_out(clips, store), REASONS[name])
            self._left_out = (state, found)
        return self._left_out[1]

    def selected_clips(self, store: bool = False) -> list[Clip]:
        """Clips that are captioned; see `left_out`."""
        left_out = self.left_out(store)
        return [clip for clip in self.clips() if clip.id not in left_out]

    def verdicts_of(self, clip_id: str) -> list[str]:
        """What became of each pair of a clip that has pairs: "kept", or the reason why it is dropped."""
        assert self.pairs is not None and self.filtered is not None  # there are pairs
        if self.filtered.is_done(clip_id):
            return self.filtered.read(clip_id)["verdicts"]
        return verdicts(self.pairs.read(clip_id)["pairs"], self.settings.filter)

    @cached_property
    def _benchmark_names(self) -> set[str]:
        return set() if self.settings.decontaminate is None else named_videos(self.settings.decontaminate)

    @cached_property
    def _benchmark_videos(self) -> dict[str, SourceVideo]:
        chosen = self.settings.decontaminate
        if chosen is None or chosen.benchmark_videos is None:
            return {}
        return {video.id: video for video in find_videos([chosen.benchmark_videos], self.settings.media_root)}

    def benchmark_videos_not_seen(self) -> int:
        """Videos of `benchmark_videos` that clips were not compared with: not watched yet, or they cannot be read."""
        return sum(not self.watched.is_done(item) for item in self._benchmark_videos)

    def delete_video(self, video_id: str) -> int:
        """Remove the results of a video, and keep it away from later runs; `export.delete_video` removes all that came from it.

        Its file need not be there any more. A deletion that was killed is repeated.

        Returns:
            How many files were removed.

        Raises:
            ValueError: there is nothing of such a video.
            BlockingIOError: another process builds; it would write results of the video again.
        """
        with part_lock(self.output_dir, WHOLE_BUILD, "hicom build-data delete"):
            deleted = {entry["video"] for entry in read_json_lines(self.output_dir / DELETED_FILE)}
            files = list(self.output_dir.glob(f"*/{video_id[:2]}/{video_id}*")) if ID.fullmatch(video_id) else []
            if not files and video_id not in {*self.videos, *deleted}:
                raise ValueError(
                    f"{video_id!r} is no video of this build; the exported records' provenance names them"
                )
            if video_id not in deleted:
                append_json_line(self.output_dir / DELETED_FILE, {"video": video_id})
            self.videos.pop(video_id, None)
            for path in files:
                if path.is_dir():  # what a killed process was writing
                    shutil.rmtree(path)
                else:
                    path.unlink()
            count = len(files) + sum(stage.forget() for stage in self.set_stages.values())
            log = self.output_dir / LOG_FILE  # its errors may quote the file's name
            kept = [json.dumps(entry) for entry in read_json_lines(log) if not entry["item"].startswith(video_id)]
            write_text(log, "".join(f"{line}\n" for line in kept))
        return count

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
        known = {**self.stages, **self.set_stages, **self.clip_stages}
        return {
            "videos": len(self.videos),
            "stages": {name: self.count(name, clips) for name in known},
            "shots": {"all": shots.total(), **dict(sorted(shots.items()))},
            "left out": dict(sorted(Counter(self.left_out().values()).items())),
        }

    def count(self, name: str, selected: Collection[str] | None = None) -> dict[str, int]:
        """How many videos or clips of a stage are done, failed, and are missing.

        Args:
            name: of the stage.
            selected: ids of the clips that are captioned, where they are known.
        """
        if name in self.set_stages:
            clips = list(self.clips())
            is_done = self.set_stages[name].is_done(clips)
            return {"done": len(clips) * is_done, "failed": 0, "missing": len(clips) * (not is_done)}
        stage = {**self.stages, **self.clip_stages}[name]
        items = self.items_of(name, selected)
        done, failed = sum(map(stage.is_done, items)), sum(map(stage.has_failed, items))
        return {"done": done, "failed": failed, "missing": len(items) - done - failed}

    def items_of(self, name: str, selected: Collection[str] | None = None) -> list[str]:
        """Videos or clips that a stage is for: those that are selected, as far as it comes after, and did not fail before.

        Args:
            name: of a stage of videos or of clips.
            selected: ids of the clips that are captioned, where they are known.
        """
        if name in self.clip_stages:
            chosen = [clip.id for clip in self.selected_clips()] if selected is None else selected
            stages = self.clip_stages
        else:
            chosen, stages = self.selected_videos() if name not in ("probe", "select") else self.videos, self.stages
        before = list(stages.values())[: list(stages).index(name)]
        return [item for item in chosen if not any(stage.has_failed(item) for stage in before)]

    def has_too_many_failures(self) -> bool:
        """Whether more videos, or more clips, failed than `max_failures` allows."""
        counts = [stage for stage in self.status()["stages"].values() if sum(stage.values())]
        return any(count["failed"] > self.settings.max_failures * sum(count.values()) for count in counts)


def _drawn(loop: asyncio.AbstractEventLoop, answers: AsyncGenerator[str]) -> Iterator[str]:
    """What an asynchronous iterator yields."""
    while True:
        try:
            yield loop.run_until_complete(anext(answers))
        except StopAsyncIteration:
            return
