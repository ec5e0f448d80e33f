"""ActivityNet-QA: 8,000 open questions about 800 videos, marked by a judge.

Files: `test_q.json`, `test_a.json`, videos `v_NAME.*` in `videos/`. Condition: the question.
"""

from pathlib import Path

from ..questions import Question
from .files import find_file, find_video, read_rows
from .open_answers import mark_open
from .task import Protocol, Task

SOURCE = "github.com/MILVLAB/activitynet-qa: dataset/test_q.json and test_a.json; the videos from activity-net.org"


def read(folder: Path, protocol: Protocol) -> list[Question]:
    """Questions with the answers of the second file, which stand in the same order.

    Raises:
        ValueError: the files do not belong together.
    """
    files = [
        find_file(folder, (name, f"dataset/{name}"), "activitynet_qa", SOURCE)
        for name in ("test_q.json", "test_a.json")
    ]
    asked = read_rows(files[0], ("video_name", "question", "question_id"))
    told = {row["question_id"]: row for row in read_rows(files[1], ("answer", "question_id"))}
    found = []
    for row in asked:
        if row["question_id"] not in told:
            raise ValueError(f"{files[1]}: there is no answer to {row['question_id']!r} of {files[0].name}")
        question = instruction(row["question"], protocol)
        video = find_video((folder / "videos", folder / "all_test"), f"v_{row['video_name']}")
        answer = told[row["question_id"]]
        categories = {"type": str(answer["type"])} if "type" in answer else {}
        found.append(
            Question(
                row["question_id"],
                video,
                prompt=prompt(row["question"], protocol),
                instruction=question,
                gold=str(answer["answer"]),
                categories=categories,
            )
        )
    return found


def instruction(question: str, protocol: Protocol) -> str:
    """The question as it is asked; lmms-eval writes the first letter large, all others small, and a question mark behind."""
    return f"{question.capitalize()}?" if protocol == "lmms" else question


def prompt(question: str, protocol: Protocol) -> str:
    """What the LLM reads."""
    asked = instruction(question, protocol)
    return f"{asked} Answer the question using a single word or phrase." if protocol == "lmms" else asked


ACTIVITYNET_QA = Task(
    name="activitynet_qa",
    title="ActivityNet-QA, marked by a judge",
    data=SOURCE,
    read=read,
    mark=mark_open,
    hub_dataset="lmms-lab/ActivityNetQA",
    max_new_tokens={"ours": 64, "official": 2048, "lmms": 64},
    paper={32: 58.3, 64: 59.4, 128: 59.5},
    paper_note="table 3, judge GPT-3.5-Turbo-0125",
)
