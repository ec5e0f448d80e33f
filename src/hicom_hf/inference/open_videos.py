"""Open videos, which answer any number of questions: all of their frames, frames or parts of frames that a question chooses.

`HiComSession.open` makes them. What a video needs of its session stands in `Opener`.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..modeling.vision_hicom import instructions_encoded_once
from ..processors.answering_hicom import Answer, EncodedVideo, answer_questions, check_question, own_instructions
from ..processors.candidate_frames_hicom import CandidateFrames, choose_for_questions, chosen_video
from ..processors.frame_selection_hicom import FrameSelection, SelectionRecord
from ..processors.frame_tiles_hicom import OVERVIEW, TilesRecord
from ..processors.processing_hicom import HiComProcessor
from ..processors.tiled_video_hicom import TiledVideo, choose_tiles, without_question
from .attention_maps import AttentionMaps, attention_maps, over_whole_frames


class Opener(Protocol):
    """The session of an open video: its model and processor, and the lock of the thread that runs the model."""

    model: HiComForConditionalGeneration
    processor: HiComProcessor
    lock: Any

    def generate(self, answer: Callable[[], list[Answer]]) -> list[Answer]:
        """Calls what generates in the thread for it."""
        ...


class Seen(NamedTuple):
    """What a question sees of a video; and which frames, and parts of frames, it chose for that."""

    encoded: EncodedVideo
    selection: SelectionRecord | None = None
    tiles: TilesRecord | None = None


def ask_each(
    videos: "Sequence[Video]",
    questions: Sequence[str],
    *,
    on_text: Callable[[int, str], None] | None = None,
    cancel: Sequence[threading.Event] | None = None,
    instruction: str | Sequence[str | None] | None = None,
    **options: Any,
) -> list[Answer]:
    """Answer questions about an open video each together, in one batch.

    Args:
        videos: B of one session; the same one may come several times.
        questions: B of them, none empty.
        on_text, cancel, instruction, **options: as of `Video.ask_all`.

    Raises:
        ValueError: there are more or fewer videos than questions, or videos of several sessions; or as of `Video.ask_all`.
    """
    if len({id(video.session) for video in videos}) > 1:
        raise ValueError("videos of several sessions cannot be asked together; open them with one session")
    own = own_instructions(questions, instruction)
    if len(videos) != len(questions):
        raise ValueError(f"each question needs a video, got {len(videos)} videos for {len(questions)} questions")
    if not videos:
        return []

    def see(own: list[str | None]) -> list[Seen]:
        triples = zip(videos, questions, own, strict=True)
        return [seen for video, question, words in triples for seen in video._seen_by([question], [words])]

    return _ask_seen(videos[0], questions, see, own, on_text=on_text, cancel=cancel, **options)


def _ask_seen(
    video: "Video",
    questions: Sequence[str],
    see: Callable[[list[str | None]], list[Seen]],
    instructions: list[str | None],
    **options: Any,
) -> list[Answer]:
    """Answer questions together, each about what it sees; the time of seeing counts to each.

    Args:
        video: whose session answers.
        see: what each question sees, by the instructions in place of their words.
        **options: of `Video._answer`.
    """
    with video.session.lock, instructions_encoded_once():
        started = perf_counter()
        seen = see(instructions)
        seconds = perf_counter() - started
        answers = video._answer([one.encoded for one in seen], questions, instruction=instructions, **options)
    return [
        replace(
            answer,
            first_token_seconds=answer.first_token_seconds + seconds,
            seconds=answer.seconds + seconds,
            selection=one.selection,
            tiles=one.tiles,
        )
        for answer, one in zip(answers, seen, strict=True)
    ]


class Video:
    """An open video: ask it any number of questions.

    Attributes:
        session: that opened it.
        encoded: its features, how many visual tokens it has, and the record of the frames that were taken.
    """

    def __init__(self, session: Opener, encoded: EncodedVideo):
        self.session = session
        self.encoded = encoded

    def ask(
        self,
        question: str,
        *,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
        **options: Any,
    ) -> Answer:
        """Answer one question.

        Args:
            question: not empty.
            on_text: called with each piece of the answer as it is generated.
            cancel: once it is set, the answer ends at the next token.
            **options: instruction, system, max_new_tokens, temperature, seed; see `answer_questions`.

        Raises:
            ValueError: the question is empty, the temperature negative, or the prompt longer than the LLM can read.
        """
        pieces = None if on_text is None else lambda _, text: on_text(text)
        [answer] = self.ask_all([question], on_text=pieces, cancel=None if cancel is None else [cancel], **options)
        return answer

    def ask_all(
        self,
        questions: Sequence[str],
        *,
        on_text: Callable[[int, str], None] | None = None,
        cancel: Sequence[threading.Event] | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Answer several questions together, in one batch.

        Args:
            questions: none empty.
            on_text: called with the number of the question and a piece of its answer.
            cancel: one event per question; answers whose event is not set are not changed.
            **options: see `answer_questions`.
        """
        return self._answer(self.encoded, questions, on_text, cancel, **options)

    def _answer(
        self,
        encoded: EncodedVideo | Sequence[EncodedVideo],
        questions: Sequence[str],
        on_text: Callable[[int, str], None] | None,
        cancel: Sequence[threading.Event] | None,
        **options: Any,
    ) -> list[Answer]:
        """Answer questions about one encoded video, or about one each."""
        if cancel is not None and len(cancel) != len(questions):
            raise ValueError(f"cancel takes one event per question, got {len(cancel)} for {len(questions)} questions")
        is_cancelled = None if cancel is None else lambda row: cancel[row].is_set()
        answer = partial(answer_questions, self.session.model, self.session.processor, encoded, questions)
        return self.session.generate(partial(answer, on_text=on_text, is_cancelled=is_cancelled, **options))

    def _seen_by(self, questions: Sequence[str], instructions: Sequence[str | None]) -> list[Seen]:
        """What each question, or the instruction in its place, sees of the video."""
        return [Seen(self.encoded)] * len(questions)

    def stream(self, question: str, **options: Any) -> "AnswerStream":
        """Answer one question piece by piece; iterate over what is returned. Arguments and errors as for `ask`."""
        check_question(question)
        return AnswerStream(self, question, options)

    def attention(self, question: str) -> AttentionMaps:
        """Where the compressor attends for a question; nothing is generated. See `attention_maps`."""
        with self.session.lock:
            return attention_maps(self.session.model, self.session.processor, self.encoded, question)


