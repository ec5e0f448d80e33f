"""Formats of records that others publish, each with one function that makes a record of `conversations` or `messages` of it.

A record of another format is recognised by its keys; nothing is looked up on disk. What a format leaves open is fixed here and
said where data are opened: a caption answers `CAPTION_QUESTION`, options are lettered lines below the question.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

CAPTION_QUESTION = "Describe the video."
IMAGE_QUESTION = "Describe the image."
TURN_KEYS = ("conversations", "messages")
VIDEO_ID_KEYS = ("video_id", "videoid", "videoID")  # names of videos without their suffix, where no path is given
ID_KEYS = ("id", "video_id", "problem_id", "question_id", "videoid", "videoID")
MEDIA_KEYS = {"video": ("video", "videos", "video_path", "video_name"), "image": ("image", "images", "image_path")}
FILE_KEYS = ("path", "file_name")  # of a video or an image, decided by its suffix
VIDEO_SUFFIXES = ("mp4", "mkv", "mov", "webm", "avi", "gif")
IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff")
FRAME_KEYS = (
    "start",
    "end",
    "video_start",
    "video_end",
    "num_frames",
    "nframes",
    "fps",
    "max_frames",
    "frame_rate",
    "selection",
    "tiles",
    "system",
)
ANSWER = re.compile(r"<answer>(.*?)</answer>", flags=re.DOTALL)
URL_PARTS = {"video_url": "video", "image_url": "image"}
PIXEL_KEYS = (
    "min_pixels",
    "max_pixels",
    "total_pixels",
    "resized_height",
    "resized_width",
    "detail",
)  # of Qwen and OpenAI
FRAMES_RATE_KEY = "sample_fps"  # of Qwen: frames per second of a list of frames
NUMBERED_OPTION = re.compile(r"a(\d+)")  # a0, a1, ... of NExT-QA
LETTERED = re.compile(r"\(?[A-Z][.):]")


class RecordFormat(NamedTuple):
    """A format of records.

    Attributes:
        name: what it is called, with a data set that has it.
        keys: that a record of it has.
        convert: makes a record with turns; it gets the record.
        needs_files: its videos are named by an id, so that only `hicom data convert` can find them.
    """

    name: str
    keys: tuple[str, ...]
    convert: Callable[[Mapping[str, Any]], dict[str, Any]]
    needs_files: bool = False


def record_format(data: Any) -> RecordFormat | None:
    """The format of a record; None if it has turns already, or is of no known format."""
    if not isinstance(data, Mapping):
        return None
    if any(data.get(key) is not None for key in TURN_KEYS):
        return URL_MESSAGES if _has_foreign_parts(data) else None
    present = {key for key, value in data.items() if value is not None}
    return next((known for known in FORMATS if present.issuperset(known.keys)), None)


def has_turns(data: Mapping[str, Any]) -> bool:
    """Whether a record says what is asked and answered, in our format or in another."""
    return any(data.get(key) is not None for key in TURN_KEYS) or record_format(data) is not None


def nearest_format(data: Mapping[str, Any]) -> str:
    """A sentence on the format that shares most keys with a record of no known format, with what the record lacks."""
    present = {str(key) for key, value in data.items() if value is not None}
    shared = {known: len(present.intersection(known.keys)) / len(known.keys) for known in FORMATS}
    best = max(shared, key=lambda known: shared[known])
    if not shared[best]:
        return f"It shares no key with any other format; those are {', '.join(known.name for known in FORMATS)}"
    lacking = sorted(set(best.keys) - present)
    keys, lacks = ", ".join(map(repr, best.keys)), ", ".join(map(repr, lacking))
    return f"The nearest other format is {best.name}, which has {keys}; {lacks} lacks"


def id_of_video(data: Mapping[str, Any], converted: Mapping[str, Any]) -> str | None:
    """The id that stands for the video of a record of another format, if no path does; the file is to be looked up.

    Args:
        data: the record.
        converted: what its format makes of it.
    """
    if any(converted.get(kind) for kind in ("video", "image")) or "messages" in converted:
        return None
    return next((str(data[key]) for key in VIDEO_ID_KEYS if data.get(key) is not None), None)


# One function for each format --------------------------------------------------------------------------------------------


def from_question_list(data: Mapping[str, Any]) -> dict[str, Any]:
    """VideoChat2-IT: "QA", a list of {"i", "q", "a"}; the instruction "i" of the first opens its question."""
    turns = []
    for number, pair in enumerate(data["QA"]):
        instruction = pair.get("i") if number == 0 else None
        turns.append(("\n".join(text for text in (instruction, pair.get("q")) if text), pair["a"]))
    return _record(data, turns)


def from_question_and_answer(data: Mapping[str, Any]) -> dict[str, Any]:
    """ "question" and "answer", with "options" or "candidates" for multiple choice (MVBench), or a0, a1, ... (NExT-QA)."""
    options, answer = _options(data.get("options") or data.get("candidates")), data["answer"]
    numbered = sorted((int(match[1]), key) for key in data if (match := NUMBERED_OPTION.fullmatch(str(key))))
    if not options and len(numbered) > 1:  # the answer is the number of the right one
        options = [data[key] for _, key in numbered]
        answer = options[int(answer)]
    elif options and not isinstance(answer, str):
        raise ValueError(
            f'"answer" must be the text or the letter of an option, got {answer!r}; is it counted from 0 or from 1?'
        )
    if options and answer in options and not LETTERED.match(answer):
        answer = f"{_letter(options.index(answer))}. {answer}"
    answer = next((one for one in options if LETTERED.match(one) and one.partition(". ")[2] == answer), answer)
    return _record(data, [(_with_options(data["question"], options), _words(answer, "answer"))])


def from_short_keys(data: Mapping[str, Any]) -> dict[str, Any]:
    """VideoInstruct-100K: "q", "a" and "video_id", the name of a video without its suffix."""
    return _record({"video": data["video_id"], **data}, [(data["q"], data["a"])])


def from_caption_list(data: Mapping[str, Any]) -> dict[str, Any]:
    """ShareGPT4Video: "captions"; the one with the index -1 is that of the whole video."""
    whole = [entry["content"] for entry in data["captions"] if str(entry.get("idx")) == "-1"]
    if len(whole) != 1:
        raise ValueError('exactly one of "captions" must have the "idx" -1, the caption of the whole video')
    return _record(data, [(CAPTION_QUESTION, whole[0])])


def from_problem(data: Mapping[str, Any]) -> dict[str, Any]:
    """Video-R1: "problem", "options", and "solution" with the answer between <answer> and </answer>."""
    found = ANSWER.search(data["solution"])
    answer = found[1].strip() if found else data["solution"]
    return _record(data, [(_with_options(data["problem"], _options(data.get("options"))), answer)])


def from_caption(data: Mapping[str, Any]) -> dict[str, Any]:
    """A video or image with its "caption" or "text"."""
    caption = _words(data["caption"] if data.get("caption") is not None else data["text"], "caption")
    media = set(_kept(data)) & {"video", "image"}
    if not media and not any(data.get(key) is not None for key in VIDEO_ID_KEYS):
        raise ValueError("it names no video and no image for its caption")
    has_image_only = media == {"image"}
    return _record(data, [(IMAGE_QUESTION if has_image_only else CAPTION_QUESTION, caption)])


def from_completion(data: Mapping[str, Any]) -> dict[str, Any]:
    """TRL: "prompt" and "completion", each a text or a list of messages."""
    messages = [*_messages(data["prompt"], "user"), *_messages(data["completion"], "assistant")]
    return {**_kept(data), "messages": messages}


def from_response(data: Mapping[str, Any]) -> dict[str, Any]:
    """ms-swift: "query" and "response", after the pairs of "history"."""
    return _record(data, [*(data.get("history") or ()), (data["query"], data["response"])])


def from_output(data: Mapping[str, Any]) -> dict[str, Any]:
    """Alpaca: "instruction", "input" and "output", after the pairs of "history"."""
    question = "\n".join(text for text in (data["instruction"], data.get("input")) if text)
    return _record(data, [*(data.get("history") or ()), (question, data["output"])])


def from_url_parts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Messages with parts of OpenAI ("video_url") or Qwen ("max_pixels"); sizes in pixels are left out."""
    key = next(key for key in TURN_KEYS if data.get(key) is not None)
    return {**data, key: [_own_parts(turn) for turn in data[key]]}


