"""Bytes of live tensors, followed operation by operation: what a run would hold, measured on tensors without content."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that exist, each once, from the operation that makes it until nothing holds it any more.

    Attributes:
        now, peak: bytes.

    Example:
        >>> with LiveBytes() as live:
        ...     kept = torch.zeros(256)
        ...     _ = torch.zeros(1024)
        >>> live.now, live.peak
        (5120, 5120)
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet = weakref.WeakSet()

    def add(self, tensors: Any) -> None:
        """Count tensors that were there before."""
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage in self._known:
                continue
            size = storage.nbytes()
            self._known.add(storage)
            weakref.finalize(storage, self._release, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def _release(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.add(output)
        return output
