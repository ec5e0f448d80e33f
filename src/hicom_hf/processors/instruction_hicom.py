"""Which words of a prompt or of a chat are the instruction: the text that conditions the compression.

HICom is conditioned on the question alone. Everything else that benchmarks and data sets send along with it is cut off:
placeholders here, options, answer formats, subtitles and the like by one of two sets of rules.
"""

import re
from collections.abc import Collection, Sequence
from typing import Literal, cast

from .instruction_rules_hicom import VISUAL, question_of
from .official_instruction_hicom import official_instruction

InstructionRules = Literal["general", "official"]
INSTRUCTION_RULES = ("general", "official")

# Placeholders of the visual input inside a text: the release's own two tags, and the placeholder tokens of Qwen2.5.
TAGS = ("<image>", "<video>")
PLACEHOLDERS = (*TAGS, "<|image_pad|>", "<|video_pad|>")
# A tag with a backslash in front is a word of the text: r"What does \<video> mean in HTML?".
# Where transformers marked the tag as a token that a user wrote, its mark (U+F0000) stands between.
ESCAPED_TAG = re.compile("\\\\(\U000f0000?<(?:image|video)>)")

CHATML_START = "<|im_start|>"
# A turn without its end is the last one of a prompt that was cut off, or one that the model is to continue.
CHATML_USER_TURN = re.compile(r"<\|im_start\|>user\n(.*?)(?:<\|im_end\|>|<\|im_start\|>|\Z)", flags=re.DOTALL)


class InstructionWarning(UserWarning):
    """What conditions the compression is not the whole question: nothing of the prompt was left, or its end was cut off."""


def check_instruction_rules(rules: str) -> InstructionRules:
    """Return `rules`.

    Raises:
        ValueError: it is not one of `INSTRUCTION_RULES`.
    """
    if rules not in INSTRUCTION_RULES:
        raise ValueError(f"instruction_rules must be one of {', '.join(INSTRUCTION_RULES)}, got {rules!r}")
    return cast(InstructionRules, rules)


def extract_instruction(
    text: str, placeholders: Sequence[str] = PLACEHOLDERS, rules: InstructionRules = "general"
) -> str:
    """Cut a user's text down to the instruction that conditions the compression.

    Args:
        text: what the user wrote, with or without placeholders.
        placeholders: those of visual input, and special tokens; none of them is a word of the user. A tag `<video>`
            or `<image>` with a backslash in front stays, as a word.
        rules: "general" understands the usual forms of prompts, see `question_of`; "official" are the release's phrases.

    Returns:
        The instruction; empty if the text holds nothing but what is cut off.

    Raises:
        TypeError: `text` is not a string.
        ValueError: there are no such rules.

    Differs: the release deletes `<image>` and `<video>` alone; the placeholder tokens of the language model go, too.

    Example:
        >>> extract_instruction("<video>\\nWhat is it?\\n(A) cat\\n(B) dog\\nAnswer with the option's letter.")
        'What is it?'
    """
    if not isinstance(text, str):
        raise TypeError(f"`text` must be a string, got {type(text).__name__}.")
    check_instruction_rules(rules)
    text = without_placeholders(text, placeholders, VISUAL if rules == "general" else "")
    instruction = question_of(text) if rules == "general" else official_instruction(text)
    return unescaped(instruction)


def without_placeholders(text: str, placeholders: Sequence[str], replacement: str = "") -> str:
    """Replace each placeholder of a text but for escaped tags; of two that overlap, the longer one counts."""
    longest_first = sorted(placeholders, key=len, reverse=True)
    pattern = "|".join(re.escape(placeholder) for placeholder in longest_first) or "(?!)"
    return re.sub(rf"(?<!\\)(?:{pattern})", replacement, text)


def unescaped(text: str) -> str:
    r"""Turn each escaped tag into the word that it stands for: r"\<video>" into "<video>"."""
    return ESCAPED_TAG.sub(r"\1", text)


