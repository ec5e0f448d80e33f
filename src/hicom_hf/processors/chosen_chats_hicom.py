"""The videos and images of a chat of which the question chooses frames, or tiles, or both, before the chat becomes tokens."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .answering_hicom import EncodedVideo
from .candidate_frames_hicom import (
    CandidateFrames,
    choose_for_questions,
    chosen_video,
    encode_candidates,
    reading_of_chosen,
    scored_tiles,
)
from .chat_content_hicom import SOURCE_KEYS, ChatVideo, with_chat_videos, with_own_frames
from .frame_sampling_hicom import from_fields
from .frame_selection_hicom import FrameSelection, SelectionRecord
from .frame_tiles_hicom import FrameTiles, TilesRecord
from .square_frames_hicom import concatenated_features
from .tiled_video_hicom import TiledVideo, check_overview, choose_tiles, encode_tiled_video
from .video_sources_hicom import is_frame_list

# Arguments of a processor's call that say which frames are taken, and what may be read.
FRAME_ARGUMENTS = {
    *("sampling", "num_frames", "fps", "start", "end", "min_frames", "max_frames", "max_video_tokens", "short_video"),
    *("indices", "on_decode_error", "do_sample_frames", "frame_rate", "media_access", "media_bounds"),
}


class SeenChat:
    """A chat whose videos are encoded; with tiles its images, too.

    Attributes:
        chat: the messages; parts of what is encoded name no source any more, and an encoded image is a video of one frame.
        features: of all videos, one after another, copied anew each time; None without any.
        num_frames: of each video.
        metadata: the `SamplingRecord` of each.
        selections: the `SelectionRecord` of each whose frames were chosen.
        tiles: the `TilesRecord` of each; none without tiles.
    """

    def __init__(self) -> None:
        self.chat: list[dict[str, Any]] = []
        self._features: list[dict[str, torch.Tensor]] = []
        self.num_frames: list[int] = []
        self.metadata: list[Any] = []
        self.selections: list[SelectionRecord] = []
        self.tiles: list[TilesRecord] = []

    @property
    def features(self) -> dict[str, torch.Tensor] | None:
        return concatenated_features(self._features) if self._features else None

    def add(self, encoded: EncodedVideo, selection: SelectionRecord | None, tiles: TilesRecord | None) -> None:
        """A video of which was chosen."""
        self._features.append(encoded.features)
        self.num_frames.append(encoded.num_frames)
        self.metadata.append(encoded.sampling)
        self.selections += [] if selection is None else [selection]
        self.tiles += [] if tiles is None else [tiles]


def as_tiles(value: Any) -> Any:
    """A `FrameTiles`, which may be given as a dictionary of its fields, where its class cannot be imported; None stays None.

    Raises:
        TypeError: it is something else, or has an unknown field.
    """
    return _as_request(value, FrameTiles, "tiles")


def as_selection(value: Any) -> Any:
    """A `FrameSelection`, likewise."""
    return _as_request(value, FrameSelection, "selection")


def _as_request(value: Any, kind: type, name: str) -> Any:
    if isinstance(value, dict):
        return from_fields(kind, value)
    if value is not None and type(value).__name__ != kind.__name__:  # remote code has a class of its own
        raise TypeError(f"{name} must be a {kind.__name__} or a dictionary of its fields, got {type(value).__name__}")
    return value


class ChosenChats:
    """What the processor offers for choices; needs `video_processor`, and how it divides and completes a call's arguments."""

    video_processor: Any
    _split_kwargs: Any
    _sampling: Any

    def read_transformed(self, video: Any, transform: Callable[[np.ndarray], np.ndarray], **sampling: Any) -> Any:
        """Read a video whose frames become something else than padded squares, before they are normalised.

        Args:
            video: one source, see `read_video`.
            transform: of a frame, uint8 (height, width, 3); all results have one shape.
            **sampling: as of a call, but return_metadata.

        Returns:
            The results, stacked (T, ...), and the `SamplingRecord`.

        Raises:
            VideoReadError: it cannot be read.
            ValueError: the request contradicts itself.
        """
        sampling, unknown = self._split_kwargs(sampling)
        if unknown:
            raise TypeError(f"reading a video takes no {', '.join(map(repr, sorted(unknown)))}")
        request = self._sampling(sampling)
        reading = {
            name: request.pop(name)
            for name in ("on_decode_error", "frame_rate", "media_access", "media_bounds")
            if name in request
        }
        frames = self.video_processor.frame_sampling(**request)
        source = [video] if is_frame_list([video]) else video  # a picture is a video of one frame
        return self.video_processor.square_frames(source, frames, transform=transform, **reading)

    def encode_tiles(self, model: Any, video: Any, tiles: Any, **sampling: Any) -> TiledVideo:
        """Encode a video or an image for any number of questions; see `encode_tiled_video`.

        Args:
            model: of this processor's folder.
            video: see `read_video`.
            tiles: a `FrameTiles`, or its fields as a dictionary.
            **sampling: which frames, as of a call; other arguments of a call are not used.
        """
        return encode_tiled_video(model, self, video, as_tiles(tiles), **_of_frames(sampling))

    def choose_tiles(self, model: Any, video: TiledVideo, instruction: str) -> tuple[TilesRecord, EncodedVideo]:
        """The patches that one instruction chooses; see `choose_tiles` of `tiled_video_hicom.py`."""
        [chosen] = choose_tiles(model, self, video, [instruction], [instruction])
        return chosen

    def encode_candidates(
        self, model: Any, video: Any, selection: Any, tiles: Any = None, **sampling: Any
    ) -> CandidateFrames:
        """Encode the candidates of a selection for any number of questions; other arguments as of `encode_tiles`.

        With tiles they are encoded as squares, unless nothing is scored by these (see `scored_tiles`).
        """
        scored = scored_tiles(as_selection(selection), as_tiles(tiles))
        return encode_candidates(model, self, video, tiles=scored, **_of_frames(sampling))

    def see_chat(
        self,
        model: Any,
        chat: list[dict[str, Any]],
        instruction: str,
        *,
        selection: Any = None,
        tiles: Any = None,
        candidates: Sequence[CandidateFrames] | None = None,
        **sampling: Any,
    ) -> SeenChat:
        """Encode the videos of a chat, and choose what the instruction sees of each: frames, tiles, or tiles of those frames.

        With tiles, images are videos of one frame; without, they stay as they are.

        Args:
            model: of this processor's folder.
            chat: messages, as for `apply_chat_template`.
            instruction: chooses for all videos.
            selection: a `FrameSelection`, or its fields as a dictionary, for each video; None lets all frames be seen.
            tiles: a `FrameTiles`, or its fields as a dictionary; None pads frames.
            candidates: of each video, if a selection's are encoded already.
            **sampling: as of `encode_tiles`; what a video's part says comes first.

        Raises:
            VideoReadError: a video cannot be read, or its shape makes too many squares.
            ValueError: a part has an unknown key, no source, or several; the overview is wanted of a model that does not pad.
        """
        selection, tiles = as_selection(selection), as_tiles(tiles)
        if tiles is not None:
            check_overview(tiles, self.video_processor)
        seen, known = SeenChat(), iter(candidates or ())

        def see(part: Any) -> Any:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind not in SOURCE_KEYS or (kind == "image" and tiles is None):
                return part
            source, frames = _source_and_frames(kind, part, sampling)
            if kind == "image":
                seen.add(*self._see(model, source, instruction, None, tiles, None, frames))
            else:
                seen.add(*self._see(model, source, instruction, selection, tiles, next(known, None), frames))
            return {"type": "video"}

        for turn in with_chat_videos(chat):
            content = turn.get("content")
            if isinstance(content, (list, tuple)):
                turn = {**turn, "content": [see(part) for part in content]}
            seen.chat.append(turn)
        return seen

    def _see(
        self,
        model: Any,
        source: Any,
        instruction: str,
        selection: Any,
        tiles: Any,
        candidates: CandidateFrames | None,
        frames: dict[str, Any],
    ) -> tuple[EncodedVideo, SelectionRecord | None, TilesRecord | None]:
        """What an instruction sees of one video, and the records of its choices."""
        record = None
        if selection is not None:
            if candidates is None:
                candidates = self.encode_candidates(model, source, selection, tiles, **frames)
            [record] = choose_for_questions(model, self, candidates, [instruction], selection, instruction)
            if tiles is None:
                return chosen_video(model, candidates, record), record, None
            frames, tiles = reading_of_chosen(record, frames), tiles.of_chosen()
        patches, encoded = self.choose_tiles(model, self.encode_tiles(model, source, tiles, **frames), instruction)
        return encoded, record, patches


def _source_and_frames(kind: str, part: dict[str, Any], sampling: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The video or image of a part of a turn, and which frames of it are read."""
    source = next((part[key] for key in SOURCE_KEYS[kind] if part.get(key) is not None), None)
    if source is None:
        raise ValueError(f"a selection and tiles need the {kind} itself, but its part of the chat names none")
    own = source.frames if isinstance(source, ChatVideo) else {}
    if isinstance(source, ChatVideo):
        source = source.source
    if kind == "video":
        return source, _of_frames(with_own_frames(sampling, own))
    reading = {name: sampling[name] for name in ("media_access", "media_bounds") if name in sampling}
    return [source], {**reading, "num_frames": "all"}


def _of_frames(arguments: dict[str, Any]) -> dict[str, Any]:
    """Of the arguments of a call those that say which frames are taken."""
    return {name: value for name, value in arguments.items() if name in FRAME_ARGUMENTS}
