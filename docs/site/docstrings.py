"""Griffe extension: the package's docstrings in the form that the reference is rendered from.

Two habits of the docstrings have no counterpart in the parser: several names before one description ("start, end: seconds."),
and "Example:" in place of "Examples:". Both are rewritten before parsing. The source is not changed.
"""

import re
from typing import Any

from griffe import Extension, Object

SHARED = re.compile(
    r"^(?P<indent> +)(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)+): (?P<text>.*(?:\n(?P=indent) +.*)*)", re.MULTILINE
)
EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
SECTION = re.compile(r"^( *)(?:Args|Attributes):\n((?:\1 +.*\n?|\n)+)", re.MULTILINE)


def one_name_each(text: str) -> str:
    """A description that stands behind several names is given to each of them.

    >>> one_name_each("Args:\\n    a, b: numbers.")
    'Args:\\n    a: numbers.\\n    b: numbers.'
    """

    def split(entry: re.Match) -> str:
        return "\n".join(f"{entry['indent']}{name}: {entry['text']}" for name in entry["names"].split(", "))

    return SECTION.sub(lambda section: SHARED.sub(split, section[0]), text)


class PackageDocstrings(Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called once for each object that is collected."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(r"\1Examples:", one_name_each(obj.docstring.value))
