"""What an engine is asked, and what it answers."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from time import monotonic
from typing import Any

from ..processors.answering_hicom import Answer, Chat, EncodedVideo, ReadVideo
from ..processors.frame_selection_hicom import FrameSelection, SelectionRecord
from ..processors.frame_tiles_hicom import FrameTiles, TilesRecord
from ..processors.tiled_video_hicom import ReadTiles, TiledVideo
from .candidates import Candidates


class EngineBusy(RuntimeError):
    """The queue is full.

    Attributes:
        retry_after: seconds after which a place is likely to be free.
    """

    def __init__(self, message: str, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after


CLIENT_LEFT = "the client has left"


class EngineClosed(RuntimeError):
    """The engine is shutting down and takes no more requests."""

    def __init__(self, message: str = "the server is shutting down"):
        super().__init__(message)


class RequestCancelled(RuntimeError):
    """The request was cancelled before its answer began."""

    def __init__(self, message: str = CLIENT_LEFT):
        super().__init__(message)


class RequestTooSlow(RuntimeError):
    """The answer did not end in the time that a request has."""


@dataclass(frozen=True)
class Limits:
    """What one request, and all together, may cost.

    Attributes:
        max_queue: requests that wait or are answered at one time.
        max_batch: answers that are generated together.
        max_new_tokens: of one answer, and so the length of a batch.
        max_frames: of one video that a question sees.
        max_candidates: of one video among which a question chooses.
        max_squares: of one video as tiles, over all its frames.
        max_videos: of one request, images included.
        max_answers: of one request, its `n`.
        max_read_seconds: for reading one fetched video.
        max_seconds: from the arrival of a request to the end of its answer.

    Raises:
        ValueError: one is not above 0.
    """

    max_queue: int = 64
    max_batch: int = 8
    max_new_tokens: int = 1024
    max_frames: int = 128
    max_candidates: int = 7200  # two hours at one per second
    max_squares: int = 256  # 128 frames of 16:9
    max_videos: int = 8
    max_answers: int = 4
    max_read_seconds: float = 30.0
    max_seconds: float = 300.0

    def __post_init__(self) -> None:
        for limit in fields(self):
            if getattr(self, limit.name) <= 0:
                raise ValueError(f"{limit.name} must be above 0, got {getattr(self, limit.name)}")


@dataclass(frozen=True)
class Settings:
    """How answers are generated; requests with equal settings share a batch.

    Attributes:
        max_new_tokens, temperature, top_p, seed: see `answer_chats`.
        num_answers: for one chat. With a seed, or more than one answer, a request forms its own batch.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    num_answers: int = 1

    @property
    def generation(self) -> dict[str, Any]:
        """Keywords of `answer_chats`."""
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
        }

    @property
    def shares_batches(self) -> bool:
        """Whether a request with these settings may be answered in one batch with others."""
        return self.seed is None and self.num_answers == 1


@dataclass(frozen=True)
class VideoSource:
    """A video or an image of a request.

    Attributes:
        source: path, http(s), file or data URL, or bytes.
        sampling: which frames; keywords of `HiComProcessor`.
        selection: the question chooses among these frames, which may then be hours of video; None lets it see all of them.
        tiles: the question chooses among squares of the frames; None pads frames. With a selection, frames are chosen by their
            squares (padded, where tiles say so), and those that were chosen are read again as tiles.
    """

    source: Any
    sampling: dict[str, Any] = field(default_factory=dict)
    selection: FrameSelection | None = None
    tiles: FrameTiles | None = None


@dataclass(frozen=True)
class Request:
    """A chat that ends in a question.

    Attributes:
        turns: see `Chat`; each `{"type": "video"}` stands for the next of `videos`.
        videos: in order.
        instruction: conditions the compression; None for the words of the last user turn.
        settings: of the generation.
        stop: texts before which the answer ends.
    """

    turns: list[dict[str, Any]]
    videos: list[VideoSource] = field(default_factory=list)
    instruction: str | None = None
    settings: Settings = field(default_factory=Settings)
    stop: tuple[str, ...] = ()

    def check(self, limits: Limits) -> None:
        """Refuse what is beyond the limits.

        Raises:
            ValueError: names the argument and the limit.
        """
        for name, value, limit in (
            ("max_tokens", self.settings.max_new_tokens, limits.max_new_tokens),
            ("n", self.settings.num_answers, limits.max_answers),
            ("the number of videos and images", len(self.videos), limits.max_videos),
            *(
                ("num_frames", video.sampling.get("num_frames") or 1, _frame_limit(video, limits))
                for video in self.videos
            ),
            *(
                ("frames", (video.selection and video.selection.num_frames) or 1, limits.max_frames)
                for video in self.videos
            ),
        ):
            if value > limit:
                raise ValueError(f"{name} is {value}, more than the {limit} that this server allows")
        if not math.isfinite(self.settings.temperature):
            raise ValueError(f"temperature must be a finite number, got {self.settings.temperature}")
        if any(not text for text in self.stop):
            raise ValueError("stop holds an empty text")


def _frame_limit(video: VideoSource, limits: Limits) -> int:
    return limits.max_frames if video.selection is None else limits.max_candidates


