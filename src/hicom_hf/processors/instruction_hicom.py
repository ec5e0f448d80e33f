"""Which words of a prompt or of a chat are the instruction: the text that conditions the compression.

HiCom is conditioned on the question alone. Answer options and formatting requests, which benchmarks and training sets
glue to the question, are cut off by the fixed phrases below.

Source: official release, the guide extraction of its training set.
"""

import re
from collections.abc import Collection, Sequence

# What stands for the visual input inside a text: the release's own two tags, and the placeholder tokens of Qwen2.5.
PLACEHOLDERS = ("<image>", "<video>", "<|image_pad|>", "<|video_pad|>")

# The phrases of the release, in the order of its rules.

# Rule 2, deleted wherever it stands: the request that goes with short-answer questions.
SHORT_ANSWER_REQUEST = "Answer the question using a single word or phrase."

# Rule 3: either one, anywhere, means that the options "A. ", "B. ", ... follow the question.
LETTER_REQUESTS = (
    "Please provide your answer by stating the letter followed by the full option.",
    "Please respond with only the letter of the correct answer.",
)
LETTER_OPTIONS = "\nA. "

# Rule 4: "Question: ..." and, below it, the options "(A) ...", "(B) ...".
QUESTION_PREFIX = "Question: "
BRACKET_OPTIONS = "Options:\n(A)"

# Rule 5: ten wordings of the request to choose an action category, each followed by " Options:" and a newline.
CATEGORY_REQUESTS = (
    "Choose the corresponding category that captures this action from the offered options.",
    "Pick the most suitable category that represents the interaction from the provided options.",
    "Select the most accurate category from the available choices.",
    "Identify the most accurate action category from the provided options.",
    "Choose the appropriate action category from the listed choices.",
    "Determine the action category that aligns best with these features from the selection provided.",
    "Select the category that best characterizes this interaction from the given choices.",
    "Pick the relevant category from the list of options.",
    "Select the fitting category that describes their interaction from the available options.",
    "Determine the best-matching action category from the choices given.",
)
# Rule 5: everything from a trigger on is cut. Only the first of them that occurs is applied, in this order.
CUT_TRIGGERS = (
    "Select one or more correct answers from following:\n",
    *(f"{request} Options:\n" for request in CATEGORY_REQUESTS),
    f"\nOptions:{LETTER_OPTIONS}",
)

CHATML_START = "<|im_start|>"
# A turn without its end is the last one of a prompt that was cut off, or one that the model is to continue.
CHATML_USER_TURN = re.compile(r"<\|im_start\|>user\n(.*?)(?:<\|im_end\|>|<\|im_start\|>|\Z)", flags=re.DOTALL)


def _before(text: str, mark: str) -> str:
    return text.partition(mark)[0]


def extract_instruction(text: str, placeholders: Sequence[str] = PLACEHOLDERS) -> str:
    """Cut a user's text down to the instruction that conditions the compression.

    Args:
        text: What the user wrote, with or without placeholders.
        placeholders: Deleted first, one after the other.

    Returns:
        The instruction, possibly empty. Inner whitespace is kept, and so is whitespace at a cut: the instruction's
        tokenizer cleans it up, except for one leading space, which it sees just as in the release.

    Raises:
        TypeError: `text` is not a string.

    Source: official release, section "Guide extraction" of its training set.
    Differs: the release strips every leading character of the set {Q, u, e, s, t, i, o, n, :, space} where it means
        the prefix "Question: ", so that "Question: nothing moves" becomes "hing moves"; only the prefix goes here.
        The release deletes `<image>` and `<video>` alone; the placeholder tokens of the language model go, too.

    Example:
        >>> extract_instruction("<video>\\nWhat is it?\\nOptions:\\nA. cat\\nB. dog")
        'What is it?'
    """
    if not isinstance(text, str):
        raise TypeError(f"`text` must be a string, got {type(text).__name__}.")
    for placeholder in placeholders:
        text = text.replace(placeholder, "")
    text = text.strip().replace(SHORT_ANSWER_REQUEST, "")

    if any(request in text for request in LETTER_REQUESTS):
        return _before(text, LETTER_OPTIONS)
    if text.startswith(QUESTION_PREFIX):
        return _before(text.removeprefix(QUESTION_PREFIX), f"\n{BRACKET_OPTIONS}")

    for trigger in CUT_TRIGGERS:
        if trigger in text:
            text = _before(text, trigger)
            break
    if BRACKET_OPTIONS in text:
        text = _before(text, BRACKET_OPTIONS).rpartition(QUESTION_PREFIX)[2]
    return text


def last_user_text(conversation: list[dict]) -> str:
    """Return what the user wrote in the last user turn of a chat.

    Args:
        conversation: One chat in the format of `apply_chat_template`: turns `{"role": ..., "content": ...}`, where
            content is a string or a list of parts. Parts `{"type": "text", "text": ...}` are joined with newlines,
            other parts (videos, images) hold no text.

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


def instruction_of_prompt(
    prompt: str, special_tokens: Collection[str], placeholders: Sequence[str] = PLACEHOLDERS
) -> str:
    """Find the instruction in the text that a processor was called with.

    Args:
        prompt: Plain text, or a prompt rendered by a ChatML template (`<|im_start|>user ... <|im_end|>`).
        special_tokens: The special tokens of the language model's tokenizer. They show that a prompt was rendered.
        placeholders: What stands for the visual input; see `extract_instruction`.

    Returns:
        The instruction: of the last user turn of a ChatML prompt, or of all of a plain text.

    Raises:
        TypeError: `prompt` is not a string.
        ValueError: The prompt was rendered by another template, or by ChatML without a user turn.

    Example:
        >>> instruction_of_prompt("<|im_start|>user\\n<video>\\nWho?<|im_end|>\\n", ["<|im_start|>", "<|im_end|>"])
        'Who?'
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
        # Templates may wrap a placeholder in special tokens of their own; these are no words of the user, either.
        return extract_instruction(turns[-1], placeholders=(*placeholders, *wrappers))
    text = prompt
    for placeholder in placeholders:
        text = text.replace(placeholder, "")
    found = [token for token in wrappers if token in text]
    if found:
        raise ValueError(
            f"The prompt was rendered by a chat template other than ChatML (it holds {found[0]!r}), so the user's "
            "words cannot be told from the rest. Call `apply_chat_template` on the chat itself, "
            "or pass `instruction=`."
        )
    return extract_instruction(prompt, placeholders=placeholders)
