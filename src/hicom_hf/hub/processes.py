"""How worker processes are started, for everything that reads videos or does other work beside the model."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection
from multiprocessing.context import BaseContext

# What every worker needs; imported once, by the server from which workers are forked.
PRELOADED = ["hicom_hf.processors.processing_hicom"]


def worker_context() -> BaseContext:
    """Context from which worker processes are started.

    A fork of the calling process may hang: threads of torch, FFmpeg and CUDA do not survive it. A fork of a small server
    that has imported the package and started no thread is safe, and costs milliseconds where a new interpreter takes
    seconds to import torch and transformers, for each worker of each pool. Where there is no such server (Windows), each
    worker is a new interpreter. Workers see environment variables as they were when the first of them was started.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def leave_signals_to_the_parent() -> None:
    """Ctrl-C and SIGTERM go to the whole group of processes; the parent ends this one itself, in order."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)


def prepare_worker() -> None:
    """First step of a worker process: one thread for torch, as there are several workers; and it ends with its parent.

    Without this, a parent that was killed would leave workers that wait for work for ever.
    """
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
