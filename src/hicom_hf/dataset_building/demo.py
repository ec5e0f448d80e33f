"""The whole pipeline offline: films of the built-in world, a server that knows their scenes, the report, and the truth."""

from dataclasses import dataclass
from pathlib import Path

from ..data.checking import check_data
from ..hub.progress import Progress, no_progress
from ..shapes.films import Take, film, film_takes
from ..shapes.writing import write_video
from .building import Build, Clip
from .demo_server import MODEL, SceneServer, pairs_of
from .export import RECORDS_FILE, export
from .report import TOLERANCE, write_report
from .settings import BuildSettings, settings_from_dict
from .shots import recall_and_precision

FPS = 8.0
MAX_FILMS = 100
SHOTS = {"threshold": 0.05}
KEYFRAMES = {"embedder": "hicom", "model": None, "threshold": 0.91}


@dataclass(frozen=True)
class Truth:
    """How well the pipeline did, for the true cuts and scenes are known.

    Attributes:
        recall, precision: of cuts.
        new_kept: new scenes with a keyframe, and how many there are.
        returning_kept: likewise of scenes that were there before.
        true_clips: clips whose pairs are all true of the scene that fills most of them, and how many clips there are.
        mixed_clips: clips that show two scenes, because a cut was missed.
    """

    recall: float
    precision: float
    new_kept: tuple[int, int]
    returning_kept: tuple[int, int]
    true_clips: tuple[int, int]
    mixed_clips: int


def run_demo(folder: str | Path, num_films: int = 4, progress: Progress = no_progress) -> tuple[Build, Truth, int]:
    """Make films, build pairs from them, report, check.

    Args:
        folder: for the films (kept if they are there) and the build.
        num_films: how many, at most 100.
        progress: of each stage.

    Returns:
        The build, how well it did, and the number of problems that `hicom data check` would find.

    Raises:
        ValueError: `num_films` is out of range.
    """
    if not 1 <= num_films <= MAX_FILMS:
        raise ValueError(f"num_films must be from 1 to {MAX_FILMS}, got {num_films}")
    folder = Path(folder)
    films = {
        f"film{seed:02}.mp4": _film(folder / "films", seed) for seed in progress(range(num_films), num_films, "films")
    }
    scenes = {take.seed: take.scene for takes in films.values() for take in takes}
    with SceneServer(list(scenes.values())) as server:
        build = Build(demo_settings(folder, server.base_url))
        build.run(progress=progress)
    export(build, ("jsonl",))
    write_report(build, {name: [take.end for take in takes[:-1]] for name, takes in films.items()})
    problems = check_data(build.output_dir / RECORDS_FILE, media_root=build.settings.media_root).problems
    return build, compare(build, films), len(problems)


def demo_settings(folder: Path, base_url: str) -> BuildSettings:
    captions = {"base_url": base_url, "model": MODEL, "num_frames": 6}
    values = {
        "videos": [str(folder / "films")],
        "output_dir": str(folder / "build"),
        "media_root": str(folder / "films"),
    }
    return settings_from_dict({**values, "shots": SHOTS, "keyframes": KEYFRAMES, "captions": captions})


def compare(build: Build, films: dict[str, list[Take]]) -> Truth:
    """Measure a build of films against their takes, which are given by the films' names."""
    num_found = num_true = hits = false = 0
    kept: dict[bool, list[bool]] = {False: [], True: []}
    for video, chosen in build.chosen_videos():
        takes = films[Path(video.path).name]
        true = [take.end for take in takes[:-1]]
        recall, precision, _ = recall_and_precision(chosen["cuts"], true, TOLERANCE)
        num_found, num_true = num_found + len(chosen["cuts"]), num_true + len(true)
        hits, false = hits + round(recall * len(true)), false + round((1 - precision) * len(chosen["cuts"]))
        for take in takes:
            kept[take.returns].append(any(take.start <= time < take.end for time in chosen["keyframes"]))
    assert build.pairs is not None  # the demo has a captioner
    answered = build.pairs
    clips = [clip for clip in build.selected_clips() if answered.is_done(clip.id)]
    true_clips = sum(
        answered.read(clip.id)["pairs"] == pairs_of(_take_of(clip, films).scene, build.settings.pairs.num_pairs)
        for clip in clips
    )
    return Truth(
        recall=hits / max(num_true, 1),
        precision=1 - false / max(num_found, 1),
        new_kept=(sum(kept[False]), len(kept[False])),
        returning_kept=(sum(kept[True]), len(kept[True])),
        true_clips=(true_clips, len(clips)),
        mixed_clips=sum(
            _overlap(clip, _take_of(clip, films)) < clip.end - clip.start - 2 * TOLERANCE for clip in clips
        ),
    )


def _film(folder: Path, seed: int) -> list[Take]:
    """The takes of a film, which is drawn if it is not there."""
    path = folder / f"film{seed:02}.mp4"
    if not path.exists():
        write_video(path, film(seed, fps=FPS)[0], FPS)
    return film_takes(seed, fps=FPS)


def _take_of(clip: Clip, films: dict[str, list[Take]]) -> Take:
    """The take that fills most of a clip."""
    return max(films[Path(clip.video.path).name], key=lambda take: _overlap(clip, take))


def _overlap(clip: Clip, take: Take) -> float:
    return max(0.0, min(clip.end, take.end) - max(clip.start, take.start))
