"""Runs one case in a forked process with bounds, and says what came out. POSIX only."""

import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_MEMORY = 2 * 2**30  # bytes of address space above the parent's
MAX_CPU = 20  # seconds of one core
MAX_WALL = 300  # seconds; only a case that sleeps comes here, and a busy machine must not decide


@dataclass
class Outcome:
    """What a case did.

    Attributes:
        kind: "value", "error", "signal" (killed or crashed), or "hang".
        value: what it returned.
        error: type and message of what it raised.
        types: names of the classes that the error is one of.
        trace: where.
        warnings: texts of Python's warnings.
        cpu: seconds.
        memory: bytes of resident memory above the parent's, at its peak.
    """

    kind: str
    value: Any = None
    error: str = ""
    types: tuple[str, ...] = ()
    trace: str = ""
    warnings: list[str] = field(default_factory=list)
    cpu: float = 0.0
    memory: int = 0


def run(case: Callable[[], Any]) -> Outcome:
    """Runs a case in a forked process of its own."""
    reader, writer = os.pipe()
    size = _address_space()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run_in_child(case, writer, size)
    os.close(writer)
    content, deadline = bytearray(), time.monotonic() + MAX_WALL
    with open(reader, "rb", buffering=0) as pipe:
        while time.monotonic() < deadline:
            if select.select([pipe], [], [], 1.0)[0]:
                piece = pipe.read(2**20)
                if not piece:
                    break
                content += piece
        else:
            os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    try:
        outcome = pickle.loads(bytes(content))
    except (EOFError, pickle.UnpicklingError):
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        is_hang = number in (signal.SIGXCPU, signal.SIGKILL)
        outcome = Outcome("hang" if is_hang else "signal", error=f"signal {number}, status {status}")
    outcome.cpu = usage.ru_utime + usage.ru_stime
    return outcome


def _run_in_child(case: Callable[[], Any], writer: int, size: int) -> None:
    """Runs the case, writes its outcome and ends the process; never returns."""
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_AS, (size + MAX_MEMORY, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU, MAX_CPU + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome = _outcome(case)
        outcome.memory = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        with open(writer, "wb") as pipe:
            pipe.write(pickle.dumps(outcome))
        code = 0
    finally:
        os._exit(code)


def _outcome(case: Callable[[], Any]) -> Outcome:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            outcome = Outcome("value", value=case())
        except BaseException as error:  # whatever it is, it is the result
            types = tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
            trace = "".join(traceback.format_exception(error)[-6:])
            outcome = Outcome("error", error=f"{type(error).__name__}: {error}", types=types, trace=trace)
    outcome.warnings = [str(warning.message) for warning in caught]
    return outcome


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
