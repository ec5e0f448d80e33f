"""From samples to a batch: text padded to one length or laid end to end, videos and images in the order of their samples.

Letters: B samples, V videos of the batch, T frames of one, S image side in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence

from ..processors.processing_hicom import HiComProcessor
from ..processors.square_frames_hicom import concatenated_features, joined
from .bad_samples import SkippedSample
from .encoding import IGNORED

PACKED_TENSORS = (
    "pixel_values_videos",
    "video_num_frames",
    "video_instruction_ids",
    "pixel_values",
    "image_instruction_ids",
)
PACKED_FEATURES = ("video_features", "image_features")


@dataclass
class BatchStatistics:
    """What a log wants to know of a batch.

    Attributes:
        num_samples: rows that hold a sample.
        num_text_tokens: without placeholders and padding.
        num_visual_tokens: placeholders.
        num_padding_tokens: what the rows' different lengths cost.
        num_supervised_tokens: labels that are not -100.
        decode_seconds: spent on reading videos and images, added up over the samples.
        skipped: samples that the data set left out.
    """

    num_samples: int = 0
    num_text_tokens: int = 0
    num_visual_tokens: int = 0
    num_padding_tokens: int = 0
    num_supervised_tokens: int = 0
    decode_seconds: float = 0.0
    skipped: list[SkippedSample] = field(default_factory=list)


class HiComDataCollator:
    """Makes a batch of what `HiComDataset` gives.

    A `SkippedSample` makes no row. If all samples of a batch were skipped, the batch is one row of one padding token
    without any label, so that every process still has a batch; its loss is 0 / 0 unless the trainer handles it
    (`HiComTrainer` counts labels over all processes and does).

    Args:
        processor: a `HiComProcessor`.
        padding_side: "right" or "left"; attention and position ids make them equal.
        pad_to_multiple_of: lengths are rounded up to a multiple, for tensor cores; None does not.
        packing: lay all samples of a batch end to end in one row, without padding. Positions begin again with each sample,
            which is how attention keeps them apart; see `check_packing`.
        with_statistics: add `batch["statistics"]`, a `BatchStatistics`, which the trainer must take out before it calls
            the model. It is part of the batch, so it is correct with any number of loader processes.

    Attributes:
        last_statistics: of the last batch made in this process.

    Example:
        >>> collator = HiComDataCollator(processor)  # doctest: +SKIP
        >>> model(**collator([dataset[0], dataset[1]])).loss  # doctest: +SKIP
    """

    def __init__(
        self,
        processor: HiComProcessor,
        padding_side: Literal["right", "left"] = "right",
        *,
        pad_to_multiple_of: int | None = None,
        packing: bool = False,
        with_statistics: bool = False,
    ):
        if padding_side not in ("right", "left"):
            raise ValueError(f'padding_side must be "right" or "left", got {padding_side!r}')
        tokenizer = processor.tokenizer
        self.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        if self.pad_token_id is None:
            raise ValueError(
                "the processor's tokenizer has neither a padding token nor an end token; set its pad_token"
            )
        self.placeholder_ids = torch.tensor([processor.video_token_id, processor.image_token_id])
        self.padding_side = padding_side
        if packing and pad_to_multiple_of is not None:
            raise ValueError("pad_to_multiple_of must be None with packing, which has no padding")
        self.pad_to_multiple_of = pad_to_multiple_of
        self.packing = packing
        self.with_statistics = with_statistics
        self.last_statistics = BatchStatistics()

    def __call__(self, samples: Sequence[dict[str, Any] | SkippedSample]) -> dict[str, Any]:
        """Make a batch.

        Returns:
            `input_ids`, `attention_mask` and `labels` (B, length), or with `packing` `input_ids`, `position_ids` and `labels`
            (1, sum of the lengths); and of the visual inputs of `HiComForConditionalGeneration.forward` those that a sample has,
            in the order of the samples. With tiles, `video_tiles` and `image_tiles`, see `batch_tiles`, which the model does not
            read: `HiComTrainer` or `with_chosen_patches` puts features in their place.
        """
        rows = [sample for sample in samples if not isinstance(sample, SkippedSample)]
        statistics = BatchStatistics(num_samples=len(rows))
        statistics.skipped = [sample for sample in samples if isinstance(sample, SkippedSample)]
        text = rows or [{"input_ids": torch.tensor([self.pad_token_id]), "labels": torch.tensor([IGNORED])}]
        batch: dict[str, Any] = self._end_to_end(text) if self.packing else self._padded(text)
        for name in PACKED_TENSORS:
            parts = [row[name] for row in rows if name in row]
            if parts:
                batch[name] = joined(parts)
        for name in PACKED_FEATURES:
            parts = [row[name] for row in rows if name in row]
            if parts:
                batch[name] = concatenated_features(parts)
        for kind in ("video", "image"):
            if any(f"{kind}_tiles" in row for row in rows):
                batch[f"{kind}_tiles"] = [one for row in rows for one in _tiles_or_none(row, kind)]
        self._count(statistics, batch, rows)
        if self.with_statistics:
            batch["statistics"] = statistics
        return batch

    def _end_to_end(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """One row; the first label of a sample is that of a prompt, so no token is predicted from the sample before."""
        batch = {name: torch.cat([row[name] for row in rows])[None] for name in ("input_ids", "labels")}
        batch["position_ids"] = torch.cat([torch.arange(len(row["input_ids"])) for row in rows])[None]
        begins = batch["position_ids"] == 0
        batch["labels"] = batch["labels"].masked_fill(begins, IGNORED)
        return batch

    def _padded(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        names = {"input_ids": self.pad_token_id, "attention_mask": 0, "labels": IGNORED}
        batch = {}
        for name, filler in names.items():
            parts = [torch.ones_like(row["input_ids"]) if name == "attention_mask" else row[name] for row in rows]
            padded = pad_sequence(parts, batch_first=True, padding_value=filler, padding_side=self.padding_side)
            excess = -padded.shape[1] % (self.pad_to_multiple_of or 1)
            sides = (0, excess) if self.padding_side == "right" else (excess, 0)
            batch[name] = torch.nn.functional.pad(padded, sides, value=filler)
        return batch

    def _count(self, statistics: BatchStatistics, batch: dict[str, torch.Tensor], rows: list[dict]):
        num_tokens = sum(len(row["input_ids"]) for row in rows)
        visual = torch.isin(batch["input_ids"], self.placeholder_ids)
        statistics.num_visual_tokens = int(visual.sum())
        statistics.num_text_tokens = num_tokens - statistics.num_visual_tokens
        statistics.num_padding_tokens = batch["input_ids"].numel() - num_tokens
        statistics.num_supervised_tokens = int((batch["labels"] != IGNORED).sum())
        statistics.decode_seconds = sum(row.get("decode_seconds", 0.0) for row in rows)
        self.last_statistics = statistics


def _tiles_or_none(row: dict[str, Any], kind: str) -> list[Any]:
    """The tiles of each video or image of a sample, None for those that are padded."""
    return row.get(f"{kind}_tiles") or [None] * len(row.get(f"{kind}_instruction_ids", ()))
