"""Which pairs are dropped for what they say; each rule has its own counter."""

from collections.abc import Callable, Mapping

PAPER_PHRASES = ("not provide", "not describe")  # section 3.2: "such as"
# Ours: phrases of a captioner that refer to its task. "not show" is not among them, because good answers contain it, too.
REFUSALS = ("i cannot", "i can't", "i'm unable", "i am unable", "i'm sorry", "as an ai", "unable to determine")
OF_THE_TASK = ("the caption", "the description above", "the provided", "the frames", "these frames")
LEAST_ANSWER_WORDS = 3  # rule 2 of the paper: the answer describes in detail

Pair = Mapping[str, str]


def _says(phrases: tuple[str, ...]) -> Callable[[Pair], bool]:
    return lambda pair: any(phrase in pair["answer"].lower() for phrase in phrases)


RULES: dict[str, Callable[[Pair], bool]] = {
    "paper: not provide, not describe": _says(PAPER_PHRASES),
    "refusal": _says(REFUSALS),
    "speaks of its task": _says(OF_THE_TASK),
    "too short an answer": lambda pair: len(pair["answer"].split()) < LEAST_ANSWER_WORDS,
    "instruction is empty": lambda pair: not any(sign.isalnum() for sign in pair["instruction"]),
}


def reason_to_drop(pair: Pair) -> str | None:
    """The first rule that a pair breaks, None if it is kept.

    Example:
        >>> reason_to_drop({"instruction": "Describe the cat.", "answer": "The video does not provide that."})
        'paper: not provide, not describe'
        >>> reason_to_drop({"instruction": "Describe the cat.", "answer": "A black cat asleep on a chair."})
    """
    return next((name for name, breaks in RULES.items() if breaks(pair)), None)


def without_repetitions(pairs: list[Pair]) -> tuple[list[Pair], int]:
    """Pairs of a clip, each instruction once, and how many were dropped."""
    seen: dict[str, Pair] = {}
    for pair in pairs:
        seen.setdefault(" ".join(pair["instruction"].lower().split()), pair)
    return list(seen.values()), len(pairs) - len(seen)
