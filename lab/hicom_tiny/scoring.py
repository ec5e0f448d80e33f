"""How often a model answers questions of the shapes world correctly, by kind; asked and marked by `hicom_hf.evaluation`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hicom_hf.evaluation.evaluating import mark_of
from hicom_hf.evaluation.runner import Asking, ask_questions, num_batches
from hicom_hf.evaluation.tasks.shapes import SHAPES, read_records
from hicom_hf.hub.progress import Progress, no_progress
from hicom_hf.inference.session import HiComSession
from hicom_hf.modeling.modeling_hicom import HiComForConditionalGeneration
from hicom_hf.processors.frame_tiles_hicom import FrameTiles
from hicom_hf.processors.processing_hicom import HiComProcessor
from hicom_hf.shapes import CHANCE, KINDS

BATCH_SIZE = 32  # all questions of a video


@dataclass(frozen=True)
class Scored:
    """One question and what the model made of it.

    Attributes:
        id, kind, question, expected: of the record.
        answer: the model's words.
        is_right: whether they are those expected.
    """

    id: str
    kind: str
    question: str
    expected: str
    answer: str
    is_right: bool


def score(
    model: HiComForConditionalGeneration,
    processor: HiComProcessor,
    questions_file: str | Path,
    *,
    num_frames: int | None = None,
    limit: int | None = None,
    instruction: str | None = None,
    tiles: FrameTiles | None = None,
    progress: Progress | None = None,
) -> list[Scored]:
    """Ask every question of a file that `write_dataset` wrote.

    Args:
        model, processor: of one folder.
        questions_file: `tuning.json`, or another with `kind` in its records.
        num_frames: sampled frames per video; None for the processor's own number.
        limit: the first so many questions.
        instruction: conditions the compression in place of each question (table A4); None for the question.
        tiles: each question chooses among overlapping squares of the frames; None pads frames to squares.
        progress: shows progress over an iterable, given its length and a name.

    Raises:
        ValueError: a video cannot be read.
    """
    path = Path(questions_file)
    questions = [
        replace(
            question,
            max_new_tokens=SHAPES.max_new_tokens["ours"],
            instruction=question.instruction if instruction is None else instruction,
        )
        for question in read_records(path, json.loads(path.read_text(encoding="utf-8"))[:limit])
    ]
    sampling = {} if num_frames is None else {"num_frames": num_frames}
    asking = Asking(sampling, batch_size=BATCH_SIZE, tiles=tiles)
    batches = ask_questions(HiComSession(model, processor, cache_bytes=0), questions, asking)
    found = []
    for batch in (progress or no_progress)(batches, num_batches(questions, BATCH_SIZE), "scoring"):
        for asked in batch:
            if asked.answer is None:
                raise ValueError(asked.failure)
            question = asked.question
            is_right = mark_of(SHAPES, asked).value == 1
            kind = question.categories["kind"]
            found.append(Scored(question.id, kind, question.prompt, question.gold, asked.answer.answer, is_right))
    return found


def table(scored: Sequence[Scored]) -> dict[str, dict[str, float]]:
    """Right answers in percent by kind and over all ("all"), with the number of questions and the chance level."""
    rows = {}
    for kind in (*KINDS, "all"):
        group = [one for one in scored if kind in (one.kind, "all")]
        if group:
            chance = sum(CHANCE.get(one.kind, 0.0) for one in group) / len(group)
            right = sum(one.is_right for one in group) / len(group)
            rows[kind] = {"right": 100 * right, "chance": 100 * chance, "questions": len(group)}
    return rows
