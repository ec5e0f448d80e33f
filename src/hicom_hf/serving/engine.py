"""The engine: many clients, one model. Knows nothing of HTTP.

    with Engine(HiComSession.load("hicom-7b")) as engine:
        ticket = engine.submit(Request(turns, [VideoSource("https://example.org/cat.mp4")]))
        print(ticket.future.result().texts[0])

A request is fetched and read beside the model, waits, and is answered in a static batch:

```
submit --> fetch, hash --(features in the cache?)--> read in a process --> waiting --> one thread: encode, generate --> future
```
The thread that owns the model takes the request that waits longest, then those about the same videos, then others with the same
settings. So an arrival waits for one running batch where all have the same settings and fit into the next one, and nothing is
passed over for ever.
"""

import logging
import threading
from collections.abc import Callable
from time import monotonic

import torch

from ..inference.attention_maps import AttentionMaps, attention_maps
from ..inference.session import HiComSession
from ..processors.answering_hicom import (
    Answer,
    Chat,
    EncodedVideo,
    ReadVideo,
    answer_chats,
    encode_video,
)
from ..processors.media_access_hicom import MediaAccess
from ..processors.media_bounds_hicom import MediaBounds
from ..processors.tiled_video_hicom import TiledVideo, choose_tiles, encode_tiles
from .candidates import CandidateStore, choose_for_chat
from .media import Media
from .reading import Reading
from .requests import (
    EngineClosed,
    Limits,
    RequestCancelled,
    RequestTooSlow,
    Result,
    Settings,
    Ticket,
    VideoSlot,
)

logger = logging.getLogger(__name__)

DEFAULT_CANDIDATE_BYTES = 16 * 2**30  # on disk; an hour of film at one frame per second is 12 GB at 7B in bf16


