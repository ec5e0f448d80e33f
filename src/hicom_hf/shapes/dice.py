"""Random choices that are the same on every machine and with every NumPy.

NumPy keeps the raw streams of its bit generators for ever, but not what `Generator` makes of them (NEP 19).
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


class Dice:
    """A stream of choices.

    Args:
        key: whole numbers from 0 on; the same key gives the same choices, another one independent choices.

    Example:
        >>> dice = Dice(1, 2)
        >>> 0 <= dice.below(6) < 6
        True
    """

    def __init__(self, *key: int):
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def below(self, limit: int) -> int:
        """A whole number from 0 to limit - 1; the bias of at most limit / 2**32 does not matter here."""
        return (int(self._bits.random_raw()) >> 32) * limit >> 32

    def uniform(self, low: float, high: float) -> float:
        """A number from low to high; only products and sums, which IEEE 754 rounds alike everywhere."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def happens(self, probability: float) -> bool:
        return self.uniform(0.0, 1.0) < probability

    def choose(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        items = list(items)
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
        return items

    def bytes(self, count: int) -> np.ndarray:
        """uint8 (count,), each value equally likely."""
        return np.asarray(self._bits.random_raw(-(-count // 8)), dtype="<u8").view(np.uint8)[:count]
