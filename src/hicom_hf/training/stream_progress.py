"""Where the readers of a stream are, in every checkpoint: a resumed run starts there and reads nothing before it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.streaming import HiComStreamingDataset, StreamPlace, StreamStart


class StreamProgress:
    """The places of one process' loader workers behind the batches that it was given.

    Args:
        dataset: repeated.
        batch_size: samples of a batch.
        num_workers: of the loader.
        process: number of this process.
    """

    def __init__(self, dataset: HiComStreamingDataset, batch_size: int, num_workers: int, process: int):
        self.dataset, self.batch_size, self.num_workers, self.process = dataset, batch_size, num_workers, process
        self.num_batches = 0
        self.places: dict[int, StreamPlace] = {}

    def begin(self, checkpoint: Path | None) -> None:
        """Let the stream begin where a checkpoint was written, or at its beginning.

        Raises:
            ValueError: the checkpoint holds no places, or those of another order.
        """
        if checkpoint is not None:
            self._read(checkpoint)
        self.dataset.start_at(StreamStart(self.batch_size, self.num_batches, dict(self.places)))

    def note(self, batch: dict[str, Any]) -> None:
        """Take the place out of a batch that is trained on."""
        self.num_batches += 1
        worker, place = batch.pop("stream_place")
        self.places[worker] = place

    def write(self, folder: Path) -> None:
        """Store the places in a checkpoint's folder."""
        content = {
            "order": self._order(),
            "num_batches": self.num_batches,
            "places": {str(worker): asdict(place) for worker, place in self.places.items()},
        }
        self._path(folder).write_text(json.dumps(content), encoding="utf-8")

    def _read(self, folder: Path) -> None:
        path = self._path(folder)
        if not path.is_file():
            raise ValueError(
                f"{folder} does not say where its run was in the stream (no {path.name}); resume with as many processes, "
                "on the data that it was trained on, or start again"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
        before, now = content["order"], self._order()
        if changed := [
            f"{key} (was {before.get(key)!r}, is {now[key]!r})" for key in now if before.get(key) != now[key]
        ]:
            raise ValueError(
                f"{folder} was written in another order of the stream, which depends on {', '.join(changed)}; use the same, "
                "or start again"
            )
        self.num_batches = content["num_batches"]
        self.places = {
            int(worker): StreamPlace(place["draws"], tuple(place["sources"]), place["samples"])
            for worker, place in content["places"].items()
        }

    def _order(self) -> dict[str, Any]:
        """What decides the order of the samples; the readers take turns, so their number does."""
        return {**self.dataset.settings(), "num_workers": self.num_workers, "batch_size": self.batch_size}

    def _path(self, folder: Path) -> Path:
        return folder / f"stream_{self.process}.json"
