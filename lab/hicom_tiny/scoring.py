"""How often a model answers questions of the shapes world rightly (`is_right`), by kind."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hicom_hf.hub.progress import Progress, no_progress
from hicom_hf.modeling.modeling_hicom import HiComForConditionalGeneration
from hicom_hf.modeling.outputs_hicom import HiComVideoFeatures
from hicom_hf.processors.processing_hicom import HiComProcessor
from hicom_hf.shapes import CHANCE, KINDS, is_right

VIDEOS_AT_A_TIME = 4  # about 56 questions
MAX_NEW_TOKENS = 32


@dataclass(frozen=True)
class Scored:
    """One question and what the model made of it.

    Attributes:
        id, kind, question, expected: of the record.
        answer: the model's words.
        is_right: whether they are those expected.
    """

    id: str
    kind: str
    question: str
    expected: str
    answer: str
    is_right: bool


@torch.no_grad()
def score(
    model: HiComForConditionalGeneration,
    processor: HiComProcessor,
    questions_file: str | Path,
    *,
    num_frames: int | None = None,
    limit: int | None = None,
    instruction: str | None = None,
    progress: Progress | None = None,
) -> list[Scored]:
    """Ask every question of a file that `write_dataset` wrote.

    Args:
        model, processor: of one folder.
        questions_file: `tuning.json`, or another with `kind` and `scene` in its records.
        num_frames: sampled frames per video; None for the processor's own number.
        limit: the first so many questions.
        instruction: conditions the compression in place of each question (table A4); None for the question.
        progress: shows progress over an iterable, given its length and a name.
    """
    path = Path(questions_file)
    records = json.loads(path.read_text(encoding="utf-8"))[:limit]
    by_video: dict[str, list[dict]] = {}
    for record in records:
        by_video.setdefault(record["video"], []).append(record)
    videos = list(by_video)
    starts = range(0, len(videos), VIDEOS_AT_A_TIME)
    progress = progress or no_progress
    found = []
    for start in progress(starts, len(starts), "scoring"):
        batch = videos[start : start + VIDEOS_AT_A_TIME]
        encoded = processor(videos=[path.parent / video for video in batch], **_frames(num_frames))
        lengths = encoded["video_num_frames"]
        features = model.encode_videos(encoded["pixel_values_videos"], lengths)
        rows = [(place, record) for place, video in enumerate(batch) for record in by_video[video]]
        answers = _answers(model, processor, features, rows, instruction)
        for (_, record), answer in zip(rows, answers, strict=True):
            found.append(_scored(record, answer))
    return found


def _frames(num_frames: int | None) -> dict[str, int]:
    return {} if num_frames is None else {"num_frames": num_frames}


def _answers(model, processor, features: HiComVideoFeatures, rows: list, instruction: str | None) -> list[str]:
    lengths = features["num_frames"].tolist()
    parts = {
        name: features[name].split(lengths)
        for name in ("features", "aligned_features")
        if features.get(name) is not None
    }
    repeated = HiComVideoFeatures(
        num_frames=features["num_frames"][[place for place, _ in rows]],
        **{name: torch.cat([values[place] for place, _ in rows]) for name, values in parts.items()},
    )
    asked = [record["conversations"][0]["value"].removeprefix("<video>\n") for _, record in rows]
    chats = [
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}] for question in asked
    ]
    inputs = processor.apply_chat_template(
        chats,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={
            "padding": True,
            "video_num_frames": repeated["num_frames"].tolist(),
            **({} if instruction is None else {"instruction": instruction}),
        },
    ).to(model.device)
    output = model.generate(**inputs, video_features=repeated, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    return processor.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def _scored(record: dict, answer: str) -> Scored:
    asked, told = (turn["value"] for turn in record["conversations"])
    return Scored(
        id=record["id"],
        kind=record["kind"],
        question=asked.removeprefix("<video>\n"),
        expected=told,
        answer=answer,
        is_right=is_right(answer, told),
    )


def table(scored: Sequence[Scored]) -> dict[str, dict[str, float]]:
    """Right answers in percent by kind and over all ("all"), with the number of questions and the chance level."""
    rows = {}
    for kind in (*KINDS, "all"):
        group = [one for one in scored if kind in (one.kind, "all")]
        if group:
            chance = sum(CHANCE.get(one.kind, 0.0) for one in group) / len(group)
            right = sum(one.is_right for one in group) / len(group)
            rows[kind] = {"right": 100 * right, "chance": 100 * chance, "questions": len(group)}
    return rows
