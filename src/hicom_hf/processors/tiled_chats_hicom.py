"""The videos and images of a chat as tiles: encoded, and their patches chosen, before the chat becomes tokens."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .answering_hicom import EncodedVideo
from .chat_content_hicom import SOURCE_KEYS, ChatVideo, with_chat_videos, with_own_frames
from .frame_tiles_hicom import FrameTiles, TilesRecord
from .tiled_video_hicom import TiledVideo, choose_tiles, encode_tiled_video
from .video_sources_hicom import is_frame_list

# Arguments of a processor's call that say which frames are taken, and what may be read.
FRAME_ARGUMENTS = {
    *("sampling", "num_frames", "fps", "start", "end", "max_frames", "max_video_tokens", "short_video", "indices"),
    *("on_decode_error", "do_sample_frames", "frame_rate", "media_access", "media_bounds"),
}


class SeenChat:
    """A chat whose videos and images are encoded.

    Attributes:
        chat: the messages; parts name no source any more, and an image is a video of one frame.
        features: of all videos, one after another; None without any.
        num_frames: of each video.
        metadata: the `SamplingRecord` of each.
        records: the `TilesRecord` of each.
    """

    def __init__(self) -> None:
        self.chat: list[dict[str, Any]] = []
        self.features: dict[str, torch.Tensor] | None = None
        self.num_frames: list[int] = []
        self.metadata: list[Any] = []
        self.records: list[TilesRecord] = []

    def add(self, record: TilesRecord, encoded: Any) -> None:
        """A video whose patches were chosen."""
        before, new = self.features, encoded.features
        self.features = new if before is None else {name: torch.cat([before[name], new[name]]) for name in new}
        self.num_frames.append(encoded.num_frames)
        self.metadata.append(encoded.sampling)
        self.records.append(record)


def as_tiles(value: Any) -> Any:
    """A `FrameTiles`, which may be given as a dictionary of its fields, where its class cannot be imported.

    Raises:
        TypeError: it is something else, or has an unknown field.
    """
    if isinstance(value, dict):
        return FrameTiles(**value)
    if type(value).__name__ != FrameTiles.__name__:  # remote code has a class of its own
        raise TypeError(f"tiles must be a FrameTiles or a dictionary of its fields, got {type(value).__name__}")
    return value


class TiledChats:
    """What the processor offers for tiles; needs `video_processor`, and how it divides and completes a call's arguments."""

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

    def see_chat(
        self, model: Any, chat: list[dict[str, Any]], tiles: Any, instruction: str, **sampling: Any
    ) -> SeenChat:
        """Encode the videos and images of a chat as tiles, and choose their patches.

        Args:
            model: of this processor's folder.
            chat: messages, as for `apply_chat_template`.
            tiles: a `FrameTiles`, or its fields as a dictionary.
            instruction: chooses the patches of all of them.
            **sampling: as of `encode_tiles`; what a video's part says comes first.

        Raises:
            VideoReadError: a video cannot be read.
            ValueError: a part has an unknown key, no source, or several.
        """
        seen = SeenChat()
        for turn in with_chat_videos(chat):
            content = turn.get("content")
            if isinstance(content, (list, tuple)):
                parts = []
                for part in content:
                    kind = part.get("type") if isinstance(part, dict) else None
                    if kind in SOURCE_KEYS:
                        tiled = self._encode_part(model, kind, part, tiles, sampling)
                        seen.add(*self.choose_tiles(model, tiled, instruction))
                        part = {"type": "video"}
                    parts.append(part)
                turn = {**turn, "content": parts}
            seen.chat.append(turn)
        return seen

    def _encode_part(
        self, model: Any, kind: str, part: dict[str, Any], tiles: Any, sampling: dict[str, Any]
    ) -> TiledVideo:
        """The video or image of a part of a turn."""
        source = next((part[key] for key in SOURCE_KEYS[kind] if part.get(key) is not None), None)
        if source is None:
            raise ValueError(f"tiles need the {kind} itself, but its part of the chat names none")
        own = source.frames if isinstance(source, ChatVideo) else {}
        if isinstance(source, ChatVideo):
            source = source.source
        if kind == "video":
            return self.encode_tiles(model, source, tiles, **with_own_frames(sampling, own))
        reading = {name: sampling[name] for name in ("media_access", "media_bounds") if name in sampling}
        return self.encode_tiles(model, [source], tiles, num_frames="all", **reading)


def _of_frames(arguments: dict[str, Any]) -> dict[str, Any]:
    """Of the arguments of a call those that say which frames are taken."""
    return {name: value for name, value in arguments.items() if name in FRAME_ARGUMENTS}
