"""What multiple-choice tasks share: lettered options, and marks of the strict parser."""

from collections.abc import Sequence

from ..parsing import LETTERS, parse_choice
from ..questions import Question
from .task import Mark

BEST_OPTION = "Answer with the option's letter from the given choices directly and only give the best option."
LETTER_ONLY = "Answer with the option's letter from the given choices directly."


def lettered(options: Sequence[str], form: str = "({letter}) {option}") -> str:
    """Options in lines, each with its letter."""
    return "\n".join(
        form.format(letter=letter, option=option) for letter, option in zip(LETTERS, options, strict=False)
    )


def letter_of(answer: str, options: Sequence[str]) -> str:
    """The letter of the option that is the right answer.

    Raises:
        ValueError: none is, or several are.
    """
    if list(options).count(answer) != 1:
        raise ValueError(f"the answer {answer!r} is not exactly one of the options {list(options)}")
    return LETTERS[list(options).index(answer)]


def mark_choice(question: Question, answer: str) -> Mark:
    """The strict mark: the letter that the answer names; what names none is wrong."""
    return letter_mark(question, parse_choice(answer, question.options))


def letter_mark(question: Question, parsed: str | None) -> Mark:
    """The mark of a letter that was found in an answer, None for none; without a value if the right one is not published."""
    return Mark(parsed, None if question.gold is None else float(parsed == question.gold))
