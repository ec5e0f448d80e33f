"""Long videos among which each question chooses its frames: encoded chunk by chunk while they are read, kept in files.

A process of its own reads, and the model is held for one chunk at a time, so that other questions are answered meanwhile.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..inference.attention_picture import shown_pixels
from ..inference.session import HiComSession
from ..processors.answering_hicom import EncodedVideo
from ..processors.candidate_frames_hicom import (
    CandidateFrames,
    FeatureFile,
    choose_for_questions,
    chosen_video,
    encode_candidates,
)
from ..processors.frame_selection_hicom import FrameSelection, SelectionRecord
from .media import NAME, Media, check_squares


class Candidates:
    """The candidates of one video, encoded once.

    Attributes:
        frames: the `CandidateFrames`.
    """

    def __init__(self, frames: CandidateFrames, pictures: FeatureFile | None):
        self.frames = frames
        self._pictures = pictures
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        pictures = self._pictures
        return self.frames.num_bytes + (0 if pictures is None else pictures.num_rows * pictures.row_bytes)

    def pictures(self, numbers: Sequence[int]) -> np.ndarray:
        """Candidates as the model sees them: uint8 (T, S, S, 3).

        Raises:
            ValueError: the engine keeps no pictures.
        """
        if self._pictures is None:
            raise ValueError("this engine keeps no pictures of candidates; make it with keep_pictures=True")
        with self._lock:  # the position in the file
            return self._pictures.take(numbers).numpy()


def read_candidates(
    session: HiComSession,
    media: Media,
    path: Path,
    sampling: dict[str, Any],
    keep_pictures: bool,
    check: Callable[[], None],
    max_squares: int | None = None,
) -> Candidates:
    """Read and encode the candidates of a fetched video.

    Args:
        session: whose model encodes; it is held for one chunk at a time.
        media: reads.
        path: of the file.
        sampling: which frames are candidates, see `encode_candidates`.
        keep_pictures: for `Candidates.pictures`; candidates that are scored as squares have none.
        check: called before each chunk is encoded; what it raises ends the reading.
        max_squares: of all candidates that are scored as squares; more are refused before one is encoded. None for no bound.

    Raises:
        VideoReadError: it cannot be read.
        ValueError: the request contradicts itself.
    """
    has_tiles = sampling.get("tiles") is not None
    pictures = FeatureFile() if keep_pictures and not has_tiles else None
    if has_tiles and max_squares is not None:
        sizes: dict[str, Any] = {"check_size": partial(check_squares, max_squares)}
    else:
        sizes = {}

    def read(video: Path, consume: Callable[[torch.Tensor], None], chunk_size: int, **request: Any) -> tuple:
        def take(pixel_values: torch.Tensor) -> None:
            check()
            with session.lock:
                consume(pixel_values)
            if pictures is not None:
                pictures.append(shown_pixels(session.processor, pixel_values))

        record, rows = media.read_in_chunks(video, take, chunk_size, **sizes, **request)
        if pictures is not None:
            pictures.forget(rows[0])  # as those of a clock that turned out wrong
        return replace(record, source=NAME), rows

    frames = encode_candidates(session.model, session.processor, path, read=read, **sampling)
    return Candidates(frames, pictures)


def choose_frames_for_chat(
    session: HiComSession, candidates: Candidates, selection: FrameSelection, question: str, instruction: str | None
) -> SelectionRecord:
    """The frames that a question chooses; the model is held meanwhile."""
    with session.lock:
        [record] = choose_for_questions(
            session.model, session.processor, candidates.frames, [question], selection, instruction
        )
    return record


def choose_for_chat(
    session: HiComSession, candidates: Candidates, selection: FrameSelection, question: str, instruction: str | None
) -> tuple[SelectionRecord, EncodedVideo]:
    """The frames that a question chooses, and their features on the model's device."""
    record = choose_frames_for_chat(session, candidates, selection, question, instruction)
    video = chosen_video(session.model, candidates.frames, record)
    here = {name: video.features[name].to(session.model.device) for name in ("features", "aligned_features")}
    return record, replace(video, features={**video.features, **here})


class CandidateStore:
    """Candidates by key, up to a number of bytes on disk, least recently used first to go; may be shared by threads.

    Args:
        max_bytes: see above; 0 keeps none.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._kept: OrderedDict[str, Candidates] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        with self._lock:
            return sum(one.num_bytes for one in self._kept.values())

    def get(self, key: str) -> Candidates | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: str, candidates: Candidates) -> None:
        """Keep them; the file of those that go ends with the last question that uses it."""
        with self._lock:
            self._kept[key] = candidates
            self._kept.move_to_end(key)
            while sum(one.num_bytes for one in self._kept.values()) > self.max_bytes:
                self._kept.popitem(last=False)
