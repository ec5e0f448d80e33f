"""Rows of a stream in a repeatable order, from any place in it: of a `datasets.IterableDataset`, or of files of records.

A place is a plain value (JSON) that says which rows of an epoch are to come. Rows of a stream are shuffled block by block: while
one block is given out in random order, the next one is read. So a place needs no content of the block, only where the block
begins and how many of its rows were given out.
"""

import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from .datasets import iterate_records
from .packed_records import PackedRecords
from .record_files import JSON_SUFFIXES, MIXTURE_SUFFIXES, TAR_SUFFIXES
from .tar_shards import expand_shards, tar_rows


class Reader(NamedTuple):
    """One of those that share a stream: a worker of a process' loader.

    Attributes:
        rank, world_size: of the process.
        worker, num_workers: of its loader; 0 of 1 without loader processes.
    """

    rank: int
    world_size: int
    worker: int = 0
    num_workers: int = 1


class RowSource(Protocol):
    """What a stream is read from."""

    def num_shards(self, reader: Reader) -> int:
        """How many loader workers of a process can share its rows."""
        ...

    def rows(self, epoch: int, reader: Reader, place: Any = None) -> Iterator[tuple[Any, Any]]:
        """Rows of an epoch for one reader, each with the place behind it.

        Args:
            epoch: decides the order, with the seed.
            reader: whose rows.
            place: where to begin, as it came with a row; None for the beginning.
        """
        ...


class RecordRows:
    """Records of files, in memory once for all workers; the whole epoch is shuffled.

    Args:
        path: JSON, JSONL or mixture YAML.
        media_root, seed: as of `iterate_records`; the seed is also that of the order.
        shuffle: False keeps the order.
    """

    def __init__(self, path: str | os.PathLike, media_root: str | None, seed: int, shuffle: bool):
        self.records = PackedRecords(iterate_records(path, media_root, seed))
        self.seed, self.shuffle = seed, shuffle

    def num_shards(self, reader: Reader) -> int:
        return len(range(reader.rank, len(self.records), reader.world_size))

    def rows(self, epoch: int, reader: Reader, place: int | None = None) -> Iterator[tuple[Any, int]]:
        order = np.arange(len(self.records))
        if self.shuffle:
            np.random.default_rng((self.seed, epoch)).shuffle(order)
        own = order[reader.rank :: reader.world_size][reader.worker :: reader.num_workers]
        for given in range(place or 0, len(own)):
            yield self.records[int(own[given])], given + 1


class DatasetRows:
    """Rows of a `datasets.IterableDataset`, its shards split between processes and loader workers.

    Args:
        stream: as of `open_stream`.
        seed: of the order of shards and of rows in a block.
        block_size: rows that are shuffled among each other; 0 keeps the order.
    """

    def __init__(self, stream: Any, seed: int, block_size: int):
        self.stream, self.seed, self.block_size = stream, seed, block_size

    def num_shards(self, reader: Reader) -> int:
        num_shards = self.stream.num_shards
        return num_shards if num_shards % reader.world_size else num_shards // reader.world_size

    def rows(self, epoch: int, reader: Reader, place: list | None = None) -> Iterator[tuple[Any, list]]:
        """A place is [number of the block, state of the stream at its beginning, rows of it that were given out]."""
        number, begin, given = place or (0, None, 0)
        part = self._part(epoch, reader)
        if part is None:
            return
        if begin is not None:
            part.load_state_dict(begin)
        size, incoming = max(1, self.block_size), _rows_of(part)
        with _without_note_on_buffers():
            block = list(islice(incoming, size))
        while block:
            end = part.state_dict()
            waiting, ahead = dict(enumerate(block)), []
            order = random.Random(f"{self.seed} {epoch} {number}").sample(range(len(block)), len(block))
            block.clear()  # rows go as they are given out
            for count, index in enumerate(order, start=1):
                row = waiting.pop(index)
                if count <= given:
                    continue
                yield row, [number, begin, count] if count < len(order) else [number + 1, end, 0]
                ahead += islice(incoming, count - len(ahead))
            number, begin, given, block = number + 1, end, 0, ahead

    def _part(self, epoch: int, reader: Reader) -> Any:
        """What a reader gets of the stream in an epoch; None if there are too few shards.

        `datasets` would split by worker itself, but not load its state afterwards.
        """
        from datasets.distributed import split_dataset_by_node

        part = self.stream
        if self.block_size:  # shards in random order, several at a time; rows are shuffled here
            part = part.shuffle(generator=np.random.default_rng((self.seed, epoch)), buffer_size=1)
        if part.num_shards % reader.world_size == 0:
            part = part.shard(reader.world_size, reader.rank, contiguous=False)
            reader = reader._replace(rank=0, world_size=1)
        if reader.worker >= part.num_shards:
            return None
        part = part.shard(reader.num_workers, reader.worker, contiguous=False)
        return part if reader.world_size == 1 else split_dataset_by_node(part, reader.rank, reader.world_size)


