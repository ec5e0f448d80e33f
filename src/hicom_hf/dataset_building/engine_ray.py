"""Does the missing work of a stage on a Ray cluster: the functions of `engine_local`, over the same list of what is missing.

Paths and times travel, never frames: a task is given one item's value, reads the video and writes the result's file itself, so
all machines must see the videos and the build's folder under the same paths. What was done before a crash is found by its file,
as with the local engine. Ray Data's own checkpoints are not used: after a kill they repeat rows silently.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..hub.progress import Progress, no_progress
from .engine_local import DIED, Work, do_item
from .stages import Stage

WAITING_PER_CPU = 4  # tasks that are handed to Ray at once, for each of the cluster's CPUs


class RayEngine:
    """A connection to a cluster; a context manager.

    Args:
        address: of the cluster, such as "auto" or "ray://host:10001"; None starts one on this machine.
        workers: tasks at once, at most; None for as many as the cluster has CPUs.
        gpus: fraction of a GPU that each task holds, for an embedder that computes there.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: there is no cluster at the address.
    """

    def __init__(self, address: str | None = None, workers: int | None = None, gpus: float = 0.0):
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError("the engine ray needs Ray: pip install 'hicom_hf[build-ray]'") from error
        self._ray, self.address, self.workers, self.gpus = ray, address, workers, gpus

    def __enter__(self) -> "RayEngine":
        if not self._ray.is_initialized():
            options: dict[str, Any] = {"address": self.address} if self.address else {"num_cpus": self.workers}
            if not self.address:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage data are sent
                options["include_dashboard"] = False
            self._ray.init(log_to_driver=False, logging_level="warning", **options)
        self.workers = self.workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        return self

    def __exit__(self, *exception) -> None:
        self._ray.shutdown()

    def run_stage(self, stage: Stage, values: Mapping[str, Any], work: Work, progress: Progress = no_progress) -> None:
        """Make the results of a stage that are missing; see `engine_local.run_stage`."""
        missing = stage.missing(values)
        if missing:
            for _ in progress(
                self._finished(stage, {item: values[item] for item in missing}, work), len(missing), stage.name
            ):
                pass

    def _finished(self, stage: Stage, values: dict[str, Any], work: Work) -> Iterator[str]:
        ray = self._ray
        # An item that ends its process is tried again, because another item or the machine may have been the cause.
        task = ray.remote(num_cpus=1, num_gpus=self.gpus, max_retries=1)(do_item)
        assert self.workers is not None  # set in `__enter__`
        running: dict[Any, str] = {}
        waiting = iter(values)
        while True:
            while len(running) < WAITING_PER_CPU * self.workers and (item := next(waiting, None)) is not None:
                running[task.remote((work, stage), item, values[item])] = item
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1)
            item = running.pop(done[0])
            try:
                ray.get(done[0])
            except ray.exceptions.WorkerCrashedError:
                stage.write_failure(item, DIED)
            except ray.exceptions.OutOfMemoryError as error:
                stage.write_failure(item, f"{DIED}: {str(error).splitlines()[0]}")
            yield item
