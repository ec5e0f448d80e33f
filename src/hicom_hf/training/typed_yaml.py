"""YAML with types: a mapping becomes a dataclass, and every wrong key or value is an error that names the key."""

import re
import types
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ..hub.reading import nested_too_deeply


class _Loader(yaml.SafeLoader):
    """YAML with YAML 1.2's floats, and without repeated keys."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ValueError(f"the key {key!r} stands there twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, for which 1e-3 is a text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_yaml(text: str, name: str) -> Any:
    """Parse YAML.

    Raises:
        ValueError: if it is not YAML, or a key is repeated; with the file's name.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    except RecursionError as error:
        raise nested_too_deeply(name) from error


def set_value(values: dict[str, Any], override: str) -> None:
    """Put one "key=value" into a recipe's values, in place.

    Raises:
        ValueError: without "=", or with a key that leads through something that is no mapping.
    """
    key, separator, text = override.partition("=")
    key = key.strip()
    if not separator or not all(key.split(".")):
        raise ValueError(f"--set takes key=value, such as data.num_frames=16, got {override!r}")
    *parents, last = key.split(".")
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise ValueError(f"--set {override}: {parent!r} is not a mapping")
    values[last] = load_yaml(text, f"--set {override}") if text.strip() else None


# Types -------------------------------------------------------------------------------------------------------------------


def build(cls: type, values: Any, name: str, prefix: str = "") -> Any:
    """A dataclass from a mapping, every key and type checked.

    Args:
        cls: the dataclass; its fields may be dataclasses, literals, numbers, texts, lists of texts or of numbers, tuples of
            whole numbers, mappings, and null.
        values: as read from YAML.
        name: of the file, for messages.
        prefix: dotted key of the mapping itself, with a dot at its end.

    Raises:
        ValueError: an unknown or missing key, or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{name}: {prefix.rstrip('.')} must be a mapping of keys to values, got {values!r}")
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            close = get_close_matches(str(key), hints, n=1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else f"; the keys here are {', '.join(hints)}"
            raise ValueError(f"{name}: unknown key {prefix}{key}{hint}")
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    missing = [key for key in required if key not in values]
    if missing:
        raise ValueError(f"{name}: missing key {', '.join(prefix + key for key in missing)}")
    may_be_empty = {f.name for f in fields(cls) if f.default_factory is list}  # an empty list is their default
    given = {key: value for key, value in values.items() if value != [] or key not in may_be_empty}
    converted = {key: _convert(hints[key], value, name, prefix + key) for key, value in given.items()}
    try:
        return cls(**converted)
    except ValueError as error:  # values that the dataclass itself refuses
        raise ValueError(f"{name}: {prefix.rstrip('.')}: {error}") from error


def _convert(hint: Any, value: Any, name: str, key: str) -> Any:
    """`value` as `hint` says; a whole number is also a number with a fraction."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if isinstance(option, type) and is_dataclass(option):
            return build(option, value, name, f"{key}.")
        if get_origin(option) is Literal and isinstance(value, str) and value in get_args(option):
            return value
        if option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if option in (int, str, bool) and type(value) is option:
            return value
        if get_origin(option) is dict and isinstance(value, dict) and all(isinstance(entry, str) for entry in value):
            return value
        if (
            get_origin(option) is tuple
            and isinstance(value, (list, tuple))
            and all(type(item) is int for item in value)
        ):
            return tuple(value)
        if get_origin(option) is list:
            items = [value] if isinstance(value, str) else value
            numbers = get_args(option) == (float,)
            kinds = (int, float) if numbers else (str,)
            if isinstance(items, list) and items and all(type(item) in kinds for item in items):
                return [float(item) for item in items] if numbers else items
    raise ValueError(f"{name}: {key} must be {_words(options)}, got {value!r}")


def _words(options: tuple) -> str:
    """What is expected, for a message."""
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    words = []
    for option in options:
        if get_origin(option) is Literal:
            words.extend(get_args(option))
        elif get_origin(option) is dict:
            words.append("a mapping of keys to values")
        elif get_origin(option) is tuple:
            words.append("a list of whole numbers")
        elif get_origin(option) is list:
            words.append("a list of numbers" if get_args(option) == (float,) else "a list of texts")
        else:
            words.append(names[option])
    return " or ".join(words)
