"""A collator for rows as they are: for trainers that want a table of records and make the batches themselves, such as TRL's."""

from collections.abc import Mapping, Sequence
from typing import Any

from .collating import HiComDataCollator
from .conversations import Record, training_items
from .encoding import ItemEncoder


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
        ValueError: the encoder leaves pixels as uint8.
        SampleError: called, a row cannot be used or its video cannot be read.

    Example:
        >>> collator = HiComRowCollator(ItemEncoder(processor, FrameSampling(num_frames=32)))  # doctest: +SKIP
        >>> trl.SFTTrainer(model, SFTConfig("out", remove_unused_columns=False, max_length=None,  # doctest: +SKIP
        ...     dataset_kwargs={"skip_prepare_dataset": True}), data_collator=collator,
        ...     train_dataset=datasets.load_dataset("json", data_files="train.json")["train"], processing_class=processor)
    """

    def __init__(self, encoder: ItemEncoder, media_root: str | None = None, *, per_turn: bool = True, **options: Any):
        if encoder.raw_pixels:
            raise ValueError("the encoder must have raw_pixels=False: only HiComTrainer normalises pixels")
        self.encoder, self.media_root, self.per_turn = encoder, media_root, per_turn
        self.collator = HiComDataCollator(encoder.processor, **options)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch as of `HiComDataCollator`."""
        samples = []
        for row in rows:
            known: dict = {}  # videos of the row
            content = {name: value for name, value in row.items() if value is not None}  # tables fill gaps with None
            name = f"row {content['id']}" if "id" in content else "a row"
            for item in training_items(Record(content, name, self.media_root), self.per_turn):
                samples.append(self.encoder(item, known))
        return self.collator(samples)
