"""A folder of results: one JSON line per answer as it comes, and the settings that all of them were made with.

```
OUTPUT/TASK/
    settings.json
    answers.jsonl              one line per question, in the order of the task once all are answered
    shard-1-of-2/answers.jsonl of a run with --shard 1/2; the last shard to end joins them into the file above
    summary.json
    summary.png                the score and its categories as bars, or what the task draws
```
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..hub.files import FolderLock, append_json_line, read_json_lines, write_text
from .questions import Question
from .runner import Asked
from .tasks.task import Mark

ANSWERS_FILE, SETTINGS_FILE, SUMMARY_FILE = "answers.jsonl", "settings.json", "summary.json"
PLOT_FILE = "summary.png"
DECIMALS = 3  # of times and seconds


class ResultsFolder:
    """The answers of one task.

    Args:
        folder: made if it is not there.
        settings: plain values that every answer in the folder depends on.
        part: this run's shard and how many there are.

    Raises:
        ValueError: the folder was made with other settings; the message names those that differ.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], part: tuple[int, int] = (1, 1)):
        self.folder = Path(folder)
        self.settings = dict(settings)
        number, num_parts = part
        self.place = self.folder if num_parts == 1 else self.folder / f"shard-{number}-of-{num_parts}"
        check_settings(self.folder, self.settings)
        self.lock = FolderLock(self.place, "hicom eval")

    def __enter__(self) -> "ResultsFolder":
        self.lock.__enter__()
        if not (self.folder / SETTINGS_FILE).exists():
            write_text(self.folder / SETTINGS_FILE, json.dumps(self.settings, indent=1))
        return self

    def __exit__(self, *exception) -> None:
        self.lock.__exit__(*exception)

    def answers(self) -> dict[str, dict[str, Any]]:
        """All lines by the id of their question, those of other shards as well."""
        return read_answers(self.folder)

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line; it survives what happens to this process afterwards."""
        append_json_line(self.place / ANSWERS_FILE, line)

    def join(self, questions: Sequence[Question]) -> bool:
        """Once all questions are answered, write their lines in order into one file; returns whether they are.

        Args:
            questions: in their order; lines of others, of a run without a limit, stay behind them.
        """
        lines = self.answers()
        if any(question.id not in lines for question in questions):
            return False
        first = {question.id: lines[question.id] for question in questions}
        write_text(self.folder / ANSWERS_FILE, "\n".join(json.dumps(line) for line in (first | lines).values()))
        return True


def read_answers(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Lines of a folder of results by the id of their question."""
    files = [Path(folder) / ANSWERS_FILE, *sorted(Path(folder).glob(f"shard-*-of-*/{ANSWERS_FILE}"))]
    return {line["id"]: line for file in files for line in read_json_lines(file)}


def read_settings(folder: str | Path) -> dict[str, Any]:
    """What the answers of a folder depend on.

    Raises:
        FileNotFoundError: it is no folder of results.
    """
    return read_results_file(folder, SETTINGS_FILE)


def read_results_file(folder: str | Path, name: str) -> dict[str, Any]:
    """A JSON file that every folder of results holds.

    Raises:
        FileNotFoundError: it is no folder of results.
    """
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no folder of results (no {name}); name OUTPUT/TASK")
    return json.loads(path.read_text(encoding="utf-8"))


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder that was made with other settings.

    Raises:
        ValueError: some differ.
    """
    path = folder / SETTINGS_FILE
    if not path.exists():
        if (folder / ANSWERS_FILE).exists():
            raise ValueError(f"{folder} holds answers without {SETTINGS_FILE}; choose another folder")
        return
    theirs = json.loads(path.read_text(encoding="utf-8"))
    ours = json.loads(json.dumps(settings))
    differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    if differing:
        pairs = ", ".join(f"{name} {theirs.get(name)!r} there and {ours.get(name)!r} now" for name in differing)
        raise ValueError(f"{folder} holds results of other settings ({pairs}); choose another --output")


def answer_line(asked: Asked, mark: Mark) -> dict[str, Any]:
    """What is kept of an answer."""
    question, answer, video = asked.question, asked.answer, asked.video
    line: dict[str, Any] = {
        "id": question.id,
        "video": question.video,
        "categories": question.categories,
        "prompt": asked.prompt,
        "instruction": question.instruction if answer is None else answer.instruction,
        "gold": question.gold,
        "failure": asked.failure,
        "answer": None,
        "parsed": mark.parsed,
        "value": mark.value,
    }
    if answer is None or video is None:
        return line
    record, selection = video.encoded.sampling, answer.selection
    chosen = {}
    if selection is not None:
        scores = [round(score, DECIMALS) for score in selection.scores]
        chosen["selection"] = {
            "used": selection.used,
            "reason": selection.reason,
            "indices": list(selection.indices),
            "scores": scores,
        }
    if answer.tiles is not None:
        best = answer.tiles.tiles[0]
        box = [round(part, DECIMALS) for part in best.box]
        chosen["tiles"] = {"zoom": answer.tiles.zoom, "best": {"box": box, "score": round(best.score, DECIMALS)}}
    return line | {
        "answer": answer.answer,
        "finished": answer.finished,
        "times": [round(time, DECIMALS) for time in record.times],
        "num_visual_tokens": video.encoded.num_visual_tokens,
        "num_prompt_tokens": answer.num_prompt_tokens,
        "num_new_tokens": answer.num_new_tokens,
        "seconds": {
            "read": round(asked.read_seconds, DECIMALS),
            "encode": round(video.encoded.seconds, DECIMALS),
            "answer": round(answer.seconds, DECIMALS),
        },
        **chosen,
    }
