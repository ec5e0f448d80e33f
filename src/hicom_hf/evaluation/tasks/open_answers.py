"""Open answers: what counts is decided later, by a judge, from the stored words."""

from ..questions import Question
from .task import Mark


def mark_open(question: Question, answer: str) -> Mark:
    """The words as they are; an empty answer is wrong without a judge."""
    words = answer.strip()
    return Mark(words or None, None if words else 0.0)
