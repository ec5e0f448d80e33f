"""How progress is shown: a function that takes an iterable, its length and a name, and gives the iterable back."""

from collections.abc import Callable, Iterable

Progress = Callable[[Iterable, int, str], Iterable]


def no_progress(iterable: Iterable, total: int, name: str) -> Iterable:
    """Show nothing."""
    return iterable
