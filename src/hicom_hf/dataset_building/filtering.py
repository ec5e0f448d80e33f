"""Which pairs are dropped for what they say; each rule has its own counter."""

from collections.abc import Mapping, Sequence
from typing import Any

from .settings import FilterSettings

PAPER_PHRASES = ("not provide", "not describe")  # section 3.2: "such as"
# Ours: phrases of a captioner that refer to its task. "not show" is not among them, because good answers contain it, too.
REFUSALS = ("i cannot", "i can't", "i'm unable", "i am unable", "i'm sorry", "as an ai", "unable to determine")
OF_THE_TASK = ("the caption", "the description above", "the provided", "the frames", "these frames")
PHRASES = {"paper: not provide, not describe": PAPER_PHRASES, "refusal": REFUSALS, "speaks of its task": OF_THE_TASK}
OWN_PHRASE, TOO_SHORT, EMPTY = "phrase of the build file", "too short an answer", "instruction is empty"
REPETITION = "the same instruction twice"
KEPT = "kept"

Pair = Mapping[str, str]


def rules(settings: FilterSettings) -> dict[str, Any]:
    """Plain values that all verdicts depend on."""
    phrases = {**PHRASES, OWN_PHRASE: tuple(phrase.lower() for phrase in settings.phrases or ())}
    return {
        "phrases": {name: list(found) for name, found in phrases.items()},
        "min_answer_words": settings.min_answer_words,
    }


def reason_to_drop(pair: Pair, settings: FilterSettings | None = None) -> str | None:
    """The first rule that a pair breaks, None if it is kept.

    Example:
        >>> reason_to_drop({"instruction": "Describe the cat.", "answer": "The video does not provide that."})
        'paper: not provide, not describe'
        >>> reason_to_drop({"instruction": "Describe the cat.", "answer": "A black cat asleep on a chair."})
    """
    applied, answer = rules(settings or FilterSettings()), pair["answer"].lower()
    for name, phrases in applied["phrases"].items():
        if any(phrase in answer for phrase in phrases):
            return name
    if len(answer.split()) < applied["min_answer_words"]:
        return TOO_SHORT
    return None if any(sign.isalnum() for sign in pair["instruction"]) else EMPTY


def verdicts(pairs: Sequence[Pair], settings: FilterSettings) -> list[str]:
    """Of each pair of one clip: "kept", or the reason why it is dropped; a repeated instruction is one.

    Example:
        >>> pair = {"instruction": "Describe the cat.", "answer": "A black cat asleep."}
        >>> verdicts([pair, pair], FilterSettings())
        ['kept', 'the same instruction twice']
    """
    seen: set[str] = set()
    found = []
    for pair in pairs:
        instruction = " ".join(pair["instruction"].lower().split())
        found.append(REPETITION if instruction in seen else reason_to_drop(pair, settings) or KEPT)
        seen.add(instruction)
    return found
