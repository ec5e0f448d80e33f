"""Every case of a folder of official reference numbers, found through its index.json, run with our code.

The tests and benchmarks/parity.py call these functions; nothing here knows which cases a folder holds.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hicom_hf.conversion.projector_string import UnreleasedOptionError

from .checks import CaseResult, Comparison, LeftOut
from .compressor_cases import run_compressor_case
from .table_cases import run_preprocess_case, run_table_case

TRAINING = (
    "samples and optimiser groups of the training program, not of a checkpoint; hicom_hf.training has its own tests"
)


def find_cases(folder: str | Path) -> list[dict]:
    """The cases of a folder, in the order of its index.json.

    Raises:
        FileNotFoundError: if there is no index.json.
    """
    index = Path(folder) / "index.json"
    if not index.is_file():
        raise FileNotFoundError(f"{index} is not there: not a folder of reference numbers")
    return json.loads(index.read_text())["cases"]


class ParityRun:
    """Runs cases of one folder; checkpoints are converted once, into a temporary folder that is deleted on leaving.

    Example:
        >>> with ParityRun("golden") as run:  # doctest: +SKIP
        ...     results = list(run.all())
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.cases = find_cases(folder)
        self._temporary = tempfile.TemporaryDirectory(prefix="hicom-parity-")
        self._loaded = {}

    def __enter__(self) -> "ParityRun":
        return self

    def __exit__(self, *error) -> None:
        self._loaded.clear()
        self._temporary.cleanup()

    def all(self, kinds: tuple[str, ...] | None = None) -> Iterator[CaseResult]:
        """The results of all cases, or of some kinds, one after another."""
        for case in self.cases:
            if kinds is None or case.get("kind") in kinds:
                yield self.run(case)

    def run(self, case: dict) -> CaseResult:
        """One case of index.json; any error is a miss of this case alone, the refusal of an option is not."""
        name, kind = str(case.get("id", "a case without an id")), str(case.get("kind"))
        try:
            return self._run(case)
        except UnreleasedOptionError as refusal:
            return CaseResult(name, kind, (), (LeftOut("all", f"refused: {refusal}"),))
        except Exception as error:  # whatever is wrong with one case, the report goes on
            words = " ".join(str(error).split())  # one line per case
            return CaseResult(name, kind, (Comparison(f"an error, {type(error).__name__}: {words}", float("inf")),))

    def _run(self, case: dict) -> CaseResult:
        kind = case["kind"]
        if kind in ("compressor", "compressor_newline"):
            return run_compressor_case(self.folder, case)
        if kind == "table":
            return run_table_case(self.folder, case)
        if kind == "frame_preprocess":
            return run_preprocess_case(self.folder, case)
        if kind == "e2e":
            from .end_to_end_cases import run_end_to_end_case

            return run_end_to_end_case(self.folder, case, self.converted(case))
        reason = TRAINING if kind == "training" else f"unknown kind of case {kind!r}"
        return CaseResult(case["id"], kind, (), (LeftOut("all", reason),))

    def converted(self, case: dict):
        """The converted model (float32) and processor of a case's checkpoint."""
        from .end_to_end_cases import convert_and_load

        key = (case["checkpoint"], case["siglip_tower"])
        if key not in self._loaded:
            destination = Path(self._temporary.name) / str(len(self._loaded))
            self._loaded[key] = convert_and_load(self.folder, case, destination)
        return self._loaded[key]
