"""What the pipeline is given, in all its forms, as requests: one prompt each; and batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from .answering_hicom import check_question

PADDED_KEYS = ("input_ids", "attention_mask", "mm_token_type_ids")  # (1, length) each, unlike packed frames
VISUAL_KEYS, QUESTION_KEYS = ("video", "image"), ("text", "question")


@dataclass
class Request:
    """One prompt on its way through the pipeline.

    Attributes:
        chat: messages.
        instruction: what conditions the compression; None until it is taken from the last user turn.
        features: of the chat's videos, encoded before; the chat then names no sources.
        num_frames: T of each of these videos.
        candidates: of the chat's only video, encoded before, among which its question chooses.
        continues: the answer continues the chat's last message.
        metadata: what was sampled from each video.
        chosen: the `SelectionRecord` of each video whose frames the question chose.
        tiles: which parts of its frames were chosen, a `TilesRecord` of each; none without tiles.
    """

    chat: list[dict]
    instruction: str | None = None
    features: dict[str, torch.Tensor] | None = None
    num_frames: list[int] = field(default_factory=list)
    candidates: list[Any] | None = None
    continues: bool = False
    metadata: list = field(default_factory=list)
    chosen: list = field(default_factory=list)
    tiles: list = field(default_factory=list)


class Rows(Dataset):
    """A table or a column of the library datasets, as what transformers takes for a data set."""

    def __init__(self, table: Sequence):
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Any:
        return self.table[index]


def as_request(item: Any, question: str | None = None) -> Request:
    """A chat, a dictionary, or a video with its question, as a request.

    Raises:
        ValueError: if the question is missing or empty, or fields are unknown.
    """
    chat = getattr(item, "messages", item)  # transformers wraps chats
    if isinstance(chat, dict) and "role" in chat:
        chat = [chat]
    if is_chat(chat):
        if question is not None:
            raise ValueError("a chat holds its question; give no other (text, question) beside it")
        check_question(last_user_text(list(chat)))
        return Request(list(chat))
    fields = item if isinstance(item, dict) else {"video": item}
    unknown = sorted(set(fields) - {*VISUAL_KEYS, *QUESTION_KEYS, "instruction"})
    visuals = [(kind, fields[kind]) for kind in VISUAL_KEYS if fields.get(kind) is not None]
    if unknown or len(visuals) > 1:
        raise ValueError(
            f"an input has one of 'video' and 'image', a question ('text' or 'question') and perhaps an 'instruction'; got the "
            f"fields {sorted(fields)}. Several videos and images in one question are given as a chat"
        )
    own_question = only_one(*(fields.get(key) for key in QUESTION_KEYS))
    question = question if own_question is None else own_question
    check_question(question)
    content = [*({"type": kind, kind: source} for kind, source in visuals), {"type": "text", "text": question}]
    return Request([{"role": "user", "content": content}], instruction=fields.get("instruction"))


def is_table(inputs: Any) -> bool:
    """Whether inputs are a `Dataset` or a column of the library datasets, which need not be installed."""
    is_sequence = isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes, list, tuple, memoryview))
    return is_sequence or (hasattr(inputs, "column_names") and hasattr(inputs, "__getitem__"))


def only_one(text: Any, question: Any) -> Any:
    if text is not None and question is not None:
        raise ValueError("text and question mean the same; give one of them")
    return question if text is None else text


def split_questions(inputs: Any, question: Any) -> tuple[Any, list[str] | None]:
    """A video with several questions as the two of them; None for the questions of anything else."""
    if isinstance(inputs, dict) and "role" not in inputs:
        own = only_one(*(inputs.get(key) for key in QUESTION_KEYS))
        question = question if own is None else own
        inputs = {key: value for key, value in inputs.items() if key not in QUESTION_KEYS}
    return (inputs, list(question)) if isinstance(question, (list, tuple)) else (inputs, None)


def is_chat(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and bool(item) and isinstance(item[0], dict) and "role" in item[0]


def is_video(item: list | tuple) -> bool:
    """Whether a list is one video, given as frames: PIL images, or arrays of three axes."""
    return bool(item) and all(
        isinstance(frame, Image.Image) or (isinstance(frame, (np.ndarray, torch.Tensor)) and frame.ndim == 3)
        for frame in item
    )


def last_user_text(chat: list[dict]) -> str:
    content = next((message["content"] for message in reversed(chat) if message["role"] == "user"), "")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def continued(request: Request, answer: str) -> list[dict]:
    """The chat with the answer as its end."""
    if not request.continues:
        return [*request.chat, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    *before, last = request.chat
    content = last["content"]
    if isinstance(content, str):
        return [*before, {**last, "content": content + answer}]
    *parts, final = content
    return [*before, {**last, "content": [*parts, {**final, "text": final["text"] + answer}]}]


def collate_requests(items: list[dict[str, Any]], pad_token_id: int | None) -> dict[str, Any]:
    """One batch of several preprocessed requests: prompts padded on the left, everything visual packed in their order.

    Raises:
        ValueError: if the tokenizer has no padding token.
    """
    if pad_token_id is None:
        raise ValueError("batch_size above 1 needs a padding token; set processor.tokenizer.pad_token")
    length = max(item["input_ids"].shape[1] for item in items)
    batch: dict[str, Any] = {"request": [item["request"] for item in items]}
    for key in dict.fromkeys(key for item in items for key in item if key != "request"):
        values = [item[key] for item in items if key in item]
        if key in PADDED_KEYS:
            filler = pad_token_id if key == "input_ids" else 0
            padded = [torch.nn.functional.pad(value, (length - value.shape[1], 0), value=filler) for value in values]
            batch[key] = torch.cat(padded)
        elif isinstance(values[0], dict):  # encoded features
            batch[key] = {name: torch.cat([value[name] for value in values]) for name in values[0]}
        else:
            batch[key] = torch.cat(values)
    return batch


def only_item(items: list) -> Any:
    """The batch of one request."""
    return items[0]
