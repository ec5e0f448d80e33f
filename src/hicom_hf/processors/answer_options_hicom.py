"""Answer options inside a prompt: where the list begins and ends, in any usual marking, listed or inline."""

import re
from itertools import pairwise
from typing import NamedTuple

# Markings of an option, each with the key (a letter or a number) that must count up from the first to the last option.
# Tried in this order: an option marked by a capital letter may contain numbers or bullets, but not the other way round.
KEYS = {
    "capital": r"(?P<key>[A-Z])",
    "number": r"(?P<key>\d{1,2})",
    "roman": r"(?P<key>i{1,3}|iv|vi{0,3})",
    "small": r"(?P<key>[a-z])",
}
CIRCLED = r"(?P<key>[①-⑳Ⓐ-Ⓩⓐ-ⓩ])(?P<style>[.:、)]?)"  # signs that are key and mark in one
MARKINGS = (
    # Option A:, Choice 1 -
    r"(?:option|choice|candidate|answer|sentence|caption|description|statement)\s?{key}(?P<style>\s?[.:)]|\s-)",
    r"\|[ \t]*{key}(?P<style>[ \t]*\|)",  # | A | ... | (a row of a table)
    r"[(（]{key}(?P<style>[)）][.:]?)",  # (A)
    r"[\[【{{]{key}(?P<style>[\]】}}][.:]?)",  # [A], 【A】, {A}
    r"<{key}(?P<style>>[.:]?)",  # <A>
    r"\*\*[(]?{key}(?P<style>[.:)]{{1,2}}\*\*|\*\*[.:)])",  # **A.**
    r"{key}(?P<style>\))",  # A)
    r"{key}(?P<style>[.．])",  # A.
    r"{key}(?P<style>\s?[:：])",  # A:
    r"{key}(?P<style>、)",  # A、
    r"{key}(?P<style>\s-\s)",  # A - ...
    r"{key}(?P<style>\s?(?:->|=>|→|\||/)\s)",  # A -> ..., A | ..., A/ ...
    r"a{key}(?P<style>\s?:)",  # a0: (TVQA)
    r"(?<=\n){key}(?P<style>[ \t]*\n)",  # A on a line of its own
)
ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii")
BULLET_LINES = re.compile(
    r"(?m)(?:^[ \t]*(?P<bullet>[-*•●▪‣])[ \t]+\S.*(?:\n|\Z))(?:^[ \t]*(?P=bullet)[ \t]+\S.*(?:\n|\Z))+"
)
# What may stand in front of the first option of an inline list: nothing, the end of a sentence or a colon.
LIST_MAY_BEGIN = re.compile(r"(?:\A|\n|[.?!:：;。？！)\"”'*“‘])[ \t]*\Z")
QUOTATION_MARKS = "\"'“‘"
LONGEST_HEADER = 200  # characters
LONGEST_OPTION = 600  # characters; two marks further apart belong to no list

# The words that announce options, as a sentence or line of its own that ends in a colon.
OPTION_WORDS = r"(?:options?|choices?|candidates?|alternatives|answers|selections?)"
ANNOUNCEMENTS = (
    # "Options:", "Answer choices:", "Here are the possible answers:", "The options are as follows:"
    r"(?:(?:here|these|below|following|listed below)\s+are\s+)?(?:the\s+|your\s+)?"
    r"(?:(?:following|answer|possible|candidate|multiple[- ]choice|available|given|listed|mcq)\s+){0,2}"
    rf"{OPTION_WORDS}(?:\s+list)?(?:\s+(?:are|is))?"
    r"(?:\s+(?:as follows|below|given below|listed below|the following|following|to choose from))*",
    # "Choose from:", "Select one of the following options:"
    r"(?:please\s+)?(?:choose|select|pick)\s+(?:(?:one|the best|the correct|an?)\s+)?(?:\w+\s+){0,2}?"
    r"(?:from|among|between|one of|out of)\b(?:\s+(?:the\s+)?"
    r"(?:following|below|given|provided|available|these|options?|choices?|answers?))*",
    r"选项|候选答案|選択肢|선택지|보기|opciones|alternativas|opções|opzioni|(?:antwort)?optionen|antwortmöglichkeiten"
    r"|choix|réponses possibles|варианты(?: ответ\w+)?",
)
HEADER = re.compile(
    r"(?:^|(?<=[.?!:;。？！)\"”\n]))[ \t]*(?:\*\*|#+[ \t]*)?"
    rf"(?:{'|'.join(ANNOUNCEMENTS)})\s*(?:\*\*)?\s*[:：](?:\*\*)?",
    flags=re.IGNORECASE,
)
# In front of a list these announce as well: "Here are the choices.", "Options are"
HEADER_AT_END = re.compile(HEADER.pattern.replace("[:：]", r"(?:[.:：]|(?<=\bare))") + r"\s*\Z", flags=re.IGNORECASE)
# What of a list stands in front of its first mark: a bullet, a quotation mark, the head of a table.
HEAD_OF_LIST = re.compile(r"(?:\n[ \t]*[-*•●▪‣][ \t]*|(?<=[ :])\[?[\"'“‘]|(?:\n[ \t]*\|[^\n]*\|[ \t]*)+)\s*\Z")


class _Mark(NamedTuple):
    start: int  # of the mark
    end: int  # of the mark: where the option's text begins
    number: int  # 0 for the first option
    style: str


