"""The videos and images of a chat as tiles: encoded, and their patches chosen, before the chat becomes tokens."""

from typing import Any

import torch

from .chat_content_hicom import SOURCE_KEYS, ChatVideo, with_chat_videos, with_own_frames
from .frame_tiles_hicom import FrameTiles, TilesRecord
from .tiled_video_hicom import TiledVideo, choose_tiles, encode_tiled_video


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


def see_chat(
    model: Any, processor: Any, chat: list[dict[str, Any]], tiles: Any, instruction: str, sampling: dict[str, Any]
) -> SeenChat:
    """Encode the videos and images of a chat as tiles, and choose their patches.

    Args:
        model, processor: of one folder.
        chat: messages, as for the processor's `apply_chat_template`.
        tiles: a `FrameTiles`.
        instruction: chooses the patches of all of them.
        sampling: which frames, as of the processor's call; what a video's part says comes first.

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
                    tiled = _encode_part(model, processor, kind, part, tiles, sampling)
                    [chosen] = choose_tiles(model, processor, tiled, [""], [instruction])
                    seen.add(*chosen)
                    part = {"type": "video"}
                parts.append(part)
            turn = {**turn, "content": parts}
        seen.chat.append(turn)
    return seen


def _encode_part(
    model: Any, processor: Any, kind: str, part: dict[str, Any], tiles: Any, sampling: dict[str, Any]
) -> TiledVideo:
    """The video or image of a part of a turn."""
    source = next((part[key] for key in SOURCE_KEYS[kind] if part.get(key) is not None), None)
    if source is None:
        raise ValueError(f"tiles need the {kind} itself, but its part of the chat names none")
    own = source.frames if isinstance(source, ChatVideo) else {}
    if isinstance(source, ChatVideo):
        source = source.source
    if kind == "video":
        return encode_tiled_video(model, processor, source, tiles, **with_own_frames(sampling, own))
    reading = {name: sampling[name] for name in ("media_access", "media_bounds") if name in sampling}
    return encode_tiled_video(model, processor, [source], tiles, num_frames="all", **reading)
