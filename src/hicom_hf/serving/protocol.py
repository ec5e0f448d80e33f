"""The requests and responses of OpenAI's chat completions that this server knows, and what they mean for the engine.

What is not supported is an error that names it: nothing that a client asked for is dropped. Extras have vLLM's names.
"""

import base64
import binascii
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError, field_validator

from ..processors.frame_selection_hicom import FrameSelection
from ..processors.frame_tiles_hicom import FrameTiles
from .requests import Request, Result, Settings, VideoSource

MAX_TEXT_LENGTH = 200_000  # characters of one text
# Named in OpenAI's or vLLM's interface; refused unless their value is the default behaviour.
NEUTRAL_VALUES: dict[str, tuple[Any, ...] | None] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "user": None,  # any value: it labels a request and changes no answer
    "metadata": None,
    "safety_identifier": None,
    "prompt_cache_key": None,
}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MediaURL(Strict):
    url: str = Field(min_length=1)
    detail: Literal["auto"] | None = None


class FileContent(Strict):
    file_data: str = Field(min_length=1)
    filename: str | None = None


class TextPart(Strict):
    type: Literal["text"]
    text: str = Field(max_length=MAX_TEXT_LENGTH)


class VideoPart(Strict):
    """`video_url`, `image_url`: an http(s), data: or file: URL, as an object with `url` or as a string."""

    type: Literal["video_url", "image_url", "input_video", "file"]
    video_url: MediaURL | str | None = None
    image_url: MediaURL | str | None = None
    input_video: MediaURL | FileContent | str | None = None
    file: FileContent | None = None

    def source(self) -> str | bytes:
        """What the engine reads.

        Raises:
            ValueError: the part does not hold what its type says.
        """
        given = {name for name in ("video_url", "image_url", "input_video", "file") if getattr(self, name) is not None}
        if given != {self.type}:
            raise ValueError(f"a part of type {self.type!r} holds {self.type!r} and nothing else, got {sorted(given)}")
        content = getattr(self, self.type)
        if isinstance(content, FileContent):
            return _file_content(content.file_data)
        return content if isinstance(content, str) else content.url


def _file_content(data: str) -> str | bytes:
    if data[:5].lower() == "data:":
        return data
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        raise ValueError("file_data is neither base64 nor a data: URL") from None


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    refusal: None = None

    def parts(self) -> list[TextPart | VideoPart]:
        """The content as parts.

        Raises:
            ValueError: a part is of an unknown type, or not as its type says.
        """
        if self.content is None:
            raise ValueError(f"a message of {self.role!r} has no content")
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)]
        parts = []
        for part in self.content:
            kind = part.get("type")
            if kind not in ("text", "video_url", "image_url", "input_video", "file"):
                raise ValueError(
                    f"parts of type {str(kind)[:40]!r} are not supported, only text, video_url, image_url, input_video and file"
                )
            parts.append((TextPart if kind == "text" else VideoPart).model_validate(part))
        return parts


