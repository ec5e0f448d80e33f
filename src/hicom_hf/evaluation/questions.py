"""Questions of a benchmark as plain records, and how they are grouped so that each video is read and encoded once."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from ..hub.files import settings_fingerprint
from ..processors.answering_hicom import MAX_NEW_TOKENS
from .subtitles import SubtitleRule


class Clip(NamedTuple):
    """A video, or a part of it; see `Question`."""

    video: str
    start: float | None
    end: float | None
    frame_rate: float | None

    @property
    def sampling(self) -> dict[str, float]:
        """The clip as keywords of reading; values that are None are left out."""
        values = {"start": self.start, "end": self.end, "frame_rate": self.frame_rate}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Question:
    """One question of a task.

    Attributes:
        id: unique within the task.
        video: path of the video or image.
        prompt: what the LLM reads, without subtitles.
        instruction: the condition of the compression: the bare question, stated by the task and never guessed from the prompt.
            None where there is nothing but a prompt: then the processor extracts it.
        gold: the right answer as the task marks it: a letter, or words; None where it is not published.
        options: texts of the options A, B, ...; empty for an open question.
        categories: what the benchmark reports by, such as {"duration": "short"}.
        start, end: seconds of the video that are asked about; None for its beginning and its end.
        frame_rate: frames per second of a folder of frames; None for a video.
        subtitles: which lines of which file stand in front of the prompt; None for none.
        details: what a judge or a submission needs in addition.
        max_new_tokens: where the answer is cut.
        task: that it belongs to; questions of several tasks may be asked in one run, so that they share encoded videos.
    """

    id: str
    video: str
    prompt: str
    instruction: str | None
    gold: str | None = None
    options: tuple[str, ...] = ()
    categories: dict[str, str] = field(default_factory=dict)
    start: float | None = None
    end: float | None = None
    frame_rate: float | None = None
    subtitles: SubtitleRule | None = None
    details: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int = MAX_NEW_TOKENS
    task: str = ""

    def prompt_at(self, times: Sequence[float], duration: float | None) -> str:
        """The prompt with the subtitles that belong to the sampled frames.

        Args:
            times: seconds of the sampled frames.
            duration: of the video, seconds.
        """
        return self.prompt if self.subtitles is None else self.subtitles.heading(times, duration) + self.prompt

    @property
    def clip(self) -> "Clip":
        """What has to be read and encoded for it."""
        return Clip(self.video, self.start, self.end, self.frame_rate)


def questions_fingerprint(questions: Iterable[Question]) -> str:
    """A digest of all that is asked and of what counts as right; paths of videos are left out, so that data may move."""
    plain = [
        {**asdict(question), "video": None, "subtitles": question.subtitles is not None} for question in questions
    ]
    return settings_fingerprint({"questions": plain})


def by_clip(questions: Iterable[Question]) -> dict[Clip, list[Question]]:
    """Questions by what has to be read for them, in the order in which each first appears."""
    groups: dict[Clip, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.clip, []).append(question)
    return groups


def shard(questions: Sequence[Question], part: int, num_parts: int) -> list[Question]:
    """Part `part` of `num_parts`, from 1: whole videos, dealt out in turn, so that no video is encoded twice.

    Raises:
        ValueError: there is no such part.
    """
    if not 1 <= part <= num_parts:
        raise ValueError(f"shard {part}/{num_parts}: the first number goes from 1 to the second")
    videos = {video: number for number, video in enumerate(dict.fromkeys(question.video for question in questions))}
    return [question for question in questions if videos[question.video] % num_parts == part - 1]
