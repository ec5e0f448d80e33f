"""Work of one thread beside that of another: the next frames are decoded while the last one is converted and resized."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Generator[Item, None, None], depth: int) -> Iterator[Item]:
    """The items of a generator that runs in a thread of its own, up to `depth` items ahead.

    The thread has ended when the last item was taken, when the generator raises (the error is raised here) and when this one is
    closed: none is left for a process that is forked later.

    Args:
        items: closed at the end, in that thread.
        depth: items that may wait, at least 1.
    """
    ready: queue.SimpleQueue[tuple[Item] | Exception | None] = queue.SimpleQueue()
    free = threading.Semaphore(depth)
    stopped = threading.Event()

    def run() -> None:
        end: Exception | None = None
        try:
            for item in items:
                ready.put((item,))
                del item  # a frame must not live until the next one is there
                free.acquire()
                if stopped.is_set():
                    break
        except Exception as error:  # raised again where the items are taken
            end = error
        finally:
            items.close()
            ready.put(end)

    thread = threading.Thread(target=run, name="hicom-decoding", daemon=True)
    thread.start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, Exception):
                raise found
            yield found[0]
            free.release()
    finally:
        stopped.set()
        free.release()
        thread.join()
