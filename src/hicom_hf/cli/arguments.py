"""Types of arguments: what argparse calls on the text that was given."""

import sys
from argparse import ArgumentTypeError
from pathlib import Path

MOST_SEED = 2**63 - 1  # that torch takes
CONTROL_CHARACTERS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), 127, *range(128, 160))}
SAFE_TO_PRINT = {code: shown for code, shown in CONTROL_CHARACTERS.items() if chr(code) not in "\n\t"}


def at_least_one(text: str) -> int:
    """A whole number from 1 on."""
    value = whole_number(text)
    if value < 1:
        raise ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # also of more digits than Python converts
        raise ArgumentTypeError(f"must be a whole number, got {text!r}") from None


def seed_number(text: str) -> int:
    """A whole number from 0 on that torch takes as a seed."""
    value = whole_number(text)
    if not 0 <= value <= MOST_SEED:
        raise ArgumentTypeError(f"must be from 0 to {MOST_SEED}, got {value}")
    return value


def readable_text(text: str) -> str:
    """Text that a tokenizer can read; an argument that is not UTF-8 reaches Python with surrogates in it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ArgumentTypeError(f"is not valid UTF-8: {text!r}") from None
    return text


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


def part_of_parts(text: str) -> tuple[int, int]:
    """I/N as two numbers."""
    first, slash, second = text.partition("/")
    if not (slash and first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second)):
        raise ArgumentTypeError(f"must be I/N with I from 1 to N, such as 1/4; got {text!r}")
    return int(first), int(second)


def progress_bar(iterable, total: int, name: str):
    """Progress on stderr; see `hub.progress`."""
    from tqdm import tqdm

    return tqdm(iterable, total=total, desc=name, file=sys.stderr, leave=False)
