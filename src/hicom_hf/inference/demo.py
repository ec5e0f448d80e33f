"""What is behind `hicom demo`: questions about a video whose answers are known, what they cost, and a picture of the attention.

    processor, model = load_processor(hicom_tiny()), load_model(hicom_tiny())
    asked = ask_all(model, processor, example_videos()[0], Scene.from_seed(**example_scene(example_videos()[0])))
    print(asked.num_right, "of", len(asked.answers))
    attention_picture(model, processor, asked).save("demo.png")

Letters: T frames, R objects.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from PIL import Image

from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..processors.answering_hicom import Answer, EncodedVideo, ReadVideo, answer_question, encode_video, read_frames
from ..processors.processing_hicom import HiComProcessor
from ..shapes import Question, Scene, is_right, padded_boxes, patch_cover, questions, render, write_video
from . import Explained, Video, attention_fraction, attention_maps, picture, shown_frames

FRESH_CLUTTER, FRESH_SPLIT = "normal", "test"  # of a video made on the spot; no training has seen this split
# Questions about a video whose content is not known.
GENERAL_QUESTIONS = (
    "What is this video mainly about?",
    "Is there a blue circle?",
    "How many green squares are there?",
)
MAX_NEW_TOKENS = 16  # answers of the shapes world have four words at most
NUM_EXPLAINED = 2  # questions in the picture


@dataclass(frozen=True)
class AskedVideo:
    """A video and what was answered about it.

    Attributes:
        path: of the file.
        scene: what it shows; None for a video that is not of the shapes world.
        questions: as many as `answers`; those about a video without scene have an empty right answer.
        answers: the model's.
        frames: what was read; None where frames were encoded while they were read.
        video: what was encoded, once for all questions; where they choose, what is seen without a choice.
        opened: the video of which each question chose; None where all saw the same.
    """

    path: Path
    scene: Scene | None
    questions: list[Question]
    answers: list[Answer]
    frames: ReadVideo | None
    video: EncodedVideo
    opened: Video | None = None

    @property
    def read_seconds(self) -> float:
        """Spent on reading; 0 where it is part of encoding."""
        return 0.0 if self.frames is None else self.frames.seconds

    @property
    def num_right(self) -> int | None:
        """Right answers; None for a video without scene."""
        if self.scene is None:
            return None
        return sum(
            is_right(answer.answer, question.answer)
            for question, answer in zip(self.questions, self.answers, strict=True)
        )

    @property
    def first_seconds(self) -> float:
        """From the file to the end of the first answer: read, encode, answer."""
        return self.read_seconds + self.video.seconds + self.answers[0].seconds

    @property
    def follow_up_seconds(self) -> float | None:
        """From a further question to the end of its answer, on average; None if there was one question only."""
        further = [answer.seconds for answer in self.answers[1:]]
        return mean(further) if further else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that json can write."""
        return {
            "video": str(self.path),
            "scene": None
            if self.scene is None
            else {"seed": self.scene.seed, "clutter": self.scene.clutter, "split": self.scene.split},
            "num_frames": self.video.num_frames,
            "num_uncompressed_patches": self.video.num_patches,
            "num_visual_tokens": self.video.num_visual_tokens,
            "seconds": {
                "read": self.read_seconds,
                "encode": self.video.seconds,
                "first_question": self.first_seconds,
                "follow_up_question": self.follow_up_seconds,
            },
            "num_right": self.num_right,
            "answers": [
                {
                    "question": question.text,
                    "answer": answer.answer,
                    "right_answer": None if self.scene is None else question.answer,
                    "seconds": answer.seconds,
                    **{
                        name: getattr(answer, name).to_dict()
                        for name in ("selection", "tiles")
                        if getattr(answer, name) is not None
                    },
                }
                for question, answer in zip(self.questions, self.answers, strict=True)
            ],
        }


