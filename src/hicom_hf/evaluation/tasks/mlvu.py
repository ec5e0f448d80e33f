"""MLVU-dev: seven tasks about long videos; the score is the mean of the tasks' means.

Files: `json/1_plotQA.json` and so on, videos in `video/1_plotQA/` and so on. Condition: the question without its options.
"""

from pathlib import Path

from ..questions import Question
from .choices import BEST_OPTION, letter_of, lettered, mark_choice
from .files import find_file, find_video, read_rows
from .protocol_marks import lmms_mark, official_mark
from .task import Protocol, Task

SOURCE = "huggingface.co/datasets/MLVU/MVLU: json/ and video/"
PARTS = ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning")


def read(folder: Path, protocol: Protocol) -> list[Question]:
    """Questions of all parts, part by part."""
    found = []
    for part in PARTS:
        path = find_file(folder, (f"json/{part}.json", f"MLVU/json/{part}.json"), "mlvu_dev", SOURCE)
        for number, row in enumerate(read_rows(path, ("video", "question", "candidates", "answer"))):
            found.append(
                Question(
                    id=f"{part}-{number}",
                    video=find_video((path.parents[1] / "video" / part,), row["video"]),
                    prompt=prompt(row["question"], row["candidates"], protocol),
                    instruction=row["question"],
                    gold=letter_of(row["answer"], row["candidates"]),
                    options=tuple(row["candidates"]),
                    categories={"task": part.partition("_")[2]},
                )
            )
    return found


def prompt(question: str, options: list[str], protocol: Protocol) -> str:
    """What the LLM reads."""
    if protocol == "official":
        return f"Question: {question}\nOptions: \n{lettered(options)}\n\n{BEST_OPTION}"
    if protocol == "lmms":
        return f"{question}\n{lettered(options)}\n\nOnly give the best option.\nBest option: ("
    return f"{question}\n{lettered(options)}\n{BEST_OPTION}"


MLVU_DEV = Task(
    name="mlvu_dev",
    title="MLVU-dev, mean of its 7 tasks",
    data=SOURCE,
    read=read,
    mark=mark_choice,
    hub_dataset="MLVU/MVLU",
    max_new_tokens={"ours": 16, "official": 2048, "lmms": 16},
    protocol_mark={"official": official_mark, "lmms": lmms_mark},
    macro="task",
    paper={32: 62.8, 64: 65.1, 128: 67.2},
    paper_note="table A7",
)
