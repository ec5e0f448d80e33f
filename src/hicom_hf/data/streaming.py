"""Data sets that are read as they come: Hub data sets and tar shards (`tar_shards`), alone or mixed with files of records."""

import logging
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, repeat
from typing import Any, Literal, NamedTuple

from torch.utils.data import IterableDataset, get_worker_info

from .bad_samples import MISSING_MEDIA, SampleError, SkippedSample, check_on_bad_sample, raise_or_skip
from .conversations import TrainingItem, training_items
from .datasets import checked_encoder, encoded_or_skipped
from .encoding import ItemEncoder
from .epoch_padding import FILLER, Collator
from .record_keys import UNREAD, describe_unread, unread_keys
from .record_media import URL, Record
from .row_sources import DatasetRows, Reader, RecordRows, RowSource, has_own_buffer, is_file_of_records, open_stream
from .tar_shards import records_of_files

logger = logging.getLogger(__name__)

WEB_URL = re.compile("https?://", flags=re.IGNORECASE)


@dataclass(frozen=True)
class StreamPlace:
    """Between which two of its samples one reader of a stream is; plain values (JSON).

    Attributes:
        draws: rows that it has finished.
        sources: of each source, its epoch and its place there; None before its first row.
        samples: how many samples of the next row it has given out.
    """

    draws: int = 0
    sources: tuple[Any, ...] = ()
    samples: int = 0


class PlacedSample(NamedTuple):
    """A sample, and the place behind it."""

    sample: dict[str, Any] | SkippedSample
    place: StreamPlace


@dataclass(frozen=True)
class StreamStart:
    """Where the readers of a process resume.

    Attributes:
        batch_size: samples of a batch.
        num_batches: that the process was given before; every worker makes whole batches, in turn.
        places: by worker; one that is not there begins at the beginning.
    """

    batch_size: int
    num_batches: int = 0
    places: Mapping[int, StreamPlace] = field(default_factory=dict)


