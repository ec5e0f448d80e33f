"""Where results lie: one file per stage, settings and item, which is written once and never changed.

```
OUTPUT_DIR/
    clips-<fingerprint of the settings>/<first two signs>/<item>.json
                                                         <item>.failed.json   why there is no result
```
An item is a video or a clip; of the stages that compare all clips with one another, it is the set of the clips. A file is there
completely or not at all, so a run that was killed is repeated and does what is missing. Other settings mean another folder; the
old one stays. Two processes that make the same item write the same file.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..hub.files import append_json_line, atomic_file, settings_fingerprint, write_text

RESULT, ARRAYS, FAILED = ".json", ".npz", ".failed.json"
LOG_FILE = "log.jsonl"
REPORT_FILE = "report.html"  # written by `report.py`
TAKES_FILE = "takes.json"  # of the demo: what its films show, see `truth.py`
# In their order; `hicom build-data run --stage` runs one of them. docs/building_data.md says what each of them does.
STAGES = (
    "probe",
    "select",
    "watch",
    "shots",
    "keyframes",
    "clips",
    "deduplicate",
    "decontaminate",
    "captions",
    "pairs",
    "filter",
)


class Stage:
    """The results of one stage under one set of settings.

    Args:
        output_dir: of the build.
        name: of the stage.
        settings: plain values that its results depend on, those of the stages before it among them.
        suffix: ".json" for plain values, ".npz" for arrays.
    """

    def __init__(self, output_dir: str | Path, name: str, settings: dict[str, Any], suffix: str = RESULT):
        self.output_dir, self.name, self.settings, self.suffix = Path(output_dir), name, settings, suffix
        self.fingerprint = settings_fingerprint({"stage": name, **settings})
        self.folder = self.output_dir / f"{name}-{self.fingerprint}"

    def path(self, item: str, suffix: str | None = None) -> Path:
        return self.folder / item[:2] / f"{item}{suffix or self.suffix}"

    def is_done(self, item: str) -> bool:
        return self.path(item).exists()

    def has_failed(self, item: str) -> bool:
        return self.path(item, FAILED).exists() and not self.is_done(item)

    def missing(self, items: Iterable[str]) -> list[str]:
        """Those that have neither a result nor a failure."""
        return [item for item in items if not self.is_done(item) and not self.has_failed(item)]

    def read(self, item: str, *names: str) -> dict[str, Any]:
        """A result.

        Args:
            item: whose.
            names: of a stage of arrays, those that are wanted, because unpacking the others takes time; none for all.
        """
        path = self.path(item)
        if self.suffix == ARRAYS:
            with np.load(path) as arrays:
                return {name: arrays[name] for name in names or arrays.files}
        return json.loads(path.read_text(encoding="utf-8"))

    def write(self, item: str, result: dict[str, Any]) -> None:
        if self.suffix == ARRAYS:
            with atomic_file(self.path(item)) as written, open(written, "wb") as file:
                np.savez_compressed(file, **result)
        else:
            write_text(self.path(item), json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False))

    def write_failure(self, item: str, error: str, reason: str | None = None) -> None:
        """Note why there is no result.

        Args:
            item: whose.
            error: in words.
            reason: the same for all failures that are counted together; None for none.
        """
        row = {"item": item, "stage": self.name, "error": error, **({} if reason is None else {"reason": reason})}
        write_text(self.path(item, FAILED), json.dumps(row))
        append_json_line(self.output_dir / LOG_FILE, {**row, "date": datetime.now().astimezone().isoformat()})

    def forget_failures(self, items: Iterable[str]) -> None:
        """Make what failed missing again."""
        for item in items:
            self.path(item, FAILED).unlink(missing_ok=True)

    def failures(self, items: Iterable[str]) -> Iterator[dict[str, str]]:
        for item in items:
            if self.has_failed(item):
                yield json.loads(self.path(item, FAILED).read_text(encoding="utf-8"))