class SeenByQuestion(Video):
    """An open video of which each question sees what it chooses; `_seen_by` says what."""

    def ask_all(
        self,
        questions: Sequence[str],
        *,
        on_text: Callable[[int, str], None] | None = None,
        cancel: Sequence[threading.Event] | None = None,
        instruction: str | Sequence[str | None] | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Answer several questions together, each about what it chooses; see `Video.ask_all`.

        An `instruction` also chooses. Memory holds the features of what all questions see.
        """
        own = own_instructions(questions, instruction)
        see = partial(self._seen_by, questions)
        return _ask_seen(self, questions, see, own, on_text=on_text, cancel=cancel, **options)


class ChoosingVideo(SeenByQuestion):
    """An open video of any length: each question sees the frames that it chooses among the candidates.

    Attributes:
        session: that opened it.
        candidates: the `CandidateFrames`.
        selection: how frames are chosen.
        encoded: the frames that a question sees when nothing stands out for it, spread evenly.
    """

    def __init__(
        self,
        session: Opener,
        candidates: CandidateFrames,
        selection: FrameSelection,
        detailed: Callable[[SelectionRecord], Video] | None = None,
    ):
        self.candidates, self.selection, self._detailed = candidates, selection, detailed
        with session.lock:
            [evenly] = choose_for_questions(
                session.model, session.processor, candidates, [""], replace(selection, rule="uniform")
            )
            if detailed is None or candidates.has_features:
                encoded = chosen_video(session.model, candidates, evenly)
            else:
                encoded = detailed(evenly).encoded
                encoded = replace(encoded, seconds=candidates.seconds + encoded.seconds)
            super().__init__(session, encoded)

    def choose(self, question: str) -> SelectionRecord:
        """Which frames a question sees, without asking it."""
        return self.choose_all([question])[0]

    def choose_all(
        self, questions: Sequence[str], instruction: str | Sequence[str | None] | None = None
    ) -> list[SelectionRecord]:
        """Which frames each question sees.

        Args:
            questions: none empty.
            instruction: chooses in place of the words of each question: one for all, or one per question.
        """
        for question in questions:
            check_question(question)
        with self.session.lock:
            return choose_for_questions(
                self.session.model, self.session.processor, self.candidates, questions, self.selection, instruction
            )

    def chosen(self, record: SelectionRecord) -> Video:
        """The frames of a record of `choose`, as a video; with tiles they are read and encoded here."""
        if self._detailed is not None:
            return self._detailed(record)
        return Video(self.session, chosen_video(self.session.model, self.candidates, record))

    def _seen_by(self, questions: Sequence[str], instructions: Sequence[str | None]) -> list[Seen]:
        records = self.choose_all(questions, instructions)
        videos = {frames: self.chosen(record) for frames, record in {one.frames: one for one in records}.items()}
        triples = zip(questions, instructions, records, strict=True)
        return [
            seen._replace(selection=record)
            for question, words, record in triples
            for seen in videos[record.frames]._seen_by([question], [words])
        ]

    def attention(self, question: str) -> AttentionMaps:
        """Where the compressor attends for a question, in the frames that it chooses. See `attention_maps`."""
        return self.chosen(self.choose(question)).attention(question)


class DetailedVideo(SeenByQuestion):
    """An open video or image of any shape: each question sees the patches that it chooses among overlapping squares.

    Attributes:
        session: that opened it.
        tiled: the `TiledVideo`.
        encoded: what is seen before anything is asked.
    """

    def __init__(self, session: Opener, tiled: TiledVideo):
        self.tiled = tiled
        super().__init__(session, without_question(session.model, tiled))

    def choose(self, question: str) -> TilesRecord:
        """Which parts of the frames a question sees, without asking it."""
        return self._choose_all([question])[0][0]

    def _seen_by(self, questions: Sequence[str], instructions: Sequence[str | None]) -> list[Seen]:
        return [Seen(encoded, tiles=record) for record, encoded in self._choose_all(questions, instructions)]

    def _choose_all(
        self, questions: Sequence[str], instruction: str | Sequence[str | None] | None = None
    ) -> list[tuple[TilesRecord, EncodedVideo]]:
        for question in questions:
            check_question(question)
        with self.session.lock:
            return choose_tiles(self.session.model, self.session.processor, self.tiled, questions, instruction)

    def attention(self, question: str) -> AttentionMaps:
        """Where the compressor attends for a question, over the whole frame at every zoom.

        For a picture, take the margins off the frames with `whole_frames`. See `attention_maps`.
        """
        [(record, encoded)] = self._choose_all([question])
        maps = Video(self.session, encoded).attention(question)
        sampling = self.tiled.sampling
        return over_whole_frames(maps, sampling.height, sampling.width) if record.zoom == OVERVIEW else maps


class AnswerStream:
    """The pieces of an answer, generated in a separate thread.

    Leaving the loop early, or `cancel()`, ends the answer at the next token.

    Attributes:
        answer: the whole answer, once all pieces have come; None before.
    """

    def __init__(self, video: Video, question: str, options: dict[str, Any]):
        self.answer: Answer | None = None
        self._cancel = threading.Event()
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(video, question, options), daemon=True)
        self._thread.start()

    def _run(self, video: Video, question: str, options: dict[str, Any]) -> None:
        try:
            self.answer = video.ask(question, on_text=self._pieces.put, cancel=self._cancel, **options)
        except Exception as error:  # raised again where the pieces are taken
            self._error = error
        finally:
            self._pieces.put(None)

    def __iter__(self) -> Iterator[str]:
        try:
            while (piece := self._pieces.get()) is not None:
                yield piece
            self._thread.join()
            if self._error is not None:
                raise self._error
        finally:
            self._cancel.set()

    def cancel(self) -> None:
        """End the answer at the next token, and wait until it has ended."""
        self._cancel.set()
        self._thread.join()
