"""The order of samples: batches of one modality and of similar lengths, shuffled."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

BATCHES_PER_POOL = (
    50  # samples are sorted by length within this many batches; more would order the data, fewer pad more
)


class HiComGroupedSampler(Sampler[int]):
    """Indices in an order that gives batches of one modality and of similar lengths.

    Every `batch_size` indices in a row are of one modality, except those at the very end, where the remainders of all
    modalities meet. The order depends on seed and epoch only.

    Args:
        lengths: estimated tokens of each sample, `HiComDataset.lengths`.
        modalities: a number per sample, `HiComDataset.modalities`; None groups by length alone.
        batch_size: samples that all processes take together in one step, so that no process alone has text only.
        seed: of the shuffling.
        group_by_length: False shuffles within a modality.

    Source: official release (LLaVA's sampler), grouping by modality.

    Example:
        >>> sampler = HiComGroupedSampler([5, 90, 6, 80], [0, 2, 0, 2], batch_size=2)
        >>> sorted(map(sorted, np.array(list(sampler)).reshape(2, 2).tolist()))
        [[0, 2], [1, 3]]
    """

    def __init__(
        self,
        lengths: Sequence[int],
        modalities: Sequence[int] | None,
        batch_size: int,
        seed: int = 0,
        group_by_length: bool = True,
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

    def set_epoch(self, epoch: int):
        """Choose the order of an epoch; the trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        batches, remainders = [], []
        for modality in np.unique(self.modalities):
            members = np.flatnonzero(self.modalities == modality)
            members = members[torch.randperm(len(members), generator=generator).numpy()]
            if self.group_by_length:
                members = self._sorted_in_pools(members)
            num_whole = len(members) // self.batch_size * self.batch_size
            batches.extend(members[:num_whole].reshape(-1, self.batch_size).tolist())
            remainders.extend(members[num_whole:].tolist())
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[place]
        yield from remainders

    def _sorted_in_pools(self, members: np.ndarray) -> np.ndarray:
        size = self.batch_size * BATCHES_PER_POOL
        pools = [members[start : start + size] for start in range(0, len(members), size)]
        return np.concatenate([pool[np.argsort(-self.lengths[pool], kind="stable")] for pool in pools])
