"""Checks a data set before hours are lost: every record, every video and image, every length."""

import copy
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..hub.progress import Progress, no_progress
from ..processors.media_access_hicom import OPEN_ACCESS, MediaAccess
from ..processors.processing_hicom import HiComProcessor
from ..processors.video_processing_hicom import HiComVideoProcessor
from .bad_samples import MISSING_MEDIA, PROBLEM_KINDS, TOO_LONG, SampleError
from .conversations import TrainingItem, training_items
from .converting import SAVED_FILES, TABLE_DELIMITERS, source_records
from .datasets import iterate_records
from .encoding import IGNORED, ItemEncoder
from .formats import record_format
from .media_reader import MediaReader, is_missing, media_name
from .packed_records import PackedRecords
from .record_files import JSON_SUFFIXES, TAR_SUFFIXES
from .record_keys import UNREAD, describe_unread, unread_keys
from .record_media import Record, same_medium
from .row_sources import open_stream
from .streaming import records_of_row

FOLDER_SUFFIXES = (
    *JSON_SUFFIXES,
    *TABLE_DELIMITERS,
    *TAR_SUFFIXES,
    ".parquet",
    ".arrow",
    ".txt",
)  # in folders of `datasets`
CHECKED_SIDE = 16  # pixels; frames are decoded whole but kept this small
CHUNK = 256  # records that are checked together, so that memory does not grow with the data set
STREAM_CHUNK = 64  # records of a stream that are checked together; their videos are in memory
NUM_SHOWN_WORDS = 8
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
        formats: records of other formats than ours, by name.
        unread_keys: of the records, that nothing reads, with how often; see `record_keys`.
        num_text_tokens, num_unknown_tokens: of the texts; unknown ones the tokenizer cannot spell, so nothing is learnt of them.
        unknown_words: words that hold them, with how often.
        problems: in the order of the records within each kind.
    """

    num_records: int = 0
    samples: dict[str, int] = field(default_factory=lambda: {"text": 0, "image": 0, "video": 0})
    num_media: int = 0
    lengths: list[int] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    unread_keys: Counter[str] = field(default_factory=Counter)
    num_text_tokens: int = 0
    num_unknown_tokens: int = 0
    unknown_words: Counter[str] = field(default_factory=Counter)
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
            "formats": dict(self.formats),
            "unread_keys": dict(self.unread_keys),
            "text_tokens": self.num_text_tokens,
            "unknown_tokens": self.num_unknown_tokens,
            "unknown_words": dict(self.unknown_words.most_common(NUM_SHOWN_WORDS)),
            "problems": self.counts,
            "details": [problem._asdict() for problem in self.problems],
        }

    def table(self, num_shown: int = 10) -> str:
        """The report for people, with the first problems."""
        rows = [("records", self.num_records), ("videos and images", self.num_media)]
        rows += [(f"samples: {name}", count) for name, count in self.samples.items()]
        rows += [(f"tokens per sample: {name}", tokens) for name, tokens in self.length_quantiles().items()]
        rows += [(f"read as {name}", count) for name, count in self.formats.items()]
        if self.num_text_tokens:
            rows += [("text tokens", self.num_text_tokens), ("unknown to the tokenizer", self.num_unknown_tokens)]
        rows += [(f"problems: {kind}", count) for kind, count in self.counts.items()]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value:>9,}" for name, value in rows]
        if self.unknown_words:
            words = ", ".join(word for word, _ in self.unknown_words.most_common(NUM_SHOWN_WORDS))
            lines += [
                "",
                f"The model's tokenizer cannot spell {words}: nothing is learnt of such words. Use another model.",
            ]
        if self.unread_keys:
            lines += ["", f"{UNREAD.capitalize()}: {describe_unread(self.unread_keys)}."]
        if self.problems:
            lines += ["", *(f"{source}: {kind}: {reason}" for kind, source, reason in self.problems[:num_shown])]
        if len(self.problems) > num_shown:
            lines.append(f"... and {len(self.problems) - num_shown} more")
        return "\n".join(lines)


def check_data(
    records: str | os.PathLike | Iterable[dict | Record],
    processor: HiComProcessor | None = None,
    media_root: str | os.PathLike | None = None,
    *,
    num_frames: int | None = None,
    max_length: int | None = None,
    per_turn: bool = True,
    decode: bool = True,
    num_workers: int = 1,
    seed: int = 0,
    media_access: MediaAccess = OPEN_ACCESS,
    progress: Progress | None = None,
) -> CheckReport:
    """Check every sample of a data set.

    Args:
        records: as for `HiComDataset`; or tar shards, or a folder that `datasets` loads.
        processor: a `HiComProcessor`, to count tokens; None checks records, videos and images only.
        media_root: folder that relative paths start from.
        num_frames: frames taken of each video whose record does not say how many; None is the processor's own.
        max_length: most tokens of a sample; needs a processor. Longer ones are reported, also those that training would
            cut short.
        per_turn: one sample per answer, see `training_items`.
        decode: read the frames that training would read; False only checks that files exist.
        num_workers: videos read at the same time.
        seed: of the random parts of a mixture.
        media_access: which files and servers may be read, see `read_video`.
        progress: shows progress over an iterable, given its length and a name.

    Raises:
        ValueError: the file itself is not a data set, there is no record in it, or `max_length` without processor.
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
    found, num_records, chunk_size = _records(records, media_root, seed)
    reader, encoder = (
        _small_reader(processor, num_frames, media_access),
        None if processor is None else ItemEncoder(processor),
    )
    frames: dict[Any, int | Problem] = {}
    chunks = batched(progress(found, num_records, "records"), chunk_size)
    for chunk in chunks:
        items = _check_records(chunk, per_turn, report)
        in_memory = _check_media(items, reader, decode, num_workers, report, frames)
        if encoder is not None and decode:
            _check_lengths(items, frames, encoder, max_length, report)
        for key in in_memory:  # contents are not kept
            del frames[key]
    if not report.num_records:
        name = f"{os.fspath(records)} holds" if isinstance(records, (str, os.PathLike)) else "there are"
        raise ValueError(f"{name} no records")
    report.problems.sort(key=lambda problem: PROBLEM_KINDS.index(problem.kind))  # stable: records stay in order
    return report


