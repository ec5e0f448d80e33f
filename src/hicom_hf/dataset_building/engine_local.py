"""Does the missing work of a stage on this machine, in one process or several; what fails is written down and passed over."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from av.error import FFmpegError

from ..hub.processes import prepare_worker, worker_context
from ..hub.progress import Progress, no_progress
from .stages import Stage

# What one video may raise without being the end of the run. All but the first are also what PyAV raises on damaged data.
ITEM_ERRORS = (ValueError, OSError, OverflowError, MemoryError, FFmpegError)
DIED = "the process that worked on it died (a crash of the decoder, or no memory left)"


class EmbedderError(OSError):
    """The embedder cannot be loaded, so that no video can be processed: the run stops, and no video has failed."""


Work = Callable[[Any], dict[str, Any]]


class LocalEngine:
    """This machine.

    Args:
        workers: processes; with one, the work is done in this one.
    """

    def __init__(self, workers: int = 1):
        self.workers = workers

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *exception) -> None:
        """Nothing is left running."""

    def run_stage(self, stage: Stage, values: Mapping[str, Any], work: Work, progress: Progress = no_progress) -> None:
        """See `run_stage`."""
        run_stage(stage, values, work, self.workers, progress)


def run_stage(
    stage: Stage, values: Mapping[str, Any], work: Work, workers: int = 1, progress: Progress = no_progress
) -> None:
    """Make the results of a stage that are missing.

    Args:
        stage: where results go.
        values: what `work` is called with, by item.
        work: a function of a module, for other processes to find it; returns what the stage stores.
        workers: processes; with one, the work is done in this one.
        progress: called with the finished items.
    """
    missing = stage.missing(values)
    if not missing:
        return
    done = (
        (do_item((work, stage), item, values[item]) for item in missing)
        if workers == 1
        else _in_processes(stage, {item: values[item] for item in missing}, work, workers)
    )
    for _ in progress(done, len(missing), stage.name):
        pass


def do_item(how: tuple[Work, Stage], item: str, value: Any) -> str:
    """Do one item and store its result, or why there is none; returns the item."""
    work, stage = how
    try:
        result = work(value)
    except EmbedderError:
        raise
    except ITEM_ERRORS as error:
        stage.write_failure(item, f"{type(error).__name__}: {error}")
    else:
        stage.write(item, result)
    return item


def _in_processes(stage: Stage, values: dict[str, Any], work: Work, workers: int) -> Iterator[str]:
    """Several processes; if one dies, the items in flight are repeated, one item per process."""
    left = dict(values)
    _refuse_without_processes()
    while left:
        suspects: list[str] = []
        with _pool(workers) as pool:
            running: dict[Future, str] = {}
            queue = iter(list(left))
            try:
                for item in queue:
                    running[pool.submit(do_item, (work, stage), item, left[item])] = item
                    if len(running) >= 2 * workers:
                        yield from _finished(running, left)
                while running:
                    yield from _finished(running, left)
            except BrokenProcessPool:
                suspects = [item for item in left if item in running.values() and not stage.is_done(item)]
        for item in suspects:
            with _pool(1) as pool:
                try:
                    pool.submit(do_item, (work, stage), item, left[item]).result()
                except BrokenProcessPool:
                    stage.write_failure(item, DIED)
            left.pop(item)
            yield item
        left = {item: value for item, value in left.items() if item in stage.missing([item])}


def _finished(running: dict[Future, str], left: dict[str, Any]) -> Iterator[str]:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        item = future.result()  # raises what a worker raised, BrokenProcessPool if it died
        del running[future], left[item]
        yield item


def _refuse_without_processes() -> None:
    """Say so if no process can work at all, so that it is not taken for the fault of each item.

    Raises:
        RuntimeError: none can be started.
    """
    with _pool(1) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "no worker process can be started: a script that uses several workers must stand in a file, behind "
                "`if __name__ == '__main__':`; or set workers to 1"
            ) from error


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, worker_context(), initializer=prepare_worker)
