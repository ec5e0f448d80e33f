"""The whole pipeline offline: films of the built-in world, a server that knows their scenes, the report, and the truth."""

from pathlib import Path

import yaml

from ..data.checking import check_data
from ..hub.files import write_text
from ..hub.progress import Progress, no_progress
from ..shapes.films import Take, film, film_takes
from ..shapes.writing import write_video
from .building import Build
from .demo_server import MODEL, SceneServer
from .export import RECORDS_FILE, export
from .report import write_report
from .settings import BuildSettings, settings_from_dict
from .truth import Truth, compare, write_takes

FPS = 8.0
MAX_FILMS = 100
BUILD_FILE = "build.yaml"
SHOTS = {"threshold": 0.05}
KEYFRAMES = {"embedder": "hicom", "model": None, "threshold": 0.85}  # see docs/building_data.md


def run_demo(folder: str | Path, num_films: int = 4, progress: Progress = no_progress) -> tuple[Build, Truth, int]:
    """Make films, build pairs from them, report, check.

    The build's settings are written, too, for other commands: its server has ended, and its answers are there.

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
    write_takes(build, films)
    write_text(folder / BUILD_FILE, yaml.safe_dump(build.settings.to_dict(), sort_keys=False))
    truth = compare(build, films)
    write_report(build, truth)
    problems = check_data(build.output_dir / RECORDS_FILE, media_root=build.settings.media_root).problems
    return build, truth, len(problems)


def demo_settings(folder: Path, base_url: str) -> BuildSettings:
    captions = {"base_url": base_url, "model": MODEL, "num_frames": 6}
    values = {
        "videos": [str(folder / "films")],
        "output_dir": str(folder / "build"),
        "media_root": str(folder / "films"),
    }
    return settings_from_dict({**values, "shots": SHOTS, "keyframes": KEYFRAMES, "captions": captions})


def _film(folder: Path, seed: int) -> list[Take]:
    """The takes of a film, which is drawn if it is not there."""
    path = folder / f"film{seed:02}.mp4"
    if not path.exists():
        write_video(path, film(seed, fps=FPS)[0], FPS)
    return film_takes(seed, fps=FPS)
