"""EgoSchema: 5,031 questions of five options, one per video of three minutes; right answers are published for 500.

Files: `questions.json`, `subset_answers.json`, videos in `videos/` or `good_clips_git/`. Condition: the question. The full set
is scored by its server: `submission.csv` is written once all is answered, with -1 for what names no option.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...hub.files import write_text
from ...hub.reading import parse_json
from ..parsing import LETTERS
from ..questions import Question
from .choices import BEST_OPTION, LETTER_ONLY, lettered, mark_choice
from .files import find_file, find_video, read_rows
from .protocol_marks import lmms_egoschema_mark, official_egoschema_mark
from .task import Protocol, Task

SOURCE = "github.com/egoschema/EgoSchema: questions.json, subset_answers.json, and the videos by its download script"
NUM_OPTIONS = 5
OFFICIAL = "Select the best answer to the following multiple-choice question based on the video."
SUBMISSION_FILE = "submission.csv"


def read_all(folder: Path, protocol: Protocol) -> list[Question]:
    """All questions, without right answers."""
    path = find_file(folder, ("questions.json",), "egoschema", SOURCE)
    found = []
    for row in read_rows(path, ("q_uid", "question", *(f"option {number}" for number in range(NUM_OPTIONS)))):
        options = [row[f"option {number}"] for number in range(NUM_OPTIONS)]
        found.append(
            Question(
                id=row["q_uid"],
                video=find_video((folder / "videos", folder / "good_clips_git", folder), row["q_uid"]),
                prompt=prompt(row["question"], options, protocol),
                instruction=row["question"],
                options=tuple(options),
            )
        )
    return found


def read_subset(folder: Path, protocol: Protocol) -> list[Question]:
    """The questions whose answers are published.

    Raises:
        ValueError: the file of answers is no mapping of questions to numbers of options.
    """
    path = find_file(folder, ("subset_answers.json",), "egoschema_subset", SOURCE)
    answers = parse_json(path.read_bytes(), str(path))
    if not isinstance(answers, dict) or not all(value in range(NUM_OPTIONS) for value in answers.values()):
        raise ValueError(f"{path}: expected the numbers 0 to {NUM_OPTIONS - 1} by q_uid")
    asked = [question for question in read_all(folder, protocol) if question.id in answers]
    return [replace(question, gold=LETTERS[answers[question.id]]) for question in asked]


def prompt(question: str, options: list[str], protocol: Protocol) -> str:
    """What the LLM reads."""
    if protocol == "official":
        return f"{OFFICIAL}\n{question}\nOptions:\n{lettered(options)}\n{BEST_OPTION} The best answer is: "
    if protocol == "lmms":
        return f"{question}\n{lettered(options, '{letter}. {option}')}\n{LETTER_ONLY}"
    return f"{question}\n{lettered(options)}\n{BEST_OPTION}"


def write_submission(folder: Path, questions: Sequence[Question], lines: Mapping[str, Mapping[str, Any]]) -> None:
    """What the benchmark's server takes: the number of the option per question."""
    numbers = {question.id: lines[question.id]["parsed"] for question in questions}
    rows = [f"{name},{-1 if letter is None else LETTERS.index(letter)}" for name, letter in numbers.items()]
    write_text(folder / SUBMISSION_FILE, "\n".join(["q_uid,answer", *rows]))


LENGTHS: dict[Protocol, int] = {"ours": 16, "official": 2048, "lmms": 16}
EGOSCHEMA = Task(
    name="egoschema",
    title="EgoSchema, all questions: writes submission.csv for its server",
    data=SOURCE,
    read=read_all,
    mark=mark_choice,
    hub_dataset="lmms-lab/egoschema",
    max_new_tokens=LENGTHS,
    finish=write_submission,
    paper={32: 60.5, 64: 62.2, 128: 62.3},
    paper_note="table 2",
)
EGOSCHEMA_SUBSET = Task(
    name="egoschema_subset",
    title="EgoSchema, the 500 questions with published answers",
    data=SOURCE,
    read=read_subset,
    mark=mark_choice,
    hub_dataset="lmms-lab/egoschema",
    max_new_tokens=LENGTHS,
    protocol_mark={"official": official_egoschema_mark, "lmms": lmms_egoschema_mark},
)
