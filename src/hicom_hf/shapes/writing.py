"""Videos and pictures on disk, and the JSON in LLaVA's format that the trainer reads.

A folder holds `videos/`, `images/` (pictures for alignment), one JSON file per stage, and `world.json` with the settings that
all its files were made with. What has its name is complete, see `hub.files`.
"""

import json
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from PIL import Image

from ..hub.files import atomic_file, remove_leftovers, write_text
from ..hub.progress import Progress, no_progress
from .descriptions import CAPTION_REQUESTS, caption, descriptions
from .dice import Dice
from .questions import Question, multiple_choice, questions, rare_questions
from .rendering import DEFAULT_FPS, DEFAULT_NUM_FRAMES, DEFAULT_SIZE, height_and_width, render, render_still
from .scenes import Scene, Split

# Files of each stage, with what goes into them.
STAGES = {
    "alignment": ("alignment.json",),
    "pretraining": ("pretraining.json",),
    "tuning": ("tuning.json", "rare_kinds.json", "multiple_choice.json"),
}
# Encoder -> its options; the quality is about the same. The suffix of the file chooses the container.
CODECS = {
    "libx264": {"crf": "18", "preset": "medium"},
    "libx265": {"crf": "18", "preset": "fast", "x265-params": "log-level=error"},
    "libvpx-vp9": {"crf": "18", "b": "0"},
    "mpeg4": {"qscale": "3", "flags": "+qscale"},
}
DEFAULT_CODEC = "libx264"
JPEG_QUALITY = 92
LONGEST_INTERVAL = 1000  # seconds between frames
MAX_VIDEOS = 1_000_000  # of a data set; video i of seed s is scene s * MAX_VIDEOS + i
WORLD_FILE = "world.json"
WORLD_VERSION = 4  # raised whenever the same settings give other scenes, frames or texts
CAPTION_STREAM = 7


