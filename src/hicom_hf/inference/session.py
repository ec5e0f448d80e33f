"""The way a question is asked: a session holds a model and the features of the videos that were opened.

    session = HiComSession.load("hicom-tiny")
    video = session.open("cat.mp4", num_frames=32)
    print(video.ask("What does the cat do?").answer)

A video is read and encoded once; each further question costs the compressor and the LLM. Nothing here knows of HTTP
or terminals.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from ..assets import model_note
from ..hub.loading import Compile, Quantization, check_fits, check_options, load_config, load_model, load_processor
from ..hub.places import ModelPlace, find_model
from ..modeling.configuration_hicom import HiComConfig
from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..processors.answering_hicom import (
    Answer,
    EncodedVideo,
    ReadVideo,
    answer_questions,
    check_question,
    encode_video,
    own_instructions,
    read_frames,
    untrained_note,
)
from ..processors.candidate_frames_hicom import (
    CandidateFiles,
    CandidateFrames,
    choose_for_questions,
    chosen_video,
    encode_candidates,
)
from ..processors.frame_sampling_hicom import FrameSampling
from ..processors.frame_selection_hicom import FrameSelection, SelectionRecord
from ..processors.frame_tiles_hicom import OVERVIEW, FrameTiles, TilesRecord
from ..processors.processing_hicom import HiComProcessor
from ..processors.tiled_video_hicom import TiledVideo, choose_tiles, encode_tiles, read_tiles, without_question
from .attention_maps import AttentionMaps, attention_maps, over_whole_frames
from .video_cache import VideoCache, video_key

READING = {"on_decode_error", "frame_rate", "media_access", "media_bounds"}  # how a video is read, not which frames
DEFAULT_CACHE_BYTES = 2 * 2**30  # 20 videos of 32 frames at 7B in bf16, 107 MB each


class HiComSession:
    """A model that answers questions about videos. Threads may share a session; they take turns.

    Args:
        model, processor: loaded from one folder.
        cache_bytes: bound on the features kept in memory and on what the compressor keeps of the last video (about twice its
            features), in bytes; the least recently used are dropped first. With 0 none are kept, and an open video holds its
            own features.
        cache_dir: folder where features are kept as well, so that an archive is encoded once; None for none.
        note: shown with the answers, for limits of the model; see `model_notes`.

    Raises:
        ValueError: model and processor do not fit.

    Example:
        >>> from hicom_hf.assets import example_videos
        >>> session = HiComSession.load()
        >>> session.open(example_videos()[0]).ask("Which way does the cyan moon move?").answer  # doctest: +SKIP
        'left'
    """

    def __init__(
        self,
        model: HiComForConditionalGeneration,
        processor: HiComProcessor,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        cache_dir: str | Path | None = None,
        note: str | None = None,
    ):
        check_fits(model.config, processor, model.config.name_or_path or "the model")
        self.model = model
        self.processor = processor
        self.note = note
        self.cache = VideoCache(cache_bytes, None if cache_dir is None else Path(cache_dir), model)
        self.lock = threading.RLock()  # one thread at a time runs the model

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        device_map: str | dict[str, Any] | None = None,
        quantize: Quantization | None = None,
        attn_implementation: str | None = None,
        compile: Compile | bool = "auto",
        **options: Any,
    ) -> "HiComSession":
        """Load a model with its processor.

        Args:
            model: name of a packaged model; folder; Hub repo id, with `@revision` or without; folder of a LoRA adapter. None for
                the packaged hicom-tiny.
            device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps".
            dtype: "auto" (as saved), "float32", "bfloat16" or "float16".
            device_map: as in transformers, such as "auto" for several GPUs; in place of `device`.
            quantize: "nf4" or "int8" keeps the LLM in 4 or 8 bits.
            attn_implementation: as in transformers; None lets it choose.
            compile: the decoding step: "auto" compiles it on a GPU once that pays, "on" (or True) on first use, "off" (or False)
                never. Compiled, answers in half precision may differ at near ties.
            **options: of `HiComSession`.

        Raises:
            FileNotFoundError: there is no such folder, or no weights in it.
            ImportError: a package that an option needs is not installed.
            OSError: the repo cannot be reached.
            ValueError: options, config, processor or weights do not fit together.
        """
        # Cheap checks that can fail come before the weights are loaded.
        check_options(device, device_map, quantize, attn_implementation, compile)
        place = find_model(model)
        config, processor = load_config(place), load_processor(place)
        check_fits(config, processor, place)
        loaded = load_model(
            place, device, dtype, attn_implementation, device_map=device_map, quantize=quantize, compile=compile
        )
        options.setdefault("note", model_notes(place, config))
        return cls(loaded, processor, **options)

    def open(
        self,
        video: Any,
        *,
        selection: FrameSelection | None = None,
        tiles: FrameTiles | None = None,
        **sampling: Any,
    ) -> "Video":
        """Read and encode a video or an image, or take its features from the cache.

        Args:
            video: path, URL, bytes, folder of frames, array, list of PIL images, ...; see `read_video`.
            selection: each question chooses among the frames that are taken, which may then be hours of video; they are encoded
                in chunks and kept in a temporary file, or in `cache_dir`. None lets every question see all frames.
            tiles: each question chooses among overlapping squares of each frame. None pads frames to squares. With a selection,
                frames are chosen as they are without tiles; those that a question has chosen are read once more, as tiles.
            **sampling: sampling (a `FrameSampling`), or num_frames, fps, start, end, max_frames, max_video_tokens, short_video,
                on_decode_error; see `HiComProcessor`.

        Raises:
            VideoReadError: it cannot be read.
            ValueError: the request contradicts itself.
        """
        if selection is not None:
            detailed = None if tiles is None else partial(self._chosen_tiles, video, tiles, sampling)
            return ChoosingVideo(self, self._candidates(video, sampling), selection, detailed)
        if tiles is not None:
            key = video_key(video, {**sampling, "tiles": tiles})
            tiled = self.cache.get_tiled(key)
            if tiled is None:
                read = read_tiles(self.processor, video, tiles, **sampling)
                with self.lock:
                    tiled = encode_tiles(self.model, self.processor, read)
                self.cache.put(key, tiled)
            return DetailedVideo(self, tiled)
        key = video_key(video, sampling)
        encoded = self.cache.get(key)
        if encoded is None:
            encoded = self.encode(read_frames(self.processor, video, **sampling)).encoded
            self.cache.put(key, encoded)
        return Video(self, encoded)

    def _candidates(self, video: Any, sampling: dict[str, Any]) -> CandidateFrames:
        """Encode candidates, or take them from the folder of the cache."""

        def encode(files: CandidateFiles | None) -> CandidateFrames:
            with self.lock:
                return encode_candidates(self.model, self.processor, video, files=files, **sampling)

        return self.cache.candidates(None if "read" in sampling else video_key(video, sampling), encode)

    def _chosen_tiles(
        self,
        video: Any,
        tiles: FrameTiles,
        sampling: dict[str, Any],
        candidates: CandidateFrames,
        record: SelectionRecord,
    ) -> "Video":
        """Read the frames that a question has chosen among candidates again, as tiles."""
        numbers = tuple(candidates.sampling.indices[frame] for frame in record.frames)
        reading = {name: value for name, value in sampling.items() if name in READING}
        return self.open(video, tiles=tiles, sampling=FrameSampling(indices=numbers), **reading)

    def encode(self, frames: ReadVideo) -> "Video":
        """Encode frames that `read_frames` has read; the cache is not searched for them."""
        with self.lock:
            return Video(self, encode_video(self.model, frames))


class Video:
    """An open video: ask it any number of questions.

    Attributes:
        session: that opened it.
        encoded: its features, how many visual tokens it has, and the record of the frames that were taken.
    """

    def __init__(self, session: HiComSession, encoded: EncodedVideo):
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
        with self.session.lock:
            return answer_questions(
                self.session.model,
                self.session.processor,
                encoded,
                questions,
                on_text=on_text,
                is_cancelled=is_cancelled,
                **options,
            )

    def stream(self, question: str, **options: Any) -> "AnswerStream":
        """Answer one question piece by piece; iterate over what is returned. Arguments and errors as for `ask`."""
        check_question(question)
        return AnswerStream(self, question, options)

    def attention(self, question: str) -> AttentionMaps:
        """Where the compressor attends for a question; nothing is generated. See `attention_maps`."""
        with self.session.lock:
            return attention_maps(self.session.model, self.session.processor, self.encoded, question)


class ChoosingVideo(Video):
    """An open video of any length: each question sees the frames that it chooses among the candidates.

    Attributes:
        session: that opened it.
        candidates: the `CandidateFrames`.
        selection: how frames are chosen.
        encoded: the frames that a question sees when nothing stands out for it, spread evenly.
    """

    def __init__(
        self,
        session: HiComSession,
        candidates: CandidateFrames,
        selection: FrameSelection,
        detailed: Callable[[CandidateFrames, SelectionRecord], Video] | None = None,
    ):
        self.candidates, self.selection, self._detailed = candidates, selection, detailed
        with session.lock:
            [evenly] = choose_for_questions(
                session.model, session.processor, candidates, [""], replace(selection, rule="uniform")
            )
            super().__init__(session, chosen_video(session.model, candidates, evenly))

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
            return self._detailed(self.candidates, record)
        return Video(self.session, chosen_video(self.session.model, self.candidates, record))

    def ask_all(
        self,
        questions: Sequence[str],
        *,
        on_text: Callable[[int, str], None] | None = None,
        cancel: Sequence[threading.Event] | None = None,
        instruction: str | Sequence[str | None] | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Answer several questions, one after another, as each sees other frames; see `Video.ask_all`.

        An `instruction` also chooses the frames.
        """
        own = own_instructions(questions, instruction)
        with self.session.lock:
            started = perf_counter()
            records = self.choose_all(questions, own)
            seconds = (perf_counter() - started) / max(len(questions), 1)
            answers = []
            for number, (question, record) in enumerate(zip(questions, records, strict=True)):
                pieces = None if on_text is None else lambda _, text, number=number: on_text(number, text)
                began = perf_counter()
                video = self.chosen(record)
                before = seconds + perf_counter() - began
                [answer] = video.ask_all(
                    [question],
                    on_text=pieces,
                    cancel=None if cancel is None else [cancel[number]],
                    instruction=own[number],
                    **options,
                )
                answers.append(replace(_after(answer, before), selection=record))
        return answers

    def attention(self, question: str) -> AttentionMaps:
        """Where the compressor attends for a question, in the frames that it chooses. See `attention_maps`."""
        return self.chosen(self.choose(question)).attention(question)