def last_user_text(conversation: list[dict], visual: str | None = None) -> str:
    """Return what the user wrote in the last user turn of a chat.

    Args:
        conversation: One chat in the format of `apply_chat_template`: turns `{"role": ..., "content": ...}`, where
            content is a string or a list of parts. Parts `{"type": "text", "text": ...}` are joined with newlines,
            other parts (videos, images) hold no text.
        visual: the placeholder of each of the other parts; None leaves them out.

    Returns:
        The text, empty if the turn holds only videos or images.

    Raises:
        TypeError: The chat, a turn, its content or a part has the wrong type.
        ValueError: There is no user turn, or a turn or part lacks a key.

    Example:
        >>> video = {"type": "video", "path": "cat.mp4"}
        >>> last_user_text([{"role": "user", "content": [video, {"type": "text", "text": "What is it?"}]}])
        'What is it?'
    """
    if not isinstance(conversation, (list, tuple)):
        raise TypeError(f"`conversation` must be a list of turns (dictionaries), got {type(conversation).__name__}.")
    for index, turn in enumerate(conversation):
        if not isinstance(turn, dict):
            hint = " Pass the chats of a batch one by one." if isinstance(turn, (list, tuple)) else ""
            raise TypeError(f"Turn {index} of `conversation` must be a dictionary, got {type(turn).__name__}.{hint}")
        if "role" not in turn:
            raise ValueError(f"Turn {index} of `conversation` has no 'role'; its keys are {sorted(map(str, turn))}.")

    user_turns = [index for index, turn in enumerate(conversation) if turn["role"] == "user"]
    if not user_turns:
        roles = [turn["role"] for turn in conversation]
        raise ValueError(
            f"`conversation` has no user turn to take the instruction from; its roles are {roles}. "
            "Pass `instruction=`."
        )
    index = user_turns[-1]
    if "content" not in conversation[index]:
        raise ValueError(f"Turn {index} of `conversation` has no 'content'.")
    content = conversation[index]["content"]
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise TypeError(
            f"The content of turn {index} of `conversation` must be a string or a list of parts, "
            f"got {type(content).__name__}."
        )
    texts = (_text_of_part(part, f"Part {number} of turn {index}") for number, part in enumerate(content))
    texts = [visual if text is None else text for text in texts]
    return "\n".join(text for text in texts if text is not None)


def _text_of_part(part: dict, name: str) -> str | None:
    """Return the text of one part of a turn, None if it is of another type; `name` opens the error messages."""
    if not isinstance(part, dict):
        raise TypeError(f"{name} of `conversation` must be a dictionary, got {type(part).__name__}.")
    if "type" not in part:
        raise ValueError(f"{name} of `conversation` has no 'type'; its keys are {sorted(map(str, part))}.")
    if part["type"] != "text":
        return None
    if "text" not in part:
        raise ValueError(f"{name} of `conversation` is of type 'text' but has no 'text'.")
    if not isinstance(part["text"], str):
        raise TypeError(
            f"The text of {name[0].lower()}{name[1:]} must be a string, got {type(part['text']).__name__}."
        )
    return part["text"]


def user_text_of_prompt(
    prompt: str, special_tokens: Collection[str], placeholders: Sequence[str] = PLACEHOLDERS
) -> str:
    """Find what the user wrote last in the text that a processor was called with.

    Args:
        prompt: Plain text, or a prompt rendered by a ChatML template (`<|im_start|>user ... <|im_end|>`).
        special_tokens: The special tokens of the language model's tokenizer. They show that a prompt was rendered.
        placeholders: those of the visual input; see `extract_instruction`.

    Returns:
        The text of the last user turn of a ChatML prompt, or all of a plain text, placeholders included.

    Raises:
        TypeError: `prompt` is not a string.
        ValueError: The prompt was rendered by another template, or by ChatML without a user turn.

    Example:
        >>> user_text_of_prompt("<|im_start|>user\\n<video>\\nWho?<|im_end|>\\n", ["<|im_start|>", "<|im_end|>"])
        '<video>\\nWho?'
    """
    if not isinstance(prompt, str):
        raise TypeError(f"`prompt` must be a string, got {type(prompt).__name__}.")
    wrappers = [token for token in special_tokens if token.strip() and token not in placeholders]
    if CHATML_START in prompt:
        turns = CHATML_USER_TURN.findall(prompt)
        if not turns:
            raise ValueError(
                "The prompt is rendered (it holds '<|im_start|>') but has no user turn to take the instruction from. "
                "Pass `instruction=`."
            )
        return turns[-1]
    text = without_placeholders(prompt, placeholders)
    found = [token for token in wrappers if token in text]
    if found:
        raise ValueError(
            f"The prompt was rendered by a chat template other than ChatML (it holds {found[0]!r}), so the user's "
            "words cannot be told from the rest. Call `apply_chat_template` on the chat itself, "
            "or pass `instruction=`."
        )
    return prompt
