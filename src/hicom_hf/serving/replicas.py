"""Several copies of a model behind one door, each with an engine in a process of its own, one GPU each.

    clients --> Replicas: fetch, hash --> the replica that holds the video's features, or the one with least to do --> its Engine

Python runs one thread at a time, so that one process could not keep several GPUs busy.
"""

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from ..hub.files import file_fingerprint
from ..hub.processes import leave_signals_to_the_parent
from ..inference.session import DEFAULT_CACHE_BYTES, HiComSession
from ..modeling.compiling_hicom import CompileWhenItPays
from ..processors.media_access_hicom import MediaAccess
from ..processors.media_bounds_hicom import MediaBounds
from .admission import Admission
from .engine import DEFAULT_CANDIDATE_BYTES, Engine
from .media import Media
from .requests import EngineBusy, EngineClosed, Limits, Request, RequestCancelled, RequestTooSlow, Result, Ticket

logger = logging.getLogger(__name__)

MAX_REMEMBERED = 100_000  # videos of which it is known which replica has seen them
SENT_AS_THEY_ARE = (ValueError, TypeError, RequestCancelled, RequestTooSlow, EngineClosed)


@dataclass(frozen=True)
class EngineSettings:
    """How an engine is opened, also in another process.

    Attributes:
        model, loading: of `HiComSession.load`.
        access, bounds, limits, num_workers, candidate_bytes, keep_pictures: of `Engine`.
        cache_bytes, cache_dir: of the session.
    """

    model: str | None = None
    loading: dict[str, Any] = field(default_factory=dict)
    access: MediaAccess = field(default_factory=MediaAccess.guarded)
    bounds: MediaBounds = field(default_factory=MediaBounds)
    limits: Limits = field(default_factory=Limits)
    num_workers: int = 2
    candidate_bytes: int = DEFAULT_CANDIDATE_BYTES
    keep_pictures: bool = False
    cache_bytes: int = DEFAULT_CACHE_BYTES
    cache_dir: str | None = None

    def open(self) -> Engine:
        """Load the model, and start the engine."""
        session = HiComSession.load(self.model, **self.loading, cache_bytes=self.cache_bytes, cache_dir=self.cache_dir)
        if session.model.compile_rule is not None:  # a server answers many: its first clients wait
            session.model.compile_rule = CompileWhenItPays(steps=0)
            session.model.compile_rule.count(session.model, 0)
        return Engine(
            session,
            access=self.access,
            bounds=self.bounds,
            limits=self.limits,
            num_workers=self.num_workers,
            candidate_bytes=self.candidate_bytes,
            keep_pictures=self.keep_pictures,
        )


