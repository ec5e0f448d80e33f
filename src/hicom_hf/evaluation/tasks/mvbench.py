"""MVBench: 20 tasks of 200 questions about short videos.

Files: `json/*.json` and the videos in `video/`. Condition: the question. Clip: `start` and `end` of the five tasks that have
them; lmms-eval shows the whole file. Episodic reasoning has folders of frames at 3 per second.
"""

from pathlib import Path

from ..questions import Question
from .choices import BEST_OPTION, letter_of, lettered, mark_choice
from .files import find_file, find_video, read_rows
from .protocol_marks import lmms_mvbench_mark, official_mark
from .task import Protocol, Task

SOURCE = "huggingface.co/datasets/OpenGVLab/MVBench: json/ and the zip files unpacked into video/"
FRAMES_PER_SECOND = 3.0  # of the folders of frames of episodic reasoning
# Task: folder of its videos in the release, and in lmms-eval; whether its rows have start and end.
PARTS = {
    "action_sequence": ("star/Charades_v1_480", "star/Charades_segment", True),
    "action_prediction": ("star/Charades_v1_480", "star/Charades_segment", True),
    "action_antonym": ("ssv2_video", "ssv2_video_mp4", False),
    "fine_grained_action": ("Moments_in_Time_Raw/videos", "Moments_in_Time_Raw/videos", False),
    "unexpected_action": ("FunQA_test/test", "FunQA_test/test", False),
    "object_existence": ("clevrer/video_validation", "clevrer/video_validation", False),
    "object_interaction": ("star/Charades_v1_480", "star/Charades_segment", True),
    "object_shuffle": ("perception/videos", "perception/videos", False),
    "moving_direction": ("clevrer/video_validation", "clevrer/video_validation", False),
    "action_localization": ("sta/sta_video", "sta/sta_video_segment", True),
    "scene_transition": ("scene_qa/video", "scene_qa/video", False),
    "action_count": ("perception/videos", "perception/videos", False),
    "moving_count": ("clevrer/video_validation", "clevrer/video_validation", False),
    "moving_attribute": ("clevrer/video_validation", "clevrer/video_validation", False),
    "state_change": ("perception/videos", "perception/videos", False),
    "fine_grained_pose": ("nturgbd", "nturgbd_convert", False),
    "character_order": ("perception/videos", "perception/videos", False),
    "egocentric_navigation": ("vlnqa", "vlnqa", False),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment", True),
    "counterfactual_inference": ("clevrer/video_validation", "clevrer/video_validation", False),
}


def read(folder: Path, protocol: Protocol) -> list[Question]:
    """Questions of all parts, part by part."""
    found = []
    for part, (official_folder, lmms_folder, has_range) in PARTS.items():
        path = find_file(folder, (f"json/{part}.json", f"{part}.json"), "mvbench", SOURCE)
        columns = ("video", "question", "candidates", "answer", *(("start", "end") if has_range else ()))
        videos = lmms_folder if protocol == "lmms" else official_folder
        clips = has_range and protocol != "lmms"
        for number, row in enumerate(read_rows(path, columns)):
            video = find_video((folder / "video" / videos, folder / videos), row["video"])
            found.append(
                Question(
                    id=f"{part}-{number}",
                    video=video,
                    prompt=prompt(row["question"], row["candidates"], protocol),
                    instruction=row["question"],
                    gold=letter_of(row["answer"], row["candidates"]),
                    options=tuple(row["candidates"]),
                    categories={"task": part},
                    start=float(row["start"]) if clips else None,
                    end=float(row["end"]) if clips else None,
                    frame_rate=FRAMES_PER_SECOND if clips and part == "episodic_reasoning" else None,
                )
            )
    return found


def prompt(question: str, options: list[str], protocol: Protocol) -> str:
    """What the LLM reads."""
    if protocol == "official":
        return f"Question: {question}\nOptions:\n{lettered(options)}\n{BEST_OPTION}"
    if protocol == "lmms":
        return f"Question:{question}\nOption:\n{lettered(options)}\nOnly give the best option.\n"
    return f"{question}\n{lettered(options)}\n{BEST_OPTION}"


MVBENCH = Task(
    name="mvbench",
    title="MVBench, mean of its 20 tasks",
    data=SOURCE,
    read=read,
    mark=mark_choice,
    hub_dataset="OpenGVLab/MVBench",
    max_new_tokens={"ours": 16, "official": 2048, "lmms": 16},
    protocol_mark={"official": official_mark, "lmms": lmms_mvbench_mark},
    macro="task",
    paper={32: 64.1, 64: 64.7, 128: 64.0},
    paper_note="table 2",
)
