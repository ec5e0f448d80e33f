"""What the task `needle` reports: a table by group, method and length, and heat maps of length by place."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .haystacks import SCENE_FRAMES
from .pictures import Canvas, shade
from .questions import Question

WHOLE = "whole video"
GROUPS = ("attributes", "motion, when", "exist: yes", "exist: no", "two needles: order", WHOLE)
ALONE, CHOSEN, EVENLY, EVENLY_8, EVERYTHING = "alone", "question", "uniform", "uniform, 8 times", "everything"
METHODS = (CHOSEN, EVENLY, EVENLY_8, EVERYTHING)  # of a film; ALONE is the needle without hay
PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
CELL, LEFT, TOP, GAP = (58, 26), 120, 46, 24  # pixels
Lines = Mapping[str, Mapping[str, Any]]


def as_markdown(questions: Sequence[Question], lines: Lines) -> str:
    """Right answers in percent, over all places: one row per group and method, one column per length."""
    lengths = _lengths(questions)
    rows = [f"| | | {' | '.join(f'{length:,} frames' for length in lengths)} |", f"|---|---|{'---|' * len(lengths)}"]
    for group in GROUPS:
        alone = "-" if group == WHOLE else _percent(_values(questions, lines, group=group, method=ALONE))
        rows.append(f"| **{group}** | the scene alone | {' | '.join([alone] * len(lengths))} |")
        for method in METHODS:
            cells = [_percent(_values(questions, lines, group=group, method=method, length=one)) for one in lengths]
            rows.append(f"| | {method} | {' | '.join(cells)} |")
        chosen = [_answered(questions, lines, group=group, method=CHOSEN, length=one) for one in lengths]
        if group not in ("exist: no", WHOLE):
            cells = [_percent([_has_found(question, line) for question, line in some]) for some in chosen]
            rows.append(f"| | question: found every scene | {' | '.join(cells)} |")
        for used in ("mixture", "uniform"):
            cells = [_percent([line["selection"]["used"] == used for _, line in some]) for some in chosen]
            rows.append(f"| | question: nothing stood out, {used} | {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(questions: Sequence[Question], lines: Lines, path: Path) -> None:
    """Heat maps of length by place, one per group, of the frames that a question chooses and of as many even ones."""
    lengths = _lengths(questions)
    width = LEFT + 2 * (len(PLACES) * CELL[0] + GAP)
    block = TOP + len(lengths) * CELL[1] + 14
    canvas = Canvas(width, len(GROUPS) * block)
    for row, group in enumerate(GROUPS):
        for column, method in enumerate((CHOSEN, EVENLY)):
            x, y = LEFT + column * (len(PLACES) * CELL[0] + GAP), row * block
            canvas.text((x, y + 6), f"{group}; frames: {method} (%)")
            for index, place in enumerate(PLACES):
                canvas.text((x + index * CELL[0] + CELL[0] // 2, y + 27), f"{place:.0%}", anchor="ma")
            for line, length in enumerate(lengths):
                edge = y + TOP + line * CELL[1]
                if column == 0:
                    canvas.text((8, edge + 4), f"{length:,} frames")
                for index, place in enumerate(PLACES):
                    values = _values(questions, lines, group=group, method=method, length=length, place=place)
                    box = (x + index * CELL[0], edge, x + (index + 1) * CELL[0] - 2, edge + CELL[1] - 2)
                    canvas.box(box, shade(sum(values) / len(values)) if values else "lightgrey")
                    canvas.text((box[0] + CELL[0] // 2, edge + 4), _percent(values), anchor="ma", fill="white")
    canvas.save(path)


def _lengths(questions: Sequence[Question]) -> list[int]:
    return sorted({question.details["length"] for question in questions if question.details["method"] == CHOSEN})


def _values(questions: Sequence[Question], lines: Lines, **wanted: Any) -> list[float]:
    """Marks of the cells that fit."""
    return [line["value"] for _, line in _answered(questions, lines, **wanted)]


def _answered(questions: Sequence[Question], lines: Lines, **wanted: Any) -> list[tuple[Question, Mapping[str, Any]]]:
    """Questions whose details fit, each with its line."""
    return [
        (question, lines[question.id])
        for question in questions
        if question.id in lines and all(question.details[name] == value for name, value in wanted.items())
    ]


def _has_found(question: Question, line: Mapping[str, Any]) -> bool:
    """Whether every needle gave a frame; a film has a frame per second."""
    return all(
        any(start <= time < start + SCENE_FRAMES for time in line["times"]) for start in question.details["needles"]
    )


def _percent(values: Sequence[float]) -> str:
    return f"{100 * sum(values) / len(values):.0f}" if values else "-"
