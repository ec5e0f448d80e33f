"""Videos that clients name: fetched through `MediaAccess` into a file, then read in a pool of processes.

A file that makes the decoder crash ends one worker, not the server. Texts of errors call a source "the video": what a client
sent, an address with a signature or megabytes of base64, appears in no message and no log.
"""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..hub.processes import leave_signals_to_the_parent, prepare_worker, worker_context
from ..processors.answering_hicom import ReadVideo, read_frames
from ..processors.frame_tiles_hicom import FrameTiles
from ..processors.media_access_hicom import MediaAccess
from ..processors.media_bounds_hicom import DEFAULT_BOUNDS, MediaBounds
from ..processors.processing_hicom import HiComProcessor
from ..processors.source_names_hicom import source_name, url_scheme
from ..processors.tiled_video_hicom import ReadTiles, read_tiles
from ..processors.video_sources_hicom import VideoReadError, local_path, open_binary

NAME = "the video"


class Media:
    """Fetches and reads videos for an engine; may be shared by threads.

    Args:
        processor: of the model; None for one that only fetches.
        access: which files and servers may be read.
        num_workers: processes that read videos; 0 reads in the calling thread.
        max_seconds: that one video may take to be read, where the platform has timers (not on Windows).
        bounds: what reading one video may cost.
    """

    def __init__(
        self,
        processor: HiComProcessor | None,
        access: MediaAccess,
        num_workers: int,
        max_seconds: float,
        bounds: MediaBounds = DEFAULT_BOUNDS,
    ):
        self.processor = processor
        self.access = access
        self.num_workers = num_workers
        self.max_seconds = max_seconds
        self.bounds = bounds
        self.num_bytes = 0  # fetched
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="hicom-serving-")
        self._pool = self._new_pool()

    @property
    def folder(self) -> str:
        """Where fetched files lie."""
        return self._folder.name

    def _new_pool(self) -> ProcessPoolExecutor | None:
        if self.num_workers == 0 or self.processor is None:
            return None
        return ProcessPoolExecutor(self.num_workers, worker_context(), _start_worker, (self.processor,))

    def warm(self) -> None:
        """Start the workers, which import the package."""
        if self._pool is not None:
            for started in [self._pool.submit(os.getpid) for _ in range(self.num_workers)]:
                started.result()

    @contextmanager
    def fetched(self, source: Any) -> Iterator[Path]:
        """A file with the content of a source, for the time of the block.

        Raises:
            VideoReadError: it is not allowed, not there, too large, or a folder.
        """
        names = [source_name(source)]
        try:
            if url_scheme(source) in (None, "file") and isinstance(source, (str, os.PathLike)):
                path = local_path(source, self.access)
                names.append(source_name(path))
                if os.path.isdir(path):  # false for a name that the system refuses, which opening reports
                    raise VideoReadError(f"{NAME}: this is a folder; the server reads files")
                open_binary(path, self.access).close()
                self._count(path)
                yield path
                return
            path = self._written(source)
        except VideoReadError as error:
            raise _without_name(error, *names) from None
        try:
            yield path
        finally:
            path.unlink()

    def _written(self, source: Any) -> Path:
        handle, name = tempfile.mkstemp(dir=self._folder.name)
        path = Path(name)
        try:
            with os.fdopen(handle, "wb") as target, open_binary(source, self.access) as content:
                shutil.copyfileobj(content, target, 2**20)
        except BaseException:
            path.unlink()
            raise
        self._count(path)
        return path

    def _count(self, path: Path) -> None:
        with self._lock:
            self.num_bytes += path.stat().st_size

    def read(self, path: Path, sampling: dict[str, Any]) -> ReadVideo:
        """Read the frames of a fetched video.

        Raises:
            VideoReadError: it cannot be read, takes too long, or ends the process that reads it.
            ValueError: the request contradicts itself.
        """
        video = self._read(read_frames, path, sampling)
        return replace(video, pixel_values=torch.as_tensor(video.pixel_values))

    def read_tiles(self, path: Path, tiles: FrameTiles, max_squares: int, sampling: dict[str, Any]) -> ReadTiles:
        """Read the squares of a fetched video's frames; errors as of `read`."""
        return self._read(read_tiles, path, {**sampling, "tiles": tiles, "max_squares": max_squares})

    def _read(self, read: Callable[..., Any], path: Path, sampling: dict[str, Any]) -> Any:
        """What a function that takes the processor and a path gives, in a process of the pool if there is one."""
        assert self.processor is not None  # it does not only fetch
        pool, sampling = self._pool, {**sampling, "media_bounds": self.bounds}
        try:
            if pool is None:
                video = read(self.processor, path, **sampling)
            else:
                video = pool.submit(_read, read, path, sampling, self.max_seconds).result()
        except BrokenProcessPool:
            with self._lock:
                if self._pool is pool:
                    self._pool = self._new_pool()
            raise VideoReadError(
                f"{NAME}: the process that read it ended; the file is damaged, or send it again"
            ) from None
        except VideoReadError as error:
            raise _without_name(error, source_name(path)) from None
        return replace(video, sampling=replace(video.sampling, source=NAME))

    def read_in_chunks(
        self, path: Path, consume: Callable[[torch.Tensor], None], chunk_size: int, **request: Any
    ) -> tuple[Any, list[int]]:
        """Read a fetched video of any length in a process of its own; see `HiComVideoProcessor.read_in_chunks`.

        Raises:
            VideoReadError: it cannot be read, ends the process that reads it, or no chunk comes for `max_seconds`.
            ValueError: the request contradicts itself.
        """
        assert self.processor is not None  # it does not only fetch
        request["media_bounds"] = self.bounds
        try:
            if self.num_workers == 0:
                return self.processor.video_processor.read_in_chunks(path, consume, chunk_size, **request)
            return self._chunks_of_a_process(path, consume, chunk_size, request)
        except VideoReadError as error:
            raise _without_name(error, source_name(path)) from None

    def _chunks_of_a_process(
        self, path: Path, consume: Callable[[torch.Tensor], None], chunk_size: int, request: dict[str, Any]
    ) -> tuple[Any, list[int]]:
        context = worker_context()
        receiving, sending = context.Pipe(duplex=False)
        arguments = (sending, self.processor, path, chunk_size, request)
        process = context.Process(target=_send_chunks, args=arguments, daemon=True)  # pyright: ignore[reportAttributeAccessIssue]
        process.start()
        sending.close()
        try:
            while True:
                # The process imports the package before its first message; only its end bounds that.
                kind, content = receiving.recv()
                if kind == "chunk":
                    consume(torch.from_numpy(content))
                elif kind == "done":
                    return content
                elif kind == "failed":
                    raise content
                if not receiving.poll(self.max_seconds):
                    raise VideoReadError(f"{NAME}: no frames came for {self.max_seconds:g} s; send a shorter one")
        except EOFError:
            raise VideoReadError(f"{NAME}: the process that read it ended; the file is damaged") from None
        finally:
            process.kill()
            process.join()
            receiving.close()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()