class Replicas(Admission):
    """Answers requests as an `Engine` does, with several of them.

    Args:
        settings: of each engine.
        devices: one for each replica, as "cuda:0".

    Attributes:
        note: what readers of the answers should know of the model.
        statistics: of requests that no replica saw.

    Raises:
        RuntimeError: a replica cannot load the model.
    """

    def __init__(self, settings: EngineSettings, devices: Sequence[str]):
        super().__init__(settings.limits)
        # Only fetches: the replicas read.
        self.media = Media(None, settings.access, 0, settings.limits.max_read_seconds)
        self._numbers = count()
        self._holders: OrderedDict[str, int] = OrderedDict()
        folders = settings.access.allowed_local_media_path
        if folders is not None:  # a replica reads what was fetched, and what the access allows
            folders = (*folders, os.path.realpath(self.media.folder))
        own = replace(settings, access=replace(settings.access, allowed_local_media_path=folders))
        self._replicas = [_Replica(own, device, self._ended) for device in devices]
        try:
            notes = [replica.ready.result() for replica in self._replicas]
        except RuntimeError:
            self.close()
            raise
        self.note: str | None = notes[0]

    def warm(self) -> None:
        """Nothing: a replica is ready before it is counted as one."""

    @property
    def is_alive(self) -> bool:
        """Whether requests are taken, and every replica answers."""
        return not self._closed and all(replica.is_alive for replica in self._replicas)

    def metrics(self) -> str:
        """What all replicas counted, in Prometheus' text format."""
        total, gauges = self.statistics, {"replicas": 0.0}
        for asked in [replica.count() for replica in self._replicas if replica.is_alive]:
            with suppress(RuntimeError):  # it has ended meanwhile
                statistics, values = asked.result()
                total = total + statistics
                gauges["replicas"] += 1
                for name, value in values.items():
                    gauges[name] = gauges.get(name, 0.0) + value
        gauges |= {"requests_inside": self._num_inside, "fetched_bytes": self.media.num_bytes}
        return total.prometheus(gauges)

    def close(self) -> None:
        """Take no more requests, answer those that are inside, and end."""
        self._take_no_more()
        for replica in self._replicas:  # all at once
            replica.begin_to_close()
        for replica in self._replicas:
            replica.close()
        self._threads.shutdown()
        self.media.close()

    def _prepare(self, ticket: Ticket) -> None:
        """Fetch the videos, and hand the request to a replica."""
        files = ExitStack()  # keeps the files until the answer has come
        ticket.future.add_done_callback(lambda _: files.close())
        try:
            sources, contents = [], []
            for video in ticket.request.videos:
                ticket.check_wanted()
                path = files.enter_context(self.media.fetched(video.source))
                contents.append(file_fingerprint(path))
                sources.append(replace(video, source=str(path)))
            replica = self._replica_for(contents)
            replica.ask(next(self._numbers), ticket, replace(ticket.request, videos=sources))
        except Exception as error:  # raised again where the future is read
            self._count_failure(error)
            self._ended(ticket, error)

    def _replica_for(self, contents: Sequence[str]) -> "_Replica":
        """The replica that has seen the videos, else the one with least to do."""
        with self._changed:
            known = [self._holders[one] for one in contents if one in self._holders]
            alive = [index for index, replica in enumerate(self._replicas) if replica.is_alive]
            if not alive:
                raise RuntimeError("no replica is alive")
            holding = [index for index in alive if index in known]
            free = min(alive, key=lambda index: self._replicas[index].num_inside)
            chosen = max(holding, key=known.count) if holding else free
            for one in contents:
                self._holders[one] = chosen
                self._holders.move_to_end(one)
            while len(self._holders) > MAX_REMEMBERED:
                self._holders.popitem(last=False)
            return self._replicas[chosen]

    def _leave(self, ticket: Ticket) -> None:
        for replica in self._replicas:
            replica.cancel(ticket)

    def _ended(self, ticket: Ticket, outcome: Result | Exception) -> None:
        self._release()
        if isinstance(outcome, Exception):
            ticket.future.set_exception(outcome)
        else:
            ticket.future.set_result(outcome)


