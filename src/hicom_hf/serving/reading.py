"""The videos of a request on their way to the model: fetched, read or taken from what is kept, in a thread of the request."""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..inference.session import HiComSession
from ..inference.video_cache import video_key
from ..processors.candidate_frames_hicom import reading_of_chosen, scored_tiles
from ..processors.frame_selection_hicom import FrameSelection
from ..processors.frame_tiles_hicom import FrameTiles
from ..processors.video_sources_hicom import VideoReadError
from .admission import Admission
from .candidates import Candidates, CandidateStore, choose_frames_for_chat, read_candidates
from .media import Media
from .requests import EngineClosed, Limits, RequestCancelled, Ticket, VideoSlot, VideoSource

SQUARES_PER_CANDIDATE = 2  # on average, at most: as of 16:9


class Reading(Admission):
    """The part of an engine that reads videos; several threads read at a time, each video once.

    Args:
        session: its processor reads; its model encodes candidates and chooses among them.
        media: fetches and reads.
        candidates: keeps those of long videos.
        limits: what requests may cost.
        keep_pictures: whether candidates are kept as pictures, too.
    """

    can_choose = True

    def __init__(
        self, session: HiComSession, media: Media, candidates: CandidateStore, limits: Limits, keep_pictures: bool
    ):
        super().__init__(limits)
        self.session, self.media, self.candidates = session, media, candidates
        self.keep_pictures = keep_pictures
        self._reading: dict[str, Future[Any]] = {}

    def _slot(self, video: VideoSource, ticket: Ticket) -> VideoSlot:
        """What the model needs of one video of a request.

        Raises:
            VideoReadError: it cannot be read.
            ValueError: the request contradicts itself, or this engine does not choose.
        """
        sampling, chooses = dict(video.sampling), video.selection is not None
        if sampling.get("num_frames") is None:  # bounds what fps, or the model's own setting, takes
            limit = self.limits.max_candidates if chooses else self.limits.max_frames
            sampling["max_frames"] = min(sampling.get("max_frames") or limit, limit)
        with self.media.fetched(video.source) as path:
            if video.selection is not None:
                if video.tiles is None:
                    return self._candidate_slot(path, sampling, video.selection, ticket)
                scored = scored_tiles(video.selection, video.tiles)
                slot = self._candidate_slot(path, {**sampling, "tiles": scored}, video.selection, ticket)
                return self._chosen_slot(path, slot, sampling, video.tiles.of_chosen(), ticket)
            if video.tiles is not None:
                return self._tiled_slot(path, sampling, video.tiles.of_chosen())
            key = _key(path, sampling)
            encoded = self.session.cache.get(key)
            if encoded is not None:
                return VideoSlot(key, was_cached=True, encoded=encoded)
            read = self._once(key, lambda: self.media.read(path, sampling))
            return VideoSlot(key, was_cached=False, read=read)

    def _candidate_slot(
        self, path: Path, sampling: dict[str, Any], selection: FrameSelection, ticket: Ticket
    ) -> VideoSlot:
        """The candidates of a long video."""
        if not self.can_choose:
            raise ValueError("select: this server cannot let questions choose their frames")
        if selection.max_video_tokens is not None:  # a budget in tokens is bounded in frames, as any other
            num_frames = self.session.processor.max_frames_for(selection.max_video_tokens)
            num_frames = min(num_frames, self.limits.max_frames)
            selection = replace(selection, num_frames=num_frames, max_video_tokens=None)
        key = f"{_key(path, sampling)}-candidates"
        found = self.candidates.get(key)
        if found is not None:
            return VideoSlot(key, was_cached=True, candidates=found, selection=selection)

        was_cached = True  # unless this request is the one that reads them

        def read() -> Candidates:
            nonlocal was_cached
            was_cached, check = False, partial(self._check_wanted, ticket)
            most = self.limits.max_candidates * SQUARES_PER_CANDIDATE
            return read_candidates(self.session, self.media, path, sampling, self.keep_pictures, check, most)

        candidates = self._once(key, read)
        self.candidates.put(key, candidates)
        return VideoSlot(key, was_cached=was_cached, candidates=candidates, selection=selection)

    def _chosen_slot(
        self, path: Path, slot: VideoSlot, sampling: dict[str, Any], tiles: FrameTiles, ticket: Ticket
    ) -> VideoSlot:
        """The frames that the question chooses among candidates, read again as tiles."""
        self._check_wanted(ticket)
        assert slot.candidates is not None and slot.selection is not None  # of `_candidate_slot`
        record = choose_frames_for_chat(
            self.session, slot.candidates, slot.selection, ticket.question, ticket.request.instruction
        )
        again = reading_of_chosen(record, sampling)
        return replace(self._tiled_slot(path, again, tiles), candidates=slot.candidates, record=record)

    def _tiled_slot(self, path: Path, sampling: dict[str, Any], tiles: FrameTiles) -> VideoSlot:
        """The squares of all frames that are taken."""
        if not self.can_choose:
            raise ValueError("tiles: this server cannot let questions choose parts of frames")
        key = _key(path, {**sampling, "tiles": tiles})
        tiled = self.session.cache.get_tiled(key)
        if tiled is not None:
            return VideoSlot(key, was_cached=True, tiled=tiled)
        read = self._once(key, lambda: self.media.read_tiles(path, tiles, self.limits.max_squares, sampling))
        return VideoSlot(key, was_cached=False, squares=read)

    def _check_wanted(self, ticket: Ticket) -> None:
        ticket.check_wanted()
        if self._closed:
            raise EngineClosed

    def _once(self, key: str, read: Callable[[], Any]) -> Any:
        """Read a video; whoever asks for the same one meanwhile waits for the first to have read it."""
        while True:
            mine: Future[Any] = Future()
            with self._changed:
                found = self._reading.setdefault(key, mine)
            if found is mine:
                break
            with suppress(RequestCancelled):  # the request that was reading it was cancelled: another one reads it
                return found.result()
        try:
            mine.set_result(read())
        except Exception as error:  # raised again below and where others wait
            mine.set_exception(error)
        finally:
            with self._changed:
                del self._reading[key]
        return mine.result()


def _key(path: Path, sampling: dict[str, Any]) -> str:
    key = video_key(path, sampling)
    if key is None:
        raise VideoReadError("the video: the file is no longer there")
    return key