def make_video(folder: str | os.PathLike, seed: int) -> tuple[Path, Scene]:
    """Draw a scene that no training has seen, and encode it: H.264, 16 frames of 144 x 144 pixels at 4 per second.

    Args:
        folder: where to write.
        seed: of the scene, 0 or above.

    Raises:
        ValueError: a negative seed.
    """
    scene = Scene.from_seed(seed, FRESH_CLUTTER, FRESH_SPLIT)
    frames, _ = render(scene)
    return write_video(Path(folder) / f"shapes_{seed}.mp4", frames), scene


def choose_questions(scene: Scene | None) -> list[Question]:
    """The first question of each kind about a scene; a few general ones where there is none."""
    if scene is None:
        return [Question("general", text, "") for text in GENERAL_QUESTIONS]
    return questions(scene, max_per_kind=1)


def ask_all(
    model: HiComForConditionalGeneration, processor: HiComProcessor, path: str | os.PathLike, scene: Scene | None
) -> AskedVideo:
    """Read and encode a video once, and answer all of `choose_questions` about it.

    Args:
        model, processor: of one folder.
        path: of the video.
        scene: what it shows, if that is known.

    Raises:
        VideoReadError: the video cannot be read.
    """
    frames = read_frames(processor, path)
    video = encode_video(model, frames)
    asked = choose_questions(scene)
    answers = [
        answer_question(model, processor, video, question.text, max_new_tokens=MAX_NEW_TOKENS) for question in asked
    ]
    return AskedVideo(Path(path), scene, asked, answers, frames, video)


def attention_picture(
    model: HiComForConditionalGeneration, processor: HiComProcessor, asked: AskedVideo, title: str = ""
) -> Image.Image:
    """Frames, and local and global attention for two of the questions, as in the paper's figure 6.

    The questions are the first two that ask about one object each, and not about the same one; their objects are outlined.

    Args:
        model, processor: those that `asked` was made with.
        asked: what `ask_all` returned.
        title: a line on top.
    """
    explained = []
    for number in explained_questions(asked.questions):
        question, answer = asked.questions[number], asked.answers[number]
        maps = attention_maps(model, processor, asked.video, question.text)
        extra: dict[str, Any] = {}
        if asked.scene is not None:
            extra = {"right_answer": question.answer}
            if question.referents:
                extra["boxes"] = _seen_boxes(asked, question)
                extra["note"] = _describe_shares(maps, seen_cover(asked, question, model.config.grid))
        explained.append(Explained(question.text, answer.answer, maps, **extra))
    assert asked.frames is not None  # by `ask_all`
    return picture(shown_frames(processor, asked.frames), asked.video.sampling.times, explained, title)


def explained_questions(asked: list[Question]) -> list[int]:
    """Which questions the picture shows: the first about one object each, all different, else simply the first."""
    found = {}
    for number, question in enumerate(asked):
        if len(question.referents) == 1:
            found.setdefault(question.referents[0], number)
    return list(found.values())[:NUM_EXPLAINED] or list(range(len(asked)))[:NUM_EXPLAINED]


def seen_cover(asked: AskedVideo, question: Question, grid: tuple[int, int]) -> np.ndarray:
    """How much of each patch the objects of a question cover in the frames that were taken, for `attention_fraction`.

    Args:
        asked: a video with scene.
        question: about it.
        grid: patch rows and columns (H, W).

    Returns:
        float64 (R, T, H, W), 0 to 1.
    """
    sampling = asked.video.sampling
    cover = patch_cover(
        question.referents, sampling.num_source_frames, size=(sampling.height, sampling.width), grid=grid
    )
    return cover[:, sampling.indices]


def _seen_boxes(asked: AskedVideo, question: Question) -> np.ndarray:
    """(R, T, 4), fractions of the square frame, in the frames that were taken."""
    sampling = asked.video.sampling
    boxes = padded_boxes(question.referents, sampling.num_source_frames, (sampling.height, sampling.width))
    return boxes[:, sampling.indices]


def _describe_shares(maps, cover: np.ndarray) -> str:
    parts = [
        f"{branch} {attention_fraction(values, cover).times_even:.1f}"
        for branch, values in (("local", maps.local_map), ("global", maps.global_map))
        if values is not None
    ]
    return f"attention on it: {', '.join(parts)} times an even spread" if parts and cover.any() else ""
