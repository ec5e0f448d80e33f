"""How true a build of films is whose takes are known: cuts, keyframes, and every pair of every clip."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..hub.files import write_text
from ..shapes.films import Take
from .building import Build
from .clips import Clip
from .demo_server import pairs_of
from .shots import recall_and_precision
from .stages import TAKES_FILE

TOLERANCE = 0.38  # seconds from a true cut to one that was found: three frames at 8 per second

Films = Mapping[str, Sequence[Take]]


@dataclass(frozen=True)
class MissedCut:
    """A true cut that was not found.

    Attributes:
        video: name of the film.
        time: seconds.
        transition: "cut", "dissolve" or "fade".
    """

    video: str
    time: float
    transition: str


@dataclass(frozen=True)
class DoubtfulClip:
    """A clip that shows several scenes, or whose pairs are not all true of the scene that fills most of it.

    Attributes:
        id, video: of the clip, and the name of its film.
        start, end: seconds.
        missed: true cuts within the clip, seconds; none if it shows one scene.
        is_true: whether all pairs are true of the scene that fills most of it.
        described: fraction of the clip that shows the scene that its pairs are true of; 0 if they are true of none.
    """

    id: str
    video: str
    start: float
    end: float
    missed: tuple[float, ...]
    is_true: bool
    described: float


@dataclass(frozen=True)
class Truth:
    """How well the pipeline did, for the true cuts and scenes are known.

    Attributes:
        recall, precision: of cuts.
        new_kept: new scenes with a keyframe, and how many there are.
        returning_kept: likewise of scenes that were there before.
        true_clips: clips whose pairs are all true of the scene that fills most of them, and how many clips there are.
        mixed_clips: clips that show several scenes, because a cut was missed.
        unexplained_clips: clips whose pairs are not all true, although they show one scene.
        missed_cuts: all of them.
        doubtful_clips: the mixed ones, and the unexplained ones.
    """

    recall: float
    precision: float
    new_kept: tuple[int, int]
    returning_kept: tuple[int, int]
    true_clips: tuple[int, int]
    mixed_clips: int
    unexplained_clips: int
    missed_cuts: tuple[MissedCut, ...]
    doubtful_clips: tuple[DoubtfulClip, ...]


def write_takes(build: Build, films: Films) -> None:
    """Keep in the build's folder what its films show, for later reports."""
    plain = {name: [take.to_dict() for take in takes] for name, takes in films.items()}
    write_text(build.output_dir / TAKES_FILE, json.dumps(plain, indent=1))


def read_takes(build: Build) -> Films | None:
    """What the films of a build show; None if it is not known of each of its videos, as of all but the demo's."""
    path = build.output_dir / TAKES_FILE
    if not path.is_file():
        return None
    plain = json.loads(path.read_text(encoding="utf-8"))
    films = {name: [Take(**take) for take in takes] for name, takes in plain.items()}
    return films if all(Path(video.path).name in films for video in build.videos.values()) else None


def compare(build: Build, films: Films) -> Truth:
    """Measure a build of films against their takes, which are given by the films' names."""
    num_found = hits = false = 0
    kept: dict[bool, list[bool]] = {False: [], True: []}
    missed: list[MissedCut] = []
    for video, chosen in build.chosen_videos():
        name, takes = Path(video.path).name, films[Path(video.path).name]
        true = {take.end: take.transition or "" for take in takes[:-1]}
        _, precision, not_found = recall_and_precision(chosen["cuts"], list(true), TOLERANCE)
        missed += [MissedCut(name, time, true[time]) for time in not_found]
        hits, num_found = hits + len(true) - len(not_found), num_found + len(chosen["cuts"])
        false += round((1 - precision) * len(chosen["cuts"]))
        for take in takes:
            kept[take.returns].append(any(take.start <= time < take.end for time in chosen["keyframes"]))
    assert build.pairs is not None  # the demo has a captioner
    clips = [clip for clip in build.selected_clips() if build.pairs.is_done(clip.id)]
    seen = [_seen(build, clip, films[Path(clip.video.path).name]) for clip in clips]
    return Truth(
        recall=hits / max(hits + len(missed), 1),
        precision=1 - false / max(num_found, 1),
        new_kept=(sum(kept[False]), len(kept[False])),
        returning_kept=(sum(kept[True]), len(kept[True])),
        true_clips=(sum(clip.is_true for clip in seen), len(seen)),
        mixed_clips=sum(bool(clip.missed) for clip in seen),
        unexplained_clips=sum(not clip.missed and not clip.is_true for clip in seen),
        missed_cuts=tuple(missed),
        doubtful_clips=tuple(clip for clip in seen if clip.missed or not clip.is_true),
    )


def _seen(build: Build, clip: Clip, takes: Sequence[Take]) -> DoubtfulClip:
    """What a clip shows, and what its pairs are true of."""
    assert build.pairs is not None  # asked in `compare`
    pairs, num_pairs = build.pairs.read(clip.id)["pairs"], build.settings.pairs.num_pairs
    most = max(takes, key=lambda take: _overlap(clip, take))
    described = sum(_overlap(clip, take) for take in takes if pairs == pairs_of(take.scene, num_pairs))
    return DoubtfulClip(
        clip.id,
        Path(clip.video.path).name,
        clip.start,
        clip.end,
        tuple(take.end for take in takes[:-1] if clip.start + TOLERANCE < take.end < clip.end - TOLERANCE),
        pairs == pairs_of(most.scene, num_pairs),
        round(described / (clip.end - clip.start), 3),
    )


def _overlap(clip: Clip, take: Take) -> float:
    return max(0.0, min(clip.end, take.end) - max(clip.start, take.start))
