"""What a campaign consists of: its settings, its folder, and its runs.

```
OUT/
    settings.json                    what decides the results, see `claiming`; a command with other settings is refused
    data/, parts/seed-<n>/           unless they are given
    features/                        SigLIP's features of the training data
    alignment/<fields>/seed-<n>/     alignments, shared by variants whose compressor is the same; deleted once nobody needs them
    runs/<variant>/seed-<n>/             result.json: scores, losses, seconds; the run is done once it is there. log.txt;
                                     model/, of variants that may be trained on
    runs/<variant>-x0.5/, runs/<variant>-plateau/    likewise, at other rates, and trained on until nothing improves
```

`settings.json` and the files `result.json` are enough to continue elsewhere, with the same parts and data.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..hicom_tiny.data_sets import TRAINING, Dataset
from ..hicom_tiny.making import MODEL_FOLDER, Budget
from .variants import PLATEAU, REPRESENTATIVES, VARIANTS, Variant

TEST_SEED = 2000
LEVELS = ("sparse", "normal", "dense", "crowded")  # of clutter
LONG_FRAMES = 64  # of the videos in which more frames than in training are sampled
CPU = "cpu"  # as a result names it; a GPU is named in full
STEPS = {"alignment": 300, "conditional_pretraining": 250, "instruction_tuning": 450}


@dataclass(frozen=True)
class Settings:
    """What decides the results of every run alike.

    Args:
        steps: of each stage.
        datasets: training data.
        test_videos: at each level of clutter.
        validation_videos: for the choice of rates, and to see when training stops to improve.
        factors: of the recipes' rates, among which each family's is chosen.
        max_chunks: the largest number of repetitions of instruction tuning in training to the plateau.
        patience: it stops after so many repetitions without an improvement.
        improvement: what counts as one, in points of the validation score.
        parts_scale: of the steps of the towers' and the LLM's pre-training, where the campaign makes them.
    """

    steps: dict[str, int] = field(default_factory=lambda: dict(STEPS))
    datasets: tuple[Dataset, ...] = TRAINING
    test_videos: int = 25
    validation_videos: int = 60
    factors: tuple[float, ...] = (1.0, 0.5, 2.0)
    max_chunks: int = 6
    patience: int = 2
    improvement: float = 1.0
    parts_scale: float = 1.0

    def test_datasets(self) -> dict[str, Dataset]:
        """By their role: each level, "long" and "validation"."""
        few = max(1, self.test_videos * 4 // 5)
        found = {level: self._test(level, self.test_videos, clutter=level) for level in LEVELS}
        found["long"] = self._test("long", few, num_frames=LONG_FRAMES)
        found["validation"] = self._test("validation", self.validation_videos, "validation")
        return found

    @classmethod
    def recorded(cls, folder: Path) -> "Settings | None":
        """Those that a campaign's folder was made with; None of a new one."""
        record = read_record(folder)
        if not record:
            return None
        values = record["settings"]
        datasets = tuple(Dataset(**_with_tuples(values)) for values in values.pop("datasets"))
        return cls(**{**values, "datasets": datasets, "factors": tuple(values["factors"])})

    @staticmethod
    def _test(name: str, videos: int, split: str = "test", **more: Any) -> Dataset:
        values = {"split": split, "stage": "tuning", **more}
        return Dataset(f"ablation_{name}_{videos}", videos, TEST_SEED, values)


@dataclass(frozen=True)
class Run:
    """One training of a variant.

    Args:
        variant: its name.
        seed: of the compressor's first weights and of the order of the data.
        factor: of the recipes' rates.
        plateau: instruction tuning is repeated until nothing improves.
    """

    variant: str
    seed: int
    factor: float = 1.0
    plateau: bool = False

    @property
    def folder(self) -> str:
        """Relative to the campaign's."""
        rate = "" if self.factor == 1 else f"-x{self.factor:g}"
        return f"runs/{self.variant}{rate}{'-plateau' if self.plateau else ''}/seed-{self.seed}"

    @property
    def title(self) -> str:
        rate = "" if self.factor == 1 else f", rates x {self.factor:g}"
        return f"{VARIANTS[self.variant].title}{' to the plateau' if self.plateau else ''}{rate}, seed {self.seed}"


