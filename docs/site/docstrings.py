"""Griffe extension: the package's docstrings in the form that the reference is rendered from.

Three habits of the docstrings have no counterpart in the parser: several names before one description ("start, end: seconds."),
"Example:" in place of "Examples:", and public names in backticks, which become links. They are rewritten before parsing. The
source is not changed.
"""

import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object

API_PAGES = Path(__file__).resolve().parents[1] / "api"
SHARED = re.compile(
    r"^(?P<indent> +)(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)+): (?P<text>.*(?:\n(?P=indent) +.*)*)", re.MULTILINE
)
EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
SECTION = re.compile(r"^( *)(?:Args|Attributes):\n((?:\1 +.*\n?|\n)+)", re.MULTILINE)
# A class, or a function whose name no argument is likely to have: words such as `questions` are left alone.
NAME = re.compile(r"(?<![`\[])`(?P<name>[A-Z]\w+|\w+_\w+)(?P<method>\.[a-z]\w+)?`(?![`\]])")


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

    def __init__(self) -> None:
        pages = "\n".join(page.read_text(encoding="utf-8") for page in sorted(API_PAGES.glob("*.md")))
        self.public = {path.rpartition(".")[2]: path for path in re.findall(r"^::: ([\w.]+)$", pages, re.MULTILINE)}

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called once for each object that is collected."""
        if obj.docstring:
            text = EXAMPLE.sub(r"\1Examples:", one_name_each(obj.docstring.value))
            own = {obj.name, obj.parent.name if obj.parent else ""}
            obj.docstring.value = "\n".join(
                line
                if line.lstrip().startswith((">>>", "..."))
                else NAME.sub(lambda found: self._linked(found, own), line)
                for line in text.split("\n")
            )

    def _linked(self, found: re.Match, own: set[str]) -> str:
        path = self.public.get(found["name"])
        if path is None or found["name"] in own:
            return found[0]
        return f"[{found[0]}][{path}{found['method'] or ''}]"