def _after(answer: Answer, seconds: float) -> Answer:
    """An answer that had to wait for a choice."""
    return replace(answer, first_token_seconds=answer.first_token_seconds + seconds, seconds=answer.seconds + seconds)


class DetailedVideo(Video):
    """An open video or image of any shape: each question sees the patches that it chooses among overlapping squares.

    Attributes:
        session: that opened it.
        tiled: the `TiledVideo`.
        encoded: what is seen before anything is asked.
    """

    def __init__(self, session: HiComSession, tiled: TiledVideo):
        self.tiled = tiled
        super().__init__(session, without_question(session.model, tiled))

    def choose(self, question: str) -> TilesRecord:
        """Which parts of the frames a question sees, without asking it."""
        return self._choose_all([question])[0][0]

    def _choose_all(
        self, questions: Sequence[str], instruction: str | Sequence[str | None] | None = None
    ) -> list[tuple[TilesRecord, EncodedVideo]]:
        for question in questions:
            check_question(question)
        with self.session.lock:
            return choose_tiles(self.session.model, self.session.processor, self.tiled, questions, instruction)

    def ask_all(
        self,
        questions: Sequence[str],
        *,
        on_text: Callable[[int, str], None] | None = None,
        cancel: Sequence[threading.Event] | None = None,
        instruction: str | Sequence[str | None] | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Answer several questions together, each about the patches that it sees; see `Video.ask_all`.

        An `instruction` also chooses the patches.
        """
        own = own_instructions(questions, instruction)
        with self.session.lock:
            started = perf_counter()
            chosen = self._choose_all(questions, own)
            seconds = perf_counter() - started
            videos = [encoded for _, encoded in chosen]
            answers = self._answer(videos, questions, on_text, cancel, instruction=own, **options)
        return [
            replace(_after(answer, seconds), tiles=record) for answer, (record, _) in zip(answers, chosen, strict=True)
        ]

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


def model_notes(model: str | Path | ModelPlace, config: HiComConfig) -> str | None:
    """What readers of a model's answers should know: weights that are random, a small world; None if there is nothing.

    Args:
        model: what the model was loaded from, see `find_model`.
        config: of the model.
    """
    place = find_model(model)
    packaged = model_note(place.source) if place.adapter is None else None
    notes = [note for note in (untrained_note(config.untrained_parts), packaged) if note]
    return "; ".join(notes) or None