class HiComStreamingDataset(IterableDataset):
    """Training samples in the order of a stream.

    The stream is split between processes and loader workers here, so it must not be split again by the trainer. The samples of
    one record follow each other, and its videos are read once for all of them.

    Args:
        source: a `datasets.IterableDataset`; a Hub repo or folder for `datasets.load_dataset`; paths or URLs of tar shards,
            with `*` or `{000..127}`; a JSON, JSONL or mixture file; or several of these as a dictionary with the share of each:
            every record is drawn of one of them at random, and a source that ends begins again.
        encoder: an `ItemEncoder`, which says which frames are taken and how long a sample may be.
        media_root: folder or URL that relative paths start from; for a file of records, the file's folder if it is None.
        split: of a repo or folder.
        per_turn: False gives whole dialogues and no instruction (alignment).
        on_bad_sample: "raise", or "skip", which gives a logged `SkippedSample` in the place of the sample.
        shuffle_buffer: records of a stream that are shuffled among each other, block by block (the order of shards and the
            records of files are shuffled, too); 0 keeps the order.
        seed: of the shuffling, with the epoch, and of the draws.
        repeat: begin again at the end, so that no process ends before another; needs `max_steps` of the trainer.
        rank, world_size: this process and how many there are; default: the variables RANK and WORLD_SIZE of torchrun.

    Raises:
        ImportError: `datasets` is not installed.
        ValueError: no shard matches; several processes or sources without `repeat`; a share that is not above 0; or a file of
            records is wrong.
        SampleError: iterating, a record or video cannot be used (with "raise").

    Example:
        >>> encoder = ItemEncoder(processor, FrameSampling(num_frames=32))  # doctest: +SKIP
        >>> dataset = HiComStreamingDataset("shards/train-{000..127}.tar", encoder)  # doctest: +SKIP
        >>> next(iter(dataset))["input_ids"].shape  # doctest: +SKIP
        (712,)
        >>> mixed = {"shards/train-{000..127}.tar": 0.8, "own.json": 0.2}  # doctest: +SKIP
        >>> dataset = HiComStreamingDataset(mixed, encoder, repeat=True)  # doctest: +SKIP
    """

    def __init__(
        self,
        source: Any,
        encoder: ItemEncoder,
        media_root: str | os.PathLike | None = None,
        *,
        split: str = "train",
        per_turn: bool = True,
        on_bad_sample: Literal["raise", "skip"] = "raise",
        shuffle_buffer: int = 0,
        seed: int = 0,
        repeat: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ):
        super().__init__()
        self.encoder = checked_encoder(encoder)
        check_on_bad_sample(on_bad_sample)
        self.rank = int(os.environ.get("RANK", 0)) if rank is None else rank
        self.world_size = int(os.environ.get("WORLD_SIZE", 1)) if world_size is None else world_size
        if self.world_size > 1 and not repeat:
            raise ValueError(
                "with several processes a stream needs repeat=True (and max_steps for the trainer): its parts may differ in "
                "length, and a process that ends before the others leaves them waiting"
            )
        sources = source if isinstance(source, Mapping) else None
        if sources is not None and (not sources or not all(share > 0 for share in sources.values())):
            raise ValueError(f"each of several sources needs a share above 0, got {list(sources.values())}")
        if sources is not None and len(sources) > 1 and not repeat:
            raise ValueError("several sources need repeat=True: one that ends begins again")
        self.media_root = None if media_root is None else os.fspath(media_root)
        self.per_turn, self.on_bad_sample = per_turn, on_bad_sample
        self.shuffle_buffer, self.seed, self.repeat = shuffle_buffer, seed, repeat
        self.shares = [1.0] if sources is None else list(sources.values())
        self.sources = [self._opened(one, split) for one in ([source] if sources is None else sources)]
        self.epoch = 0
        self._start: StreamStart | None = None
        self._unread: set[str] = set()  # keys that were named in the log

    def _opened(self, source: Any, split: str) -> RowSource:
        if is_file_of_records(source):
            return RecordRows(source, self.media_root, self.seed, shuffle=bool(self.shuffle_buffer))
        return DatasetRows(open_stream(source, split), self.seed, self.shuffle_buffer)

    @property
    def num_shards(self) -> int:
        """Parts of this process' stream that loader workers share; more workers than this have nothing to read."""
        return min(source.num_shards(self._reader()) for source in self.sources)

    def settings(self) -> dict[str, Any]:
        """Plain values that the order of the samples depends on, beside the sources and the readers."""
        return {
            "seed": self.seed,
            "shuffle_buffer": self.shuffle_buffer,
            "per_turn": self.per_turn,
            "shares": self.shares,
            "world_size": self.world_size,
        }

    def start_at(self, start: StreamStart) -> None:
        """Give samples with their places, from a start: what a trainer needs to resume.

        The batches before the start hold `FILLER` in place of samples: nothing is read for them.

        Args:
            start: for the loader workers of this process.

        Raises:
            ValueError: the stream is not repeated, so that its batches are not all of one size; or a source was shuffled
                before it came here, so that it cannot be read from a place.
        """
        if not self.repeat:
            raise ValueError("only a repeated stream (repeat=True) has batches of one size, which can be counted")
        if any(isinstance(source, DatasetRows) and has_own_buffer(source.stream) for source in self.sources):
            raise ValueError(
                "the stream has a shuffle buffer of its own, whose content is lost when a run is interrupted; leave "
                "`shuffle` of the stream out and give shuffle_buffer"
            )
        self._start = start

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; the trainer calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any] | SkippedSample | PlacedSample | None]:
        reader, start = self._reader(), self._start
        if start is None:
            yield from (placed.sample for placed in self._samples(reader, StreamPlace()))
            return
        num_batches = len(range(reader.worker, start.num_batches, reader.num_workers))
        yield from repeat(FILLER, num_batches * start.batch_size)
        yield from self._samples(reader, start.places.get(reader.worker, StreamPlace()))

    def _reader(self) -> Reader:
        worker = get_worker_info()
        number = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return Reader(self.rank, self.world_size, *number)

    def _samples(self, reader: Reader, place: StreamPlace) -> Iterator[PlacedSample]:
        given = place.samples  # of the first row
        for row, before, after in self._rows(reader, place):
            items, known = self._items(row), {}  # `known`: what was read for this record
            for number, item in enumerate(items[given:], start=given + 1):
                is_encoded = isinstance(item, SkippedSample)
                sample = item if is_encoded else encoded_or_skipped(self.encoder, item, self.on_bad_sample, known)
                yield PlacedSample(sample, after if number == len(items) else replace(before, samples=number))
            given = 0

    def _rows(self, reader: Reader, place: StreamPlace) -> Iterator[tuple[Any, StreamPlace, StreamPlace]]:
        """Rows with the places before and behind them, each of a source that is drawn by its share."""
        places = place.sources or (None,) * len(self.sources)
        rows = [self._repeated(source, reader, at) for source, at in zip(self.sources, places, strict=True)]
        before = StreamPlace(place.draws, tuple(places))
        for draw in count(place.draws):
            generator = random.Random(f"{self.seed} {reader.rank} {reader.worker} {draw}")
            (chosen,) = generator.choices(range(len(rows)), self.shares)
            found = next(rows[chosen], None)
            if found is None:  # the end; a worker without a shard has nothing to repeat
                return
            row, at = found
            after = StreamPlace(draw + 1, (*before.sources[:chosen], at, *before.sources[chosen + 1 :]))
            yield row, before, after
            before = after

    def _repeated(self, source: RowSource, reader: Reader, place: list | None) -> Iterator[tuple[Any, list]]:
        """Rows of a source, epoch after epoch, each with [epoch, place in it]."""
        epoch, at = place or (self.epoch, None)
        while True:
            is_empty = at is None
            for row, behind in source.rows(epoch, reader, at):
                is_empty = False
                yield row, [epoch, behind]
            if not self.repeat or is_empty:
                return
            epoch, at = epoch + 1, None

    def _items(self, row: Record | Mapping[str, Any]) -> Sequence[TrainingItem | SkippedSample]:
        """What a row gives before any video is read."""
        try:
            records = [row] if isinstance(row, Record) else records_of_row(row, self.media_root)
            items = [item for record in records for item in training_items(record, self.per_turn)]
        except SampleError as error:
            return [raise_or_skip(error, self.on_bad_sample)]
        self._name_unread_keys(records)
        return items

    def _name_unread_keys(self, records: Sequence[Record]) -> None:
        """Warn of keys that nothing reads, once for each key and loader process: how many records follow is not known."""
        found = [key for record in records for key in unread_keys(record.data) if key not in self._unread]
        if found:
            self._unread.update(found)
            logger.warning("%s: %s", UNREAD, describe_unread(dict.fromkeys(found)))


