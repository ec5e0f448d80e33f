"""Types of arguments: what argparse calls on the text that was given."""

from argparse import ArgumentTypeError


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
