"""Which keys of a record are read: a wrong spelling of one is an error, a column of another name is not read and said so.

A data set may hold columns that are of no use here (`"source"`, `"license"`), so unknown keys are no error by themselves. But
`"num_frame"` for `"num_frames"`, or `"Video"` for `"video"`, would train on other frames than were meant, or on text alone.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from ..processors.chat_content_hicom import FRAME_KEYS, SPELLINGS
from .formats import FORMATS, ID_KEYS, TURN_KEYS, record_format
from .formats import FRAME_KEYS as KEPT_KEYS
from .formats import MEDIA_KEYS as NAMES_OF_MEDIA

OWN_MEDIA_KEYS = ("video", "videos", "image", "images")
KEYS_OF_TURNS = frozenset({"from", "value", "role", "content"})
OWN_KEYS = frozenset({*TURN_KEYS, *ID_KEYS, *OWN_MEDIA_KEYS, *FRAME_KEYS, *SPELLINGS, "selection", "tiles", "system"})
MEANT_KEYS = (
    *OWN_MEDIA_KEYS,
    *FRAME_KEYS,
    *SPELLINGS,
    "selection",
    "tiles",
)  # what one of these says is lost if it is spelt wrongly
# Of other formats: beside the keys that they are recognised by.
OPTIONAL_KEYS = ("options", "candidates", "history", "input", "text", "path", "file_name")
FORMAT_KEYS = frozenset(
    {
        *OPTIONAL_KEYS,
        *ID_KEYS,
        *KEPT_KEYS,
        *(key for keys in NAMES_OF_MEDIA.values() for key in keys),
        *(key for known in FORMATS for key in known.keys),
    }
)
# Of tar shards and of `datasets`: where a row comes from.
ORIGIN_KEYS = frozenset({"__key__", "__url__", "__shard__", "__files__", "__index_level_0__"})
# Names that data sets use for what a key of ours says; read only where a format of theirs is.
OTHER_NAMES = {
    "video": ("video_path", "video_file", "video_name", "video_url", "clip_path"),
    "image": ("image_path", "image_file", "image_name", "image_url"),
    "start": ("start_time", "start_sec", "start_second", "begin", "begin_time", "clip_start"),
    "end": ("end_time", "end_sec", "end_second", "stop", "stop_time", "clip_end"),
    "num_frames": ("max_num_frames", "num_segments"),
    "fps": ("sample_fps", "sampling_fps", "video_fps"),
    "system": ("system_prompt",),
}
MEANING = {name: key for key, names in OTHER_NAMES.items() for name in names}
UNREAD = "keys of the records that nothing reads"
SHORT_WORD = 7  # letters; below, only two swapped or one inner letter left out or doubled count as a slip


def misspelt_key(data: Mapping[str, Any]) -> str | None:
    """What is wrong with the keys of a record, with the key that is meant; None for nothing.

    Args:
        data: a record; values of None are columns that it does not use.

    Example:
        >>> misspelt_key({"video": "a.mp4", "conversations": [], "num_frame": 8})
        "nothing reads the key 'num_frame'; the nearest that is read is 'num_frames'. Rename it, or remove it"
    """
    for key in _unread_of_record(data):
        if (meant := nearest_key(key)) is not None:
            return f"nothing reads the key {key!r}; the nearest that is read is {meant!r}. Rename it, or remove it"
        if MEANING.get(key) in ("video", "image") and _has_turns(data) and not any(map(data.get, OWN_MEDIA_KEYS)):
            return f"beside {' or '.join(TURN_KEYS)} nothing reads the key {key!r}; name it {MEANING[key]!r}"
    return None


def misplaced_key(turn: Mapping[str, Any]) -> str | None:
    """What is wrong with the keys of a turn: a video or image named there would not be seen. None for nothing.

    Example:
        >>> misplaced_key({"role": "user", "content": "Who?", "images": ["a.png"]})
        "nothing reads the key 'images' of a turn; give it in the record, or as a part of the turn's content"
    """
    for key in _unread_of_turn(turn):
        meant = MEANING.get(key) or nearest_key(key)
        if meant in OWN_MEDIA_KEYS:
            return (
                f"nothing reads the key {key!r} of a turn; give it in the record, or as a part of the turn's content"
            )
    return None


def unread_keys(data: Mapping[str, Any]) -> list[str]:
    """Keys of a record and of its turns that nothing reads, in its order; those without a value are left out.

    Each key once; one of a turn with the list that it stands in: "conversations.weight".
    """
    unread = _unread_of_record(data)
    for name in TURN_KEYS:
        turns = data.get(name)
        of_turns = turns if isinstance(turns, (list, tuple)) else ()
        found = [key for turn in of_turns if isinstance(turn, Mapping) for key in _unread_of_turn(turn)]
        unread += [f"{name}.{key}" for key in dict.fromkeys(found)]
    return unread


@cache
def nearest_key(key: str) -> str | None:
    """The key that a wrong spelling stands for; None if it resembles none."""
    plain = _plain(key)
    return next((meant for meant in MEANT_KEYS if _is_slip(plain, _plain(meant))), None)


def describe_unread(keys: Iterable[str]) -> str:
    """Unread keys in words, with what is meant where that is known: "source, start_time (start?)"."""
    return ", ".join(f"{key} ({MEANING[key]}?)" if key in MEANING else key for key in keys)


def _unread_of_record(data: Mapping[str, Any]) -> list[str]:
    known = OWN_KEYS if _has_turns(data) else OWN_KEYS | FORMAT_KEYS if record_format(data) is not None else None
    if known is None:  # of no format: reported as such
        return []
    return [
        str(key) for key, value in data.items() if key not in known and key not in ORIGIN_KEYS and value is not None
    ]


def _unread_of_turn(turn: Mapping[str, Any]) -> list[str]:
    return [str(key) for key, value in turn.items() if key not in KEYS_OF_TURNS and value is not None]


def _has_turns(data: Mapping[str, Any]) -> bool:
    return any(data.get(key) is not None for key in TURN_KEYS)


def _plain(key: str) -> str:
    return re.sub(r"[\W_]", "", key).lower()


def _is_slip(given: str, meant: str) -> bool:
    if given == meant:  # but for capitals and what stands between words
        return True
    swapped = {meant[:at] + meant[at + 1] + meant[at] + meant[at + 2 :] for at in range(len(meant) - 1)}
    if given in swapped:
        return len(meant) > 4
    if len(meant) >= SHORT_WORD:
        return _is_one_edit(given, meant)
    inner = range(1, len(meant) - 1)
    doubled = {meant[: at + 1] + meant[at:] for at in range(len(meant))}
    left_out = {meant[:at] + meant[at + 1 :] for at in inner} if len(meant) > 4 else set()
    return given in doubled | left_out | {f"{meant}s"}


def _is_one_edit(one: str, other: str) -> bool:
    """Whether two words differ by one letter, left out, added or replaced."""
    same = next(
        (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )
    one, other = one[same:], other[same:]
    return one[1:] == other[1:] or one[1:] == other or one == other[1:]