def split_options(text: str) -> tuple[str, str]:
    """Split a prompt at its answer options.

    Args:
        text: a prompt.

    Returns:
        What stands before the options, without the words that announce them, and what stands behind them. A text without
        options is all before. An inline list takes the rest of its line along, since nothing shows where its last option
        ends.

    Example:
        >>> split_options("Which one?\\nOptions: (A) red (B) blue\\nAnswer:")
        ('Which one?', 'Answer:')
    """
    span = _option_list(text)
    if span is not None:
        before, after = HEAD_OF_LIST.sub("", text[: span[0]]), text[span[1] :]
        header = HEADER_AT_END.search(before)
        if header:
            before = before[: header.start()]
        return before.rstrip(), after.strip()
    headers = list(HEADER.finditer(text))
    if headers and text[headers[-1].end() :].strip():
        # Options without marks: "Options: red, blue, green".
        line_end = text.find("\n", _first_word(text, headers[-1].end()))
        line_end = len(text) if line_end < 0 else line_end
        return text[: headers[-1].start()].rstrip(), text[line_end:].strip()
    if headers:
        return text[: headers[-1].start()].rstrip(), ""
    return text, ""


def option_texts(text: str) -> list[str]:
    """Texts of the lettered options of a prompt, without their marks; none if it has no such list.

    An option that is the last of an inline list takes the rest of its line along.

    Args:
        text: a prompt.

    Example:
        >>> option_texts("Which one?\\n(A) red\\n(B) blue\\nAnswer:")
        ['red', 'blue']
    """
    for kind in ("capital", "small"):
        for marking in _markings(kind):
            pattern = _mark_pattern(marking)
            for start, end in _lists(text, kind, marking):
                return [part.strip(" \t\n,;/|") for part in pattern.split(text[start:end])[3::3]]
    return []


def _first_word(text: str, position: int) -> int:
    found = re.compile(r"\S").search(text, position)
    return found.start() if found else position


def _option_list(text: str) -> tuple[int, int] | None:
    """Where the last list of options stands, None if there is none."""
    for kind in (*KEYS, "circled"):
        spans = [span for marking in _markings(kind) for span in _lists(text, kind, marking)]
        if spans:
            return max(spans, key=lambda span: (span[1], -span[0]))
    bullets = [found for found in BULLET_LINES.finditer(text) if not _asks(found[0])]
    return bullets[-1].span() if bullets else None


def _markings(kind: str) -> list[str]:
    return [CIRCLED] if kind == "circled" else [marking.format(key=KEYS[kind]) for marking in MARKINGS]


def _lists(text: str, kind: str, marking: str) -> list[tuple[int, int]]:
    """Lists of two or more options with one marking, as spans."""
    pattern = _mark_pattern(marking)
    marks = [
        _Mark(found.start(), found.end(), _number(kind, found["key"]), found["style"])
        for found in pattern.finditer(text)
    ]
    spans = []
    for place, first in enumerate(marks):
        # Numbers may count from 0; "I." is a person more often than a ninth option.
        if first.number > (1 if kind == "number" else 0) or not _may_begin(text, first.start):
            continue
        if first.start and text[first.start - 1] in QUOTATION_MARKS and not _is_announced(text[: first.start]):
            continue  # the sign 'A. Miller'
        chain = [first]
        for mark in (marks[later] for later in range(place + 1, len(marks))):
            if mark.start - chain[-1].end > LONGEST_OPTION:
                break
            if mark.number == chain[-1].number + 1 and _is_option(text[chain[-1].end : mark.start]):
                chain.append(mark)
        if len(chain) >= 2 and _is_list(text, chain, kind):
            line_end = text.find("\n", _first_word(text, chain[-1].end))
            spans.append((first.start, len(text) if line_end < 0 else line_end))
    return spans


def _is_announced(before: str) -> bool:
    return HEADER_AT_END.search(before[-LONGEST_HEADER:].rstrip(QUOTATION_MARKS + "[ ")) is not None


def _mark_pattern(marking: str) -> re.Pattern:
    """A mark where one may stand: line starts may be indented; inline, a blank or a separator stands before it."""
    return re.compile(
        rf"(?:(?<=\s)|(?<=[,;/|.?!:。？！)\"'“‘])|^)(?:{marking})", re.IGNORECASE if "option" in marking else 0
    )


def _may_begin(text: str, position: int) -> bool:
    return LIST_MAY_BEGIN.search(text[max(0, position - 40) : position]) is not None


def _is_option(text: str) -> bool:
    """Whether the words between two marks can be an option."""
    return (
        len(text) <= LONGEST_OPTION and "\n\n\n" not in text and re.search(r"[^\W_]|[^\s\w.,;:/|()]", text) is not None
    )


def _is_list(text: str, chain: list[_Mark], kind: str) -> bool:
    """Whether marks that count up make a list of options, and not a sentence with initials or a list of questions."""
    bodies = [text[mark.end : following.start] for mark, following in pairwise(chain)]
    on_lines = all("\n" in body for body in bodies)
    before = text[: chain[0].start].strip()
    if not on_lines and not before:
        return False  # "A. Smith meets B. Jones.": without anything before it, a sentence
    if not on_lines and kind in ("number", "roman") and "?" not in before and HEADER_AT_END.search(before) is None:
        return False  # "List the steps: 1) washing 2) cutting": the task itself
    return (
        kind in ("capital", "small", "circled")
        or HEADER_AT_END.search(before) is not None
        or not all(map(_asks, bodies))
    )


def _asks(text: str) -> bool:
    return text.rstrip().endswith(("?", "？"))


def _number(kind: str, key: str) -> int:
    if kind == "number":
        return int(key)
    if kind == "circled":
        return ord(key) - ord("①" if key <= "⑳" else "Ⓐ" if key <= "Ⓩ" else "ⓐ")
    if kind == "roman":
        return ROMAN.index(key) if key in ROMAN else -1
    return ord(key.lower()) - ord("a")
