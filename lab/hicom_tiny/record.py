"""What a run was made with, so that a file can be traced to a commit and a command."""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from hicom_hf.hub.files import write_text


class Record:
    """The file `made_with.json` of a run: seed and budget, and by whom each step was done.

    A step that was interrupted counts from its last beginning, the seconds of all of them together.

    Args:
        path: of the file; what it says of steps that are done stays.
        seed, budget: of the run.

    Raises:
        ValueError: it was begun with another seed or budget.
    """

    def __init__(self, path: Path, seed: int, budget: Any):
        self.path = path
        mine = json.loads(json.dumps({"seed": seed, "budget": asdict(budget)}))
        self.values = json.loads(path.read_text()) if path.exists() else {**mine, "seconds": {}}
        for name, value in mine.items():
            if self.values[name] != value:
                differs = f"{self.values[name]} there, {value} now" if name == "seed" else "it differs from this one"
                raise ValueError(f"{path.parent} holds a run with another {name} ({differs}); choose another folder")

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Note that a step is done now, and how long it takes."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._note(name, time.perf_counter() - begin)

    def _note(self, name: str, seconds: float) -> None:
        times, made = self.values["seconds"], self.values.setdefault("steps", {})
        times[name] = times.get(name, 0.0) + seconds
        made[name] = {
            "commit": commit(),
            "command": " ".join(sys.argv),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        commits = dict.fromkeys(step["commit"] or "unknown" for step in made.values())
        self.values["commit"] = ", ".join(commits)
        write_text(self.path, json.dumps(self.values, indent=2))


def commit() -> str | None:
    """The commit of this source tree, with "+" behind it if package or laboratory differ from it; None without git."""
    here, place = Path(__file__), Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=place, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(here))  # not another project's repository around an installed package
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "lab", "src") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
