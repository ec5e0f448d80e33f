"""Checks a data set before hours are lost: every record, every video and image, every length."""

import copy
import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..hub.progress import Progress, no_progress
from ..processors.video_processing_hicom import HiComVideoProcessor
from .conversations import (
    MISSING_MEDIA,
    PROBLEM_KINDS,
    TOO_LONG,
    Medium,
    Record,
    SampleError,
    TrainingItem,
    training_items,
)
from .datasets import load_records
from .encoding import IGNORED, ItemEncoder
from .media_reader import MediaReader, is_missing, media_name

CHECKED_SIDE = 16  # pixels; frames are decoded whole but kept this small
WINDOW = 64  # videos handed to each worker ahead of time, so that memory does not grow with the data set
QUANTILES = {"min": 0.0, "median": 0.5, "95%": 0.95, "max": 1.0}


class Problem(NamedTuple):
    """Something wrong with a sample.

    Attributes:
        kind: one of `PROBLEM_KINDS`.
        source: file and record, and the path of a video.
        reason: what is wrong.
    """

    kind: str
    source: str
    reason: str


@dataclass
class CheckReport:
    """What a check found.

    Attributes:
        num_records: entries of the file.
        samples: samples by modality (text, image, video); records that cannot be used give none.
        num_media: different videos and images.
        lengths: tokens of each sample, visual tokens included; empty without a processor.
        problems: in the order of the records within each kind.
    """

    num_records: int = 0
    samples: dict[str, int] = field(default_factory=lambda: {"text": 0, "image": 0, "video": 0})
    num_media: int = 0
    lengths: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Problems by kind, those that do not occur as 0."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in PROBLEM_KINDS}

    def length_quantiles(self) -> dict[str, int]:
        """Smallest, median, 95 % and largest number of tokens; empty without lengths."""
        if not self.lengths:
            return {}
        return {name: int(np.quantile(self.lengths, share, method="nearest")) for name, share in QUANTILES.items()}

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values that json can write."""
        return {
            "records": self.num_records,
            "samples": self.samples,
            "media": self.num_media,
            "tokens": self.length_quantiles(),
            "problems": self.counts,
            "details": [problem._asdict() for problem in self.problems],
        }

    def table(self, num_shown: int = 10) -> str:
        """The report for people, with the first problems."""
        rows = [("records", self.num_records), ("videos and images", self.num_media)]
        rows += [(f"samples: {name}", count) for name, count in self.samples.items()]
        rows += [(f"tokens per sample: {name}", tokens) for name, tokens in self.length_quantiles().items()]
        rows += [(f"problems: {kind}", count) for kind, count in self.counts.items()]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value:>9,}" for name, value in rows]
        if self.problems:
            lines += ["", *(f"{source}: {kind}: {reason}" for kind, source, reason in self.problems[:num_shown])]
        if len(self.problems) > num_shown:
            lines.append(f"... and {len(self.problems) - num_shown} more")
        return "\n".join(lines)


def check_data(
    records: str | os.PathLike | Iterable[dict | Record],
    processor=None,
    media_root: str | os.PathLike | None = None,
    *,
    num_frames: int | None = None,
    max_length: int | None = None,
    per_turn: bool = True,
    decode: bool = True,
    num_workers: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> CheckReport:
    """Check every sample of a data set.

    Args:
        records: as for `HiComDataset`.
        processor: a `HiComProcessor`, to count tokens; None checks records, videos and images only.
        media_root: folder that relative paths start from.
        num_frames: frames taken of each video whose record does not say how many; None is the processor's own.
        max_length: most tokens of a sample; needs a processor. Longer ones are reported, also those that training would
            cut short.
        per_turn: one sample per answer, see `training_items`.
        decode: read the frames that training would read; False only looks whether files are there.
        num_workers: videos read at the same time.
        seed: of the random parts of a mixture.
        progress: shows progress over an iterable, given its length and a name.

    Raises:
        ValueError: the file itself is not a data set, or `max_length` without processor.
        OSError: the file cannot be read.

    Example:
        >>> report = check_data("train.json", num_workers=8)  # doctest: +SKIP
        >>> report.counts["missing media"]  # doctest: +SKIP
        0
    """
    if max_length is not None and (processor is None or not decode):
        raise ValueError("max_length counts tokens: it needs a processor, and decode=True for the numbers of frames")
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    progress = progress or no_progress
    report = CheckReport()
    items = _check_records(load_records(records, media_root, seed), per_turn, report, progress)
    frames = _check_media(items, processor, num_frames, decode, num_workers, report, progress)
    if processor is not None and decode:
        _check_lengths(items, frames, ItemEncoder(processor), max_length, report, progress)
    report.problems.sort(key=lambda problem: PROBLEM_KINDS.index(problem.kind))  # stable: records stay in order
    return report


def _check_records(records, per_turn: bool, report: CheckReport, progress: Progress) -> list[TrainingItem]:
    items = []
    report.num_records = len(records)
    for record in progress(records, len(records), "records"):
        try:
            found = training_items(record, per_turn)
        except SampleError as error:
            report.problems.append(Problem(error.kind, error.source, error.reason))
            continue
        for item in found:
            kinds = {medium.kind for medium in item.media}
            report.samples["video" if "video" in kinds else "image" if kinds else "text"] += 1
        items.extend(found)
    return items


def _check_media(
    items: list[TrainingItem],
    processor,
    num_frames: int | None,
    decode: bool,
    num_workers: int,
    report: CheckReport,
    progress: Progress,
) -> dict[Any, int]:
    """Read every medium once, in threads (decoders let go of the interpreter); frames of those that can be read."""
    owners = {}
    for item in items:
        for medium in item.media:
            owners.setdefault(_key(medium), (medium, item.source))
    report.num_media = len(owners)
    video_processor = copy.copy(processor.video_processor) if processor is not None else HiComVideoProcessor()
    video_processor.size = {"height": CHECKED_SIDE, "width": CHECKED_SIDE}
    reader = MediaReader(video_processor, video_processor.frame_sampling(num_frames=num_frames))

    def check(key) -> int | Problem:
        medium, owner = owners[key]
        if not decode:
            return Problem(MISSING_MEDIA, f"{owner}: {media_name(medium)}", "not there") if is_missing(medium) else 0
        try:
            return len(reader.frames(medium))
        except SampleError as error:
            return Problem(error.kind, f"{owner}: {error.source}", error.reason)

    results = {}
    with ThreadPoolExecutor(num_workers) as pool:
        for key, result in progress(
            _in_windows(pool, check, list(owners), num_workers * WINDOW), len(owners), "media"
        ):
            results[key] = result
    report.problems.extend(results[key] for key in owners if isinstance(results[key], Problem))
    return {key: result for key, result in results.items() if not isinstance(result, Problem)}


def _in_windows(pool: ThreadPoolExecutor, function: Callable, keys: list, size: int) -> Iterable[tuple]:
    """Key and result as they are ready, at most `size` waiting."""
    for start in range(0, len(keys), size):
        futures = {pool.submit(function, key): key for key in keys[start : start + size]}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:  # after Ctrl-C
                future.cancel()


def _check_lengths(
    items: list[TrainingItem],
    frames: dict[Any, int],
    encoder: ItemEncoder,
    max_length: int | None,
    report: CheckReport,
    progress: Progress,
):
    for item in progress(items, len(items), "lengths"):
        counts = [frames.get(_key(medium)) for medium in item.media]
        if None in counts:
            continue  # reported already
        try:
            _, labels = encoder.tokenize(item, [encoder.processor.num_visual_tokens(count) for count in counts])
        except SampleError as error:
            report.problems.append(Problem(error.kind, error.source, error.reason))
            continue
        report.lengths.append(len(labels))
        if max_length is not None and len(labels) > max_length:
            answer_is_lost = all(label == IGNORED for label in labels[:max_length])
            loss = "nothing of the answer would be left" if answer_is_lost else "the answer would lose its end"
            report.problems.append(
                Problem(TOO_LONG, item.source, f"{len(labels)} tokens for max_length={max_length}: {loss}")
            )


def _key(medium: Medium):
    """What two uses of the same medium have in common; contents in memory are told apart by identity."""
    return medium if isinstance(medium.source, (str, bytes)) else (id(medium.source), *medium[2:])
