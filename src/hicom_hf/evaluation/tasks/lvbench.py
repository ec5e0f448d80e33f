"""LVBench: 1,549 questions with options about 103 videos of about an hour; a question may be of several kinds.

Files: `video_info.meta.jsonl` (also in `data/`), a line per video with `key`, its name at YouTube, and `qa`; videos as `KEY.mp4`
in `videos/`. Condition: the question without its options, which are published in one text with it.

`Differs:` the benchmark's script leaves answers that are no letter out of the score; here they are wrong.
"""

import re
from pathlib import Path

from ..parsing import LETTERS
from ..questions import Question
from .choices import BEST_OPTION, lettered, mark_choice
from .files import find_file, find_video, read_rows
from .task import Protocol, Task

SOURCE = "huggingface.co/datasets/zai-org/LVBench: video_info.meta.jsonl, and the videos by their keys into videos/"
OPTION = re.compile(r"^\(([A-Z])\)\s*", re.MULTILINE)
COLUMNS = ("uid", "question", "answer", "question_type")


def read(folder: Path, protocol: Protocol) -> list[Question]:
    """Questions in the order of the file.

    Raises:
        ValueError: a question has no options in its text, or an answer that is none of their letters.
    """
    path = find_file(folder, ("video_info.meta.jsonl", "data/video_info.meta.jsonl"), "lvbench", SOURCE)
    found = []
    for row in read_rows(path, ("key", "qa")):
        video = find_video((folder / "videos", folder), row["key"])
        for asked in row["qa"]:
            missing = [column for column in COLUMNS if column not in asked]
            if missing:
                raise ValueError(
                    f"{path}: a question about {row['key']} has no {missing[0]!r}; is it the published file?"
                )
            question, options = question_and_options(asked["question"])
            if len(options) < 2 or asked["answer"] not in LETTERS[: len(options)]:
                raise ValueError(
                    f"{path}: question {asked['uid']} has the options {options} in its text and the answer "
                    f"{asked['answer']!r}, which is no letter of theirs"
                )
            found.append(
                Question(
                    id=str(asked["uid"]),
                    video=video,
                    prompt=f"{question}\n{lettered(options)}\n{BEST_OPTION}",
                    instruction=question,
                    gold=asked["answer"],
                    options=tuple(options),
                    categories={kind: "all" for kind in asked["question_type"]},
                    details={"time_reference": asked.get("time_reference")},
                )
            )
    return found


def question_and_options(text: str) -> tuple[str, list[str]]:
    """A question and its options, which stand in lines of their own behind it, each with its letter.

    Example:
        >>> question_and_options("Who wins?\\n(A) Ann\\n(B) Bob")
        ('Who wins?', ['Ann', 'Bob'])
    """
    question, *rest = OPTION.split(text)
    letters, options = rest[::2], rest[1::2]
    if "".join(letters) != LETTERS[: len(letters)]:
        return text.strip(), []
    return question.strip(), [option.strip() for option in options]


LVBENCH = Task(
    name="lvbench",
    title="LVBench",
    data=SOURCE,
    read=read,
    mark=mark_choice,
    protocols=("ours",),
    hub_dataset="zai-org/LVBench",
    max_new_tokens={"ours": 16},
)
