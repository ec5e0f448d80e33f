"""Data sets that are read as they come: Hub data sets and tar shards, through the library `datasets`.

A tar shard is in WebDataset's layout: the files of one sample share their name up to its first dot and follow each other.
`<key>.json` is the record, or a list of records of one video; its videos and images are files of the sample, named by the
record or, if it names none, all of them in the order of their names. Without a record that has turns or a caption,
`<key>.txt` is the caption.
"""

import json
import logging
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from torch.utils.data import IterableDataset, get_worker_info

from .conversations import BAD_RECORD, MISSING_MEDIA, URL, Record, SampleError, TrainingItem, training_items
from .datasets import SkippedSample, checked_encoder, encoded_or_skipped
from .encoding import ItemEncoder
from .epoch_padding import FILLER
from .formats import IMAGE_SUFFIXES, VIDEO_SUFFIXES, has_turns
from .record_files import TAR_SUFFIXES
from .sample_table import check_on_bad_sample

logger = logging.getLogger(__name__)

MEDIA_SUFFIXES = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
SHARD_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # data-{000..127}.tar, as WebDataset writes it
GLOB_CHARACTERS = re.compile(r"[*?\[]")
WEB_URL = re.compile("https?://", flags=re.IGNORECASE)


class HiComStreamingDataset(IterableDataset):
    """Training samples in the order of a stream.

    The stream is split between processes here (and between loader workers by `datasets`), so it must not be split again by
    the trainer. The samples of one record follow each other, and its videos are read once for all of them.

    Args:
        source: a `datasets.IterableDataset`; a Hub repo or folder for `datasets.load_dataset`; or paths or URLs of tar
            shards, with `*` or `{000..127}`.
        encoder: an `ItemEncoder`, which says which frames are taken and how long a sample may be.
        media_root: folder or URL that relative paths start from.
        split: of a repo or folder.
        per_turn: False gives whole dialogues and no instruction (alignment).
        on_bad_sample: "raise", or "skip", which gives a logged `SkippedSample` in the place of the sample.
        shuffle_buffer: records among which the next one is drawn (shards are shuffled, too); 0 keeps the order.
        seed: of the shuffling, with the epoch.
        repeat: begin again at the end, so that no process ends before another; needs `max_steps` of the trainer.
        rank, world_size: this process and how many there are; default: the variables RANK and WORLD_SIZE of torchrun.

    Raises:
        ImportError: `datasets` is not installed.
        ValueError: no shard matches, or several processes without `repeat`.
        SampleError: iterating, a record or video cannot be used (with "raise").

    Example:
        >>> encoder = ItemEncoder(processor, FrameSampling(num_frames=32))  # doctest: +SKIP
        >>> dataset = HiComStreamingDataset("shards/train-{000..127}.tar", encoder)  # doctest: +SKIP
        >>> next(iter(dataset))["input_ids"].shape  # doctest: +SKIP
        (712,)
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
        self.stream = open_stream(source, split)
        self.media_root = None if media_root is None else os.fspath(media_root)
        self.per_turn, self.on_bad_sample = per_turn, on_bad_sample
        self.shuffle_buffer, self.seed, self.repeat = shuffle_buffer, seed, repeat
        self.epoch = 0
        self._skipped_batches, self._batch_size = 0, 1

    @property
    def num_shards(self) -> int:
        """Parts of this process' stream that loader workers share; more workers than this have nothing to read."""
        return self._rows(self.epoch).num_shards

    def skip_batches(self, num_batches: int, batch_size: int) -> None:
        """Let the batches that a resumed run passes over hold `FILLER` in place of samples, so that no video is read for them.

        Args:
            num_batches: of this process, that the run has trained on.
            batch_size: samples in each; every worker of the loader makes whole batches, in turn.

        Raises:
            ValueError: the stream is not repeated, so that its batches are not all of one size.
        """
        if not self.repeat:
            raise ValueError("only a repeated stream (repeat=True) has batches of one size to skip")
        self._skipped_batches, self._batch_size = num_batches, batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; the trainer calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any] | SkippedSample | None]:
        epoch, num_skipped = self.epoch, self._num_skipped_samples()
        while True:
            is_empty = True
            for row in self._rows(epoch):
                is_empty = False
                items = self._items(row)
                num_fillers = min(num_skipped, len(items))
                num_skipped -= num_fillers
                yield from [FILLER] * num_fillers
                known = {}  # what was read for this record
                for item in items[num_fillers:]:
                    if isinstance(item, SkippedSample):
                        yield item
                    else:
                        yield encoded_or_skipped(self.encoder, item, self.on_bad_sample, known)
            if not self.repeat or is_empty:  # a worker without a shard has nothing to repeat
                return
            epoch += 1

    def _rows(self, epoch: int):
        from datasets.distributed import split_dataset_by_node

        stream = self.stream
        if self.shuffle_buffer:
            stream = stream.shuffle(seed=self.seed, buffer_size=self.shuffle_buffer)
            stream.set_epoch(epoch)
        if self.world_size > 1:
            stream = split_dataset_by_node(stream, self.rank, self.world_size)
        return stream

    def _num_skipped_samples(self) -> int:
        """Of this worker of the loader: batch number i is made by worker i modulo the number of workers."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return len(range(first, self._skipped_batches, step)) * self._batch_size

    def _items(self, row: Mapping[str, Any]) -> Sequence[TrainingItem | SkippedSample]:
        """What a row gives before any video is read."""
        try:
            records = records_of_row(row, self.media_root)
            return [item for record in records for item in training_items(record, self.per_turn)]
        except SampleError as error:
            if self.on_bad_sample == "raise":
                raise
            logger.warning("skipped: %s", error)
            return [SkippedSample(error.source, f"{error.kind}: {error.reason}")]


def open_stream(source, split: str = "train"):
    """A `datasets.IterableDataset` of undecoded rows.

    Args:
        source, split: as for `HiComStreamingDataset`.

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


