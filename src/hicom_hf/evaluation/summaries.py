"""From the lines of a folder of results to numbers: headline, categories, what failed, what it cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from ..processors.frame_selection_hicom import RULES
from .questions import Question
from .scoring import Score, paper_text, score_answers
from .tasks.task import Protocol, Task

PERCENT = 100


def summarize(
    task: Task,
    questions: Sequence[Question],
    lines: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    limited: bool = False,
) -> dict[str, Any]:
    """The summary of a task.

    What cannot be parsed and what belongs to a video that cannot be read counts as wrong in `score`.

    Args:
        task: that was run.
        questions: that were to be answered.
        lines: by the id of their question.
        settings: of the folder.
        limited: whether the task has more questions.
    """
    answered = [(question, lines[question.id]) for question in questions if question.id in lines]
    marked = [(question, line) for question, line in answered if line["value"] is not None]
    headline = [pair for pair in marked if task.headline is None or task.headline in pair[0].categories.items()]
    read = [(question, line) for question, line in answered if line["failure"] is None]
    failures = {line["video"]: line["failure"] for _, line in answered if line["failure"] is not None}
    return {
        "task": task.name,
        "settings": dict(settings),
        "num_questions": len(questions),
        "num_answered": len(answered),
        "complete": not limited and len(answered) == len(questions),
        "score": _score(task, headline),
        "unparsed": sum(line["parsed"] is None and line["failure"] is None for _, line in answered),
        "failed_videos": failures,
        "score_without_failed": _score(task, [pair for pair in headline if pair[1]["failure"] is None])
        if failures
        else None,
        "protocol_score": _protocol_score(task, settings["protocol"], headline),
        "paper": None if {"selection", "tiles"} & set(settings) else task.paper.get(_num_frames(settings)),
        "categories": {
            category: {
                value: _score(
                    task, [pair for pair in marked if pair[0].categories.get(category) == value], macro=False
                )
                for value in dict.fromkeys(
                    question.categories[category] for question, _ in marked if category in question.categories
                )
            }
            for category in dict.fromkeys(name for question, _ in marked for name in question.categories)
        },
        "chosen_by": _rules(read),
        "per_question": _costs(read),
        "report": None if task.report is None or not answered else task.report(questions, lines),
    }


def _num_frames(settings: Mapping[str, Any]) -> Any:
    """Frames that were asked for, or those that the model takes by itself."""
    return (settings["sampling"] or settings.get("model_sampling", {})).get("num_frames")


def _score(task: Task, pairs: Sequence[tuple[Question, Mapping]], macro: bool = True) -> dict[str, float] | None:
    """In percent; None where nothing is marked."""
    if not pairs:
        return None
    groups = [question.categories[task.macro] for question, _ in pairs] if macro and task.macro else None
    return as_percent(score_answers([line["value"] for _, line in pairs], [q.video for q, _ in pairs], groups))


def as_percent(score: Score) -> dict[str, float]:
    """A score of fractions as plain values, in percent."""
    values = asdict(score)
    return {name: PERCENT * values[name] if name in ("mean", "low", "high") else values[name] for name in values}


def _protocol_score(task: Task, protocol: Protocol, marked: Sequence[tuple[Question, Mapping]]) -> dict | None:
    """The same answers as the protocol's own scripts mark them; None where it has no parser of its own."""
    mark = task.protocol_mark.get(protocol)
    if mark is None or not marked:
        return None
    values = [(question, {**line, "value": mark(question, line["answer"] or "").value}) for question, line in marked]
    return _score(task, [pair for pair in values if pair[1]["value"] is not None])


def _rules(read: Sequence[tuple[Question, Mapping]]) -> dict[str, int] | None:
    """Questions by the rule that chose their frames in the end, "uniform" where nothing stood out; None without a selection."""
    used = Counter(line["selection"]["used"] for _, line in read if "selection" in line)
    return {rule: used[rule] for rule in RULES if rule in used} or None


def _costs(read: Sequence[tuple[Question, Mapping]]) -> dict[str, float]:
    """Means of tokens per question, and of seconds per video (read, encode) and batch (answer, the mean over questions)."""
    if not read:
        return {}
    found = {
        name: fmean(line[name] for _, line in read)
        for name in ("num_visual_tokens", "num_prompt_tokens", "num_new_tokens")
    }
    videos = {(line["video"], tuple(line["times"])): line["seconds"] for _, line in read}
    per_video = {f"{name}_seconds": fmean(one[name] for one in videos.values()) for name in ("read", "encode")}
    return found | per_video | {"answer_seconds": fmean(line["seconds"]["answer"] for _, line in read)}


def as_table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """One row per task for people."""
    rows = [("task", "questions", "score", "95 % interval", "protocol's parser", "paper", "unparsed", "failed videos")]
    for summary in summaries:
        score, by_protocol = summary["score"], summary["protocol_score"]
        rows.append(
            (
                summary["task"],
                f"{summary['num_answered']}/{summary['num_questions']}",
                "-" if score is None else f"{score['mean']:.1f}",
                "-" if score is None else f"{score['low']:.1f} to {score['high']:.1f}",
                "-" if by_protocol is None else f"{by_protocol['mean']:.1f}",
                paper_text(summary["paper"]) or "-",
                str(summary["unparsed"]),
                str(len(summary["failed_videos"])),
            )
        )
    if any(summary.get("chosen_by") for summary in summaries):
        chosen = [summary.get("chosen_by") or {} for summary in summaries]
        cells = [", ".join(f"{rule} {count}" for rule, count in one.items()) or "-" for one in chosen]
        rows = [(*row, cell) for row, cell in zip(rows, ["frames chosen by", *cells], strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
