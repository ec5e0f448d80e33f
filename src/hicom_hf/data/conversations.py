"""From one record of a data set to training items: a chat, the answers that are learnt in it, and its instruction.

A record is a dictionary in LLaVA's format, `{"id", "video" | "image", "conversations": [{"from", "value"}]}`, or in the
chat format of transformers, `{"messages": [{"role", "content"}]}`. Beside them may stand, for its videos, "start" and
"end" (seconds), "frame_rate" (of frames without a clock), "num_frames" (how many are sampled) or "fps", and "max_frames"; and
"selection", the fields of a `FrameSelection`: the question chooses among the frames that are sampled; and "tiles", those of a
`FrameTiles`, for images, too: it chooses among the squares of a frame.
Records of other formats are read as `formats` says. `record_keys` says which other
keys are refused. Nothing here opens a video.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..processors.chat_content_hicom import check_part
from .bad_samples import BAD_RECORD, EMPTY_ANSWER, ODD_TURNS, PLACEHOLDER_MISMATCH, SampleError
from .formats import TURN_KEYS, RecordFormat, id_of_video, nearest_format, record_format
from .record_keys import misplaced_key, misspelt_key
from .record_media import MEDIA_KEYS, Medium, Record, medium_of, record_media, shortened

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
TAGS = re.compile(r"(?<!\\)<(video|image)>")  # one with a backslash in front is a word of the text


@dataclass(frozen=True)
class TrainingItem:
    """One sample of training: a chat up to its supervised answer.

    Attributes:
        messages: turns for `apply_chat_template`; videos and images stand as `{"type": "video"}`, without their source.
        supervised: indices of the messages whose text is learnt, ascending.
        question: what the user wrote before the supervised answer, with its placeholders; the processor's
            `extract_instruction` says which of it conditions the compression of all videos and images. "" for none.
        media: videos and images in the order of their placeholders.
        source: file, record and turn, for messages.
    """

    messages: list[dict]
    supervised: tuple[int, ...]
    question: str
    media: tuple[Medium, ...]
    source: str


@dataclass
class _Turn:
    """A turn of a record: text, and its placeholders, which are put before the text or, if `parts`, between."""

    role: str
    parts: list  # of str and Medium; a Medium without source is a placeholder that waits for the record's next one
    written: str = ""  # the text with its tags where they were written


def training_items(record: Record, per_turn: bool = True) -> list[TrainingItem]:
    """Turn a record into the samples that it gives.

    A dialogue with videos or images gives one item per answer: the dialogue up to it, that answer supervised, the
    question of the same turn as what conditions the compression. A dialogue without gives one item, all its answers supervised.
    The placeholders `<video>` and `<image>` may stand anywhere; they are moved to the head of their turn. Without any,
    they are put into the first question. In a record with videos only, `<image>` means `<video>`.

    Args:
        record: the entry.
        per_turn: False gives one item per record, all answers supervised, no question that conditions (alignment).

    Returns:
        At least one item.

    Raises:
        SampleError: turns that do not alternate or lack an answer, an empty answer, or placeholders that do not fit the
            videos and images, with the record's name.

    Source: official release, its training set. Differs: several images keep all their placeholders (the release keeps one),
        an odd number of turns is an error (it drops the record silently), and so is an answer without text.

    Example:
        >>> turns = [{"from": "human", "value": "Who runs? <video>"}, {"from": "gpt", "value": "A dog."}]
        >>> item, = training_items(Record({"video": "dog.mp4", "conversations": turns}, "train.json"))
        >>> item.question, item.messages[0]["content"][0], item.supervised
        ('Who runs? <video>', {'type': 'video'}, (1,))
    """
    record = _with_turns(record)
    turns = _place_media(_turns(record), record_media(record), record)
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    has_media = any(isinstance(part, Medium) for turn in turns for part in turn.parts)
    if not per_turn:
        _refuse_choices(turns, record)
    if not has_media or not per_turn:
        return [_item(turns, answers, "", record.source)]
    items = []
    for number, answer in enumerate(answers, start=1):
        source = record.source if len(answers) == 1 else f"{record.source}, answer {number}"
        items.append(_item(turns[: answer + 1], [answer], turns[answer - 1].written, source))
    return items


def _item(turns: list[_Turn], supervised: list[int], question: str, source: str) -> TrainingItem:
    return TrainingItem(
        messages=[_message(turn) for turn in turns],
        supervised=tuple(supervised),
        question=question,
        media=tuple(part for turn in turns for part in turn.parts if isinstance(part, Medium)),
        source=source,
    )


def _message(turn: _Turn) -> dict:
    if all(isinstance(part, str) for part in turn.parts):
        return {"role": turn.role, "content": "".join(turn.parts)}
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": part.kind}
        for part in turn.parts
        if part != ""
    ]
    return {"role": turn.role, "content": content}


def converted_by(known: RecordFormat, record: Record) -> dict[str, Any]:
    """A record of another format as one with turns.

    Raises:
        SampleError: it is not what the format says.
    """
    try:
        return dict(known.convert(record.data))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise SampleError(record.source, BAD_RECORD, f"not as {known.name} should be: {reason}") from error


def _text(turn: _Turn) -> str:
    return "\n".join(part for part in turn.parts if isinstance(part, str))


def _with_turns(record: Record) -> Record:
    """A record of another format as one with turns; every other record as it is.

    Raises:
        SampleError: a key is spelt wrongly, it is not what its format says, or it names its video in a way that only a look
            at the files resolves.
    """
    if isinstance(record.data, Mapping) and (wrong := misspelt_key(record.data)) is not None:
        raise SampleError(record.source, BAD_RECORD, wrong)
    known = record_format(record.data)
    if known is None:
        return record
    converted = converted_by(known, record)
    if known.needs_files or id_of_video(record.data, converted) is not None:
        raise SampleError(
            record.source,
            BAD_RECORD,
            f"this is a record of {known.name} that names its video without the suffix; `hicom data convert` looks it up",
        )
    return replace(record, data=converted)


# Turns ---------------------------------------------------------------------------------------------------------------------


def _turns(record: Record) -> list[_Turn]:
    """The record's turns, checked: an optional system prompt, then questions and answers in turn."""
    data = record.data
    if not isinstance(data, Mapping):
        raise SampleError(record.source, BAD_RECORD, f"a record must be a dictionary, got {type(data).__name__}")
    given = [key for key in TURN_KEYS if data.get(key) is not None]
    if len(given) != 1 or not isinstance(data[given[0]], (list, tuple)):
        raise SampleError(
            record.source,
            BAD_RECORD,
            f'expected a list under exactly one of "conversations" and "messages"; the keys are {sorted(map(str, data))}'
            + ("" if given else f". {nearest_format(data)}"),
        )
    turns = [_turn(turn, number, record) for number, turn in enumerate(data[given[0]], start=1)]
    if data.get("system") not in (None, ""):
        turns.insert(0, _Turn("system", [_system_text(data["system"], record)]))
    dialogue = turns[1:] if turns and turns[0].role == "system" else turns
    roles = [turn.role for turn in dialogue]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise SampleError(
            record.source,
            ODD_TURNS,
            f"questions and answers must alternate and end in an answer, the roles are {roles}",
        )
    for number, turn in enumerate(dialogue[1::2], start=1):
        if not _text(turn).strip():
            raise SampleError(record.source, EMPTY_ANSWER, f"answer {number} has no text")
    for number, turn in enumerate(turns, start=1):
        try:
            _text(turn).encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON may hold and tokenizers cannot read
            raise SampleError(
                record.source, BAD_RECORD, f"the text of turn {number} is not Unicode ({error})"
            ) from error
    return turns


