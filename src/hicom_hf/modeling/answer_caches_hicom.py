"""The key-value caches of compiled answers, kept from one answer to the next.

A cache of fixed size made anew for each answer lies at other addresses. PyTorch replays the CUDA graph of a compiled step at the
addresses at which it was recorded: at others it records once more, and keeps every recording (`mark_static_address`, which
transformers' `StaticLayer` calls without a guard; torch 2.13 does not count those recordings towards its limit). Lengths are
rounded up, so that there are few sizes to record.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import StaticCache
from transformers.cache_utils import StaticLayer

# At 7B in bfloat16 a token takes 57,344 bytes, so that batches of 1 to 8 answers of 1,024 tokens fit, all eight sizes at once.
DEFAULT_BYTES = 2 * 2**30
SHORTEST = 256  # tokens; longer ones are powers of two


def rounded_length(length: int, longest: int | None) -> int:
    """The length of the cache for so many tokens of prompt and answer: a power of two, or what the LLM has positions for.

    Args:
        length: of prompt and answer.
        longest: positions of the LLM. More are not refused here.
    """
    power = max(SHORTEST, 1 << (length - 1).bit_length())
    return power if longest is None or power <= longest else max(length, longest)


class KeptLayer(StaticLayer):
    """A layer of a static cache whose tensors stay where they are when the next answer begins."""

    def begin(self) -> None:
        """Hold no token. To transformers it is a new layer, until a prompt is written."""
        self.is_initialized = False
        self.cumulative_length.zero_()

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """As in transformers, in the tensors of the last answer where they fit.

        Args:
            key_states, value_states: (B, heads, length, D), of the prompt.
        """
        if not (self._fits(self.keys, key_states) and self._fits(self.values, value_states)):
            with torch.inference_mode(False):  # the next answer may be outside of it
                super().lazy_initialization(key_states, value_states)
            return
        for kept in (self.keys, self.values):
            kept.zero_()  # pyright: ignore[reportOptionalMemberAccess] what is masked counts 0 times, and a NaN 0 times is NaN
        self.is_initialized = True

    def _fits(self, kept: torch.Tensor | None, states: torch.Tensor) -> bool:
        if kept is None:
            return False
        size = (*states.shape[:2], self.max_cache_len, states.shape[-1])
        return kept.shape == size and kept.dtype == states.dtype and kept.device == states.device


class AnswerCache(StaticCache):
    """A static cache of layers whose tensors stay where they are.

    Args:
        config: of the LLM.
        length: tokens of prompt and answer.
    """

    layers: Any  # of `KeptLayer`

    def __init__(self, config: Any, length: int):
        super().__init__(config=config, max_cache_len=length)
        self.layers = [KeptLayer(max_cache_len=length) for _ in self.layers]

    @staticmethod
    def suits(config: Any) -> bool:
        """Whether all layers of an LLM attend to all tokens, not to a window."""
        return all(type(layer) is StaticLayer for layer in StaticCache(config=config, max_cache_len=1).layers)

    @property
    def num_bytes(self) -> int:
        """Of keys and values."""
        return sum(kept.nbytes for layer in self.layers for kept in (layer.keys, layer.values) if kept is not None)

    def begin(self) -> None:
        """Hold no token of the last answer."""
        for layer in self.layers:
            layer.begin()


class AnswerCaches:
    """Caches by the number of rows and the length, the least recently used dropped first. One in use is not handed out again.

    Copied or pickled, as with the model that holds it, it is empty.

    Args:
        max_bytes: of the caches that are kept while no answer is written; a larger one serves its answer and is freed.
    """

    def __init__(self, max_bytes: int = DEFAULT_BYTES):
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], AnswerCache] = OrderedDict()

    def __reduce__(self):
        return AnswerCaches, (self.max_bytes,)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def num_bytes(self) -> int:
        """Of the caches that are kept and not in use."""
        with self._lock:
            return sum(cache.num_bytes for cache in self._kept.values())

    def clear(self) -> None:
        """Free what is kept."""
        with self._lock:
            self._kept.clear()

    @contextmanager
    def cache(self, config: Any, rows: int, length: int) -> Iterator[AnswerCache]:
        """A cache for one answer, without a token of the last one.

        Args:
            config: of the LLM.
            rows: of the batch.
            length: tokens of prompt and answer at most.
        """
        size = rows, rounded_length(length, getattr(config, "max_position_embeddings", None))
        with self._lock:
            cache = self._kept.pop(size, None)
        if cache is None:
            with torch.inference_mode(False):
                cache = AnswerCache(config, size[1])
        cache.begin()
        try:
            yield cache
        except torch.cuda.OutOfMemoryError:  # what is kept may be what was missing
            self.clear()
            raise
        except BaseException:
            self._keep(size, cache)
            raise
        self._keep(size, cache)

    def _keep(self, size: tuple[int, int], cache: AnswerCache) -> None:
        with self._lock:
            self._kept[size] = cache
            while sum(cache.num_bytes for cache in self._kept.values()) > self.max_bytes:
                self._kept.popitem(last=False)