class Extras(Strict):
    """`mm_processor_kwargs`: which frames of the videos, and what conditions their compression."""

    num_frames: int | None = Field(default=None, ge=1)
    fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    start: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    end: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_frames: int | None = Field(default=None, ge=1)
    max_video_tokens: int | None = Field(default=None, ge=1)
    short_video: Literal["once", "repeat"] | None = None
    on_decode_error: Literal["raise", "keep"] | None = None
    instruction: str | None = Field(default=None, min_length=1, max_length=MAX_TEXT_LENGTH)
    select: Literal["question", "mixture", "uniform"] | None = None
    frames: int | None = Field(default=None, ge=1)
    tiles: list[StrictInt] | None = Field(default=None, min_length=1, max_length=8)
    score_tiles: StrictBool | None = None  # as true

    def frame_tiles(self) -> FrameTiles | None:
        """How the question chooses among squares of the frames.

        Raises:
            ValueError: the zooms contradict each other, or it is said how candidates are scored that there are not.
        """
        if self.score_tiles is not None and (self.tiles is None or self.select is None):
            raise ValueError("mm_processor_kwargs.score_tiles goes with select and tiles")
        try:
            return None if self.tiles is None else FrameTiles.of_zooms(self.tiles, self.score_tiles is not False)
        except ValueError as error:
            raise ValueError(f"mm_processor_kwargs.tiles: {error}") from None

    def selection(self) -> FrameSelection | None:
        """How the question chooses among the frames that the other fields name.

        Raises:
            ValueError: there is a budget without a rule, or a rule without one budget.
        """
        if self.select is None:
            if self.frames is not None:
                raise ValueError(
                    "mm_processor_kwargs.frames goes with select; num_frames says how many frames are taken"
                )
            return None
        if (self.frames is None) == (self.max_video_tokens is None):
            raise ValueError("mm_processor_kwargs.select takes frames or max_video_tokens, one of them")
        return FrameSelection(self.select, self.frames, self.max_video_tokens)


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ChatCompletionRequest(BaseModel):
    """The body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(extra="allow")  # unknown fields are refused below, by name

    model: str | None = None
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    n: int | None = Field(default=None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    mm_processor_kwargs: Extras | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, stop):
        if isinstance(stop, list) and len(stop) > 4:
            raise ValueError("at most 4 stop texts")
        return stop

    def engine_request(self, default_max_tokens: int) -> Request:
        """What the engine is asked.

        Args:
            default_max_tokens: where the client names none.

        Raises:
            ValueError: something is not supported; it is named.
        """
        self._check_unknown()
        extras = self.mm_processor_kwargs or Extras()
        selection, tiles = extras.selection(), extras.frame_tiles()
        others = {
            "instruction",
            "select",
            "frames",
            "tiles",
            "score_tiles",
            *(() if selection is None else ("max_video_tokens",)),
        }
        sampling = extras.model_dump(exclude_none=True, exclude=others)
        turns, videos = [], []
        for message in self.messages:
            content = []
            for part in message.parts():
                if isinstance(part, TextPart):
                    content.append({"type": "text", "text": part.text})
                else:
                    content.append({"type": "video"})  # an image is a video of one frame
                    own = (sampling, selection, tiles)
                    if part.type == "image_url":
                        own = ({}, None, None if tiles is None else tiles.of_chosen())
                    videos.append(VideoSource(part.source(), *own))
            turns.append({"role": "system" if message.role == "developer" else message.role, "content": content})
        if turns[-1]["role"] != "user":
            raise ValueError(f"the last message must be the user's, got that of {turns[-1]['role']!r}")
        return Request(turns, videos, extras.instruction, self._settings(default_max_tokens), self._stops())

    def _settings(self, default_max_tokens: int) -> Settings:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens contradict each other; give one of them")
        temperature = 0.0 if self.temperature is None else self.temperature
        return Settings(
            max_new_tokens=self.max_completion_tokens or self.max_tokens or default_max_tokens,
            temperature=temperature,
            top_p=self.top_p if temperature > 0 else None,  # greedy answers are the same for every top_p
            seed=self.seed if temperature > 0 else None,
            num_answers=self.n or 1,
        )

    def _stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def _check_unknown(self) -> None:
        for name, value in (self.model_extra or {}).items():
            if name not in NEUTRAL_VALUES:
                raise ValueError(f"the field {name[:60]!r} is not supported")
            neutral = NEUTRAL_VALUES[name]
            if neutral is not None and value is not None and value not in neutral:
                raise ValueError(f"{name} is supported only as {' or '.join(map(str, neutral))}")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream: true")


def readable(error: ValidationError) -> str:
    """What is wrong with a body, without its values, which may be media.

    Args:
        error: of pydantic.
    """
    lines = []
    for one in error.errors(include_url=False, include_input=False, include_context=False)[:5]:
        place = ".".join(str(step) for step in one["loc"])[:120]
        lines.append(f"{place}: {one['msg']}" if place else one["msg"])
    return "; ".join(lines)


# Responses -----------------------------------------------------------------------------------------------------------------


def usage(result: Result) -> dict[str, Any]:
    """Tokens of a request; visual tokens are part of the prompt, cached ones are those of videos that were not encoded again."""
    prompt = result.answers[0].num_prompt_tokens
    new = sum(answer.num_new_tokens for answer in result.answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {
            "video_tokens": result.num_visual_tokens,
            "cached_tokens": result.num_cached_tokens,
        },
    }


def finish_reason(stopped: bool) -> str:
    return "stop" if stopped else "length"


def completion(result: Result, head: dict[str, Any]) -> dict[str, Any]:
    """The response to a request that is not streamed.

    Args:
        result: of the engine.
        head: id, created and model.
    """
    choices = [
        {
            "index": number,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "finish_reason": finish_reason(stopped),
            "logprobs": None,
        }
        for number, (text, stopped) in enumerate(zip(result.texts, result.stopped, strict=True))
    ]
    body = {**head, "object": "chat.completion", "choices": choices, "usage": usage(result)}
    return {**body, "hicom": conditions(result)}


def conditions(result: Result) -> dict[str, Any]:
    """The field `hicom`: what conditioned the answer, and which frames, or parts of them, it saw."""
    return {
        "instruction": result.answers[0].instruction,
        "first_token_seconds": result.first_token_seconds,
        "frame_times": [video.sampling.times for video in result.videos],
        "selection": [None if record is None else record.to_dict() for record in result.selections],
        "tiles": [None if record is None else record.to_dict() for record in result.tiles],
    }


def chunk(head: dict[str, Any], number: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    """One event of a stream."""
    choice = {"index": number, "delta": delta, "finish_reason": reason, "logprobs": None}
    return {**head, "object": "chat.completion.chunk", "choices": [choice]}


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "code": code, "param": param}}
