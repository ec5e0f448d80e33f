"""Data sets of conversations in files: JSON, JSONL, or records in memory, with random access."""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from .bad_samples import OnBadSample, SampleError, SkippedSample, check_on_bad_sample, raise_or_skip
from .conversations import TrainingItem, training_items
from .encoding import ItemEncoder, tokenized_segments
from .feature_cache import medium_key
from .holding_out import Side, records_of_side
from .mixtures import files_of_records, mixture_records
from .packed_records import PackedRecords
from .record_files import MIXTURE_SUFFIXES, TAR_SUFFIXES, file_records, record_name
from .record_index import open_index
from .record_media import Medium, Record
from .sample_table import MODALITIES, SampleTable, describe_samples

logger = logging.getLogger(__name__)

NUM_CALIBRATION_ITEMS = 64  # items that are tokenised to estimate tokens per character


class RecordSource:
    """Where records come from, and what they depend on.

    Args:
        records, media_root, seed: as of `iterate_records`; several files as a list of paths.
        part: which records are taken, see `holding_out`; None for all.
    """

    def __init__(
        self,
        records: str | os.PathLike | Iterable[dict | Record] | Sequence[str],
        media_root: str | os.PathLike | None = None,
        seed: int = 0,
        part: tuple[float, int, Side] | None = None,
    ):
        self.source, self.media_root, self.seed, self.part = records, media_root, seed, part

    def records(self) -> Iterator[Record]:
        """From the beginning; errors as of `iterate_records`."""
        found = chain.from_iterable(iterate_records(one, self.media_root, self.seed) for one in self._each())
        return found if self.part is None else records_of_side(found, *self.part)

    def _each(self) -> list[Any]:
        source: Any = self.source
        is_list = isinstance(source, (list, tuple)) and all(isinstance(one, (str, os.PathLike)) for one in source)
        return list(source) if is_list and source else [source]

    def settings(self) -> dict[str, Any]:
        """Plain values that change when the records do: paths, sizes and times of change of all files.

        Raises:
            TypeError: the records do not come from files.
        """
        files = []
        for one in self._each():
            if not isinstance(one, (str, os.PathLike)):
                raise TypeError("index needs records of files; records in memory are not indexed")
            files += [
                [os.path.abspath(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files_of_records(one)
            ]
        root = None if self.media_root is None else os.path.abspath(self.media_root)
        return {"files": files, "media_root": root, "seed": self.seed, "part": self.part}


def encoder_settings(encoder: ItemEncoder) -> dict[str, Any]:
    """What lengths and visual tokens of samples depend on, as plain values."""
    processor = encoder.processor
    tokens = [processor.num_visual_tokens(frames) for frames in (1, 4, 7, 32, 64)]
    return {"reader": json.loads(json.dumps(encoder.reader.settings, default=str)), "visual_tokens": tokens}


class HiComDataset(Dataset):
    """Training samples with random access, one per answer.

    Args:
        records: path of a JSON, JSONL or mixture YAML file, or entries as dictionaries or `Record`s.
        encoder: an `ItemEncoder`, which says which frames are taken and how long a sample may be.
        media_root: folder that relative paths start from; default: the file's folder, or the current one.
        per_turn: False gives whole dialogues and no instruction (alignment), see `training_items`.
        on_bad_sample: "raise", or "skip": entries that cannot be used are left out, videos that cannot be read give a
            `SkippedSample`; each is logged with its path. No sample is replaced by another one.
        seed: of the random parts of a mixture.
        index: a folder for an index of the records, which all processes of a machine share and later runs open at once, see
            `record_index`. Only for records of files. None keeps them in this process.

    Attributes:
        skipped: a `SkippedSample` for every record left out when the data set was opened.
        formats: records of other formats than ours, counted by name, see `formats`.
        lengths: (samples,) int32, estimated tokens with visual tokens; nothing is decoded for it.
        visual_tokens: (samples,) int64, tokens of the sample's videos and images, the same estimate.
        modalities: (samples,) int8, index into `MODALITIES`: what the batches may be grouped by.
        media_numbers: (samples,) int64, equal for samples of the same videos and images; where a question chooses the frames,
            for those of the same question.
        num_choosing: samples whose question chooses the frames of a video.
        num_tiled: samples that see a video or image as tiles.

    Raises:
        SampleError: a record cannot be used (with "raise"); indexing: its video cannot be read.
        ValueError: the content of a file does not fit its suffix, or no sample is left.

    Example:
        >>> encoder = ItemEncoder(processor, FrameSampling(num_frames=32))  # doctest: +SKIP
        >>> dataset = HiComDataset("train.json", encoder)  # doctest: +SKIP
        >>> dataset[0]["input_ids"].shape, dataset[0]["pixel_values_videos"].shape  # doctest: +SKIP
        ((712,), (32, 3, 384, 384))
    """

    def __init__(
        self,
        records: str | os.PathLike | Iterable[dict | Record] | RecordSource,
        encoder: ItemEncoder,
        media_root: str | os.PathLike | None = None,
        *,
        per_turn: bool = True,
        on_bad_sample: OnBadSample = "raise",
        seed: int = 0,
        index: str | os.PathLike | None = None,
    ):
        check_on_bad_sample(on_bad_sample)
        self.encoder = checked_encoder(encoder)
        self.per_turn = per_turn
        self.on_bad_sample: OnBadSample = on_bad_sample
        source = records if isinstance(records, RecordSource) else RecordSource(records, media_root, seed)
        self.records: Sequence[Record]
        if index is None:
            self.records = PackedRecords(source.records())
            table = self._describe(self.records)
        else:
            settings = {**source.settings(), "encoder": encoder_settings(encoder), "per_turn": per_turn}
            settings["on_bad_sample"] = on_bad_sample
            self.records, table = open_index(index, settings, source.records, self._describe)
        self.skipped, self.formats = table.skipped, table.formats
        self.num_choosing, self.num_tiled = table.num_choosing, table.num_tiled
        self._places, self.media_numbers = table.places, table.media
        self.modalities, self.visual_tokens = table.modalities, table.visual_tokens
        self.lengths = self._estimated_lengths(table.characters, table.visual_tokens)

    def _describe(self, records: Iterable[Record]) -> SampleTable:
        return describe_samples(records, self.encoder, self.per_turn, self.on_bad_sample)

    def _estimated_lengths(self, characters: np.ndarray, visual_tokens: np.ndarray) -> np.ndarray:
        """Tokens from characters: a few samples are tokenised and a line put through them."""
        chosen = np.unique(np.linspace(0, len(characters) - 1, NUM_CALIBRATION_ITEMS).astype(int))
        chosen_characters, chosen_tokens = [], []
        for index in chosen:
            item = self.item(index)
            try:
                chosen_tokens.append(sum(len(ids) for ids, _ in tokenized_segments(self.encoder.processor, item)))
            except SampleError:
                continue  # reported when the sample itself is asked for
            chosen_characters.append(characters[index])
        if len(set(chosen_characters)) > 1:
            slope, offset = np.polyfit(chosen_characters, chosen_tokens, deg=1)
        else:
            slope, offset = 1 / 4, np.mean(chosen_tokens or [0]) - np.mean(chosen_characters or [0]) / 4
        return (np.maximum(np.rint(offset + slope * characters), 1) + visual_tokens).astype(np.int32)

    @property
    def modality_lengths(self) -> np.ndarray:
        """`lengths`, negative for samples without videos and images (the sign that LLaVA's samplers read)."""
        return np.where(self.modalities == 0, -self.lengths, self.lengths)

    def __len__(self) -> int:
        return len(self._places)

    def item(self, index: int) -> TrainingItem:
        """The sample before anything is read or tokenised."""
        number, place = self._places[index]
        return training_items(self.records[number], self.per_turn)[place]

    def __getitem__(self, index: int) -> dict[str, Any] | SkippedSample:
        """Tensors of a sample, see `ItemEncoder`.

        Raises:
            SampleError: it cannot be used, with the path of its record and video.
        """
        return encoded_or_skipped(self.encoder, self.item(index), self.on_bad_sample)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any] | SkippedSample]:
        """The samples of a batch, as PyTorch's loader asks for them; each of their videos is read once."""
        known: dict = {}
        items = [self.item(index) for index in indices]  # all at once: what `known` holds may go by identity
        return [encoded_or_skipped(self.encoder, item, self.on_bad_sample, known) for item in items]

    def media(self) -> Iterator[Medium]:
        """Every video and image once, in order of first use: what a `FeatureCache` must hold.

        A video counts once for each choice of its frames.
        """
        seen = set()
        for item in self.items() if self.num_choosing else self._last_items():
            try:
                media = self.encoder.media(item)
            except SampleError as error:  # a video that could not be read when frames were chosen
                raise_or_skip(error, self.on_bad_sample)
                continue
            for medium in media:
                key = medium if isinstance(medium.source, str) else medium_key(medium)
                if key not in seen:
                    seen.add(key)
                    yield medium

    def items(self) -> Iterator[TrainingItem]:
        """All samples, before anything is read, in the order of the records."""
        for number, place in self._places:
            yield training_items(self.records[number], self.per_turn)[place]

    def _last_items(self) -> Iterator[TrainingItem]:
        """The last sample of each record, which has all of its videos and images."""
        for record in self.records:
            try:
                yield training_items(record, self.per_turn)[-1]
            except SampleError:  # skipped when the data set was opened
                continue

    def summary(self) -> str:
        """One line for a log: samples by modality, and what was left out."""
        counts = Counter(MODALITIES[modality] for modality in self.modalities)
        parts = ", ".join(f"{counts[name]} {name}" for name in MODALITIES if counts[name])
        skipped = f", {len(self.skipped)} records skipped" if self.skipped else ""
        formats = "".join(f", {count} read as {name}" for name, count in self.formats.items())
        return f"{len(self)} samples ({parts}) of {len(self.records)} records{formats}{skipped}"


