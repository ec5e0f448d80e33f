"""The runner: questions in, answers out; each video is read and encoded once, its questions are asked in batches."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..inference.open_videos import ChoosingVideo, Video, ask_each
from ..inference.session import HiComSession
from ..processors.answering_hicom import Answer
from ..processors.frame_selection_hicom import FrameSelection
from ..processors.frame_tiles_hicom import FrameTiles
from ..processors.media_access_hicom import OPEN_ACCESS, MediaAccess
from ..processors.video_sources_hicom import VideoReadError
from .questions import Question, by_clip
from .reading_ahead import Unreadable, read_ahead

DEFAULT_BATCH_SIZE = 16


@dataclass(frozen=True)
class Asking:
    """How questions are asked.

    Attributes:
        sampling: keywords of `HiComSession.open`, without start and end, which are of the question.
        system: system prompt; None for that of the chat template.
        batch_size: questions of one video that are answered together; with a selection, memory holds the frames of all of them.
        workers: processes that read videos ahead; 0 for a thread.
        media_access: which files and servers may be read, see `read_video`.
        selection: each question chooses among the sampled frames, which are then read by this process and not ahead; None lets
            it see all of them.
        tiles: each question chooses among overlapping squares of the frames, which are then read by this process as well; None
            pads frames to squares. With a selection, the frames that a question has chosen are read again as tiles.
    """

    sampling: dict[str, Any] = field(default_factory=dict)
    system: str | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    workers: int = 0
    media_access: MediaAccess = OPEN_ACCESS
    selection: FrameSelection | None = None
    tiles: FrameTiles | None = None


@dataclass(frozen=True)
class Asked:
    """A question with its answer, or the reason why there is none.

    Attributes:
        question: that was asked.
        prompt: what the LLM read, with subtitles.
        answer: the model's; None if the video could not be read.
        video: the encoded frames that were used; None likewise.
        read_seconds: spent on reading the video; 0 where it was encoded while it was read.
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
    requests = [
        (clip.video, {**asking.sampling, **clip.sampling, "media_access": asking.media_access}) for clip in groups
    ]
    opened: Iterable[Any]
    if asking.selection is None and asking.tiles is None:
        opened = read_ahead(session.processor, requests, asking.workers)
    else:
        opened = _opened(session, requests, {"selection": asking.selection, "tiles": asking.tiles})
    for group, found in zip(groups.values(), opened, strict=True):
        if isinstance(found, Unreadable):
            yield [Asked(question, question.prompt, failure=found.reason) for question in group]
            continue
        batches = _batches(group, asking.batch_size)
        if isinstance(found, ChoosingVideo):
            yield from (_ask_choosing(found, batch, asking) for batch in batches)
            continue
        seconds = 0.0 if isinstance(found, Video) else found.seconds
        video = found if isinstance(found, Video) else session.encode(found)
        yield from (_ask_together(video, batch, asking, seconds) for batch in batches)


def _opened(
    session: HiComSession, requests: Sequence[tuple[str, dict[str, Any]]], choice: dict[str, Any]
) -> Iterator[Video | Unreadable]:
    """Videos that are encoded while they are read, so that hours of frames never are in memory."""
    for video, sampling in requests:
        try:
            yield session.open(video, **choice, **sampling)
        except (VideoReadError, OSError) as error:
            yield Unreadable(str(error))


def _ask_together(video: Video, batch: Sequence[Question], asking: Asking, read_seconds: float) -> list[Asked]:
    """Questions that see the same frames, as one batch."""
    record = video.encoded.sampling
    prompts = [question.prompt_at(record.times, record.duration) for question in batch]
    answers = video.ask_all(prompts, instruction=_conditions(video, batch), **_options(batch, asking))
    return [
        Asked(question, prompt, answer, video, read_seconds)
        for question, prompt, answer in zip(batch, prompts, answers, strict=True)
    ]


def _ask_choosing(video: ChoosingVideo, batch: Sequence[Question], asking: Asking) -> list[Asked]:
    """Questions that each see the frames that they choose, and the subtitles of those, as one batch."""
    conditions = _conditions(video, batch)
    duration, found, waiting = video.candidates.sampling.duration, [], []
    records = video.choose_all([question.prompt for question in batch], conditions)
    for question, condition, record in zip(batch, conditions, records, strict=True):
        prompt = question.prompt_at(record.times, duration)
        try:
            waiting.append((len(found), condition, record, video.chosen(record)))
            found.append(Asked(question, prompt))
        except (VideoReadError, OSError) as error:  # with tiles, the chosen frames are read again
            found.append(Asked(question, prompt, failure=str(error)))
    answers = ask_each(
        [chosen for *_, chosen in waiting],
        [found[place].prompt for place, *_ in waiting],
        instruction=[condition for _, condition, *_ in waiting],
        **_options(batch, asking),
    )
    for (place, _, record, chosen), answer in zip(waiting, answers, strict=True):
        found[place] = replace(found[place], answer=replace(answer, selection=record), video=chosen)
    return found


def _conditions(video: Video, batch: Sequence[Question]) -> list[str]:
    """What conditions each compression: the task's words, or, where it states none, those of the prompt."""
    extract = video.session.processor.extract_instruction
    return [extract(one.prompt) if one.instruction is None else one.instruction for one in batch]


def _options(batch: Sequence[Question], asking: Asking) -> dict[str, Any]:
    return {"system": asking.system, "max_new_tokens": batch[0].max_new_tokens}


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