def records_of_row(row: Mapping[str, Any], media_root: str | None) -> list[Record]:
    """A row of a stream as a record, of its columns or the files of a tar sample; a sample's JSON may be a list of them."""
    if "__files__" in row:
        return _records_of_files(row["__key__"], row["__shard__"], row["__files__"])
    if "__key__" in row and "json" in row:  # a shard that `datasets` itself has opened
        files = {
            name: value["bytes"] for name, value in row.items() if isinstance(value, Mapping) and "bytes" in value
        }
        return _records_of_files(row["__key__"], row.get("__url__", "stream"), {**files, "json": row["json"]})
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


# Tar shards ----------------------------------------------------------------------------------------------------------------


def expand_shards(pattern: str) -> list[str]:
    """Paths or URLs of the shards that match a pattern with `*` or `{000..127}`.

    Raises:
        ValueError: none matches.

    Example:
        >>> expand_shards("train-{08..10}.tar")
        ['train-08.tar', 'train-09.tar', 'train-10.tar']
    """
    span = SHARD_RANGE.search(pattern)
    if span is not None:
        numbers = range(int(span[1]), int(span[2]) + 1)
        names = [f"{pattern[: span.start()]}{n:0{len(span[1])}}{pattern[span.end() :]}" for n in numbers]
        shards = [shard for name in names for shard in expand_shards(name)]
    elif GLOB_CHARACTERS.search(pattern):
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(pattern)
        found = sorted(filesystem.glob(path))
        shards = [filesystem.unstrip_protocol(name) if URL.match(pattern) else name for name in found]
    else:
        shards = [pattern]
    if not shards:
        raise ValueError(f"no tar shard matches {pattern!r}")
    return shards


def tar_rows(shards: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Samples of tar shards: `__key__`, `__shard__` and `__files__`, content by what follows the key's dot.

    Raises:
        ValueError: a shard is no tar archive, or is cut off.
        OSError: it cannot be opened.
    """
    import fsspec

    for shard in shards:
        key, files = None, {}
        try:
            opened: Any = fsspec.open(shard, "rb")  # one file: no list
            with opened as file, tarfile.open(fileobj=file, mode="r|*") as archive:
                for member in archive:
                    folder, _, name = member.name.rpartition("/")
                    stem, _, suffix = name.partition(".")
                    if not member.isfile() or not stem:
                        continue
                    member_key = f"{folder}/{stem}" if folder else stem
                    if member_key != key and files:
                        yield {"__key__": key, "__shard__": shard, "__files__": files}
                        files = {}
                    key = member_key
                    content = archive.extractfile(member)
                    assert content is not None  # of a file
                    files[suffix] = content.read()
        except tarfile.TarError as error:
            raise ValueError(f"{shard}: this is no complete tar archive ({error})") from error
        if files:
            yield {"__key__": key, "__shard__": shard, "__files__": files}


def _records_of_files(key: str, shard: str, files: Mapping[str, Any]) -> list[Record]:
    """A tar sample as its records; "json" is content, or parsed already."""
    source = f"{shard}: {key}"
    data = files.get("json", {} if "txt" in files else None)
    if data is None:
        raise SampleError(source, BAD_RECORD, f"the sample has neither {key}.json nor {key}.txt, only {sorted(files)}")
    if isinstance(data, bytes):
        try:
            data = json.loads(data)
        except ValueError as error:
            raise SampleError(source, BAD_RECORD, f"{key}.json is not JSON ({error})") from error
    if isinstance(data, list) and data:
        return [_record_of_files(entry, f"{source}, record {n}", key, files) for n, entry in enumerate(data)]
    return [_record_of_files(data, source, key, files)]


def _record_of_files(data: Any, source: str, key: str, files: Mapping[str, Any]) -> Record:
    if isinstance(data, dict) and not any(data.get(name) for name in ("video", "videos", "image", "images")):
        data = dict(data)
        for kind, suffixes in MEDIA_SUFFIXES.items():
            names = [suffix for suffix in files if suffix.rpartition(".")[2].lower() in suffixes]
            data[kind] = sorted(names, key=_natural_key)

    if isinstance(data, dict) and "txt" in files and not has_turns(data):
        data = {**data, "caption": bytes(files["txt"]).decode("utf-8", "replace").strip()}

    def open_media(kind: str, name: Any) -> bytes:
        if isinstance(name, str):
            short = os.path.basename(name)
            for candidate in (name, short.removeprefix(f"{os.path.basename(key)}."), short):
                if candidate in files:
                    return files[candidate]
        raise SampleError(source, MISSING_MEDIA, f"{name!r} is none of the sample's files {sorted(files)}")

    return Record(data, source, None, open_media)


def _natural_key(name: str) -> list:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
