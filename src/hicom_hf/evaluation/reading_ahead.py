"""Videos are read while the model works: in worker processes, or in one thread of this process."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from ..hub.processes import prepare_worker, worker_context
from ..processors.answering_hicom import ReadVideo, read_frames
from ..processors.processing_hicom import HiComProcessor
from ..processors.video_sources_hicom import VideoReadError

AHEAD_PER_WORKER = 2  # videos that wait in memory, 57 MB each for 32 frames of 384 pixels


@dataclass(frozen=True)
class Unreadable:
    """A video that could not be read.

    Attributes:
        reason: the reader's message.
    """

    reason: str


def read_ahead(
    processor: HiComProcessor, requests: Iterable[tuple[str, dict[str, Any]]], workers: int
) -> Iterator[ReadVideo | Unreadable]:
    """Read videos in the order of the requests, the next ones ahead.

    A worker that dies over a video (a crash of the decoder, too little memory) makes that video unreadable, no other one.

    Args:
        processor: of the model.
        requests: path and sampling keywords of each video.
        workers: processes; 0 for a thread of this process.
    """
    requests = list(requests)
    window = max(1, workers * AHEAD_PER_WORKER)  # videos that are read while the model works on the one before them
    pool = _pool(processor, workers)
    waiting: deque[tuple[int, Future]] = deque()
    upcoming = iter(enumerate(requests))

    def read_more(count: int) -> None:
        for number, request in islice(upcoming, count):
            waiting.append((number, _submit(pool, processor, request, workers)))

    try:
        read_more(window)
        while waiting:
            number, future = waiting.popleft()
            try:
                found = future.result()
            except BrokenProcessPool:
                pool.shutdown(wait=False)
                found = _read_alone(processor, requests[number])
                pool = _pool(processor, workers)
                waiting = deque(
                    (place, one if _is_read(one) else _submit(pool, processor, requests[place], workers))
                    for place, one in waiting
                )
            read_more(1)
            yield _as_tensors(found)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(processor: HiComProcessor, workers: int) -> Executor:
    if workers == 0:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(workers, worker_context(), initializer=_start_worker, initargs=(processor,))


def _submit(pool: Executor, processor: HiComProcessor, request: tuple[str, dict[str, Any]], workers: int) -> Future:
    if workers == 0:
        return pool.submit(_read, processor, *request)
    try:
        return pool.submit(_read_in_worker, *request)
    except BrokenProcessPool as error:  # by another video; found out when this one's turn comes
        failed: Future = Future()
        failed.set_exception(error)
        return failed


def _is_read(future: Future) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _read_alone(processor: HiComProcessor, request: tuple[str, dict[str, Any]]) -> ReadVideo | Unreadable:
    """Read a video in a separate process, after a pool broke: it is not known which video broke it."""
    pool = _pool(processor, 1)
    try:
        return pool.submit(_read_in_worker, *request).result()
    except BrokenProcessPool:
        return Unreadable(
            f"{request[0]}: the process that read it died; the file may crash the decoder or need too much memory"
        )
    finally:
        pool.shutdown(wait=True)


_worker: dict[str, HiComProcessor] = {}  # of a worker process


def _start_worker(processor: HiComProcessor) -> None:
    prepare_worker()
    _worker["processor"] = processor


def _read_in_worker(video: str, sampling: dict[str, Any]) -> ReadVideo | Unreadable:
    found = _read(_worker["processor"], video, sampling)
    if isinstance(found, ReadVideo):  # an array travels through the pipe, a tensor would take shared memory
        return replace(found, pixel_values=found.pixel_values.numpy())
    return found


def _read(processor: HiComProcessor, video: str, sampling: dict[str, Any]) -> ReadVideo | Unreadable:
    try:
        return read_frames(processor, video, **sampling)
    except (VideoReadError, OSError) as error:
        return Unreadable(str(error))


def _as_tensors(found: ReadVideo | Unreadable) -> ReadVideo | Unreadable:
    if isinstance(found, ReadVideo) and not isinstance(found.pixel_values, torch.Tensor):
        return replace(found, pixel_values=torch.from_numpy(found.pixel_values))
    return found
