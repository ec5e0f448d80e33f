"""Work in several processes, and progress bars."""

import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from tqdm.auto import tqdm

# For child processes: without them, glibc gives every large tensor back to the system, and training takes a third longer.
MEMORY_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "500000000",
}


def in_parallel(calls: list[tuple], threads: int = 1) -> list:
    """Run functions with their arguments, each in a separate process.

    Args:
        calls: a function and its arguments each; all of a module's top level.
        threads: of PyTorch, for each process.

    Returns:
        What they returned.

    Raises:
        Exception: that of the first call that failed.
    """
    if not calls:
        return []
    os.environ.update(MEMORY_SETTINGS)
    with ProcessPoolExecutor(
        len(calls), mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        return [future.result() for future in [pool.submit(*call) for call in calls]]


def progress_bar(iterable: Iterable, total: int, name: str) -> Iterable:
    return tqdm(iterable, total=total, desc=name, disable=None, file=sys.stderr)
