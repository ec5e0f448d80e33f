"""Runs the jobs of a campaign, several at a time, each in a separate process; finished jobs are not repeated."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

from ..hicom_tiny.data_sets import write_datasets
from ..hicom_tiny.processes import MEMORY_SETTINGS
from .campaign import Campaign
from .claiming import check_data, claim
from .planning import Job, expected_hours, plan
from .results import mean_right
from .working import do, remove_unneeded

TIME_TO_SAVE = 30  # seconds that processes have to write a checkpoint after the signal to stop
INTERRUPTED = 130  # exit code


def run_campaign(
    campaign: Campaign,
    workers: int = 2,
    tables: Iterable[str] = (),
    variants: Iterable[str] = (),
) -> list[Path]:
    """Do all that is not done yet.

    Args:
        campaign: see there.
        workers: processes at a time, of one thread each.
        tables, variants: only these, see `plan`.

    Returns:
        Logs of the jobs that have failed; all others that could be done are done.

    Raises:
        ValueError: an unknown table or variant, the folder holds results with other settings, or the data are another world's.
        KeyboardInterrupt: by Ctrl-C or SIGTERM; the same call resumes.
    """
    plan(campaign, tables, variants)  # refuses unknown names
    check_data(campaign)
    claim(campaign)
    datasets = [*campaign.settings.datasets, *campaign.settings.test_datasets().values()]
    write_datasets(campaign.data_folder, datasets)
    pool = _Pool(campaign, workers)
    before = (
        signal.signal(signal.SIGTERM, pool.terminate)
        if threading.current_thread() is threading.main_thread()
        else None
    )
    try:
        pool.work(tables, variants)
    finally:
        pool.stop()
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return [_log_file(campaign, job) for job in pool.failed]


class _Pool:
    """Processes that work, and the jobs that they have."""

    def __init__(self, campaign: Campaign, workers: int):
        self.campaign, self.workers = campaign, workers
        self.failed: list[Job] = []
        self._running: dict[Path, tuple] = {}  # by result: process, job, begin
        self._told = False

    def work(self, tables: Iterable[str], variants: Iterable[str]) -> None:
        while True:
            jobs = plan(self.campaign, tables, variants)
            failed = {job.result for job in self.failed}
            open_jobs = [job for job in jobs if not job.is_done and job.result not in failed]
            for job in open_jobs:
                ready = job.result not in self._running and all(path.exists() for path in job.needs)
                if ready and len(self._running) < self.workers:
                    self._start(job)
            if not self._running:
                return
            connection.wait([process.sentinel for process, _, _ in self._running.values()])
            for process, job, begin in list(self._running.values()):
                if not process.is_alive():
                    self._finish(process, job, begin, open_jobs)
            remove_unneeded(self.campaign, plan(self.campaign, tables, variants))

    def _start(self, job: Job) -> None:
        os.environ.update(MEMORY_SETTINGS)
        log = _log_file(self.campaign, job)
        log.parent.mkdir(parents=True, exist_ok=True)
        process = get_context("spawn").Process(target=_work, args=(job, self.campaign, log), name=job.title)
        process.start()
        self._running[job.result] = (process, job, time.perf_counter())

    def _finish(self, process, job: Job, begin: float, open_jobs: list[Job]) -> None:
        del self._running[job.result]
        process.join()
        if process.exitcode == INTERRUPTED:
            raise KeyboardInterrupt
        seconds = time.perf_counter() - begin
        if process.exitcode or not job.is_done:
            self.failed.append(job)
            print(f"failed: {job.title} ({_log_file(self.campaign, job)})", file=sys.stderr, flush=True)
            return
        if job.kind in ("towers", "llm"):
            claim(self.campaign)  # all further runs have these
        left = [other for other in open_jobs if not other.is_done]
        hours = expected_hours(self.campaign, left, self.workers)
        print(
            f"done: {job.title}, {seconds:.0f} s{_score(self.campaign, job)}; {len(left)} jobs left, about {hours:.1f} h",
            file=sys.stderr,
            flush=True,
        )

    def terminate(self, *_) -> None:
        """On SIGTERM, which the processes have not received."""
        self._tell()
        raise KeyboardInterrupt

    def _tell(self) -> None:
        self._told = True
        for process, _, _ in self._running.values():
            process.terminate()

    def stop(self) -> None:
        """End what is running; after Ctrl-C on a terminal the processes have the signal already."""
        for tell in (lambda: None, lambda: None if self._told else self._tell(), self._kill):
            tell()
            until = time.monotonic() + TIME_TO_SAVE
            for process, _, _ in self._running.values():
                process.join(max(0.0, until - time.monotonic()))
        self._running = {}

    def _kill(self) -> None:
        for process, _, _ in self._running.values():
            process.kill()


def _score(campaign: Campaign, job: Job) -> str:
    if job.kind not in ("train", "plateau"):
        return ""
    return f", {mean_right(campaign.result(job.run)['scores']['questions']):.1f} % right"


def _log_file(campaign: Campaign, job: Job) -> Path:
    if job.kind in ("train", "plateau"):
        return campaign.place(job.run) / "log.txt"
    name = f"alignment of {job.run.folder.removeprefix('runs/').replace('/', ' ')}" if job.run else job.title
    return campaign.folder / "logs" / f"{name.replace(' ', '_').replace(',', '')}.txt"


# In the process ------------------------------------------------------------------------------------------------------------


def _work(job: Job, campaign: Campaign, log: Path) -> None:
    """Do a job; what is printed goes to its log."""
    import logging

    import torch

    file = log.open("a", buffering=1)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file.fileno(), stream.fileno())
    threading.Thread(target=_stop_without_parent, daemon=True).start()
    torch.set_num_threads(1)
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("hicom_hf").setLevel(logging.INFO)
    try:
        do(job, campaign)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BaseException:
        traceback.print_exc()
        sys.exit(1)


def _stop_without_parent() -> None:
    """End in order if the campaign's own process was killed: otherwise two campaigns would soon write the same files."""
    connection.wait([parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
