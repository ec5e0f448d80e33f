"""Worker processes: started quickly, and gone when their parent is."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from hicom_hf.hub.processes import PRELOADED, prepare_worker, worker_context

needs_proc = pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")


def state():
    return torch.get_num_threads(), [name in sys.modules for name in PRELOADED]


def test_workers_have_one_thread_and_the_package():
    with ProcessPoolExecutor(1, worker_context(), initializer=prepare_worker) as pool:
        assert pool.submit(state).result() == (1, [True])


@needs_proc
@pytest.mark.slow  # imports torch in two new interpreters
def test_workers_of_a_killed_process_end():
    code = """
import os, sys
from concurrent.futures import ProcessPoolExecutor
from hicom_hf.hub.processes import prepare_worker, worker_context
pool = ProcessPoolExecutor(2, worker_context(), initializer=prepare_worker)
print(*{pool.submit(os.getpid).result() for _ in range(2)}, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        workers = [int(word) for word in process.stdout.readline().split()]
        assert workers and all(map(is_running, workers))
        process.send_signal(signal.SIGKILL)
        process.wait()
        while any(map(is_running, workers)):  # the test's own time limit ends it
            time.sleep(0.05)


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