class _Replica:
    """One process, from outside.

    Args:
        settings: of its engine.
        device: where its model lies.
        ended: called with a ticket and its outcome.
    """

    def __init__(self, settings: EngineSettings, device: str, ended: Callable[[Ticket, Result | Exception], None]):
        self.ready: Future[str | None] = Future()
        self._ended = ended
        self._tickets: dict[int, Ticket] = {}
        self._counts: list[Future[Any]] = []
        self._lock = threading.Lock()
        self._has_ended = False
        context = get_context("spawn")  # not a fork server's child: a replica starts workers of its own
        self._connection, theirs = context.Pipe()
        settings = replace(settings, loading={**settings.loading, "device": device})
        # Not a daemon, which could not have workers of its own; it ends when its connection does.
        self._process = context.Process(target=_serve, args=(theirs, settings))
        self._process.start()
        theirs.close()
        self._thread = threading.Thread(target=self._listen, name="hicom-replica", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return not self._has_ended

    @property
    def num_inside(self) -> int:
        return len(self._tickets)

    def ask(self, number: int, ticket: Ticket, request: Request) -> None:
        with self._lock:
            if self._has_ended:
                raise RuntimeError("a replica has ended")
            self._connection.send(("ask", number, request))
            self._tickets[number] = ticket  # its answer waits for the lock
        if ticket.cancelled.is_set():
            self.cancel(ticket)

    def cancel(self, ticket: Ticket) -> None:
        with self._lock, suppress(OSError):
            for number, one in self._tickets.items():
                if one is ticket:
                    self._connection.send(("cancel", number))

    def count(self) -> Future[Any]:
        """The replica's statistics and gauges, when they come."""
        asked: Future[Any] = Future()
        with self._lock:
            if self._has_ended:
                asked.set_exception(RuntimeError("the replica has ended"))
                return asked
            self._counts.append(asked)
            self._connection.send(("count",))
        return asked

    def begin_to_close(self) -> None:
        with self._lock, suppress(OSError):
            self._connection.send(("close",))

    def close(self) -> None:
        self._process.join()
        self._thread.join()
        self._connection.close()

    def _listen(self) -> None:
        """Take what the process says, until it ends."""
        try:
            while True:
                kind, *content = self._connection.recv()
                if kind == "text":
                    number, answer, text = content
                    with self._lock:
                        ticket = self._tickets[number]
                    ticket.hand_on(answer, text)
                elif kind == "ended":
                    with self._lock:
                        ticket = self._tickets.pop(content[0])
                    self._ended(ticket, content[1])
                elif kind == "counts":
                    self._counts.pop(0).set_result(content)
                elif kind == "ready":
                    self.ready.set_result(content[0])
                elif kind == "failed":
                    self.ready.set_exception(content[0])
        except (EOFError, OSError):
            with self._lock:
                self._has_ended = True
                left, self._tickets = list(self._tickets.values()), {}
        if not self.ready.done():
            self.ready.set_exception(RuntimeError("a replica ended before it was ready"))
        for asked in self._counts:
            asked.set_exception(RuntimeError("the replica has ended"))
        for ticket in left:
            logger.error("a replica ended with a request")
            self._ended(ticket, RuntimeError("the replica that answered has ended"))


# In the process of a replica -----------------------------------------------------------------------------------------------


def _serve(connection: Connection, settings: EngineSettings) -> None:
    leave_signals_to_the_parent()
    lock = threading.Lock()

    def send(*message: Any) -> None:
        with lock, suppress(OSError):  # the server has ended, which ends this process as well
            connection.send(message)

    try:
        engine = settings.open()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        send("failed", RuntimeError(f"a replica on {settings.loading['device']}: {error}"))
        return
    tickets: dict[int, Ticket] = {}

    def ended(number: int, future: Future[Result]) -> None:
        error = future.exception()
        tickets.pop(number, None)
        send("ended", number, _light(future.result()) if error is None else _sendable(error))

    def ask(number: int, request: Request) -> None:
        try:
            tickets[number] = engine.submit(request, partial(send, "text", number))
        except (*SENT_AS_THEY_ARE, EngineBusy) as error:
            send("ended", number, _sendable(error))
            return
        tickets[number].future.add_done_callback(partial(ended, number))

    with engine:
        engine.warm()
        send("ready", engine.session.note)
        with suppress(EOFError):
            while True:
                kind, *content = connection.recv()
                if kind == "ask":
                    ask(*content)
                elif kind == "cancel" and content[0] in tickets:
                    tickets[content[0]].cancel()
                elif kind == "count":
                    send("counts", engine.statistics, engine.gauges())
                elif kind == "close":
                    break


def _light(result: Result) -> Result:
    """A result without features, which stay where they are."""
    videos = [replace(video, features=None) for video in result.videos]
    return replace(result, videos=videos, candidates=[None] * len(videos))


def _sendable(error: BaseException) -> Exception:
    """An error that another process can raise; its cause and its traceback are in this one's log."""
    if isinstance(error, EngineBusy):
        return EngineBusy(str(error), error.retry_after)
    for kind in SENT_AS_THEY_ARE:
        if isinstance(error, kind):
            return kind(str(error))
    return RuntimeError("a replica failed; its log says why")
