"""Collators for rows as they are: for trainers that want a table of records and make the batches themselves, such as TRL's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .bad_samples import BAD_RECORD, SampleError
from .batch_tiles import has_tiles
from .collating import HiComDataCollator
from .conversations import TrainingItem, training_items
from .encoding import IGNORED, ItemEncoder
from .record_media import Record

NO_TILES = "questions choose patches by the weights of the moment, which only HiComTrainer lets them do"


class HiComRowCollator:
    """Makes a batch of rows: reads their videos, tokenises, marks the answers.

    Each answer of a row is a sample, with its question as the instruction, as in `HiComDataset`; the videos of a row are read
    once for all of its answers. So a batch may have more samples than rows.

    Args:
        encoder: an `ItemEncoder`, with `raw_pixels=False`, since other trainers normalise nothing.
        media_root: folder that relative paths start from; None for the current one.
        per_turn: False makes one sample of a row, all answers supervised, no instruction (alignment).
        **options: of `HiComDataCollator`.

    Raises:
        ValueError: the encoder leaves pixels as uint8, or sees frames as tiles.
        SampleError: called, a row cannot be used, asks for tiles, or its video cannot be read.

    Example:
        >>> collator = HiComRowCollator(ItemEncoder(processor, FrameSampling(num_frames=32)))  # doctest: +SKIP
        >>> trl.SFTTrainer(model, SFTConfig("out", remove_unused_columns=False, max_length=None,  # doctest: +SKIP
        ...     dataset_kwargs={"skip_prepare_dataset": True}), data_collator=collator,
        ...     train_dataset=datasets.load_dataset("json", data_files="train.json")["train"], processing_class=processor)
    """

    def __init__(self, encoder: ItemEncoder, media_root: str | None = None, *, per_turn: bool = True, **options: Any):
        _check_pixels(encoder)
        self.encoder, self.media_root, self.per_turn = encoder, media_root, per_turn
        self.collator = HiComDataCollator(encoder.processor, **options)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch as of `HiComDataCollator`."""
        samples = []
        for row in rows:
            known: dict = {}  # videos of the row
            for item in training_items(_record(row, self.media_root), self.per_turn):
                samples.append(_padded(self.encoder(item, known), item))
        return self.collator(samples)


class HiComPreferenceCollator:
    """Makes a batch of preferences about videos: rows with `prompt`, `chosen` and `rejected`, as TRL's DPO trainer wants it.

    Prompt and answers are texts or lists of messages; `video`, `videos`, `image` and `images` are paths, as in a record. The
    question of the prompt's last turn is the instruction. A video is read once for both answers.

    Args:
        encoder: an `ItemEncoder`, with `raw_pixels=False`.
        media_root: folder that relative paths start from; None for the current one.
        **options: of `HiComDataCollator`, but no packing.

    Raises:
        ValueError: the encoder leaves pixels as uint8, or sees frames as tiles.
        SampleError: called, a row cannot be used, asks for tiles, or its video cannot be read.

    Example:
        >>> rows = rows.add_column("images", [[]] * len(rows))  # tells TRL to leave the rows as they are  # doctest: +SKIP
        >>> trl.DPOTrainer(model, args=DPOConfig("out", remove_unused_columns=False, max_length=None),  # doctest: +SKIP
        ...     data_collator=HiComPreferenceCollator(encoder), train_dataset=rows, processing_class=processor)
    """

    def __init__(self, encoder: ItemEncoder, media_root: str | None = None, **options: Any):
        _check_pixels(encoder)
        self.encoder, self.media_root = encoder, media_root
        self.collator = HiComDataCollator(encoder.processor, **options)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`input_ids`, `attention_mask`, `completion_mask` (2 B, length) and the visual inputs: first the chosen answers."""
        chosen, rejected = [], []
        for row in rows:
            record = _record(row, self.media_root)
            if lacking := [key for key in ("prompt", "chosen", "rejected") if key not in record.data]:
                raise SampleError(record.source, BAD_RECORD, f"a preference needs {', '.join(lacking)}")
            known: dict = {}  # videos of the row
            for key, samples in (("chosen", chosen), ("rejected", rejected)):
                answered = replace(record, data={**record.data, "completion": record.data[key]})
                item = training_items(answered)[-1]
                samples.append(_padded(self.encoder(item, known), item))
        batch = self.collator([*chosen, *rejected])
        batch["completion_mask"] = (batch.pop("labels") != IGNORED).long()
        return batch


def _record(row: Mapping[str, Any], media_root: str | None) -> Record:
    """A row of a table as a record; tables fill gaps with None."""
    content = {name: value for name, value in row.items() if value is not None}
    return Record(content, f"row {content['id']}" if "id" in content else "a row", media_root)


def _check_pixels(encoder: ItemEncoder) -> None:
    if encoder.raw_pixels:
        raise ValueError("the encoder must have raw_pixels=False: only HiComTrainer normalises pixels")
    if encoder.reader.tiles is not None:
        raise ValueError(f"the encoder must have tiles=None: {NO_TILES}")


def _padded(sample: dict[str, Any], item: TrainingItem) -> dict[str, Any]:
    """A sample, unless it sees tiles."""
    if has_tiles(sample):
        raise SampleError(item.source, BAD_RECORD, f'"tiles": {NO_TILES}; leave it out')
    return sample