def _system_text(value: Any, record: Record) -> str:
    """What a record gives as "system"; anything but a text would be lost."""
    if not isinstance(value, str):
        raise SampleError(record.source, BAD_RECORD, f'"system" must be a text, got {shortened(value)}')
    return value


def _turn(turn: Any, number: int, record: Record) -> _Turn:
    if not isinstance(turn, Mapping):
        raise SampleError(record.source, BAD_RECORD, f"turn {number} must be a dictionary, got {type(turn).__name__}")
    if (wrong := misplaced_key(turn)) is not None:
        raise SampleError(record.source, BAD_RECORD, f"turn {number}: {wrong}")
    role = turn.get("from", turn.get("role"))
    role = ROLES.get(role) if isinstance(role, str) else None
    content = turn.get("value", turn.get("content"))
    if role is None or not isinstance(content, (str, list, tuple)):
        raise SampleError(
            record.source,
            BAD_RECORD,
            f'turn {number} needs "from" (human, gpt, system) and "value", or "role" (user, assistant, system) and '
            f'"content" (a text or a list of parts); got {shortened(turn)}',
        )
    if not isinstance(content, str):
        content = _parts(content, number, record)
        written = "\n".join(part if isinstance(part, str) else f"<{part.kind}>" for part in content)
        if role == "user" and any(isinstance(part, Medium) for part in content):
            return _Turn(role, content, written)
        if any(isinstance(part, Medium) for part in content):
            raise SampleError(record.source, PLACEHOLDER_MISMATCH, f"turn {number} ({role}) holds a video or image")
        content = "".join(content)
    written, kinds = content, TAGS.findall(content)
    if kinds and role != "user":
        raise SampleError(record.source, PLACEHOLDER_MISMATCH, f"<{kinds[0]}> stands in turn {number} ({role})")
    if kinds:
        content = TAGS.sub("", content).strip()
    return _Turn(role, [*(Medium(kind, None) for kind in kinds), content], written)


