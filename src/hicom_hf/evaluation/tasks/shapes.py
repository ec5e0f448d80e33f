"""The built-in world: 200 videos that no training of hicom-tiny has seen, 3,050 questions; runs offline at once.

The videos are made from their seeds where they are missing. `shapes` asks open questions, `shapes_choice` the same ones with
lettered options. Condition: the question itself, without options.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ...hub.progress import Progress
from ...shapes import Question as SceneQuestion
from ...shapes import Scene, is_right, multiple_choice, questions, write_dataset
from ...shapes.writing import MAX_VIDEOS
from ..questions import Question
from .choices import mark_choice
from .task import Mark, Protocol, Task

# Of hicom-tiny's stored scores, row "unseen videos".
SEED, NUM_VIDEOS, SPLIT, CLUTTER = 1000, 200, "test", "mixed"


def read(folder: Path, protocol: Protocol) -> list[Question]:
    """The questions of the stored scores, from their seeds."""
    return [
        Question(
            one.name,
            str(folder / "videos" / one.video),
            one.question.text,
            one.question.text,
            one.question.answer,
            categories={"kind": one.question.kind},
        )
        for one in _stored()
    ]


def read_choices(folder: Path, protocol: Protocol) -> list[Question]:
    """The same questions with up to four lettered options each; the right answer is a letter."""
    found = []
    for one in _stored():
        choice = multiple_choice(one.question, one.key)
        found.append(
            Question(
                one.name,
                str(folder / "videos" / one.video),
                choice.text,
                one.question.text,
                choice.answer,
                tuple(line.partition(". ")[2] for line in choice.text.splitlines()[1:-1]),
                categories={"kind": one.question.kind},
            )
        )
    return found


class _Stored(NamedTuple):
    """A question with its name, its video's file, and what draws its options as `write_dataset` draws them."""

    name: str
    video: str
    question: SceneQuestion
    key: int


@cache  # four seconds
def _stored() -> tuple[_Stored, ...]:
    found = []
    for number in range(NUM_VIDEOS):
        scene = Scene.from_seed(SEED * MAX_VIDEOS + number, CLUTTER, SPLIT)
        asked = questions(scene)
        for place, question in enumerate(asked):
            name = f"{SPLIT}-{scene.seed}-{question.kind}-{place}"
            found.append(_Stored(name, f"{number:06d}.mp4", question, scene.seed * len(asked) + place))
    return tuple(found)


def read_records(path: Path, records: Sequence[dict[str, Any]]) -> list[Question]:
    """Questions from records that `write_dataset` wrote.

    Args:
        path: the file that they are of.
        records: with `kind`.
    """
    found = []
    for record in records:
        asked, told = (turn["value"] for turn in record["conversations"])
        text = asked.removeprefix("<video>\n")
        video = str(path.parent / record["video"])
        found.append(Question(record["id"], video, text, text, told, categories={"kind": record["kind"]}))
    return found


def prepare(folder: Path, asked: Sequence[Question], progress: Progress) -> None:
    """Make the videos that are missing."""
    missing = [int(Path(question.video).stem) for question in asked if not Path(question.video).is_file()]
    if missing:
        write_dataset(folder, max(missing) + 1, SEED, stage="tuning", split=SPLIT, clutter=CLUTTER, progress=progress)


def mark(question: Question, answer: str) -> Mark:
    """Right are the expected words and nothing else."""
    assert question.gold is not None  # `read` and `read_records` give it
    return Mark(answer.strip() or None, float(is_right(answer, question.gold)))


SHAPES = Task(
    name="shapes",
    title="the shapes world, 200 unseen videos",
    data="made here from stored seeds; needs no download",
    read=read,
    mark=mark,
    max_new_tokens={"ours": 32},
    protocols=("ours",),
    prepare=prepare,
)

SHAPES_CHOICE = Task(
    name="shapes_choice",
    title="the same questions with lettered options",
    data=SHAPES.data,
    read=read_choices,
    mark=mark_choice,
    max_new_tokens={"ours": 16},
    protocols=("ours",),
    prepare=prepare,
)
