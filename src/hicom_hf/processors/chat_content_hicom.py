"""The videos and images of a chat: where each comes from, and which frames of a video are meant.

A part of a chat may say what is taken of its video: `{"type": "video", "path": "film.mp4", "start": 60, "end": 90}`.
Training records say it with the same keys.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .video_sources_hicom import is_frame_list

try:
    from jinja2 import TemplateError

    TEMPLATE_ERRORS = (TemplateError, OverflowError)  # jinja2 raises OverflowError for a range that is too long
except ImportError:  # then transformers renders no chat at all
    TEMPLATE_ERRORS = ()


SOURCE_KEYS = {"video": ("video", "url", "path"), "image": ("image", "url", "path", "base64")}
# What a video's own part or record may say about its frames; see `HiComVideoProcessor.preprocess`.
FRAME_KEYS = ("start", "end", "num_frames", "fps", "max_frames", "frame_rate")
# Names of the same fields in chats of Qwen.
SPELLINGS = {"video_start": "start", "video_end": "end", "nframes": "num_frames"}


URL_PARTS = {"video_url": "video"}  # of OpenAI's clients; transformers reads their image_url itself
PART_TYPES = ("text", *SOURCE_KEYS, "image_url", *URL_PARTS)


class ChatVideo:
    """A video of a chat with what its part says about its frames. No dataclass: transformers 5.24 makes dicts of those.

    Args:
        source: what `read_video` takes.
        frames: of `FRAME_KEYS`, those that the part gives.
    """

    def __init__(self, source: Any, frames: dict[str, Any]):
        self.source = source
        self.frames = frames


def frame_options(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a part or record says about the frames of its video, under the names of `FRAME_KEYS`.

    Args:
        options: may hold other keys; a value of None is none.
        name: opens the error message.

    Raises:
        ValueError: one thing is said under two names.

    Example:
        >>> frame_options({"path": "a.mp4", "video_start": 2.0, "nframes": 8}, "a video")
        {'start': 2.0, 'num_frames': 8}
    """
    found = {}
    for key, value in options.items():
        own = SPELLINGS.get(key, key)
        if own not in FRAME_KEYS or value is None:
            continue
        if own in found:
            raise ValueError(f"{name} gives {own!r} twice, under two names; give it once")
        found[own] = value
    return found


def with_own_frames(sampling: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call, overridden by what a video says about its own frames.

    A video's own number of frames sets `fps` aside and the other way round, and no bound of the call cuts that number.
    """
    sampling = {**sampling, **own}
    if own.get("num_frames") is not None and own.get("fps") is None:
        sampling["fps"] = sampling["min_frames"] = None
        sampling["max_frames"] = own.get("max_frames", own["num_frames"])
    elif own.get("fps") is not None and own.get("num_frames") is None:
        sampling["num_frames"] = None
    return sampling


def check_part(kind: str, part: Mapping[str, Any], name: str, more_keys: tuple[str, ...] = ()) -> None:
    """Refuse a video or image part with a key that nothing reads: a wrong spelling would go unnoticed.

    Args:
        kind: "video" or "image".
        part: of a message.
        name: opens the error message.
        more_keys: further keys that are known.

    Raises:
        ValueError: names the key and the known ones.
    """
    known = ["type", *SOURCE_KEYS[kind], *more_keys, *((*FRAME_KEYS, *SPELLINGS) if kind == "video" else ())]
    unknown = sorted(str(key) for key, value in part.items() if key not in known and value is not None)
    if unknown:
        raise ValueError(
            f"{name} has the unknown {'keys' if len(unknown) > 1 else 'key'} {', '.join(map(repr, unknown))}; "
            f"{'an image' if kind == 'image' else 'a video'} has {', '.join(known)}"
        )


def with_chat_videos(chat: list[dict]) -> list[dict]:
    """The chat with a `ChatVideo` in place of each video whose part says something about its frames or lists them.

    Raises:
        TypeError: the chat is no list.
        ValueError: a part is of an unknown type; a video or image has an unknown key, several sources, or options without a
            source.
    """
    if not isinstance(chat, (list, tuple)):
        raise TypeError(f"a chat must be a list of turns (dictionaries), got {type(chat).__name__}")
    turns = []
    for number, turn in enumerate(chat):
        content = turn.get("content") if isinstance(turn, Mapping) else None
        if isinstance(content, (list, tuple)):
            parts = [_with_chat_video(part, f"part {at} of turn {number}") for at, part in enumerate(content)]
            turn = {**turn, "content": parts}
        turns.append(turn)
    return turns


def _with_chat_video(part: Any, name: str) -> Any:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and "type" in part and kind not in PART_TYPES:
        raise ValueError(
            f"{name} is of type {kind!r}; a part is of type {', '.join(PART_TYPES[:-1])} or {PART_TYPES[-1]}"
        )
    if kind in URL_PARTS:
        part, kind = _own_url_part(part, kind, name), URL_PARTS[kind]
    if kind not in SOURCE_KEYS:
        return part
    check_part(kind, part, name)
    sources = [key for key in SOURCE_KEYS[kind] if part.get(key) is not None]
    if len(sources) > 1:
        raise ValueError(f"{name} gives its {kind} {len(sources)} times, as {', '.join(sources)}; give it once")
    frames = frame_options(part, name) if kind == "video" else {}
    if frames and not sources:
        raise ValueError(
            f"{name} says {', '.join(frames)} of a video that it does not name; give the video in the part, or the "
            "arguments to the call"
        )
    if not sources:
        return {"type": kind}
    source = part[sources[0]]
    # A list of frames, or a picture shown as a video, could be mistaken for frames of one video together with its neighbours.
    is_alone = kind == "video" and (isinstance(source, (list, tuple)) or is_frame_list([source, source]))
    return (
        {"type": kind, kind: ChatVideo(source, frames)} if frames or is_alone else {"type": kind, sources[0]: source}
    )


def _own_url_part(part: Mapping[str, Any], kind: str, name: str) -> dict[str, Any]:
    """The part of a chat of OpenAI's clients as one of ours: `{"type": "video_url", "video_url": {"url": ...}}`."""
    given = part.get(kind)
    url = given.get("url") if isinstance(given, Mapping) else given
    if url is None:
        raise ValueError(f'{name} is of type {kind!r} and has no address; give {{"{kind}": {{"url": ...}}}}')
    return {**{key: value for key, value in part.items() if key != kind}, "type": URL_PARTS[kind], "url": url}


@contextmanager
def clear_template_errors(model: str) -> Iterator[None]:
    """What the chat template of a model raises while it is rendered, as a `ValueError` that names its folder, if any."""
    try:
        yield
    except TEMPLATE_ERRORS as error:
        name = f"{model}: " if model else ""
        raise ValueError(
            f"{name}the chat template cannot render this chat ({type(error).__name__}: {error})"
        ) from error