def _records(records, media_root, seed: int) -> tuple[Iterable[Record], int, int]:
    """Records, how many there are (0 if that is not known), and how many are checked together."""
    if isinstance(records, (str, os.PathLike)):
        path = os.fspath(records)
        root = None if media_root is None else os.fspath(media_root)
        if os.path.isdir(path) and any(os.path.isfile(os.path.join(path, name)) for name in SAVED_FILES):
            return source_records(Path(path), root), 0, STREAM_CHUNK
        if os.path.isdir(path) and not _holds_records(Path(path)):
            raise ValueError(
                f"{path} holds no records; `hicom data convert {path} train.json` makes a file of its videos, whose answers "
                "you fill in"
            )
        if path.lower().endswith(TAR_SUFFIXES) or os.path.isdir(path):
            return (record for row in open_stream(path) for record in records_of_row(row, root)), 0, STREAM_CHUNK
    found = PackedRecords(iterate_records(records, media_root, seed))
    return found, len(found), CHUNK


def _holds_records(folder: Path) -> bool:
    """Whether a folder holds a file that `datasets` reads records from, and not only videos."""
    return any(file.name.lower().endswith(FOLDER_SUFFIXES) for file in folder.rglob("*"))


def _small_reader(processor, num_frames: int | None, access: MediaAccess) -> MediaReader:
    """Reads the frames that training would read, but keeps them small."""
    video_processor = copy.copy(processor.video_processor) if processor is not None else HiComVideoProcessor()
    video_processor.size = {"height": CHECKED_SIDE, "width": CHECKED_SIDE}
    sampling = video_processor.frame_sampling(num_frames=num_frames)
    return MediaReader(video_processor, sampling, media_access=access)


def _check_records(records: Iterable[Record], per_turn: bool, report: CheckReport) -> list[TrainingItem]:
    items = []
    for record in records:
        report.num_records += 1
        known = record_format(record.data)
        if known is not None:
            report.formats[known.name] += 1
        if isinstance(record.data, Mapping):
            report.unread_keys.update(unread_keys(record.data))
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
    reader: MediaReader,
    decode: bool,
    num_workers: int,
    report: CheckReport,
    frames: dict[Any, int | Problem],
) -> list:
    """Read every medium that is new, in threads (decoders let go of the interpreter), and note its frames or what is wrong.

    Returns:
        Keys of contents in memory.
    """
    owners = {}
    for item in items:
        for medium in item.media:
            if (key := same_medium(medium)) not in frames:
                owners.setdefault(key, (medium, item.source))
    report.num_media += len(owners)

    def check(key) -> int | Problem:
        medium, owner = owners[key]
        if not decode:
            return Problem(MISSING_MEDIA, f"{owner}: {media_name(medium)}", "not there") if is_missing(medium) else 0
        try:
            count = len(reader.frames(medium) if medium.tiles is None else reader.squares(medium).pictures)
            return count if medium.selection is None else min(count, medium.selection.num_frames or count)
        except SampleError as error:
            return Problem(error.kind, f"{owner}: {error.source}", error.reason)

    with ThreadPoolExecutor(num_workers) as pool:
        frames.update(_in_windows(pool, check, list(owners), num_workers * WINDOW))
    report.problems.extend(found for key in owners if isinstance(found := frames[key], Problem))
    return [key for key, (medium, _) in owners.items() if not isinstance(medium.source, str)]


def batched(values: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` values, the last one shorter."""
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk


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
    frames: dict[Any, int | Problem],
    encoder: ItemEncoder,
    max_length: int | None,
    report: CheckReport,
):
    for item in items:
        counts = [found for one in item.media if not isinstance(found := frames[same_medium(one)], Problem)]
        if len(counts) < len(item.media):
            continue  # reported already
        try:
            ids, labels = encoder.tokenize(item, [encoder.processor.num_visual_tokens(count) for count in counts])
        except SampleError as error:
            report.problems.append(Problem(error.kind, error.source, error.reason))
            continue
        report.lengths.append(len(labels))
        _count_unknown(item, ids, encoder.processor, report)
        if max_length is not None and len(labels) > max_length:
            answer_is_lost = all(label == IGNORED for label in labels[:max_length])
            loss = "nothing of the answer would be left" if answer_is_lost else "the answer would lose its end"
            report.problems.append(
                Problem(TOO_LONG, item.source, f"{len(labels)} tokens for max_length={max_length}: {loss}")
            )


def _count_unknown(item: TrainingItem, ids: list[int], processor, report: CheckReport):
    """Count tokens that stand for what the tokenizer cannot spell, and note the words of the texts that hold them."""
    placeholders = (processor.video_token_id, processor.image_token_id)
    report.num_text_tokens += sum(token not in placeholders for token in ids)
    tokenizer = processor.tokenizer
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown not in ids:
        return
    report.num_unknown_tokens += ids.count(unknown)
    for message in item.messages:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        for word in " ".join(texts).split():
            if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]:
                report.unknown_words[word] += 1
