"""Questions of a file about many videos: captioning or asking a whole library, resumable and in shards.

```
questions.jsonl   {"video": "a.mp4", "question": "What happens?"}   and, if wanted, id, instruction, start, end
answers.jsonl     the same with answer, or the reason why there is none, and what was chosen; written once all are answered
answers.jsonl.run/  the run so far, see `results.py`; the same command resumes it
```
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..hub.files import require_file, write_text
from ..hub.reading import parse_json
from .questions import Question
from .tasks.open_answers import mark_open
from .tasks.task import Protocol, Task

RUN_SUFFIX = ".run"
TASK_NAME = "answers"
FIELDS = {"id": str, "video": str, "question": str, "instruction": str, "start": float, "end": float}


def questions_task(questions_file: str | Path, output: str | Path, max_new_tokens: int) -> Task:
    """A file of questions as a task of `evaluate`, which writes `output` once all are answered.

    Args:
        questions_file: JSON lines.
        output: JSON lines to write.
        max_new_tokens: where an answer is cut.
    """
    return Task(
        name=TASK_NAME,
        title=f"questions of {questions_file}",
        data=str(questions_file),
        read=partial(_read, Path(questions_file)),
        mark=mark_open,
        max_new_tokens={"ours": max_new_tokens},
        protocols=("ours",),
        finish=partial(_write, Path(output)),
    )


def _read(path: Path, folder: Path, protocol: Protocol) -> list[Question]:
    """Questions of a file; relative paths of videos are relative to it.

    Raises:
        ValueError: a line is no question; the message names line and field.
    """
    found = []
    for number, line in enumerate(require_file(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        row = _row(line, f"{path}, line {number}")
        video = row["video"] if "://" in row["video"] else str(path.parent / row["video"])
        found.append(
            Question(
                id=row.get("id", str(number)),
                video=video,
                prompt=row["question"],
                instruction=row.get("instruction"),
                start=row.get("start"),
                end=row.get("end"),
                details={"row": row},
            )
        )
    if not found:
        raise ValueError(f"{path}: there is no question in it")
    return found


def _row(line: str, place: str) -> dict[str, Any]:
    row = parse_json(line, place)
    if not isinstance(row, dict):
        raise ValueError(f"{place}: expected an object with video and question, got {type(row).__name__}")
    unknown = sorted(set(row) - set(FIELDS))
    if unknown:
        raise ValueError(f"{place}: unknown field {unknown[0]!r}; known are {', '.join(FIELDS)}")
    for name, kind in FIELDS.items():
        needed = name in ("video", "question")
        if name in row and kind is float and isinstance(row[name], int):
            row[name] = float(row[name])
        if (needed and not row.get(name)) or (name in row and not isinstance(row[name], kind)):
            raise ValueError(
                f"{place}: {name!r} must be {'text' if kind is str else 'a number'}, got {row.get(name)!r}"
            )
    if not row["question"].strip():
        raise ValueError(f"{place}: the question is empty")
    return row


def _write(output: Path, folder: Path, questions: Sequence[Question], lines: Mapping[str, Mapping[str, Any]]) -> None:
    """The answers in the order of the questions."""
    rows = []
    for question in questions:
        line = lines[question.id]
        kept = {name: line[name] for name in ("answer", "failure", "instruction")}
        kept |= {name: line[name] for name in ("selection", "tiles") if name in line}
        if "selection" in line:  # beside the numbers of its frames
            kept["times"] = line["times"]
        rows.append({"id": question.id, **question.details["row"], **kept})
    write_text(output, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
