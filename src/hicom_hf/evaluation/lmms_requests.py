"""From a request of lmms-eval to a question: the condition comes from the document, not from the prompt.

Needs nothing of lmms-eval, so that it can be tested without it. Source: lmms-eval 0.7.3.
"""

from collections.abc import Callable, Mapping
from typing import Any

from .questions import Question

# Their documents have the options, or the whole prompt, in `question`.
OPTIONS_INSIDE = ("mlvu", "tempcompass", "temporalbench")
DEFAULT_NEW_TOKENS = 256


def question_of(
    name: str,
    task: str,
    document: Mapping[str, Any],
    messages: list[Mapping[str, Any]],
    settings: Mapping[str, Any],
    extract: Callable[[str], str],
) -> Question:
    """What is asked by a request.

    Args:
        name: id of the question.
        task: of lmms-eval.
        document: its row.
        messages: in OpenAI's form; one turn with one video and the prompt.
        settings: of the generation.
        extract: `HiComProcessor.extract_instruction`.

    Raises:
        ValueError: the task hands over something that HICom does not take; the message names it.
    """
    if len(messages) != 1 or messages[0]["role"] != "user":
        raise ValueError(f"{task}: a request must be one turn of the user, got {[turn['role'] for turn in messages]}")
    if settings.get("temperature") or settings.get("do_sample"):
        raise ValueError(
            f"{task}: asks for drawn answers (temperature, do_sample); the adapter takes the likeliest words"
        )
    parts = messages[0]["content"]
    prompt = "\n".join(part["text"] for part in parts if part["type"] == "text")
    return Question(
        id=name,
        video=_video(task, [part for part in parts if part["type"] != "text"]),
        prompt=prompt,
        instruction=instruction_of(task, document, prompt, extract),
        max_new_tokens=int(settings.get("max_new_tokens", DEFAULT_NEW_TOKENS)),
    )


def instruction_of(task: str, document: Mapping[str, Any], prompt: str, extract: Callable[[str], str]) -> str:
    """The bare question: that of the document; what the prompt asks where the document has none.

    Example:
        >>> instruction_of("videomme", {"question": "Who?"}, "Select ... Who? A. he", str)
        'Who?'
    """
    question = document.get("question")
    if not isinstance(question, str) or not question.strip():
        return extract(prompt)
    return extract(question) if task.startswith(OPTIONS_INSIDE) else question


def _video(task: str, parts: list[Mapping[str, Any]]) -> str:
    """The path of the one video; temporalbench's path comes as one part per letter."""
    paths = [part["url"] for part in parts if isinstance(part.get("url"), str)]
    kinds = {part["type"] for part in parts}
    if kinds == {"video"} and len(paths) == len(parts):
        if len(paths) == 1:
            return paths[0]
        if all(len(path) == 1 for path in paths):
            return "".join(paths)
    hint = "; use longvideobench_val_v" if task.startswith("longvideobench") else ""
    raise ValueError(
        f"{task}: hands over {len(parts)} parts of {', '.join(sorted(kinds)) or 'no medium'}, not one video{hint}"
    )


def cut(text: str, until: Any) -> str:
    """The text up to the first of the strings that end an answer."""
    stops = [until] if isinstance(until, str) else list(until or ())
    for stop in stops:
        if stop:
            text = text.split(stop)[0]
    return text
