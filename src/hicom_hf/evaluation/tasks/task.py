"""What a task is: a record of how one benchmark is read, asked and marked."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...hub.progress import Progress
from ..questions import Question

Protocol = Literal["official", "lmms", "ours"]
PROTOCOLS: tuple[Protocol, ...] = ("ours", "official", "lmms")


@dataclass(frozen=True)
class Mark:
    """The mark of an answer.

    Attributes:
        parsed: the parsed answer; None if it cannot be parsed, which counts as wrong.
        value: 1 correct, 0 wrong; None where the correct answer is not published.
    """

    parsed: str | None
    value: float | None


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
        name: as in `hicom eval NAME`; also the name of its folder of results.
        title: for people.
        data: the source of its files.
        read: questions from its published files, given their folder and the protocol.
        mark: parses an answer strictly and compares.
        max_new_tokens: where an answer is cut, by protocol.
        protocols: those that are defined for it.
        protocol_mark: marks as the scripts of a protocol do, by protocol; for the second column.
        macro: the category whose groups' means are averaged; None for the mean of all questions.
        prepare: makes data that are made here, given folder and questions.
        finish: writes what a server wants, given the folder of results, the questions and their lines; once all is answered.
        ask: answers its questions by itself, given the session, the questions, how to ask and the progress; for
            videos that are no files.
        headline: a category and its value, of which the headline is; None for all questions.
        report: a text for people, from the questions and their lines.
        plot: draws a PNG file, given the questions, their lines and its path; None for bars by category.
        hub_dataset: id of the data set on the Hub, for results beside weights.
        paper: the paper's number by sampled frames, in percent unless its note says otherwise.
        paper_note: table and settings of these numbers.
    """

    name: str
    title: str
    data: str
    read: Callable[[Path, Protocol], list[Question]]
    mark: Callable[[Question, str], Mark]
    max_new_tokens: dict[Protocol, int]
    protocols: tuple[Protocol, ...] = PROTOCOLS
    protocol_mark: dict[Protocol, Callable[[Question, str], Mark]] = field(default_factory=dict)
    macro: str | None = None
    prepare: Callable[[Path, Sequence[Question], Progress], None] | None = None
    finish: Callable[[Path, Sequence[Question], Mapping[str, Mapping[str, Any]]], None] | None = None
    ask: Callable[..., Iterator[list[Any]]] | None = None
    headline: tuple[str, str] | None = None
    report: Callable[[Sequence[Question], Mapping[str, Mapping[str, Any]]], str] | None = None
    plot: Callable[[Sequence[Question], Mapping[str, Mapping[str, Any]], Path], None] | None = None
    hub_dataset: str | None = None
    paper: dict[int, float] = field(default_factory=dict)
    paper_note: str = ""