@dataclass(frozen=True)
class Campaign:
    """A campaign in its folder.

    Args:
        folder: absolute.
        settings: see there.
        seeds: the first one also serves the choice of rates, unless the folder has chosen them on another.
        parts: folders with `siglip` and `llm`: none (they are made), one for all seeds, or one per seed.
        data: where the data sets are, or shall be; None for `folder`/data.
        keep_models: keep the finished model of every run.
        gpu: train on the GPU, which several runs may share; features and scores are still computed on the CPU.
    """

    folder: Path
    settings: Settings = field(default_factory=Settings)
    seeds: tuple[int, ...] = (0, 1, 2)
    parts: tuple[Path, ...] = ()
    data: Path | None = None
    keep_models: bool = False
    gpu: bool = False

    def __post_init__(self):
        if len(self.parts) not in (0, 1, len(self.seeds)):
            raise ValueError(
                f"parts must be one folder for all seeds or one per seed, got {len(self.parts)} for {len(self.seeds)} seeds"
            )
        for folder in self.parts:
            for name in ("siglip", "llm"):
                if not (folder / name / "config.json").is_file():
                    raise FileNotFoundError(f"{folder}: there is no {name} with a config.json in this folder of parts")
        if self.gpu and not torch.cuda.is_available():
            raise ValueError("there is no CUDA GPU to train on; leave gpu out, and the CPU trains")
        if 1.0 not in self.settings.factors:
            raise ValueError(f"the factors of the rates must include 1, got {self.settings.factors}")

    # Places ----------------------------------------------------------------------------------------------------------------

    @property
    def data_folder(self) -> Path:
        return self.data or self.folder / "data"

    def parts_of(self, seed: int) -> Path:
        """The folder with `siglip` and `llm`."""
        if not self.parts:
            return self.folder / "parts" / f"seed-{seed}"
        return self.parts[self.seeds.index(seed) if len(self.parts) > 1 else 0]

    def place(self, run: Run) -> Path:
        return self.folder / run.folder

    def result_file(self, run: Run) -> Path:
        return self.place(run) / "result.json"

    def model_folder(self, run: Run) -> Path:
        """The finished model, if it is kept."""
        return self.place(run) / MODEL_FOLDER

    def alignment(self, run: Run) -> Path:
        """What the alignment of a run has found; there once it is done, beside its model.

        Runs whose compressors, seeds and rates are equal begin with the very same alignment.
        """
        identity = json.dumps([VARIANTS[run.variant].compressor, run.factor], sort_keys=True)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
        return self.folder / "alignment" / digest / f"seed-{run.seed}" / "alignment.json"

    def features_marker(self, seed: int, aligned: bool) -> Path:
        """There once the cache holds all features of the training data."""
        parts = hashlib.sha256(str(self.parts_of(seed)).encode()).hexdigest()[:10]
        return self.folder / "features" / f"complete-{parts}-{'aligned' if aligned else 'plain'}.json"

    # Results ---------------------------------------------------------------------------------------------------------------

    def result(self, run: Run) -> dict | None:
        """What a finished run has found."""
        path = self.result_file(run)
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def record(self) -> dict[str, Any]:
        """What the folder says that its results are made with, see `claiming`; empty for a new one."""
        return read_record(self.folder)

    @property
    def search_seed(self) -> int:
        """On which the rates are chosen: the first seed of the folder's first command."""
        return self.record.get("search_seed", self.seeds[0])

    def search_runs(self, family: str) -> list[Run]:
        """The runs among which a family's rates are chosen."""
        seed = self.search_seed
        return [Run(REPRESENTATIVES[family], seed, factor) for factor in self.settings.factors]

    def factor(self, family: str) -> float | None:
        """The factor with the best validation score; None as long as one of them has none."""
        if len(self.settings.factors) == 1:
            return self.settings.factors[0]
        scores = {}
        for run in self.search_runs(family):
            result = self.result(run)
            if result is None:
                return None
            scores[run.factor] = validation_score(result)
        return max(scores, key=lambda factor: (scores[factor], factor == 1))

    def final_run(self, variant: Variant, seed: int, plateau: bool = False) -> Run:
        """The run of a variant that counts: at its family's rates, or at the recipes' until these are chosen."""
        return Run(variant.name, seed, self.factor(variant.family) or 1.0, plateau)

    def is_measured(self, run: Run) -> bool:
        """Whether a run also takes the validation questions."""
        return run.variant in (*REPRESENTATIVES.values(), *PLATEAU)


def read_record(folder: Path) -> dict[str, Any]:
    """What a campaign's folder says that its results are made with, see `claiming`; empty for a new one."""
    path = folder / "settings.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """A data set's values out of JSON, which knows no tuples."""
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in values["settings"].items()}
    return {**values, "settings": settings}


def validation_score(result: dict) -> float:
    """Right answers to the validation questions in percent."""
    return result["scores"]["validation"]["validation"]["all"]["right"]


def parts_budget(settings: Settings) -> Budget:
    """What the parts are made with, where they are not given."""
    budget, scale = Budget(datasets=settings.datasets), settings.parts_scale
    if scale == 1:
        return budget
    towers, language = (
        type(part)(**{**asdict(part), "steps": max(1, round(part.steps * scale))})
        for part in (budget.towers, budget.language)
    )
    return Budget(settings.datasets, towers=towers, language=language)


def scaled_steps(scale: float) -> dict[str, int]:
    """The steps of all stages, scaled."""
    return {stage: max(1, round(count * scale)) for stage, count in STEPS.items()}


def quick_datasets(videos: int) -> tuple[Dataset, ...]:
    """Training data for trying out."""
    return (Dataset(f"train_{videos}_videos", videos, 0, {}),)