def _parts(content: Sequence, number: int, record: Record) -> list:
    """Parts of a chat message: texts as strings, videos and images as media, with their source if the part names it."""
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif isinstance(kind, str) and kind in MEDIA_KEYS:
            try:
                check_part(kind, part, f"a part of turn {number}", more_keys=("bytes",))
            except ValueError as error:
                raise SampleError(record.source, BAD_RECORD, str(error)) from error
            sources = [part[key] for key in ("path", "url", "bytes", kind) if part.get(key) is not None]
            parts.append(medium_of(kind, sources[0], part, record) if sources else Medium(kind, None))
        else:
            raise SampleError(
                record.source,
                BAD_RECORD,
                f'a part of turn {number} must be {{"type": "text", "text": ...}}, or of type "video" or "image"; '
                f"got {shortened(part)}",
            )
    return parts


def _refuse_choices(turns: list[_Turn], record: Record) -> None:
    """Whole dialogues have no question that could choose."""
    for key in ("selection", "tiles"):
        if any(isinstance(part, Medium) and getattr(part, key) is not None for turn in turns for part in turn.parts):
            raise SampleError(
                record.source,
                BAD_RECORD,
                f'"{key}" needs a question for each answer (per_turn), and whole dialogues are asked for; leave it out',
            )


def _place_media(turns: list[_Turn], media: dict[str, list[Medium]], record: Record) -> list[_Turn]:
    """Give every placeholder its video or image, after the repairs of the release.

    Raises:
        SampleError: if there are more or fewer placeholders than videos or images.
    """
    waiting = [
        (turn, place)
        for turn in turns
        for place, part in enumerate(turn.parts)
        if isinstance(part, Medium) and part.source is None
    ]
    if media["video"] and not media["image"]:
        for turn, place in waiting:
            turn.parts[place] = Medium("video", None)
    for kind in ("image", "video"):
        places = [(turn, place) for turn, place in waiting if turn.parts[place].kind == kind]
        if not places and media[kind]:
            first = next(turn for turn in turns if turn.role == "user")
            if all(isinstance(part, str) for part in first.parts):
                first.parts = [part.strip() for part in first.parts]
            waiting = [(turn, place + len(media[kind]) * (turn is first)) for turn, place in waiting]
            first.parts[:0] = media[kind]
            continue
        if len(places) != len(media[kind]):
            raise SampleError(
                record.source,
                PLACEHOLDER_MISMATCH,
                f"{len(places)} placeholders <{kind}> for {len(media[kind])} {kind}s; every {kind} needs exactly one",
            )
        for (turn, place), medium in zip(places, media[kind], strict=True):
            turn.parts[place] = medium
    return turns