def check_squares(most: int, num_frames: int, num_squares: int) -> None:
    """Refuse candidates that make too many squares.

    Args:
        most: squares of all candidates.
        num_frames: how many candidates there are.
        num_squares: of each.

    Raises:
        VideoReadError: there are more.
    """
    if num_frames * num_squares > most:
        raise VideoReadError(
            f"{NAME}: its candidates make more than the {most} squares that are allowed; take fewer of them "
            '(fps, num_frames), a lower zoom, or choose padded frames ("score_tiles": false)'
        )


def _without_name(error: VideoReadError, *names: str) -> VideoReadError:
    text = str(error)
    for name in names:
        text = text.replace(name, NAME)
    return VideoReadError(text)


# In a worker ---------------------------------------------------------------------------------------------------------------

_worker: dict[str, HiComProcessor] = {}


def _start_worker(processor: HiComProcessor) -> None:
    leave_signals_to_the_parent()
    prepare_worker()
    _worker["processor"] = processor


def _read(read: Callable[..., Any], path: Path, sampling: dict[str, Any], max_seconds: float) -> Any:
    with suppress(AttributeError):  # Windows has no timers
        signal.signal(signal.SIGALRM, _out_of_time)
        signal.setitimer(signal.ITIMER_REAL, max_seconds)
    try:
        video = read(_worker["processor"], path, **sampling)
    except _OutOfTime:
        raise VideoReadError(f"{NAME}: it took longer than {max_seconds:g} s to read; send a shorter one") from None
    finally:
        with suppress(AttributeError):
            signal.setitimer(signal.ITIMER_REAL, 0)
    # An array is sent as it is; a tensor would be shared, and needs a file that stays open.
    return replace(video, pixel_values=video.pixel_values.numpy()) if isinstance(video, ReadVideo) else video


def _send_chunks(
    sending: Any, processor: HiComProcessor, path: Path, chunk_size: int, request: dict[str, Any]
) -> None:
    """Send ("started", None), ("chunk", pixel values) for each chunk, and ("done", what was read) or ("failed", error)."""
    leave_signals_to_the_parent()
    prepare_worker()
    sending.send(("started", None))
    try:
        read = processor.video_processor.read_in_chunks
        result = read(path, lambda pixels: sending.send(("chunk", pixels.numpy())), chunk_size, **request)
    except ValueError as error:  # raised again where chunks are taken
        sending.send(("failed", error))
    else:
        sending.send(("done", result))


class _OutOfTime(BaseException):
    """Not an Exception, so that no reader takes it for damage of the file."""


def _out_of_time(*signal_and_frame: Any) -> None:
    raise _OutOfTime
