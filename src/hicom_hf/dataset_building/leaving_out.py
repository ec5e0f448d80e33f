"""Clips that are kept and yet not captioned: copies of other clips, and what benchmarks ask about.

Both are found for all clips of a build at once. There is a file per set of clips: with another video, the set is another one.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache

import numpy as np

from ..hub.files import settings_fingerprint
from .clips import Clip
from .decontamination import benchmark_names, names_of, shows_a_benchmark, task_names
from .deduplication import clip_vector, find_duplicates
from .settings import DecontaminationSettings
from .stages import Stage

DEDUPLICATE, DECONTAMINATE = "deduplicate", "decontaminate"
REASONS = {DEDUPLICATE: "duplicate", DECONTAMINATE: "of a benchmark"}
BY_NAME, BY_APPEARANCE = "its name", "its frames"
DUPLICATES_VERSION, BENCHMARKS_VERSION = 1, 1  # raised whenever the same settings give another result

Find = Callable[[Sequence[Clip]], dict[str, str]]


class ClipSetStage:
    """A stage that compares all clips of a build.

    Args:
        stage: where results go.
        find: from clips to those that are left out, each with what it is like.
    """

    def __init__(self, stage: Stage, find: Find):
        self.stage, self._find = stage, find

    def is_done(self, clips: Sequence[Clip]) -> bool:
        return self.stage.is_done(_item(clips))

    def left_out(self, clips: Sequence[Clip], store: bool) -> dict[str, str]:
        """Clips that are left out, each with the clip that stays, or with what of it a benchmark has.

        Args:
            clips: all of them.
            store: keep what was found, so that nobody has to compare again.
        """
        item = _item(clips)
        if self.stage.is_done(item):
            return self.stage.read(item)["left_out"]
        found = self._find(clips)
        if store:
            self.stage.write(item, {"clips": len(clips), "left_out": found})
        return found

    def forget(self) -> int:
        """Remove all results, because they name clips of a video that is to be deleted; returns how many."""
        paths = list(self.stage.output_dir.glob(f"{self.stage.name}-*/??/*"))
        for path in paths:
            path.unlink(missing_ok=True)
        return len(paths)


def duplicates_stage(watched: Stage, threshold: float) -> ClipSetStage:
    """Of `deduplicate`, from the vectors of the videos' frames."""

    def find(clips: Sequence[Clip]) -> dict[str, str]:
        vectors, seen_in = [], _reader(watched)
        for clip in clips:
            seen = seen_in(clip.video.id)
            vectors.append(clip_vector(seen["sampled_times"], seen["vectors"], clip.start, clip.end))
        found = find_duplicates(np.stack(vectors), threshold) if vectors else {}
        return {clips[number].id: clips[first].id for number, first in found.items()}

    settings = {"version": DUPLICATES_VERSION, "watch": watched.settings, "threshold": threshold}
    return ClipSetStage(Stage(watched.output_dir, DEDUPLICATE, settings), find)


def benchmarks_stage(
    watched: Stage, settings: DecontaminationSettings, names: Collection[str], benchmark_videos: Iterable[str]
) -> ClipSetStage:
    """Of `decontaminate`.

    Args:
        watched: vectors of the videos' frames, those of the benchmarks among them.
        settings: which benchmarks.
        names: of the benchmarks' videos, see `named_videos`.
        benchmark_videos: ids of the benchmarks' videos that are there; those that cannot be read are passed over.
    """
    known = [item for item in benchmark_videos if watched.is_done(item)]

    def find(clips: Sequence[Clip]) -> dict[str, str]:
        seen_in = _reader(watched)
        vectors = [seen_in(item)["vectors"] for item in known]
        shown = np.concatenate(vectors) if vectors else None
        found: dict[str, str] = {}
        for clip in clips:
            if names_of(clip.video.path) & set(names):
                found[clip.id] = BY_NAME
            elif shown is not None and settings.threshold is not None:
                seen = seen_in(clip.video.id)
                inside = (seen["sampled_times"] >= clip.start) & (seen["sampled_times"] < clip.end)
                if shows_a_benchmark(seen["vectors"][inside], shown, settings.threshold):
                    found[clip.id] = BY_APPEARANCE
        return found

    values = {"version": BENCHMARKS_VERSION, "names": settings_fingerprint({"names": sorted(names)})}
    values |= {"watch": watched.settings, "threshold": settings.threshold, "videos": sorted(known)}
    return ClipSetStage(Stage(watched.output_dir, DECONTAMINATE, values), find)


def named_videos(settings: DecontaminationSettings) -> set[str]:
    """Names of videos in the files of the benchmarks.

    Raises:
        FileNotFoundError: a file of a benchmark is not there.
        ValueError: a file is of another kind, or there is no such evaluation task.
    """
    return benchmark_names(settings.benchmark_files or []) | task_names(settings.benchmarks or {})


def _reader(watched: Stage) -> Callable[[str], dict[str, np.ndarray]]:
    """Times and vectors of a video's sampled frames, read once for its clips, which follow one another."""
    return lru_cache(maxsize=1)(lambda item: watched.read(item, "sampled_times", "vectors"))


def _item(clips: Sequence[Clip]) -> str:
    """A name of a set of clips. Files of benchmarks may go by the videos' names, which are part of the clips' ids."""
    return settings_fingerprint({"clips": [clip.id for clip in clips]})
