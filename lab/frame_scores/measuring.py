"""Which frames a question chooses by other number types, scores and queries; and how well cuts are found.

Videos and questions are those of `hicom eval needle`. Nothing is answered: a choice is right if it shows every scene that the
question is about, and of a question about what is not there if it spreads the frames evenly.

Letters: P parts of a question, T frames, H/W patch grid, D vision width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from hicom_hf.evaluation.haystacks import SCENE_FRAMES, SQUARE, Cuts, EncodedScenes, Film, encode_scenes
from hicom_hf.evaluation.needle_report import CHOSEN, GROUPS
from hicom_hf.evaluation.questions import Question
from hicom_hf.evaluation.tasks.needle import (
    HAYSTACKS,
    Trial,
    film_parts,
    hay_scenes,
    num_scenes,
    read,
    trials,
    usable_scenes,
)
from hicom_hf.inference.session import HiComSession
from hicom_hf.modeling.frame_scores_hicom import best_pairs
from hicom_hf.processors.candidate_frames_hicom import CandidateFiles
from hicom_hf.processors.frame_selection_hicom import FrameSelection, SelectionRecord, choose_frames, question_parts
from hicom_hf.shapes import Scene

from ..hicom_tiny.processes import progress_bar

CLUTTER, PLACES = "sparse", (0.25, 0.75)
NOT_THERE = "exist: no"  # the group of questions about what no scene holds
FLOAT32, BFLOAT16, INT8 = "float32", "bfloat16", "8 bits, as shipped"
ONE_VECTOR = "8 bits, one vector for all parts"


@dataclass(frozen=True)
class Budget:
    """What is asked.

    Args:
        questions: of each group.
        length: frames of each video.
        seeds: of the questions and of the scenes around them, see `needle_task`.
        num_frames: that a question chooses.
    """

    questions: int = 24
    length: int = 1024
    seeds: tuple[int, ...] = (3, 11)
    num_frames: int = 8


class Query(NamedTuple):
    """A text as it is scored: the model's own scorer, and SigLIP's pooled text (D), of length 1."""

    scorer: Any
    text: torch.Tensor


class Asked(NamedTuple):
    """A question about one film, and the scores of its frames, (P, T), by `WAYS`."""

    group: str
    needles: Sequence[int]
    film: Film
    scores: Mapping[str, np.ndarray]


def _by_text(query: Query, keys: torch.Tensor) -> torch.Tensor:
    return best_pairs(keys @ query.text)


# By name: scores (T) of the aligned features (T, H, W, D) of frames; `INT8`, between them, is what the scenes keep.
WAYS: dict[str, Callable[[Query, torch.Tensor], torch.Tensor] | None] = {
    FLOAT32: lambda query, aligned: query.scorer.frame_scores(aligned)[0],
    BFLOAT16: lambda query, aligned: query.scorer.frame_scores(aligned.bfloat16().float())[0],
    INT8: None,
    "float32, the best patch alone": lambda query, aligned: query.scorer.patch_scores(aligned)[0].amax((1, 2)),
    "SigLIP's pooled text, product": lambda query, aligned: _by_text(query, aligned),
    "SigLIP's pooled text, cosine": lambda query, aligned: _by_text(query, nn.functional.normalize(aligned, dim=-1)),
}


def measure(session: HiComSession, budget: Budget) -> dict[str, Any]:
    """What `as_markdown` prints.

    Args:
        session: of the model, in float32 so that nothing is rounded before it is measured.
        budget: what is asked.
    """
    selection = FrameSelection(num_frames=budget.num_frames)
    group_length = session.model.config.compressor_config.ratio[0]
    right: dict[str, dict[str, list[bool]]] = {}
    agreement: dict[str, list[tuple[bool, float]]] = {BFLOAT16: [], INT8: []}
    cuts = np.zeros(4, dtype=int)
    for seed in budget.seeds:
        for asked in _asked(session, budget, seed):
            film, shots = asked.film, asked.film.shots(group_length, selection.max_shot_frames)
            cuts += _cuts(shots, len(film))
            records = {
                way: choose_frames(
                    selection, budget.num_frames, group_length, len(film), scores=rows, shots=shots, times=()
                )
                for way, rows in asked.scores.items()
            }
            for way, record in records.items():
                right.setdefault(way, {}).setdefault(asked.group, []).append(_is_right(record, asked))
            for way, rows in agreement.items():
                same = records[way].frames == records[FLOAT32].frames
                rows.append((same, _greatest_error(asked.scores[way], asked.scores[FLOAT32])))
    return {
        "right": {way: {group: 100 * float(np.mean(some)) for group, some in of.items()} for way, of in right.items()},
        "trials": {group: len(some) for group, some in right[FLOAT32].items()},
        "agreement": {
            way: {
                "same frames": sum(same for same, _ in rows),
                "trials": len(rows),
                "error": 100 * float(np.median([error for _, error in rows])),
            }
            for way, rows in agreement.items()
        },
        "cuts": dict(zip(("borders", "found", "other frames", "taken for cuts"), cuts.tolist(), strict=True)),
    }


def as_markdown(measured: Mapping[str, Any]) -> str:
    """Three tables: right choices, agreement with float32, cuts."""
    groups = [group for group in GROUPS if group in measured["trials"]]
    heads = [f"{group} ({measured['trials'][group]})" for group in groups]
    lines = [f"| right choices (%) | {' | '.join(heads)} |", "|---" * (len(groups) + 1) + "|"]
    for way, row in measured["right"].items():
        lines.append(f"| {way} | {' | '.join(f'{row[group]:.0f}' for group in groups)} |")
    lines += ["", "| | same frames as float32 | greatest error of a score (%) |", "|---|---|---|"]
    for way, row in measured["agreement"].items():
        lines.append(f"| {way} | {row['same frames']} of {row['trials']} | {row['error']:.1f} |")
    cuts = measured["cuts"]
    lines += ["", "| cuts found | other frames taken for cuts |", "|---|---|"]
    lines.append(
        f"| {cuts['found']:,} of {cuts['borders']:,} | {cuts['taken for cuts']:,} of {cuts['other frames']:,} |"
    )
    return "\n".join(lines)


def _asked(session: HiComSession, budget: Budget, seed: int) -> Iterator[Asked]:
    """Each question about a scene, at each place."""
    lengths = (budget.length,)
    scenes = hay_scenes(CLUTTER, num_scenes(lengths, CLUTTER), seed)
    hay, cut = _encoded(session, scenes), Cuts(session.model, session.processor)
    about: dict[str, list[Question]] = {}
    for question in read(Path(), "ours", lengths, CLUTTER, budget.questions, seed, SQUARE):
        if (
            question.details["method"] == CHOSEN
            and question.details["place"] in PLACES
            and question.details["needles"]
        ):
            about.setdefault(question.video, []).append(question)
    known: dict[str, dict[str, torch.Tensor]] = {}  # scores of the hay, by text
    numbered = list(enumerate(trials(budget.questions, lengths, CLUTTER, seed)))
    for number, trial in progress_bar(numbered, len(numbered), f"questions of seed {seed}"):
        if trial.name not in about:
            continue
        needles = _encoded(session, trial.needles)
        of_scenes = {id(hay): _scores(session, trial, hay, known), id(needles): _scores(session, trial, needles, {})}
        usable = usable_scenes(scenes, trial, number // len(GROUPS) % HAYSTACKS, budget.length // SCENE_FRAMES)
        for question in about[trial.name]:
            film = Film(film_parts(question, hay, needles, usable), cut)
            scores = {
                way: _of_film(film, {key: some[way] for key, some in of_scenes.items()}) for way in (*WAYS, ONE_VECTOR)
            }
            yield Asked(trial.group, question.details["needles"], film, scores)
        cut.keep_within(hay)


def _encoded(session: HiComSession, scenes: Sequence[Scene]) -> EncodedScenes:
    """Scenes with their features as they are, without rounding."""
    files = CandidateFiles.temporary(torch.float32)
    return EncodedScenes(encode_scenes(session.model, session.processor, scenes, files=files), scenes)


@torch.inference_mode()
def _scores(
    session: HiComSession, trial: Trial, scenes: EncodedScenes, known: dict[str, dict[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """(P, T) by `WAYS`, and (1, T) by `ONE_VECTOR`."""
    instruction = session.processor.extract_instruction(trial.question.text, report=False)
    parts = question_parts(instruction)
    new = {text: _query(session, text) for text in dict.fromkeys((instruction, *parts)) if text not in known}
    if new:
        aligned = scenes.aligned_features.read(0, len(scenes))
        for text, query in new.items():
            [kept] = scenes.scores(session.model, [query.scorer])
            known[text] = {way: score(query, aligned) if score else kept for way, score in WAYS.items()}
    found = {way: torch.stack([known[text][way] for text in parts]) for way in WAYS}
    return {**found, ONE_VECTOR: known[instruction][INT8][None]}


def _query(session: HiComSession, text: str) -> Query:
    ids = session.processor.encode_instructions([text], report=False)
    pooled, _ = session.model.model.instruction_encoder(ids)
    return Query(session.model.frame_scorer(ids), nn.functional.normalize(pooled[0], dim=-1))


def _of_film(film: Film, scores: Mapping[int, torch.Tensor]) -> np.ndarray:
    """The scores of a film's frames from those of its scenes, by the id of each `EncodedScenes`."""
    rows = [scores[id(part.scenes)][:, part.row(0) : part.row(SCENE_FRAMES)] for part in film.parts]
    return torch.cat(rows, dim=1).numpy()


def _is_right(record: SelectionRecord, asked: Asked) -> bool:
    """Whether at least one frame of each needle was chosen; of a question about what is not there, whether nothing was."""
    if asked.group == NOT_THERE:
        return record.used == "uniform"
    return {first // SCENE_FRAMES for first in asked.needles} <= {frame // SCENE_FRAMES for frame in record.frames}


def _greatest_error(scores: np.ndarray, exact: np.ndarray) -> float:
    """The greatest error of a score, as a fraction of the distance from the median score to the best one."""
    heights = exact.max(axis=1) - np.median(exact, axis=1)
    return float((np.abs(scores - exact).max(axis=1) / heights).max())


def _cuts(shots: Sequence[tuple[int, int]], num_frames: int) -> np.ndarray:
    """Borders between scenes, those found; other frames, those taken for cuts."""
    borders, starts = set(range(SCENE_FRAMES, num_frames, SCENE_FRAMES)), {start for start, _ in shots[1:]}
    return np.array([len(borders), len(borders & starts), num_frames - 1 - len(borders), len(starts - borders)])
