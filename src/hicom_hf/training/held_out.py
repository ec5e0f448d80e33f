"""Evaluation while a model is trained: the loss on held-out samples, and answers that are generated and marked.

Samples about the same videos form a group. A group's videos are read and encoded once, for the losses and the answers of all its
samples. Letters: Q samples of a batch, V videos of one sample, L tokens, T frames, S image side in pixels.
"""

import importlib.util
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer

from ..data.bad_samples import SampleError
from ..data.batch_tiles import chosen_features, encoded_tiles, is_tiled, of_model
from ..data.conversations import TrainingItem
from ..data.datasets import HiComDataset
from ..data.encoding import IGNORED
from ..evaluation.parsing import parse_choice, same_words
from ..hub.files import write_text
from ..processors.answer_options_hicom import option_texts
from ..processors.square_frames_hicom import concatenated_features
from .stages import base_model

logger = logging.getLogger(__name__)

Scorer = Callable[[str, str, str], float]  # question, answer, right answer -> score, 1 for right
ANSWERS_FOLDER = "answers"  # under output_dir: what was generated, a file per evaluation

# Scorers -------------------------------------------------------------------------------------------------------------------


def score_exact(question: str, answer: str, right: str) -> float:
    """1 if the words are the same; case, spaces and stops at the ends do not matter."""
    return float(same_words(answer, right))


def score_choice(question: str, answer: str, right: str) -> float:
    """1 if the answer names the same option as the right answer, strictly parsed as in `hicom eval`.

    Raises:
        ValueError: the question has no lettered options, or the right answer names none of them.
    """
    options = option_texts(question)
    wanted = parse_choice(right, options) if options else None
    if wanted is None:
        raise ValueError(f"eval.answers choice: the right answer {right!r} names none of the {len(options)} options")
    return float(parse_choice(answer, options) == wanted)


SCORERS: dict[str, Scorer] = {"exact": score_exact, "choice": score_choice}


def scorer_named(name: str) -> Scorer:
    """The scorer of a name.

    Args:
        name: "exact", "choice", `FILE.py:FUNCTION` or `MODULE:FUNCTION`; the function takes question, answer and right answer as
            texts and returns a number, 1 for right.

    Raises:
        ValueError: there is none of this name.
        FileNotFoundError: FILE.py is not there.
    """
    if name in SCORERS:
        return SCORERS[name]
    place, _, function = name.rpartition(":")
    if not place or not function:
        raise ValueError(
            f"eval.answers must be {', '.join(SCORERS)}, FILE.py:FUNCTION or MODULE:FUNCTION, got {name!r}"
        )
    module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    scorer = getattr(module, function, None)
    if not callable(scorer):
        raise ValueError(f"eval.answers: {place} has no function {function!r}")
    return cast(Scorer, scorer)


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"eval.answers: {path} does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # of a .py file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Samples in groups ---------------------------------------------------------------------------------------------------------


@dataclass
class EncodedGroup:
    """Samples about the same videos, tokenised, and the videos, read once.

    Attributes:
        kinds: "video" or "image" of each of V.
        num_frames: of each of V.
        media: pixels (T, 3, S, S), cached features or tiles of each of V.
        samples: per sample: item, `input_ids` (L,), `labels` (L,), instruction ids (1, 64).
        skipped: why samples, or all of them, could not be read.
    """

    kinds: list[str]
    num_frames: list[int]
    media: list[Any]
    samples: list[tuple[TrainingItem, list[int], list[int], torch.Tensor]]
    skipped: list[str]


class HeldOutGroups(Dataset):
    """The samples that are evaluated, in groups of the same videos.

    Args:
        dataset: all held-out samples.
        max_samples: whole groups are drawn until so many samples are reached, so that the time of an evaluation is bounded;
            None for all.
        seed: of the draw, which is the same at every evaluation.
    """

    def __init__(self, dataset: HiComDataset, max_samples: int | None, seed: int):
        self.dataset = dataset
        groups: dict[int, list[int]] = {}
        for index, number in enumerate(dataset.media_numbers.tolist()):
            groups.setdefault(number, []).append(index)
        drawn = np.random.default_rng(seed).permutation(len(groups))
        members = list(groups.values())
        self.groups: list[list[int]] = []
        self.num_samples = 0
        for number in drawn:
            if max_samples is not None and self.num_samples >= max_samples:
                break
            left = None if max_samples is None else max_samples - self.num_samples
            self.groups.append(members[number][:left])
            self.num_samples += len(self.groups[-1])

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int) -> EncodedGroup:
        """Read and tokenise a group.

        Raises:
            SampleError: something cannot be read, unless the data set skips such samples.
        """
        encoder = self.dataset.encoder
        items = [self.dataset.item(index) for index in self.groups[number]]
        group = EncodedGroup([medium.kind for medium in items[0].media], [], [], [], [])
        try:
            for medium in encoder.media(items[0]):
                frames, content = encoder.read(medium)
                group.num_frames.append(frames)
                group.media.append(content)
        except SampleError as error:
            self._skip(group, error)
            return group
        counts = [encoder.processor.num_visual_tokens(frames) for frames in group.num_frames]
        for item in items:
            try:
                input_ids, labels = encoder.tokenize(item, counts)
            except SampleError as error:
                self._skip(group, error)
                continue
            group.samples.append((item, input_ids, labels, encoder.instruction_ids(item)))
        return group

    def _skip(self, group: EncodedGroup, error: SampleError) -> None:
        if self.dataset.on_bad_sample == "raise":
            raise error
        group.skipped.append(str(error))