@dataclass(frozen=True)
class Result:
    """The answers to a request.

    Attributes:
        answers: `num_answers` of them, as the model ended them.
        texts: the same, cut before a stop text.
        stopped: whether each ended by itself or at a stop text; False if `max_new_tokens` or a cancellation ended it.
        num_visual_tokens: of the prompt.
        num_cached_tokens: those of them whose video was in the cache.
        videos: what was asked about; of those with a selection, the frames that were chosen.
        selections: of each video, which frames were chosen and why; None where all were taken.
        candidates: of each video, those among which was chosen; None likewise.
        tiles: of each video, which parts of the frames were chosen and why; None where frames were padded.
        first_token_seconds, seconds: from the arrival of the request.
    """

    answers: list[Answer]
    texts: list[str]
    stopped: list[bool]
    num_visual_tokens: int
    num_cached_tokens: int
    videos: list[EncodedVideo]
    selections: list[SelectionRecord | None]
    candidates: list[Candidates | None]
    tiles: list[TilesRecord | None]
    first_token_seconds: float
    seconds: float


@dataclass
class VideoSlot:
    """A video of a request on its way: read, then encoded; or taken from the cache; or chosen from candidates or tiles.

    Attributes:
        key: of its features, candidates or tiles.
        was_cached: whether they were there already.
        encoded: what is asked about.
        read: its frames; `squares` its squares, which become `tiled`.
        record, tiles: what was chosen.
    """

    key: str
    was_cached: bool
    encoded: EncodedVideo | None = None
    read: ReadVideo | None = None
    candidates: Candidates | None = None
    selection: FrameSelection | None = None
    record: SelectionRecord | None = None
    squares: ReadTiles | None = None
    tiled: TiledVideo | None = None
    tiles: TilesRecord | None = None

    @property
    def is_tiled(self) -> bool:
        return self.squares is not None or self.tiled is not None

    @property
    def features(self) -> EncodedVideo:
        """What the engine has encoded, before it answers."""
        assert self.encoded is not None
        return self.encoded


class Ticket:
    """A request in the engine.

    Attributes:
        future: of its `Result`.
        request: as it was submitted.
    """

    def __init__(
        self, request: Request, on_text: Callable[[int, str], None] | None, leave: Callable[["Ticket"], None]
    ):
        self.request = request
        self.future: Future[Result] = Future()
        self.future.set_running_or_notify_cancel()  # so that nobody but the engine ends it
        self.arrived = monotonic()
        self.first_token: float | None = None
        self.slots: list[VideoSlot] = []
        self.cancelled = threading.Event()
        self.texts = [StoppedText(request.stop) for _ in range(request.settings.num_answers)]
        self._on_text = on_text
        self._leave = leave

    def cancel(self) -> None:
        """End the answer at the next token, or leave the queue."""
        self.cancelled.set()
        self._leave(self)

    def check_wanted(self) -> None:
        """
        Raises:
            RequestCancelled: its client has left.
        """
        if self.cancelled.is_set():
            raise RequestCancelled

    def add_text(self, number: int, piece: str) -> None:
        """Take a piece of one answer from the model, and hand on what is certain."""
        if self.first_token is None:
            self.first_token = monotonic()
        self.hand_on(number, self.texts[number].add(piece))

    def end_text(self) -> None:
        """Pass on what was held back of each answer, which has ended."""
        for number, text in enumerate(self.texts):
            self.hand_on(number, text.end())

    def hand_on(self, number: int, text: str) -> None:
        """Pass on text of one answer that is certain."""
        if text and self._on_text is not None:
            self._on_text(number, text)

    @property
    def question(self) -> str:
        """The words of the last user turn."""
        return Chat(self.request.turns, []).question

    def chat(self) -> Chat:
        """The request as a chat with its encoded videos."""
        return Chat(self.request.turns, [slot.features for slot in self.slots], self.request.instruction)


class StoppedText:
    """A text that comes in pieces and ends before the first of some stop texts; without spaces at its ends.

    Example:
        >>> text = StoppedText(("END",))
        >>> [text.add(" one E"), text.add("N"), text.add("D two"), text.end(), text.stopped]
        ['one', '', '', '', True]
    """

    def __init__(self, stops: tuple[str, ...]):
        self.stops = stops
        self.stopped = False
        self._held = ""
        self._began = False

    def add(self, piece: str) -> str:
        """The text that is certain to be part of the answer, now that `piece` has come."""
        if self.stopped:
            return ""
        self._held += piece
        if not self._began:
            self._held = self._held.lstrip()
            self._began = bool(self._held)
        if found := [at for stop in self.stops if (at := self._held.find(stop)) >= 0]:
            self.stopped, self._held = True, self._held[: min(found)]
            return self.end()
        certain = len(self._held) - self._num_uncertain()
        certain = len(self._held[:certain].rstrip())
        text, self._held = self._held[:certain], self._held[certain:]
        return text

    def _num_uncertain(self) -> int:
        """Characters at the end that may be the beginning of a stop text."""
        lengths = (
            length for stop in self.stops for length in range(1, len(stop)) if self._held.endswith(stop[:length])
        )
        return max(lengths, default=0)

    def end(self) -> str:
        """The rest of the text."""
        text, self._held = self._held.rstrip(), ""
        return text

    def cut(self, text: str) -> str:
        """A whole text, cut before the first stop text."""
        return text[: min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=len(text))].strip()