def write_video(
    path: str | os.PathLike, frames: np.ndarray, fps: float = DEFAULT_FPS, codec: str = DEFAULT_CODEC
) -> Path:
    """Encode frames; the file appears when it is complete.

    Args:
        path: where to write; its suffix chooses the container (.mp4, .webm, .mkv, .avi).
        frames: uint8 (T, height, width, 3), height and width even.
        fps: frames per second.
        codec: one of `CODECS`.

    Returns:
        The path.

    Raises:
        ValueError: an unknown codec, an odd height or width, no frames, frames that are not uint8, or a frame rate that no
            file can hold.

    Example:
        >>> frames, times = render(Scene.from_seed(0))
        >>> write_video("scene.mp4", frames)  # doctest: +SKIP
    """
    if codec not in CODECS:
        raise ValueError(f"codec must be one of {', '.join(CODECS)}; got {codec!r}")
    if frames.dtype != np.uint8 or frames.ndim != 4 or not len(frames) or frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(
            "frames must be uint8 (T, height, width, 3) with even height and width and at least one frame, got "
            f"{frames.dtype} {frames.shape}"
        )
    rate, path = _frame_rate(fps), Path(path)
    with (
        atomic_file(path, durable=False) as written,  # it can be made again
        av.open(str(written), "w") as container,
    ):
        stream = cast(av.VideoStream, container.add_stream(codec, rate=rate, options=CODECS[codec]))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.thread_count = 1  # more threads do not pay for such small pictures
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_dataset(
    folder: str | os.PathLike,
    num_videos: int,
    seed: int = 0,
    *,
    stage: str = "all",
    split: Split = "train",
    clutter: str | float = "mixed",
    num_frames: int = DEFAULT_NUM_FRAMES,
    size: int | tuple[int, int] = DEFAULT_SIZE,
    fps: float = DEFAULT_FPS,
    codec: str = DEFAULT_CODEC,
    sampled_frames: Sequence[int] = (),
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write videos, pictures and training files; what is there is kept, so that an interrupted run can be repeated.

    Args:
        folder: where to write.
        num_videos: number of videos, and of pictures; a larger number later adds to what is there.
        seed: of all scenes.
        stage: "alignment" (pictures with captions), "pretraining" (descriptions), "tuning" (questions, more of those of rare
            kinds, and all but these as multiple choice), or "all".
        split: one of `SPLITS`; the scenes of one never occur in another.
        clutter: a name in `CLUTTER_LEVELS`, or a density from 0 to 1.
        num_frames, size, fps: see `render`; height and width even.
        codec: one of `CODECS`.
        sampled_frames: how many frames training is to sample, video by video in turn; empty leaves it to the training.
        progress: shows progress over an iterable, given its length and a name.

    Returns:
        Records in each JSON file that was written.

    Raises:
        ValueError: an argument out of range, or a folder that was made with other settings.
        FileExistsError: the folder holds files that were not made by this function.

    Example:
        >>> write_dataset("shapes", num_videos=100, seed=0, stage="tuning")  # doctest: +SKIP
        {'tuning.json': 1571, 'rare_kinds.json': 707, 'multiple_choice.json': 1571}
    """
    height, width = _checked_size(stage, num_videos, size, codec)
    if seed < 0:
        raise ValueError(f"seed must be 0 or above, got {seed}")
    seeds = range(seed * MAX_VIDEOS, seed * MAX_VIDEOS + num_videos)
    # Drawn once before anything is written, because this refuses a wrong split, clutter, seed, frame number or rate.
    render(Scene.from_seed(seeds[0], clutter, split), num_frames, size, fps)
    _frame_rate(fps)
    world = {"seed": seed, "split": split, "clutter": clutter, "frames": num_frames, "fps": fps, "codec": codec}
    if not all(1 <= count <= num_frames for count in sampled_frames):
        raise ValueError(f"sampled_frames must be from 1 to the {num_frames} frames of a video, got {sampled_frames}")
    if sampled_frames:
        world["sampled_frames"] = list(sampled_frames)
    folder = Path(folder)
    _claim(folder, {"version": WORLD_VERSION, **world, "height": height, "width": width})
    progress = progress or no_progress
    chosen = list(STAGES) if stage == "all" else [stage]
    files = {name: [] for part in chosen for name in STAGES[part]}
    if "alignment" in chosen:
        (folder / "images").mkdir(exist_ok=True)
        for number, scene_seed in enumerate(progress(seeds, num_videos, "pictures")):
            files["alignment.json"].append(_picture(folder, number, Scene.still(scene_seed, split), (height, width)))
    if chosen != ["alignment"]:
        (folder / "videos").mkdir(exist_ok=True)
        for number, scene_seed in enumerate(progress(seeds, num_videos, "videos")):
            scene = Scene.from_seed(scene_seed, clutter, split)
            if not (folder / (name := f"videos/{number:06d}.mp4")).exists():
                write_video(folder / name, render(scene, num_frames, size, fps)[0], fps, codec)
            sampling = {"num_frames": sampled_frames[number % len(sampled_frames)]} if sampled_frames else {}
            _add_records(files, scene, {"video": name, **sampling})
    for name, records in files.items():
        write_text(folder / name, json.dumps(records, indent=1))
    return {name: len(records) for name, records in files.items()}


def _frame_rate(fps: float) -> Fraction:
    """As a file stores it."""
    rate = Fraction(fps).limit_denominator(LONGEST_INTERVAL)
    if rate <= 0:
        raise ValueError(
            f"fps must be at least 1/{LONGEST_INTERVAL}, a frame in {LONGEST_INTERVAL} seconds; got {fps:g}"
        )
    return rate


def _checked_size(stage: str, num_videos: int, size: int | tuple[int, int], codec: str) -> tuple[int, int]:
    """Height and width; refuses settings that cannot be written."""
    height, width = height_and_width(size)
    if stage not in (*STAGES, "all"):
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, all; got {stage!r}")
    if not 1 <= num_videos <= MAX_VIDEOS:
        raise ValueError(f"num_videos must be from 1 to {MAX_VIDEOS}, got {num_videos}")
    if height % 2 or width % 2:
        raise ValueError(f"size must be even, because colour is stored at half of it; got {height} x {width}")
    if codec not in CODECS:
        raise ValueError(f"codec must be one of {', '.join(CODECS)}; got {codec!r}")
    return height, width


def _claim(folder: Path, world: dict[str, Any]) -> None:
    """Note in the folder how its files are made; refuse one whose files are made in another way, or by somebody else."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    note = folder / WORLD_FILE
    if not note.exists():
        foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if foreign:
            names = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
            raise FileExistsError(
                f"{folder} holds files that this command did not make ({names}; there is no {WORLD_FILE}), which it could "
                "overwrite; choose a new folder"
            )
        write_text(note, json.dumps(world, indent=1))
        return
    try:
        theirs = json.loads(note.read_text())
    except ValueError as error:
        raise ValueError(
            f"{note}: this note of how the folder was made is broken ({error}); choose another folder"
        ) from None
    differing = sorted(key for key in {*world, *theirs} if world.get(key) != theirs.get(key))
    if differing:
        pairs = ", ".join(f"{key} {theirs.get(key)!r} there and {world.get(key)!r} now" for key in differing)
        raise ValueError(f"{folder} holds another world ({pairs}); choose another folder, or the same settings")


def _picture(folder: Path, number: int, scene: Scene, size: tuple[int, int]) -> dict[str, Any]:
    """Write a picture if it is not there; its record."""
    name = f"images/{number:06d}.jpg"
    path = folder / name
    if not path.exists():
        with atomic_file(path, durable=False) as written:
            Image.fromarray(render_still(scene, size)).save(written, quality=JPEG_QUALITY)
    request = Dice(scene.seed, CAPTION_STREAM).choose(CAPTION_REQUESTS)
    return {
        "id": f"{scene.split}-{scene.seed}-caption",
        "image": name,
        "conversations": _turns("image", request, caption(scene)),
    }


def _add_records(files: dict[str, list[dict]], scene: Scene, video: dict[str, Any]) -> None:
    """One record per question, so that no answer stands in the context of another; `video` says which and how to read it."""
    asked = questions(scene) if "tuning.json" in files else []
    groups = {"pretraining.json": descriptions(scene) if "pretraining.json" in files else [], "tuning.json": asked}
    groups["rare_kinds.json"] = rare_questions(scene) if asked else []
    groups["multiple_choice.json"] = [
        multiple_choice(question, scene.seed * len(asked) + number) for number, question in enumerate(asked)
    ]
    for name, group in groups.items():
        if name in files:
            first = len(asked) if name == "rare_kinds.json" else 0  # ids differ from those of tuning.json
            files[name] += [_record(scene, video, number, question) for number, question in enumerate(group, first)]


def _record(scene: Scene, video: dict[str, Any], number: int, question: Question) -> dict[str, Any]:
    """A question for the trainer; `scene` and `kind` are for those who measure, the trainer does not read them."""
    return {
        "id": f"{scene.split}-{scene.seed}-{question.kind}-{number}",
        **video,
        "kind": question.kind,
        "scene": {"seed": scene.seed, "clutter": scene.clutter, "split": scene.split},
        "conversations": _turns("video", question.text, question.answer),
    }


def _turns(medium: str, asked: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"<{medium}>\n{asked}"}, {"from": "gpt", "value": answer}]
