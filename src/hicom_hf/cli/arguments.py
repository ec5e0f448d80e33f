"""Types of arguments: what argparse calls on the text that was given."""

from argparse import ArgumentTypeError
from pathlib import Path


def at_least_one(text: str) -> int:
    """A whole number from 1 on."""
    value = whole_number(text)
    if value < 1:
        raise ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"must be a whole number, got {text!r}") from None


def seed_number(text: str) -> int:
    """A whole number from 0 on."""
    value = whole_number(text)
    if value < 0:
        raise ArgumentTypeError(f"must be 0 or above, got {value}")
    return value


def check_picture(path: Path, argument: str) -> None:
    """Refuse a picture that could not be written in the end, before the work.

    Raises:
        FileNotFoundError: it is a folder, or would lie in none.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path}: the picture cannot be written there; {argument} takes a file in a folder that exists"
        )


def not_negative(text: str) -> float:
    """A finite number from 0 on."""
    value = number(text)
    if value < 0:
        raise ArgumentTypeError(f"must be 0 or above, got {text}")
    return value


def above_zero(text: str) -> float:
    """A finite number above 0."""
    value = number(text)
    if value <= 0:
        raise ArgumentTypeError(f"must be above 0, got {text}")
    return value


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not abs(value) < float("inf"):
        raise ArgumentTypeError(f"must be a finite number, got {text}")
    return value
