"""VideoMME: 900 videos, 2,700 questions of four options, without and with subtitles.

Files: `test-*.parquet` (also as JSON), videos in `data/`, subtitles in `subtitle/`. Condition: the question alone, also with
subtitles. Subtitles: the lines spoken at the sampled frames; lmms-eval takes those at 32 moments, independent of the frames
that the model samples.
"""

import re
from functools import partial
from pathlib import Path

from ..parsing import LETTERS
from ..questions import Question
from ..subtitles import SubtitleRule
from .choices import BEST_OPTION, LETTER_ONLY, mark_choice
from .files import find_file, find_video, read_rows
from .protocol_marks import lmms_mark, official_videomme_mark
from .task import Protocol, Task

SOURCE = (
    "huggingface.co/datasets/lmms-lab/Video-MME: the parquet file, and the zip files unpacked into data/ and subtitle/"
)
COLUMNS = (
    "question_id",
    "videoID",
    "duration",
    "domain",
    "sub_category",
    "task_type",
    "question",
    "options",
    "answer",
)
LETTER = "Respond with only the letter (A, B, C, or D) of the correct option."
OFFICIAL = "Select the best answer to the following multiple-choice question based on the video. " + LETTER
LMMS = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. " + LETTER
)
LMMS_MOMENTS = 32  # frame_num of its YAML


def read(folder: Path, protocol: Protocol, with_subtitles: bool) -> list[Question]:
    """Questions in the order of the file."""
    path = find_file(
        folder, ("test*.parquet", "videomme/test*.parquet", "test*.json", "test*.jsonl"), "videomme", SOURCE
    )
    found = []
    for row in read_rows(path, COLUMNS):
        name = row["videoID"]
        if row["answer"] not in LETTERS[: len(row["options"])]:
            raise ValueError(
                f"{path}: question {row['question_id']} has the answer {row['answer']!r}, which is no option's letter"
            )
        rule = _rule(str(folder / "subtitle" / f"{name}.srt"), protocol) if with_subtitles else None
        found.append(
            Question(
                id=row["question_id"],
                video=find_video((folder / "data", folder / "videos"), name),
                prompt=prompt(row["question"], list(row["options"]), protocol, with_subtitles),
                instruction=row["question"],
                gold=row["answer"],
                options=tuple(re.sub(r"^[A-D]\.\s*", "", option) for option in row["options"]),
                categories={column: row[column] for column in ("duration", "domain", "sub_category", "task_type")},
                subtitles=rule,
            )
        )
    return found


def prompt(question: str, options: list[str], protocol: Protocol, with_subtitles: bool = False) -> str:
    """What the LLM reads behind the subtitles.

    Args:
        question: bare.
        options: with their letters, "A. ...", as published.
        protocol: whose words.
        with_subtitles: lmms-eval asks for the answer in other words then.
    """
    lines = "\n".join([question, *options])
    if protocol == "official":
        return f"{OFFICIAL}\n{lines}\n{BEST_OPTION} The best answer is: "
    if protocol == "lmms":
        return f"{LMMS}\n{lines}\n" + ("The best answer is:" if with_subtitles else f"\n{LETTER_ONLY}")
    return f"{lines}\n{BEST_OPTION}"


def _rule(path: str, protocol: Protocol) -> SubtitleRule:
    if protocol == "official":
        heading = "This video's subtitles are listed below:\n"
        return SubtitleRule(path, heading, repeats=True, without=f"{heading}\n", missing=f"{heading}\n")
    if protocol == "lmms":
        heading = "This video's subtitles are listed below: \n"
        none = f"{heading}No subtitles available\n"
        return SubtitleRule(path, heading, moments=LMMS_MOMENTS, without=f"{heading}\n", missing=none)
    return SubtitleRule(path, "This video's subtitles are listed below:\n")


VIDEOMME = Task(
    name="videomme",
    title="VideoMME without subtitles",
    data=SOURCE,
    read=partial(read, with_subtitles=False),
    mark=mark_choice,
    hub_dataset="lmms-lab/Video-MME",
    max_new_tokens={"ours": 16, "official": 2048, "lmms": 16},
    protocol_mark={"official": official_videomme_mark, "lmms": lmms_mark},
    paper={32: 58.1, 64: 58.9, 128: 60.3},
    paper_note="table 2",
)
VIDEOMME_SUBTITLES = Task(
    name="videomme_subtitles",
    title="VideoMME with subtitles",
    data=SOURCE,
    read=partial(read, with_subtitles=True),
    mark=mark_choice,
    hub_dataset="lmms-lab/Video-MME",
    max_new_tokens={"ours": 16, "official": 2048, "lmms": 16},
    protocol_mark={"official": official_videomme_mark, "lmms": lmms_mark},
    paper={32: 60.1, 64: 63.3, 128: 64.8},
    paper_note="table 2",
)
