"""The part of `hicom demo` in which each question chooses what it sees: a film with a hidden scene, its answers, their picture.

    film = make_film("folder", seed=1, size=WIDE)
    asked = ask_choosing(model, processor, film, selection=FrameSelection(num_frames=8), tiles=FrameTiles(), fps=4)
    choice_picture(processor, film, asked).save("demo.png")

Letters: T frames, R objects.
"""

import os
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..processors.answering_hicom import Answer, read_frames
from ..processors.candidate_frames_hicom import reading_of_chosen
from ..processors.frame_sampling_hicom import FrameSampling
from ..processors.frame_selection_hicom import FrameSelection
from ..processors.frame_tiles_hicom import FrameTiles, TilesRecord
from ..processors.processing_hicom import HiComProcessor
from ..processors.video_reading_hicom import SamplingRecord
from ..shapes import Question, Scene, padded_boxes, questions, referent_boxes, render, write_video
from .attention_picture import PAPER, Explained, picture, shown_frames, whole_frames
from .demo import FRESH_CLUTTER, FRESH_SPLIT, MAX_NEW_TOKENS, AskedVideo, choose_questions, explained_questions
from .open_videos import ChoosingVideo, Video
from .session import HiComSession

SQUARE, WIDE = (144, 144), (144, 256)  # height and width of a film's frames, in pixels
FILM_SCENES, SCENE_FRAMES = 24, 16  # 96 seconds at 4 frames per second
OTHER_CLUTTER, OTHER_SEED = "sparse", 700_000  # of the scenes around
FILM_QUESTIONS = 4


@dataclass(frozen=True)
class Film:
    """A video of which one scene is asked about.

    Attributes:
        path: of the file.
        scene: what is asked about; None if it is not of the shapes world.
        first: the frame with which it begins.
        num_frames: that it has; None for all of the video.
        questions: what is asked.
    """

    path: Path
    scene: Scene | None
    first: int
    num_frames: int | None
    questions: list[Question]

    @classmethod
    def of_video(cls, path: str | os.PathLike, scene: Scene | None) -> "Film":
        """A video that shows one scene from its beginning to its end, or something else."""
        return cls(Path(path), scene, 0, None, choose_questions(scene))


def make_film(
    folder: str | os.PathLike, seed: int, size: tuple[int, int] = SQUARE, num_scenes: int = FILM_SCENES
) -> Film:
    """Hide a scene among others in which nothing may be called what is asked about; H.264, 4 frames per second.

    Args:
        folder: where to write.
        seed: of the scene and of its place, 0 or above.
        size: height and width of the frames, in pixels.
        num_scenes: of 16 frames each; with 1 there are no others.

    Raises:
        ValueError: a negative seed.
    """
    scene = Scene.from_seed(seed, FRESH_CLUTTER, FRESH_SPLIT)
    asked = choose_questions(scene)
    if num_scenes > 1:  # what can be asked about one scene of many
        asked = [one for one in questions(scene, max_per_kind=1) if len(one.referents) == 1][:FILM_QUESTIONS]
    names = [found.name for one in asked for found in one.referents if found.name is not None]
    drawn = (Scene.from_seed(OTHER_SEED + number, OTHER_CLUTTER, FRESH_SPLIT) for number in count())
    fitting = (
        other for other in drawn if not any(name.fits(*found.attributes) for name in names for found in other.objects)
    )
    shown, place = list(islice(fitting, num_scenes - 1)), seed % num_scenes
    shown.insert(place, scene)
    frames = np.concatenate([render(one, SCENE_FRAMES, size)[0] for one in shown])
    path = write_video(Path(folder) / f"shapes_{seed}.mp4", frames)
    return Film(path, scene, place * SCENE_FRAMES, SCENE_FRAMES, asked)


def ask_choosing(
    model: HiComForConditionalGeneration,
    processor: HiComProcessor,
    film: Film,
    *,
    selection: FrameSelection | None = None,
    tiles: FrameTiles | None = None,
    fps: float | None = None,
) -> AskedVideo:
    """Encode a video once, and answer its questions about what each chooses of it.

    Args:
        model, processor: of one folder.
        film: see `make_film` and `Film.of_video`.
        selection: how each question chooses frames; None lets it see those that the processor takes.
        tiles: how it chooses parts of them; None pads frames. One of both is given.
        fps: candidates of a selection, per second of video.

    Raises:
        VideoReadError: the video cannot be read.
    """
    session = HiComSession(model, processor, cache_bytes=0)
    sampling = {} if selection is None else {"fps": fps}
    opened = session.open(film.path, selection=selection, tiles=tiles, **sampling)
    answers = [opened.ask(question.text, max_new_tokens=MAX_NEW_TOKENS) for question in film.questions]
    return AskedVideo(film.path, film.scene, film.questions, answers, None, opened.encoded, opened)


def choice_picture(processor: HiComProcessor, film: Film, asked: AskedVideo, title: str = "") -> Image.Image:
    """For each of two questions the frames that it saw, and below them its attention; objects and the best square are outlined.

    Args:
        processor: that `asked` was made with.
        film: likewise.
        asked: what `ask_choosing` returned.
        title: a line on top.
    """
    assert asked.opened is not None  # by `ask_choosing`
    pictures = []
    for number in explained_questions(asked.questions):
        question, answer = asked.questions[number], asked.answers[number]
        read = read_frames(processor, asked.path, **_reading(asked.opened, answer))
        frames = shown_frames(processor, read)
        if answer.tiles is not None:
            frames = whole_frames(processor, frames, read.sampling)
        is_known, padded = asked.scene is not None, answer.tiles is None
        explained = Explained(
            question.text,
            answer.answer,
            asked.opened.attention(question.text),
            right_answer=question.answer if is_known else None,
            boxes=_object_boxes(film, question, read.sampling, padded) if is_known else None,
            best_square=None if answer.tiles is None else _best_square(answer.tiles, len(frames)),
        )
        pictures.append(picture(frames, read.sampling.times, [explained], "" if pictures else title))
    joined = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), PAPER)
    top = 0
    for one in pictures:
        joined.paste(one, (0, top))
        top += one.height
    return joined


def _reading(opened: Video, answer: Answer) -> dict[str, Any]:
    """What reads the frames that an answer saw."""
    if answer.selection is not None and isinstance(opened, ChoosingVideo):
        return reading_of_chosen(answer.selection, {})
    return {"sampling": FrameSampling(indices=tuple(opened.encoded.sampling.indices))}


def _object_boxes(film: Film, question: Question, sampling: SamplingRecord, padded: bool) -> np.ndarray:
    """(R, T, 4): where the objects of a question are in the frames that were taken, as `Explained` takes it."""
    number, size = film.num_frames or sampling.num_source_frames, (sampling.height, sampling.width)
    if padded:
        boxes = padded_boxes(question.referents, number, size)
    else:
        boxes = referent_boxes(question.referents, number, size) / np.array([*size[::-1], *size[::-1]])
    taken = np.full((len(boxes), len(sampling.indices), 4), np.nan)
    for place, index in enumerate(sampling.indices):
        if film.first <= index < film.first + number:
            taken[:, place] = boxes[:, index - film.first]
    return taken


def _best_square(record: TilesRecord, num_frames: int) -> np.ndarray:
    """(T, 4): the square with the best patch, in the frame of that patch."""
    top, left, bottom, right = record.tiles[0].box
    boxes = np.full((num_frames, 4), np.nan)
    boxes[record.tiles[0].frame] = left, top, right, bottom
    return boxes
