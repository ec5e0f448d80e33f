"""Errors that name the file or folder that was being read when they arose; JSON files whose damage is one clear error."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError

# Errors that libraries and our own checks raise for values of a damaged or hand-edited file.
WRONG_VALUES = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    StrictDataclassError,
    TemplateError,
)
READING = "while reading "  # how the note of an error begins


class Reading:
    """Errors that leave this block say what was being read, in a note; the error itself stays as it is.

    A library's own message about a damaged file often names neither file nor folder. Python shows the notes of an error below
    it, and the `hicom` command puts them in front of its message.

    Args:
        what: path, repo id or URL.

    Example:
        >>> try:
        ...     with Reading("model/config.json"):
        ...         {}["model_type"]
        ... except KeyError as error:
        ...     print(error, error.__notes__)
        'model_type' ['while reading model/config.json']
    """

    def __init__(self, what: object):
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"{READING}{self.what}")


class ReadingValues(Reading):
    """As `Reading`; what a library raises over wrong values becomes a `ValueError` that names what was being read.

    Example:
        >>> with ReadingValues("config.json"):
        ...     1 / 0
        Traceback (most recent call last):
            ...
        ValueError: config.json holds values that cannot be: ZeroDivisionError: division by zero
    """

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, where)
        if isinstance(error, WRONG_VALUES) and not isinstance(error, ValueError):
            raise ValueError(f"{self.what} holds values that cannot be: {message_of(error)}") from error


def message_of(error: BaseException) -> str:
    """The message of an error, with its type where the message alone says nothing, such as that of a KeyError."""
    return str(error) if isinstance(error, (ValueError, TypeError, OSError)) else f"{type(error).__name__}: {error}"


def being_read(error: BaseException) -> list[str]:
    """What was being read when an error arose, the innermost first; errors that it was made from come after itself.

    Example:
        >>> being_read(ValueError("no note"))
        []
    """
    found: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        notes = (note.removeprefix(READING) for note in getattr(current, "__notes__", ()) if note.startswith(READING))
        found += [note for note in notes if note not in found]
        current = current.__cause__ or current.__context__
    return found


def nested_too_deeply(name: str) -> ValueError:
    """The error in place of the `RecursionError` that a parser of JSON or YAML ends with; `name` is what was being read."""
    return ValueError(f"{name} is nested too deeply to be read")


def parse_json(text: str | bytes, name: str) -> Any:
    """The value of a JSON text.

    Args:
        text: bytes are UTF-8.
        name: what it is, for the error.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise nested_too_deeply(name) from error
    except ValueError as error:  # also wrong UTF-8
        raise ValueError(f"{name}: this is not JSON ({error})") from error


def read_json_object(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON, or something else than an object; names the file.
    """
    values = parse_json(Path(path).read_bytes(), str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


def shard_names(index: str | Path) -> list[str]:
    """The weight files that an index (`model.safetensors.index.json`) names, sorted.

    Raises:
        OSError: the index cannot be read.
        ValueError: it names no files, or one outside of its own folder; names the index.
    """
    named = read_json_object(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise ValueError(f"{index} must have a weight_map that gives the file of each tensor")
    for name in named.values():
        if Path(name).name != name or name in ("", ".", ".."):
            raise ValueError(f"{index} names {name!r}, which is no file of its own folder; it is not read")
    return sorted(set(named.values()))
