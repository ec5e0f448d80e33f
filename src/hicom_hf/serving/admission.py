"""The door of an engine: how many requests are inside, what refuses a further one, and how the door closes."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from ..processors.answering_hicom import check_question
from .requests import EngineBusy, EngineClosed, Limits, Request, RequestCancelled, Ticket
from .statistics import Statistics


class Admission:
    """Takes requests of many threads, as many as the limits allow. Subclasses answer them.

    Args:
        limits: what requests may cost.

    Attributes:
        statistics: what was counted.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self.statistics = Statistics()
        self._changed = threading.Condition()
        self._num_inside = 0  # tickets whose future is not done
        self._closed = False
        self._threads = ThreadPoolExecutor(limits.max_queue, "hicom-fetch")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def submit(self, request: Request, on_text: Callable[[int, str], None] | None = None) -> Ticket:
        """Take a request.

        Args:
            request: a chat that ends in a question.
            on_text: called in the engine's thread with the number of an answer and each piece of it; must not wait.

        Raises:
            EngineBusy: `max_queue` requests are waiting or being answered.
            EngineClosed: the engine is shutting down.
            ValueError: the request is beyond the limits.
        """
        request.check(self.limits)
        ticket = Ticket(request, on_text, self._leave)
        check_question(ticket.question)
        with self._changed:
            if self._closed:
                raise EngineClosed
            if not self.has_room():
                raise self.refusal()
            self._num_inside += 1
        self._threads.submit(self._prepare, ticket)
        return ticket

    @property
    def num_inside(self) -> int:
        """Requests that wait or are being answered."""
        return self._num_inside

    def has_room(self, num_arriving: int = 0) -> bool:
        """Whether the next request would be taken, if those that are still being received are taken as well."""
        return self._num_inside + num_arriving < self.limits.max_queue

    def refusal(self) -> EngineBusy:
        """The error for a request that finds the queue full; it is counted."""
        with self._changed:
            self.statistics.refused += 1
        wait = self._seconds_to_wait()
        return EngineBusy(f"{self._num_inside} requests are waiting, the limit; come again in {wait} s", wait)

    def close(self) -> None:
        """Take no more requests, answer those that are inside, and end."""
        raise NotImplementedError

    # For subclasses ----------------------------------------------------------------------------------------------------

    def _prepare(self, ticket: Ticket) -> None:
        """Fetch what a request needs, in a thread of its own, and queue it; raises nothing."""
        raise NotImplementedError

    def _leave(self, ticket: Ticket) -> None:
        """End a ticket whose client has left."""
        raise NotImplementedError

    def _seconds_to_wait(self) -> int:
        """After which a refused client may come again."""
        return 1

    def _count_failure(self, error: Exception) -> None:
        with self._changed:
            if isinstance(error, RequestCancelled):
                self.statistics.cancelled += 1
            else:
                self.statistics.failed += 1

    def _release(self) -> None:
        """A ticket has its outcome: there is room for another one."""
        with self._changed:
            self._num_inside -= 1
            self._changed.notify_all()

    def _take_no_more(self) -> None:
        """Refuse requests from now on, and wait for those that are inside."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._num_inside == 0)