class Engine(Reading):
    """Answers requests of many threads with the model of a session.

    Args:
        session: its model, processor and cache are used. It may also be asked directly; both take turns.
        access: which files and servers may be read; None for `MediaAccess.guarded()`.
        bounds: what reading one video may cost; None for the defaults.
        limits: what requests may cost.
        num_workers: processes that read videos; 0 reads them in threads of this process.
        candidate_bytes: of the files in which candidates of long videos are kept, see `CandidateStore`.
        keep_pictures: whether candidates are kept as pictures, too.

    Attributes:
        statistics: what was counted.
        can_choose: whether questions may choose among the frames of long videos, or among squares of frames.
    """

    def __init__(
        self,
        session: HiComSession,
        *,
        access: MediaAccess | None = None,
        bounds: MediaBounds | None = None,
        limits: Limits | None = None,
        num_workers: int = 2,
        candidate_bytes: int = DEFAULT_CANDIDATE_BYTES,
        keep_pictures: bool = False,
    ):
        limits = limits or Limits()
        media = Media(
            session.processor,
            MediaAccess.guarded() if access is None else access,
            num_workers,
            limits.max_read_seconds,
            bounds or MediaBounds(),
        )
        super().__init__(session, media, CandidateStore(candidate_bytes), limits, keep_pictures)
        self._waiting: list[Ticket] = []
        self._seconds_per_answer = 1.0
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="hicom-model", daemon=True)
        self._thread.start()

    # From any thread ---------------------------------------------------------------------------------------------------

    def warm(self) -> None:
        """Start what the first request would wait for."""
        self.media.warm()

    @property
    def note(self) -> str | None:
        """What readers of the answers should know of the model."""
        return self.session.note

    def gauges(self) -> dict[str, float]:
        """What may go up and down, by name."""
        answer_caches = self.session.model.answer_caches
        return {
            "requests_inside": self.num_inside,
            "answer_cache_bytes": 0 if answer_caches is None else answer_caches.num_bytes,
            "cache_bytes": self.session.cache.num_bytes,
            "cache_limit_bytes": self.session.cache.max_bytes,
            "candidate_bytes": self.candidates.num_bytes,
            "fetched_bytes": self.media.num_bytes,
        }

    def metrics(self) -> str:
        """What was counted, in Prometheus' text format."""
        return self.statistics.prometheus(self.gauges())

    @property
    def is_alive(self) -> bool:
        """Whether requests are taken and answered."""
        return not self._closed and self._thread.is_alive()

    def close(self) -> None:
        """Take no more requests, answer those that are inside, and end."""
        self._take_no_more()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        self._threads.shutdown()
        self.media.close()

    # In a thread of the request ----------------------------------------------------------------------------------------

    def _prepare(self, ticket: Ticket) -> None:
        try:
            for video in ticket.request.videos:
                ticket.check_wanted()
                ticket.slots.append(self._slot(video, ticket))
        except Exception as error:  # raised again where the future is read
            self._fail(ticket, error)
            return
        with self._changed:
            self._waiting.append(ticket)
            self._changed.notify_all()
        if ticket.cancelled.is_set():
            self._leave(ticket)

    # In the model's thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    return
                batch = self._next_batch()
            self._answer(batch)
            del batch  # its features would stay until the next one

    def _next_batch(self) -> list[Ticket]:
        """The oldest ticket, those about the same videos, and others with the same settings; they leave the queue."""
        oldest = self._waiting[0]
        batch = [oldest]
        if oldest.request.settings.shares_batches:
            keys = [slot.key for slot in oldest.slots]
            others = [one for one in self._waiting[1:] if one.request.settings == oldest.request.settings]
            others.sort(
                key=lambda one: [slot.key for slot in one.slots] != keys
            )  # keeps the order of arrival otherwise
            batch += others[: self.limits.max_batch - 1]
        self._waiting = [one for one in self._waiting if one not in batch]
        return batch

    def _answer(self, batch: list[Ticket]) -> None:
        """Answer tickets together; where that fails, each alone, so that a bad request fails nobody else's."""
        try:
            results = self._generate(batch)
        except Exception as error:  # raised again where the future is read
            torch.cuda.empty_cache()
            retried = [ticket for ticket in batch if len(batch) > 1 and ticket.first_token is None]
            for ticket in batch:
                if ticket in retried:
                    self._answer([ticket])
                else:
                    self._fail(ticket, error)
            return
        for ticket, result in zip(batch, results, strict=True):
            self._finish(ticket, result)

    def _generate(self, batch: list[Ticket]) -> list[Result | Exception]:
        settings = batch[0].request.settings
        with self.session.lock:
            self._encode(batch)
            rows = [(ticket, number) for ticket in batch for number in range(settings.num_answers)]
            started = monotonic()
            answers = self.answer_chats(
                [ticket.chat() for ticket, _ in rows],
                settings,
                lambda row, text: rows[row][0].add_text(rows[row][1], text),
                lambda row: self._ends(*rows[row]),
            )
        seconds = monotonic() - started
        with self._changed:
            self.statistics.batches += 1
            self.statistics.rows += len(rows)
            self._seconds_per_answer = 0.9 * self._seconds_per_answer + 0.1 * seconds / len(batch)
        results = []
        for place, ticket in enumerate(batch):
            own = answers[place * settings.num_answers : (place + 1) * settings.num_answers]
            results.append(self._result(ticket, own, started))
        return results

    def _ends(self, ticket: Ticket, number: int) -> bool:
        """Whether an answer ends at this token: the client has left, a stop text has come, or time is over."""
        return ticket.cancelled.is_set() or ticket.texts[number].stopped or self._is_late(ticket)

    def _is_late(self, ticket: Ticket) -> bool:
        return monotonic() - ticket.arrived > self.limits.max_seconds

    def _encode(self, batch: list[Ticket]) -> None:
        """Run SigLIP over the videos of a batch that have no features yet, each once; let questions choose what they see."""
        self._encode_tiles([slot for ticket in batch for slot in ticket.slots if slot.is_tiled])
        for ticket in batch:
            for slot in ticket.slots:
                if slot.candidates is not None and slot.selection is not None:
                    asked = ticket.question, ticket.request.instruction
                    slot.record, slot.encoded = choose_for_chat(self.session, slot.candidates, slot.selection, *asked)
                elif slot.tiled is not None:
                    own = self.session.model, self.session.processor, slot.tiled
                    [(slot.tiles, slot.encoded)] = choose_tiles(*own, [ticket.question], ticket.request.instruction)
        new: dict[str, EncodedVideo] = {}
        for slot in (slot for ticket in batch for slot in ticket.slots if slot.encoded is None):
            slot.encoded = new.get(slot.key) or self.session.cache.get(slot.key)
            if slot.encoded is not None:
                slot.was_cached = True
            else:
                assert slot.read is not None  # `_slot` gives one or the other
                slot.encoded = new[slot.key] = self.encode_video(slot.read)
                self.session.cache.put(slot.key, slot.encoded)
            slot.read = None  # frees the pixels

    def _encode_tiles(self, slots: list[VideoSlot]) -> None:
        """Run SigLIP over the squares of videos that have no features yet, each once."""
        new: dict[str, TiledVideo] = {}
        for slot in slots:
            if slot.tiled is not None:
                continue
            slot.tiled = new.get(slot.key) or self.session.cache.get_tiled(slot.key)
            if slot.tiled is not None:
                slot.was_cached = True
            else:
                assert slot.squares is not None  # `_tiled_slot` gives one or the other
                slot.tiled = new[slot.key] = encode_tiles(self.session.model, self.session.processor, slot.squares)
                self.session.cache.put(slot.key, slot.tiled)
            slot.squares = None  # frees the pixels

    def _result(self, ticket: Ticket, answers: list, started: float) -> Result | Exception:
        if self._is_late(ticket) and not all(answer.finished for answer in answers):
            return RequestTooSlow(f"the answer took longer than {self.limits.max_seconds:g} s; ask for fewer tokens")
        ticket.end_text()
        now, first = monotonic(), started + answers[0].first_token_seconds
        return Result(
            answers=answers,
            texts=[text.cut(answer.answer) for text, answer in zip(ticket.texts, answers, strict=True)],
            stopped=[answer.finished or text.stopped for text, answer in zip(ticket.texts, answers, strict=True)],
            num_visual_tokens=sum(slot.features.num_visual_tokens for slot in ticket.slots),
            num_cached_tokens=sum(slot.features.num_visual_tokens for slot in ticket.slots if slot.was_cached),
            videos=[slot.features for slot in ticket.slots],
            selections=[slot.record for slot in ticket.slots],
            candidates=[slot.candidates for slot in ticket.slots],
            tiles=[slot.tiles for slot in ticket.slots],
            first_token_seconds=first - ticket.arrived,
            seconds=now - ticket.arrived,
        )

    # What the model does, for engines that have it done elsewhere ------------------------------------------------------

    def encode_video(self, video: ReadVideo) -> EncodedVideo:
        """Run SigLIP over a video."""
        return encode_video(self.session.model, video)

    def answer_chats(
        self,
        chats: list[Chat],
        settings: Settings,
        on_text: Callable[[int, str], None],
        is_cancelled: Callable[[int], bool],
    ) -> list[Answer]:
        """Answer chats in one batch; see `answer_chats`."""
        return answer_chats(
            self.session.model,
            self.session.processor,
            chats,
            **settings.generation,
            on_text=on_text,
            is_cancelled=is_cancelled,
        )

    def attention(self, video: EncodedVideo, question: str) -> AttentionMaps:
        """Where the compressor attends for a question; see `attention_maps`."""
        with self.session.lock:
            return attention_maps(self.session.model, self.session.processor, video, question)

    # The end of a ticket -----------------------------------------------------------------------------------------------

    def _leave(self, ticket: Ticket) -> None:
        """Take a cancelled ticket out of the queue, if it waits there."""
        with self._changed:
            if ticket not in self._waiting:
                return
            self._waiting.remove(ticket)
        self._fail(ticket, RequestCancelled())

    def _finish(self, ticket: Ticket, result: Result | Exception) -> None:
        if isinstance(result, Exception):
            self._fail(ticket, result)
            return
        statistics = self.statistics
        with self._changed:
            if ticket.cancelled.is_set():
                statistics.cancelled += 1
            else:
                statistics.answered += 1
            statistics.prompt_tokens += result.answers[0].num_prompt_tokens
            statistics.visual_tokens += result.num_visual_tokens
            statistics.cached_tokens += result.num_cached_tokens
            statistics.new_tokens += sum(answer.num_new_tokens for answer in result.answers)
            statistics.videos_cached += sum(slot.was_cached for slot in ticket.slots)
            statistics.videos_encoded += sum(not slot.was_cached for slot in ticket.slots)
            statistics.first_token.add(result.first_token_seconds)
            statistics.whole_answer.add(result.seconds)
        self._free(ticket)
        ticket.future.set_result(result)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        if not isinstance(error, (ValueError, RequestCancelled, RequestTooSlow, EngineClosed)):
            logger.error("a request failed", exc_info=error)
        self._count_failure(error)
        self._free(ticket)
        ticket.future.set_exception(error)

    def _free(self, ticket: Ticket) -> None:
        ticket.slots = []  # features and pixels are freed, even if the ticket is kept
        self._release()

    def _seconds_to_wait(self) -> int:
        return max(1, round(self._num_inside * self._seconds_per_answer))
