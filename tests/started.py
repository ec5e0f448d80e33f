"""Processes for tests, forked from one that has everything imported: an interpreter of its own takes 5 s of a core for that."""

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection

import pytest
import torch


def processes():
    """What starts them; one server for all tests."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["hicom_hf.training.run", "hicom_hf.cli.main"])
    return context


class Started:
    """A function in a process of its own. Its result is the exit code.

    Attributes:
        out: text that it writes to stdout.
        err: text that it writes to stderr.
        pid: its number.
    """

    def __init__(self, function: Callable[..., int | None], *arguments):
        if sys.platform == "win32":
            pytest.skip("there is no fork on Windows")
        context = processes()
        pipes = [context.Pipe(duplex=False) for _ in range(2)]
        writers = [writer for _, writer in pipes]
        self._process = context.Process(target=_run, args=(function, arguments, *writers))
        self._process.start()
        for writer in writers:
            writer.close()
        self.out, self.err = (os.fdopen(os.dup(reader.fileno())) for reader, _ in pipes)
        self.pid = self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def send(self, number: int) -> None:
        if self.is_alive:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        self._process.join()
        return self._process.exitcode

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *error) -> None:
        self.kill()
        self.out.close()
        self.err.close()


def hicom(*arguments) -> int:
    """What a started process does: `hicom` with these arguments."""
    from hicom_hf.cli.main import main

    return main([str(argument) for argument in arguments])


def _run(function: Callable[..., int | None], arguments: tuple, out: Connection, err: Connection) -> None:
    for number, writer in enumerate((out, err), start=1):
        os.dup2(writer.fileno(), number)
        writer.close()
    # Those of before may have been files, and be at a place in them.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    torch.set_num_threads(1)
    sys.exit(function(*arguments))