# Measuring -----------------------------------------------------------------------------------------------------------------


class HeldOutEvaluation:
    """Measures a model on held-out samples.

    Args:
        dataset: held-out samples.
        scorer: marks generated answers; None measures the loss only.
        max_samples, seed: see `HeldOutGroups`.
        max_new_tokens: where a generated answer is cut.
        batch_size: samples of one group at a time.
        num_workers: processes that read videos ahead.
        skip_logits: compute logits of labelled tokens only: the same loss for less memory.
    """

    def __init__(
        self,
        dataset: HiComDataset,
        scorer: Scorer | None = None,
        *,
        max_samples: int | None = None,
        seed: int = 0,
        max_new_tokens: int = 32,
        batch_size: int = 1,
        num_workers: int = 0,
        skip_logits: bool = True,
    ):
        self.groups = HeldOutGroups(dataset, max_samples, seed)
        self.scorer = scorer
        self.max_new_tokens, self.batch_size, self.num_workers = max_new_tokens, batch_size, num_workers
        self.skip_logits = skip_logits
        if scorer is score_choice:
            self._check_choices()
        elif scorer is not None and scorer not in SCORERS.values():
            self._check_scorer(scorer)

    def _check_choices(self) -> None:
        """Refuse samples whose right answer is no option, before anything is trained."""
        for index in (index for group in self.groups.groups for index in group):
            item = self.groups.dataset.item(index)
            try:
                score_choice(item.question, "", right_answer(item))
            except ValueError as error:
                raise ValueError(f"{item.source}: {error}") from error

    def _check_scorer(self, scorer: Scorer) -> None:
        """Refuse a function that cannot mark the first right answer, before anything is trained."""
        item = self.groups.dataset.item(self.groups.groups[0][0])
        asked, right = item.question or _last_question(item), right_answer(item)
        try:
            float(scorer(asked, right, right))
        except Exception as error:
            raise ValueError(
                f"eval.answers: the function cannot mark the right answer of {item.source} as an answer to itself: {error!r}; "
                "it takes question, answer and right answer and returns a number"
            ) from error

    def measure(self, trainer: Trainer) -> dict[str, float]:
        """Loss and score; the processes of a run take turns at the groups.

        Args:
            trainer: whose model is measured; its mode and random state are as before afterwards.

        Returns:
            `eval_loss`, the mean over all answer tokens; `eval_score`, the mean over the answers; `eval_samples`;
            `eval_skipped` if samples could not be read; `eval_runtime` in seconds.
        """
        begin = time.perf_counter()
        inner = base_model(cast(nn.Module, trainer.model))
        was_training = inner.training
        inner.eval()
        rank, processes = trainer.args.process_index, trainer.args.world_size
        loader = DataLoader(
            torch.utils.data.Subset(self.groups, range(rank, len(self.groups), processes)),
            batch_size=None,
            num_workers=self.num_workers,
            generator=torch.Generator(),  # torch's own state stays as it is
        )
        sums = torch.zeros(5, dtype=torch.float64)  # loss, tokens, score, samples, skipped
        lines: list[dict[str, Any]] = []
        try:
            with torch.no_grad(), trainer.accelerator.autocast():
                for group in loader:
                    sums[4] += len(group.skipped)
                    sums += self._measure_group(trainer, inner, group, lines)
        finally:
            inner.train(was_training)
        if processes > 1:
            rows = trainer.accelerator.gather(sums[None].float().to(trainer.args.device))  # (processes, 5)
            sums = cast(torch.Tensor, rows).double().sum(0).cpu()
            lines = gather_object(lines)
        loss, tokens, score, samples, skipped = sums.tolist()
        if not tokens:
            raise ValueError(
                f"no held-out sample could be read ({skipped:.0f} could not); `hicom data check` lists them"
            )
        metrics = {"eval_loss": loss / tokens, "eval_samples": samples}
        if self.scorer is not None:
            metrics["eval_score"] = score / samples
            if trainer.args.should_save:
                path = (
                    Path(cast(str, trainer.args.output_dir))
                    / ANSWERS_FOLDER
                    / f"step-{trainer.state.global_step}.jsonl"
                )
                write_text(path, "\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
        if skipped:
            metrics["eval_skipped"] = skipped
        metrics["eval_runtime"] = time.perf_counter() - begin
        return metrics

    def _measure_group(self, trainer: Trainer, model, group: EncodedGroup, lines: list) -> torch.Tensor:
        """Sums over a group; answers are added to `lines`."""
        device, processor = trainer.args.device, self.groups.dataset.encoder.processor
        sums = torch.zeros(5, dtype=torch.float64)
        if not group.samples:
            return sums
        features: dict[str, list] = {"video": [], "image": []}  # or tiles, of which each question chooses
        for kind, frames, content in zip(group.kinds, group.num_frames, group.media, strict=True):
            if torch.is_tensor(content):
                if content.dtype == torch.uint8:
                    content = processor.video_processor.normalised(content.to(device))
                content = model.encode_videos(content.to(device), [frames])
            elif is_tiled(content):
                content = encoded_tiles(model, processor, content)
            features[kind].append(content)
        for begin in range(0, len(group.samples), self.batch_size):
            batch = group.samples[begin : begin + self.batch_size]
            visual = visual_inputs(model, features, torch.cat([instruction for *_, instruction in batch]).to(device))
            loss, tokens = self._loss(trainer, model, batch, visual)
            sums += torch.tensor([loss, tokens, 0.0, len(batch), 0.0], dtype=torch.float64)
            if self.scorer is not None:
                for (item, *_), answer in zip(batch, self._answers(trainer, model, batch, visual), strict=True):
                    asked, right = item.question or _last_question(item), right_answer(item)
                    score = float(self.scorer(asked, answer, right))
                    sums[2] += score
                    lines.append(
                        {"source": item.source, "question": asked, "right": right, "answer": answer, "score": score}
                    )
        return sums

    def _loss(self, trainer: Trainer, model, batch: list, visual: dict) -> tuple[float, int]:
        """Sum of the losses of answer tokens, and their number."""
        device = trainer.args.device
        ids = pad_sequence([torch.tensor(ids) for _, ids, *_ in batch], batch_first=True)
        labels = pad_sequence([torch.tensor(row) for _, _, row, _ in batch], batch_first=True, padding_value=IGNORED)
        mask = pad_sequence([torch.ones(len(ids), dtype=torch.long) for _, ids, *_ in batch], batch_first=True)
        tokens = int((labels[:, 1:] != IGNORED).sum())
        outputs = model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            labels=labels.to(device),
            num_items_in_batch=torch.tensor(1, device=device),  # the sum
            skip_logits=self.skip_logits,
            use_cache=False,
            **visual,
        )
        return float(outputs.loss), tokens

    def _answers(self, trainer: Trainer, model, batch: list, visual: dict) -> list[str]:
        """What the model says to the prompts of the last answers, greedily."""
        device, processor = trainer.args.device, self.groups.dataset.encoder.processor
        prompts = [torch.tensor(ids[: _begin_of_last_answer(labels)]) for _, ids, labels, _ in batch]
        ids = pad_sequence(prompts, batch_first=True, padding_side="left")
        mask = pad_sequence([torch.ones_like(prompt) for prompt in prompts], batch_first=True, padding_side="left")
        output = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            **visual,
        )
        texts = processor.tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]


