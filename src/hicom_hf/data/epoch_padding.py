"""Every sample exactly once per epoch, in an order that depends on seed and epoch only, however many processes there are.

transformers and accelerate fill the last batches of an epoch with samples from its beginning, so that all processes have
equally many; here the fill is nothing at all, so that several processes compute what one does.
"""

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from .batch_sampling import HiComGroupedSampler

Collator = Callable[[list], dict[str, Any]]

FILLER = None  # in the place of a sample: makes no row


class FilledDataset(Dataset):
    """A data set and, behind its end, fillers.

    Args:
        dataset: with a length.
        multiple: the length is rounded up to a multiple of it.
    """

    def __init__(self, dataset, multiple: int):
        self.dataset = dataset
        self.length = ceil(len(dataset) / multiple) * multiple

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        return self.dataset[index] if index < len(self.dataset) else FILLER

    def __getitems__(self, indices: Sequence[int]) -> list:
        """The samples of a batch, which the data set may read together."""
        there = [index for index in indices if index < len(self.dataset)]
        together = getattr(self.dataset, "__getitems__", None)
        samples = iter([self.dataset[index] for index in there] if together is None else together(there))
        return [next(samples) if index < len(self.dataset) else FILLER for index in indices]


class FilledSampler(Sampler[int]):
    """The order of the samples, then the fillers.

    Args:
        sampler: of the samples.
        length: of the filled data set.
    """

    def __init__(self, sampler: HiComGroupedSampler, length: int):
        self.sampler, self.length = sampler, length

    def set_epoch(self, epoch: int):
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        yield from range(len(self.sampler), self.length)


class FilledCollator:
    """Leaves out fillers; a batch of nothing else becomes what the collator makes of no samples.

    Args:
        collator: a `HiComDataCollator`.
    """

    def __init__(self, collator: Collator):
        self.collator = collator

    def __call__(self, samples: list) -> dict[str, Any]:
        return self.collator([sample for sample in samples if sample is not FILLER])


def sampler_of(
    dataset, batch_size: int, seed: int, group_by: str | None, together: int | None = None
) -> HiComGroupedSampler:
    """The order of a data set's samples.

    Args:
        dataset: a `HiComDataset` if samples are to be grouped.
        batch_size: samples of a step, over all processes.
        seed: of the order.
        group_by: "length", "modality", "visual_tokens" or None.
        together: samples of one batch of one process, if those about the same videos are to come together in it; None if not.

    Raises:
        ValueError: a data set without lengths and modalities is to be grouped.
    """
    if group_by is not None and not (hasattr(dataset, "lengths") and hasattr(dataset, "modalities")):
        raise ValueError(
            f"group_by={group_by!r} needs a HiComDataset, got {type(dataset).__name__}; set group_by=None"
        )
    if together is not None and not hasattr(dataset, "media_numbers"):
        raise ValueError(f"answers_together needs a HiComDataset, got {type(dataset).__name__}")
    units = dataset.media_numbers if together is not None else None
    if group_by is None:
        lengths = np.zeros(len(dataset), dtype=np.int8)
        return HiComGroupedSampler(
            lengths, None, together or 1, seed, group_by_length=False, units=units, unit_batch=together
        )
    groups = dataset.visual_tokens if group_by == "visual_tokens" else dataset.modalities
    return HiComGroupedSampler(
        dataset.lengths,
        groups,
        batch_size,
        seed,
        group_by_length=group_by == "length",
        units=units,
        unit_batch=together,
    )