class StreamCollator:
    """Makes batches of what a stream gives from a start, and says in `batch["stream_place"]` where its reader is behind them.

    Args:
        collator: of the samples. It is not called for a batch of fillers, which is empty.
    """

    def __init__(self, collator: Collator):
        self.collator = collator

    def __call__(self, samples: Sequence[PlacedSample | None]) -> dict[str, Any]:
        placed = [sample for sample in samples if sample is not None]  # not FILLER
        if not placed:
            return {}
        worker = get_worker_info()
        place = (0 if worker is None else worker.id, placed[-1].place)
        return {**self.collator([one.sample for one in placed]), "stream_place": place}


def records_of_row(row: Mapping[str, Any], media_root: str | None) -> list[Record]:
    """A row of a stream as a record, of its columns or the files of a tar sample; a sample's JSON may be a list of them."""
    if "__files__" in row:
        return records_of_files(row["__key__"], row["__shard__"], row["__files__"])
    if "__key__" in row and "json" in row:  # a shard that `datasets` itself has opened
        files = {
            name: value["bytes"] for name, value in row.items() if isinstance(value, Mapping) and "bytes" in value
        }
        return records_of_files(row["__key__"], row.get("__url__", "stream"), {**files, "json": row["json"]})
    name = next((f"record {row[key]}" for key in ("id", "__key__") if row.get(key) is not None), "a record")
    return [Record(row, f"stream: {name}", media_root, _open_remote)]


def _open_remote(kind: str, source: Any) -> Any:
    """Files that only fsspec can open (hf://, s3://) as bytes; everything else as it is."""
    if not isinstance(source, str) or not URL.match(source) or WEB_URL.match(source):
        return source
    import fsspec

    try:
        opened: Any = fsspec.open(source, "rb")  # one file: no list
        with opened as file:
            return file.read()
    except OSError as error:
        raise SampleError(source, MISSING_MEDIA, str(error)) from error