URL_MESSAGES = RecordFormat("messages of OpenAI or Qwen (video_url, max_pixels)", ("messages",), from_url_parts)
FORMATS = (
    RecordFormat("VideoChat2-IT (QA)", ("QA",), from_question_list),
    RecordFormat("VideoInstruct-100K (q, a)", ("q", "a", "video_id"), from_short_keys, needs_files=True),
    RecordFormat("question and answer", ("question", "answer"), from_question_and_answer),
    RecordFormat("ShareGPT4Video (captions)", ("captions", "video_path"), from_caption_list),
    RecordFormat("Video-R1 (problem, solution)", ("problem", "solution"), from_problem),
    RecordFormat("TRL (prompt, completion)", ("prompt", "completion"), from_completion),
    RecordFormat("ms-swift (query, response)", ("query", "response"), from_response),
    RecordFormat("alpaca (instruction, output)", ("instruction", "output"), from_output),
    RecordFormat("captions", ("caption",), from_caption),
    RecordFormat("captions of a videofolder", ("file_name", "text"), from_caption),
)

# Parts of a record -------------------------------------------------------------------------------------------------------


def _record(data: Mapping[str, Any], turns: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A record of questions and answers in turn, with the media, frames and name of another."""
    conversations = []
    for question, answer in turns:
        conversations += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {**_kept(data), "conversations": conversations}


def _kept(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a record keeps: its name, its videos and images under the names that are read, what is said of their frames."""
    kept = {key: data[key] for key in FRAME_KEYS if data.get(key) is not None}
    for kind, keys in MEDIA_KEYS.items():
        found = next((data[key] for key in keys if data.get(key)), None)
        if found is not None:
            kept[kind] = found
    file = next((data[key] for key in FILE_KEYS if data.get(key)), None)
    if file is not None and not kept.keys() & MEDIA_KEYS.keys():
        is_image = str(file).rpartition(".")[2].lower() in IMAGE_SUFFIXES
        kept["image" if is_image else "video"] = file
    name = next((data[key] for key in ID_KEYS if data.get(key) is not None), None)
    return kept if name is None else {"id": name, **kept}


def _options(given: Any) -> list[str]:
    """Options as texts; those of a dictionary, `{"A": "red", "B": "blue"}`, with its keys as their letters.

    Raises:
        ValueError: they are neither a list nor a dictionary, or one is no text and no number.
    """
    if given is None:
        return []
    if isinstance(given, Mapping):
        return [f"{key}. {_words(value, 'options')}" for key, value in given.items() if value is not None]
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"the options must be a list or a dictionary, got {given!r}")
    return [_words(option, "options") for option in given]


