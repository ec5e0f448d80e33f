"""The runner: questions in, answers out; each video is read and encoded once, its questions are asked in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..inference.session import HiComSession, Video
from ..processors.answering_hicom import Answer
from ..processors.media_access_hicom import OPEN_ACCESS, MediaAccess
from .questions import Question, by_clip
from .reading_ahead import Unreadable, read_ahead

DEFAULT_BATCH_SIZE = 16


@dataclass(frozen=True)
class Asking:
    """How questions are asked.

    Attributes:
        sampling: keywords of `HiComSession.open`, without start and end, which are of the question.
        system: system prompt; None for that of the chat template.
        batch_size: questions of one video that are answered together.
        workers: processes that read videos ahead; 0 for a thread.
        media_access: which files and servers may be read, see `read_video`.
    """

    sampling: dict[str, Any] = field(default_factory=dict)
    system: str | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    workers: int = 0
    media_access: MediaAccess = OPEN_ACCESS


@dataclass(frozen=True)
class Asked:
    """A question and what became of it.

    Attributes:
        question: that was asked.
        prompt: what the LLM read, with subtitles.
        answer: the model's; None if the video could not be read.
        video: as it was encoded; None likewise.
        read_seconds: spent on reading the video.
        failure: why the video could not be read; None if it was.
    """

    question: Question
    prompt: str
    answer: Answer | None = None
    video: Video | None = None
    read_seconds: float = 0.0
    failure: str | None = None


@torch.no_grad()
def ask_questions(session: HiComSession, questions: Sequence[Question], asking: Asking) -> Iterator[list[Asked]]:
    """Ask questions, video by video.

    Args:
        session: of the model.
        questions: in any order; those of one video and range are asked together.
        asking: how.

    Yields:
        The questions of a batch with their answers, as soon as they are answered.

    Raises:
        ValueError: a prompt is longer than the LLM can read, or the sampling contradicts itself.
    """
    groups = by_clip(questions)
    access = {"media_access": asking.media_access}
    requests = [(clip.video, {**asking.sampling, **clip.sampling, **access}) for clip in groups]
    frames = read_ahead(session.processor, requests, asking.workers)
    for group, found in zip(groups.values(), frames, strict=True):
        if isinstance(found, Unreadable):
            yield [Asked(question, question.prompt, failure=found.reason) for question in group]
            continue
        video = session.encode(found)
        record = found.sampling
        for batch in _batches(group, asking.batch_size):
            prompts = [question.prompt_at(record.times, record.duration) for question in batch]
            answers = video.ask_all(
                prompts,
                instruction=[
                    session.processor.extract_instruction(question.prompt)
                    if question.instruction is None
                    else question.instruction
                    for question in batch
                ],
                system=asking.system,
                max_new_tokens=batch[0].max_new_tokens,
            )
            yield [
                Asked(question, prompt, answer, video, found.seconds)
                for question, prompt, answer in zip(batch, prompts, answers, strict=True)
            ]


def num_batches(questions: Sequence[Question], batch_size: int) -> int:
    """How many batches `ask_questions` yields if every video can be read."""
    return sum(len(_batches(group, batch_size)) for group in by_clip(questions).values())


def _batches(group: Sequence[Question], batch_size: int) -> list[list[Question]]:
    """Questions of one video in batches of one length of answer."""
    batches: list[list[Question]] = []
    for question in group:
        last = batches[-1] if batches else None
        if last is None or len(last) == batch_size or last[0].max_new_tokens != question.max_new_tokens:
            batches.append([])
        batches[-1].append(question)
    return batches
