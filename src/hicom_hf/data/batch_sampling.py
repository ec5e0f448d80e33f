"""The order of samples: batches of one modality and of similar lengths, shuffled."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

BATCHES_PER_POOL = (
    50  # samples are sorted by length within this many batches; more would order the data, fewer pad more
)

UNITS_IN_SIGHT = 64  # units among which one that fits the rest of a batch is looked for


class HiComGroupedSampler(Sampler[int]):
    """Indices in an order that gives batches of one modality and of similar lengths.

    Every `batch_size` indices in a row are of one modality, except those at the very end, where the remainders of all
    modalities meet. The order depends on seed and epoch only.

    Args:
        lengths: estimated tokens of each sample, `lengths` of `HiComDataset`.
        modalities: a number per sample, `modalities` of `HiComDataset`; None groups by length alone.
        batch_size: samples that all processes take together in one step, so that no process alone has text only.
        seed: of the shuffling.
        group_by_length: False shuffles within a modality.
        units: (samples,) a number per sample; samples of equal numbers follow each other. None shuffles single samples.
        unit_batch: with `units`, samples that one process reads at a time; units are put together so that they are not divided
            between two of these where that is possible.

    Source: official release (LLaVA's sampler), grouping by modality.

    Example:
        >>> sampler = HiComGroupedSampler([5, 90, 6, 80], [0, 2, 0, 2], batch_size=2)
        >>> sorted(map(sorted, np.array(list(sampler)).reshape(2, 2).tolist()))
        [[0, 2], [1, 3]]
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        modalities: Sequence[int] | np.ndarray | None,
        batch_size: int,
        seed: int = 0,
        group_by_length: bool = True,
        *,
        units: np.ndarray | None = None,
        unit_batch: int | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if modalities is not None and len(modalities) != len(lengths):
            raise ValueError(f"got {len(lengths)} lengths and {len(modalities)} modalities; one each is needed")
        self.lengths = np.asarray(lengths)
        self.modalities = np.zeros(len(lengths), dtype=np.int8) if modalities is None else np.asarray(modalities)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.group_by_length = group_by_length
        self.units, self.unit_batch = units, unit_batch or batch_size

    def set_epoch(self, epoch: int):
        """Choose the order of an epoch; the trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        whole, remainder = self._order()
        for batch in whole:
            yield from batch.tolist()
        yield from remainder.tolist()

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Whole batches (batches, batch_size) in their order, and what is left: int32, because every process has its own."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        batches, remainders = [], []
        for modality in np.unique(self.modalities):
            members = np.flatnonzero(self.modalities == modality).astype(np.int32)
            if self.units is None:
                members = members[torch.randperm(len(members), generator=generator).numpy()]
                members = self._sorted_in_pools(members) if self.group_by_length else members
            else:
                members = self._in_units(members, self.units[members], generator)
            num_whole = len(members) // self.batch_size * self.batch_size
            batches.append(members[:num_whole].reshape(-1, self.batch_size))
            remainders.append(members[num_whole:])
        whole = np.concatenate(batches)
        return whole[torch.randperm(len(whole), generator=generator).numpy()], np.concatenate(remainders)

    def _sorted_in_pools(self, members: np.ndarray) -> np.ndarray:
        size = self.batch_size * BATCHES_PER_POOL
        pools = [members[start : start + size] for start in range(0, len(members), size)]
        return np.concatenate([pool[np.argsort(-self.lengths[pool], kind="stable")] for pool in pools])

    def _in_units(self, members: np.ndarray, units: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Members shuffled unit by unit, units by length within pools, and no unit across two batches if it can be helped."""
        _, unit_of = np.unique(units, return_inverse=True)
        place = torch.randperm(int(unit_of.max()) + 1, generator=generator).numpy()
        order = np.argsort(place[unit_of], kind="stable")
        members, unit_of = members[order], unit_of[order]
        begins = np.flatnonzero(np.r_[True, unit_of[1:] != unit_of[:-1]])
        sizes = np.diff(np.r_[begins, len(members)])
        if self.group_by_length:
            longest = np.maximum.reduceat(self.lengths[members], begins)
            pools = begins // (self.batch_size * BATCHES_PER_POOL)
            by_length = np.lexsort((-longest, pools))
            begins, sizes = begins[by_length], sizes[by_length]
        fitted = _fitted(sizes, self.unit_batch)
        begins, sizes = begins[fitted], sizes[fitted]
        inside = np.arange(len(members)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return members[np.repeat(begins, sizes) + inside]


def _fitted(sizes: np.ndarray, batch_size: int) -> np.ndarray:
    """An order of units near to the given one, in which those of up to `batch_size` samples rarely cross a batch's end."""
    order = np.empty(len(sizes), dtype=np.int64)
    waiting: list[int] = []
    count, room, following = 0, batch_size, 0
    while count < len(sizes):
        while following < len(sizes) and len(waiting) < UNITS_IN_SIGHT:
            waiting.append(following)
            following += 1
        # The largest that fits, so that small ones are left to fill gaps; if none does, the first is divided.
        fits = [number for number, unit in enumerate(waiting) if sizes[unit] <= room]
        unit = waiting.pop(max(fits, key=lambda number: (sizes[waiting[number]], -number)) if fits else 0)
        order[count] = unit
        count += 1
        room = (room - int(sizes[unit])) % batch_size or batch_size
    return order