def checked_encoder(encoder: ItemEncoder) -> ItemEncoder:
    """The encoder of a data set.

    Raises:
        TypeError: it is something else, a processor, for example.
    """
    if not isinstance(encoder, ItemEncoder):
        raise TypeError(
            f"encoder must be an ItemEncoder, got {type(encoder).__name__}; "
            "ItemEncoder(processor, FrameSampling(num_frames=32)), for example"
        )
    return encoder


def encoded_or_skipped(
    encoder: ItemEncoder, item: TrainingItem, on_bad_sample: str, known: dict | None = None
) -> dict[str, Any] | SkippedSample:
    """An item's tensors; or, if that was asked for, a note that it cannot be used. `known`: see `ItemEncoder`.

    Raises:
        SampleError: it cannot be used.
    """
    try:
        return encoder(item, known)
    except SampleError as error:
        where = item.source if error.source == item.source else f"{item.source}: {error.source}"
        return raise_or_skip(SampleError(where, error.kind, error.reason), on_bad_sample)


# Files ---------------------------------------------------------------------------------------------------------------------


def load_records(
    records: str | os.PathLike | Iterable[dict | Record],
    media_root: str | os.PathLike | None = None,
    seed: int = 0,
) -> list[Record]:
    """The records of `iterate_records` in a list; arguments and errors as there."""
    return list(iterate_records(records, media_root, seed))


def iterate_records(
    records: str | os.PathLike | Iterable[dict | Record],
    media_root: str | os.PathLike | None = None,
    seed: int = 0,
) -> Iterator[Record]:
    """Records of a file or in memory, each with its name for messages; lines of JSONL are not in memory together.

    Args:
        records: path of a JSON, JSONL or mixture YAML file, or entries.
        media_root: folder that relative paths start from; default: the file's own folder, for entries the current one.
        seed: of the random parts of a mixture.

    Raises:
        ValueError: the file's content is not what its suffix says.
        OSError: the file cannot be read.
    """
    if isinstance(records, (str, os.PathLike)):
        path = Path(records)
        if path.suffix.lower() in MIXTURE_SUFFIXES:
            yield from mixture_records(path, media_root, seed)
            return
        if path.name.lower().endswith(TAR_SUFFIXES):
            raise ValueError(
                f"{path}: tar shards are read as a stream, by HiComStreamingDataset; here a JSON file is needed"
            )
        yield from file_records(path, media_root)
        return
    root = None if media_root is None else os.fspath(media_root)
    for number, entry in enumerate(records):
        yield entry if isinstance(entry, Record) else Record(entry, record_name("", entry, number), root)