def _with_options(question: str, options: Sequence[str]) -> str:
    """A question with its options, one a line; those without a letter get one."""
    lettered = [
        option if LETTERED.match(option) else f"{_letter(number)}. {option}" for number, option in enumerate(options)
    ]
    return "\n".join([question, *lettered])


def _words(value: Any, name: str) -> str:
    """A text, or a number as one ("How many?"); raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f'"{name}" must be a text, got {value!r}')
    return str(value)


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _messages(content: Any, role: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": content}] if isinstance(content, str) else list(content)


def _has_foreign_parts(data: Mapping[str, Any]) -> bool:
    turns = next((data[key] for key in TURN_KEYS if data.get(key) is not None), ())
    return isinstance(turns, (list, tuple)) and any(
        isinstance(turn, Mapping)
        and isinstance(turn.get("content"), (list, tuple))
        and any(isinstance(part, Mapping) and _is_foreign(part) for part in turn["content"])
        for turn in turns
    )


def _is_foreign(part: Mapping[str, Any]) -> bool:
    """Whether a part of a message is written as OpenAI or Qwen do."""
    has_foreign_keys = any(part.get(key) is not None for key in (*PIXEL_KEYS, FRAMES_RATE_KEY))
    return isinstance(part.get("type"), str) and (part["type"] in URL_PARTS or has_foreign_keys)


def _own_parts(turn: Any) -> Any:
    """A message whose videos and images are named as the chat format of transformers names them."""
    content = turn.get("content") if isinstance(turn, Mapping) else None
    if not isinstance(content, (list, tuple)):
        return turn
    return {**turn, "content": [_own_part(part) if isinstance(part, Mapping) else part for part in content]}


def _own_part(part: Mapping[str, Any]) -> dict[str, Any]:
    given: Any = part.get("type")
    kind = URL_PARTS.get(given, given)
    rest = {key: value for key, value in part.items() if key not in (*PIXEL_KEYS, FRAMES_RATE_KEY, given)}
    if part.get(FRAMES_RATE_KEY) is not None:
        rest["frame_rate"] = part[FRAMES_RATE_KEY]
    source: Any = part.get(given)
    if isinstance(source, Mapping):  # OpenAI: {"url": ...}
        source = source.get("url")
    own = {**rest, "type": kind}
    if kind is not None and source is not None:
        own[kind] = source
    return own
