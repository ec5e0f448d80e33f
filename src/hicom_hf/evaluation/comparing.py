"""Paired differences of runs over the same questions: the way to show what a change, such as compression, costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .results import read_answers, read_settings
from .scoring import score_answers
from .summaries import as_percent
from .tasks import TASKS


def compare(folders: Sequence[str | Path]) -> list[dict[str, Any]]:
    """The difference of each run to the first one, in points, over the questions that both have marked.

    The interval is that of paired differences, so it is narrower than what the intervals of both runs suggest.

    Args:
        folders: of results of one task, OUTPUT/TASK; at least two.

    Returns:
        For each but the first: both folders, the difference with its interval, and the number of questions that only one has.

    Raises:
        FileNotFoundError: a folder contains no results.
        ValueError: fewer than two folders, different tasks, different reference answers, or no question in common.
    """
    if len(folders) < 2:
        raise ValueError(f"comparing takes at least two folders of results, got {len(folders)}")
    tasks = {str(folder): read_settings(Path(folder))["task"] for folder in folders}
    if len(set(tasks.values())) > 1:
        raise ValueError(f"only runs of one task can be compared, got {tasks}")
    first = str(folders[0])
    macro = TASKS[tasks[first]].macro if tasks[first] in TASKS else None
    before = _marked(first)
    found = []
    for folder in map(str, folders[1:]):
        after = _marked(folder)
        common = [name for name in before if name in after]
        if not common:
            raise ValueError(f"{first} and {folder} have no marked question in common")
        changed = [name for name in common if before[name]["gold"] != after[name]["gold"]]
        if changed:
            raise ValueError(f"{first} and {folder} have different right answers to {changed[0]!r}: other data")
        score = score_answers(
            [after[name]["value"] - before[name]["value"] for name in common],
            [Path(before[name]["video"]).name for name in common],
            [before[name]["categories"][macro] for name in common] if macro else None,
        )
        found.append(
            {
                "from": first,
                "to": folder,
                "difference": as_percent(score),
                "only_in_one": len(set(before) ^ set(after)),
                "became_right": sum(after[name]["value"] > before[name]["value"] for name in common),
                "became_wrong": sum(after[name]["value"] < before[name]["value"] for name in common),
            }
        )
    return found


def as_text(differences: Sequence[dict[str, Any]]) -> str:
    """One line per pair."""
    lines = []
    for one in differences:
        score = one["difference"]
        lines.append(
            f"{one['to']} minus {one['from']}: {score['mean']:+.2f} points, 95 % interval {score['low']:+.2f} to "
            f"{score['high']:+.2f}; {score['num_questions']} questions about {score['num_videos']} videos, "
            f"{one['became_right']} became right, {one['became_wrong']} wrong"
            + (f"; {one['only_in_one']} questions of only one run are left out" if one["only_in_one"] else "")
        )
    return "\n".join(lines)


def _marked(folder: str) -> dict[str, dict[str, Any]]:
    return {name: line for name, line in read_answers(folder).items() if line["value"] is not None}
