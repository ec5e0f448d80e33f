"""The variants: what is trained, as configs. Which table of the paper shows which variant: `paper_tables`.

Every variant has the same budget: the steps of the three stages. A variant without a stage gives its steps to another one.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from hicom_hf.modeling.configuration_hicom import HiComCompressorConfig

from ..hicom_tiny.data_sets import FILES
from ..hicom_tiny.sizes import IMAGE_SIZE, NUM_FRAMES, PATCH_SIZE

GRID = (NUM_FRAMES, IMAGE_SIZE // PATCH_SIZE, IMAGE_SIZE // PATCH_SIZE)
NUM_PATCHES = prod(GRID)
NUM_GLOBAL_TOKENS = 8  # a fifth of all tokens; the paper's 32 would be half of them
RATIO = (4, 3, 3)
VAGUE_INSTRUCTION = "What is this video mainly about?"  # paper, table A4

Family = Literal["pooling", "unconditional", "conditional"]


@dataclass(frozen=True)
class StagePlan:
    """A stage after alignment.

    Args:
        stage: how it is trained.
        files: what on, of each data set.
        steps_of: it has the steps of these stages together.
    """

    stage: str
    files: tuple[str, ...]
    steps_of: tuple[str, ...]


PRETRAINING = StagePlan("conditional_pretraining", FILES["conditional_pretraining"], ("conditional_pretraining",))
TUNING = StagePlan("instruction_tuning", FILES["instruction_tuning"], ("instruction_tuning",))
BOTH = (PRETRAINING.stage, TUNING.stage)
TUNING_ALONE = (StagePlan("instruction_tuning", TUNING.files, BOTH),)


@dataclass(frozen=True)
class Variant:
    """One model that is trained.

    Args:
        name: of its folder, and on the command line.
        title: in tables.
        family: variants of one family are trained at the same rates.
        compressor: all fields that decide its shape.
        stages: after alignment.
        measures: what it is tried on besides the questions, see `measuring`.
    """

    name: str
    title: str
    family: Family
    compressor: dict[str, Any]
    stages: tuple[StagePlan, ...] = (PRETRAINING, TUNING)
    measures: tuple[str, ...] = ()

    @property
    def config(self) -> HiComCompressorConfig:
        return HiComCompressorConfig(**self.compressor)

    @property
    def num_tokens(self) -> int:
        """Visual tokens of a video."""
        return self.config.num_tokens(GRID)


def _fields(
    local: str | None, ratio=RATIO, local_injection="none", num_global=0, global_injection="none", **more
) -> dict:
    return {
        "local_branch": local,
        "ratio": list(ratio),
        "local_injection": local_injection,
        "num_global_tokens": num_global,
        "global_injection": global_injection,
        **more,
    }


def _written(ratio) -> str:
    return f"({','.join(map(str, ratio))})"


def _pool(ratio, **more) -> Variant:
    name = f"average-pool-{'-'.join(map(str, ratio))}"
    return Variant(name, f"average pool {_written(ratio)}", "pooling", _fields("average_pool", ratio), **more)


def _local(conditional: bool, ratio=RATIO, **more) -> Variant:
    kind, injection = ("conditional", "direct") if conditional else ("unconditional", "none")
    name, title = f"{kind}-local", f"{kind} local"
    if ratio != RATIO:
        name, title = f"{name}-{'-'.join(map(str, ratio))}", f"{title} {_written(ratio)}"
    return Variant(name, title, kind, _fields("attention", ratio, injection), **more)


def _both(local_injection: str, global_injection: str, **more) -> dict:
    return _fields("attention", RATIO, local_injection, NUM_GLOBAL_TOKENS, global_injection, **more)


def _pair(local_injection: str, global_injection: str) -> Variant:
    return Variant(
        f"{local_injection}-{global_injection}",
        f"local {local_injection}, global {global_injection}",
        "conditional",
        _both(local_injection, global_injection),
    )


CONDITIONAL = "conditional-local-global"
UNCONDITIONAL = "unconditional-local-global"
POOL = "average-pool-4-3-3"
CONDITIONAL_LOCAL, UNCONDITIONAL_LOCAL = "conditional-local", "unconditional-local"
POOL_MORE_TOKENS, POOL_MOST_TOKENS = "average-pool-2-4-3", "average-pool-1-3-3"
RATIOS = ((1, 3, 3), RATIO, (4, 6, 6), (8, 6, 6))  # of figure 5
EXTRA_MEASURES = ("vague", "frames")

_ARMS = (
    Variant(
        CONDITIONAL, "conditional local+global", "conditional", _both("direct", "coarse"), measures=EXTRA_MEASURES
    ),
    Variant(UNCONDITIONAL, "unconditional local+global", "unconditional", _both("none", "none"), measures=("frames",)),
    _pool(RATIO, measures=("frames",)),
    _local(True, measures=("vague",)),
    _local(False),
    _pool((1, 3, 3)),
    _pool((2, 4, 3)),
    Variant(
        "unconditional-global",
        "unconditional global",
        "unconditional",
        _fields(None, num_global=NUM_GLOBAL_TOKENS),
    ),
    Variant(
        "conditional-global",
        "conditional global",
        "conditional",
        _fields(None, num_global=NUM_GLOBAL_TOKENS, global_injection="coarse"),
    ),
    Variant(
        "without-pretraining",
        "no conditional pre-training",
        "conditional",
        _both("direct", "coarse"),
        TUNING_ALONE,
    ),
    Variant(
        "unconditional-without-pretraining",
        "unconditional local+global, no conditional pre-training",
        "unconditional",
        _both("none", "none"),
        TUNING_ALONE,
    ),
    Variant(
        "average-pool-without-pretraining",
        "average pool (4,3,3), no conditional pre-training",
        "pooling",
        _fields("average_pool"),
        TUNING_ALONE,
    ),
    _pair("direct", "fine"),
    _pair("coarse", "coarse"),
    _pair("coarse", "fine"),
    _pair("fine", "coarse"),
    _pair("fine", "fine"),
    Variant("coarse-local", "coarse local, in groups", "conditional", _fields("attention", RATIO, "coarse")),
    Variant(
        "coarse-local-ungrouped",
        "coarse local, without groups",
        "conditional",
        _fields("attention", RATIO, "coarse", grouping=False),
    ),
    Variant(
        "unconditional-local-ungrouped",
        "unconditional local, without groups",
        "unconditional",
        _fields("attention", grouping=False),
    ),
    Variant(
        "mixed-into-tuning",
        "descriptions mixed into instruction tuning",
        "conditional",
        _both("direct", "coarse"),
        (StagePlan("instruction_tuning", TUNING.files + PRETRAINING.files, BOTH),),
    ),
    Variant(
        "multiple-choice-pretraining",
        "multiple choice in place of descriptions",
        "conditional",
        _both("direct", "coarse"),
        (StagePlan("conditional_pretraining", ("multiple_choice.json",), (PRETRAINING.stage,)), TUNING),
    ),
    Variant(
        "release-formulation", "release formulation", "conditional", _both("direct", "coarse", formulation="release")
    ),
)
_FIGURE_5 = [variant for ratio in RATIOS for variant in (_pool(ratio), _local(False, ratio), _local(True, ratio))]
VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _ARMS}
VARIANTS |= {variant.name: variant for variant in _FIGURE_5 if variant.name not in VARIANTS}

INJECTION_PAIRS = (
    "direct-fine",
    "coarse-coarse",
    "coarse-fine",
    "fine-coarse",
    "fine-fine",
)  # of table 6, beside the main variant

# Runs that a campaign does first, in case it is interrupted.
FIRST = (CONDITIONAL, UNCONDITIONAL, POOL, CONDITIONAL_LOCAL, UNCONDITIONAL_LOCAL)
# Whose validation score chooses the rates of each family.
REPRESENTATIVES: dict[str, str] = {"conditional": CONDITIONAL, "unconditional": UNCONDITIONAL, "pooling": POOL}
# Variants that are also trained until they stop improving.
PLATEAU = (POOL, UNCONDITIONAL, UNCONDITIONAL_LOCAL)
