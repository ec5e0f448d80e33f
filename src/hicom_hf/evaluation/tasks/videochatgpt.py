"""VideoChatGPT-Bench: open questions about 500 videos in three files, marked by a judge in five aspects.

Files: `generic_qa.json` (correctness, detail, context), `temporal_qa.json`, `consistency_qa.json` (two wordings of one
question), videos in `Test_Videos/`. Condition: the question.
"""

from pathlib import Path

from ..questions import Question
from .files import find_file, find_video, read_rows
from .open_answers import mark_open
from .task import Protocol, Task

SOURCE = "github.com/mbzuai-oryx/Video-ChatGPT, quantitative evaluation: the three JSON files and Test_Videos/"
PARTS = {"generic": ("Q",), "temporal": ("Q",), "consistency": ("Q1", "Q2")}


def read(folder: Path, protocol: Protocol) -> list[Question]:
    """Questions of the three parts; a pair of wordings gives two."""
    found = []
    for part, columns in PARTS.items():
        path = find_file(folder, (f"{part}_qa.json", f"*/{part}_qa.json"), "videochatgpt", SOURCE)
        for number, row in enumerate(read_rows(path, ("video_name", "A", *columns))):
            video = find_video((folder / "Test_Videos", folder / "videos"), row["video_name"])
            for column in columns:
                found.append(
                    Question(
                        id=f"{part}-{number}" + (f"-{column}" if len(columns) > 1 else ""),
                        video=video,
                        prompt=row[column],
                        instruction=row[column],
                        gold=row["A"],
                        categories={"part": part},
                        details={"pair": f"{part}-{number}"},
                    )
                )
    return found


VIDEOCHATGPT = Task(
    name="videochatgpt",
    title="VideoChatGPT-Bench, marked by a judge",
    data=SOURCE,
    read=read,
    mark=mark_open,
    hub_dataset="lmms-lab/VideoChatGPT",
    max_new_tokens={"ours": 256, "official": 2048, "lmms": 256},
    paper={32: 3.12, 64: 3.20, 128: 3.18},
    paper_note="table 3: mean of five aspects, 0 to 5, judge GPT-3.5-Turbo-0125",
)