def _rows_of(part: Any) -> Iterator[dict[str, Any]]:
    """Rows in any process; iterating over the data set itself would split it by loader worker once more."""
    import fsspec.asyn

    fsspec.asyn.reset_lock()  # of the process that this one was forked from
    for batch in part.iter(batch_size=1):
        yield {name: values[0] for name, values in batch.items()}


def has_own_buffer(stream: Any) -> bool:
    """Whether a `datasets.IterableDataset` was shuffled before it came here: the content of its buffer is in no place."""
    inner = getattr(stream, "_ex_iterable", None)
    while inner is not None:
        if type(inner).__name__ == "BufferShuffledExamplesIterable":
            return True
        inner = getattr(inner, "ex_iterable", None)
    return False


@contextmanager
def _without_note_on_buffers() -> Iterator[None]:
    """Leaves out what `datasets` says of lost buffers: ours holds one row, which it gives out before it notes its state."""
    logger = logging.getLogger("datasets.iterable_dataset")
    logger.addFilter(_is_on_something_else)
    try:
        yield
    finally:
        logger.removeFilter(_is_on_something_else)


def _is_on_something_else(record: logging.LogRecord) -> bool:
    return "shuffle buffer" not in str(record.msg)


def open_stream(source, split: str = "train"):
    """A `datasets.IterableDataset` of undecoded rows.

    Args:
        source: as for `HiComStreamingDataset`, but no file of records.
        split: of a repo or folder.

    Raises:
        ImportError: `datasets` is not installed.
        TypeError: the source is of no known type.
        ValueError: no shard matches.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("streaming needs the library datasets: pip install hicom_hf[train]") from error

    names = [source] if isinstance(source, (str, os.PathLike)) else source
    if isinstance(source, datasets.IterableDataset):
        stream = source
    elif isinstance(source, datasets.Dataset):
        stream = source.to_iterable_dataset()
    elif not isinstance(names, (list, tuple)) or not names:
        raise TypeError(
            f"source must be a datasets.IterableDataset, a repo, a folder, or tar shards, got {type(source).__name__}"
        )
    elif all(os.fspath(name).lower().endswith(TAR_SUFFIXES) for name in names):
        shards = [shard for name in names for shard in expand_shards(os.fspath(name))]
        return datasets.IterableDataset.from_generator(tar_rows, gen_kwargs={"shards": shards})
    elif len(names) == 1:
        stream = datasets.load_dataset(os.fspath(names[0]), split=split, streaming=True)
    else:
        raise ValueError(f"several sources must all be tar shards ({', '.join(TAR_SUFFIXES)}), got {list(names)}")
    # Videos are decoded here, frame by frame; `datasets` would need torchcodec and take them whole.
    return stream if stream.features is None else stream.decode(False)


def is_file_of_records(source: Any) -> bool:
    """Whether a source is a JSON, JSONL or mixture file, by its suffix."""
    named = isinstance(source, (str, os.PathLike))
    return named and os.fspath(source).lower().endswith((*JSON_SUFFIXES, *MIXTURE_SUFFIXES))