def visual_inputs(model: Any, features: dict[str, list], instruction_ids: torch.Tensor) -> dict[str, Any]:
    """Inputs of a batch whose rows all see the same videos and images.

    Args:
        model: by which questions choose among tiles.
        features: of each video and image of one row, or their tiles, by kind.
        instruction_ids: (Q, 64), of the rows.
    """
    inputs = {}
    for kind, parts in features.items():
        if not parts:
            continue
        if any(map(is_tiled, parts)):
            seen = [_seen(model, part, ids) for ids in instruction_ids for part in parts]
            inputs[f"{kind}_features"] = concatenated_features(seen)
            inputs[f"{kind}_instruction_ids"] = instruction_ids.repeat_interleave(len(parts), dim=0)
            continue
        if len(parts) == 1:  # one video, many instructions: the model does not copy its features
            inputs |= {f"{kind}_features": parts[0], f"{kind}_instruction_ids": instruction_ids}
            continue
        inputs[f"{kind}_features"] = concatenated_features(parts * len(instruction_ids))
        inputs[f"{kind}_instruction_ids"] = instruction_ids.repeat_interleave(len(parts), dim=0)
    return inputs


def _seen(model: Any, content: Any, instruction_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Features of a video or image for one question, (64,)."""
    return chosen_features(model, content, instruction_ids) if is_tiled(content) else of_model(model, content)


def right_answer(item: TrainingItem) -> str:
    """The text of an item's last supervised answer."""
    content = item.messages[item.supervised[-1]]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _last_question(item: TrainingItem) -> str:
    content = item.messages[item.supervised[-1] - 1]["content"]
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def _begin_of_last_answer(labels: list[int]) -> int:
    """Where the last run of labels begins."""
    position = len(labels)
    while labels[position - 1] == IGNORED:
        position -= 1
    while position and labels[position - 1] != IGNORED:
        position -= 1
    return position
