"""The paper's tables: its numbers, and the arms that stand for its rows.

Source of all numbers: HICom (CVPR 2025), the table that is named. 0.5B LLM, 32 frames, instruction tuning on VideoChat2-IT,
where nothing else is said. Three numbers are VideoMME / MVBench / EgoSchema.
"""

from dataclasses import dataclass

from .arms import (
    ARMS,
    CONDITIONAL,
    CONDITIONAL_LOCAL,
    PLATEAU,
    POOL,
    POOL_MORE_TOKENS,
    RATIOS,
    UNCONDITIONAL,
    UNCONDITIONAL_LOCAL,
)

THREE = "VideoMME / MVBench / EgoSchema"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        label: what the paper calls it.
        arm: that stands for it; None if there is none.
        paper: the paper's numbers as text; empty if it has none.
        paper_tokens: the paper's visual tokens.
        measure: what the arm is tried on, a key of its scores.
        plateau: the arm after training until nothing improves.
        why: there is no arm.
    """

    label: str
    arm: str | None
    paper: str = ""
    paper_tokens: int | None = None
    measure: str = "questions"
    plateau: bool = False
    why: str = ""

    @property
    def num_tokens(self) -> int | None:
        """Visual tokens of the arm, of as many frames as are sampled."""
        if self.arm is None:
            return None
        arm = ARMS[self.arm]
        if not self.measure.endswith(" frames"):
            return arm.num_tokens
        return arm.config.num_tokens((int(self.measure.split()[0]), 12, 12))


@dataclass(frozen=True)
class Table:
    """A table of the paper, or a comparison that stands beside them.

    Args:
        name: on the command line.
        title: above it.
        rows: in the paper's order.
        paper_columns: what the paper's numbers are.
        tokens_differ: why the rows do not all have the same number of visual tokens; empty if they have.
        differs: from the paper, beyond what holds for all tables.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    paper_columns: str = THREE
    tokens_differ: str = ""
    differs: str = ""


def _ratio_rows() -> tuple[Row, ...]:
    rows = []
    for ratio in RATIOS:
        suffix = "-".join(map(str, ratio))
        for kind in ("average-pool", "unconditional-local", "conditional-local"):
            name = f"{kind}-{suffix}"
            name = name if name in ARMS else kind
            rows.append(Row(f"{kind.replace('-', ' ')} ({','.join(map(str, ratio))})", name))
    return tuple(rows)


def _frames_rows() -> tuple[Row, ...]:
    paper = {  # table 2, HICom-7B; its 32 frames are those of training
        8: ("58.1 / 64.1 / 60.5", 680),
        16: ("58.9 / 64.7 / 62.2", 1328),
        32: ("60.3 / 64.0 / 62.3", 2624),
    }
    rows = []
    for name in (CONDITIONAL, UNCONDITIONAL, POOL):
        for count in (8, 16, 32):
            told, tokens = paper[count] if name == CONDITIONAL else ("", None)
            rows.append(Row(f"{ARMS[name].title}, {count} frames", name, told, tokens, f"{count} frames"))
    return tuple(rows)


def _plateau_rows() -> tuple[Row, ...]:
    rows = [Row(ARMS[CONDITIONAL].title, CONDITIONAL)]
    for name in PLATEAU:
        rows.append(Row(ARMS[name].title, name))
        rows.append(Row(f"{ARMS[name].title}, to the plateau", name, plateau=True))
    return tuple(rows)


_TABLES = (
    Table(
        "4",
        "Table 4: parts of the compressor",
        (
            Row("average pool (1,3,3)", "average-pool-1-3-3", "35.7 / 44.8 / 43.2", 2592),
            Row(
                "average pool (1,3,3), a quarter of the frames",
                None,
                "34.3 / 43.6 / 42.7",
                648,
                why="it would be two frames of each video",
            ),
            Row("average pool (4,3,3)", POOL, "34.0 / 43.7 / 41.9", 648),
            Row("average pool (2,4,3)", POOL_MORE_TOKENS),
            Row("unconditional global", "unconditional-global", "30.1 / 34.6 / 33.6", 32),
            Row("conditional global", "conditional-global", "30.3 / 35.5 / 34.0", 32),
            Row("unconditional local", UNCONDITIONAL_LOCAL, "34.4 / 43.7 / 42.7", 648),
            Row("unconditional local+global", UNCONDITIONAL, "34.7 / 44.1 / 42.4", 680),
            Row("conditional local", CONDITIONAL_LOCAL, "36.0 / 44.0 / 43.2", 648),
            Row("conditional local+global", CONDITIONAL, "36.6 / 45.0 / 43.5", 680),
        ),
        tokens_differ="the average pool is tried at more tokens, too, and the global branch adds its own; both as in the paper",
    ),
    Table(
        "5",
        "Table 5: with and without conditional pre-training",
        (
            Row("with", CONDITIONAL, "+0.6 / +1.0 / +1.9 over going without"),
            Row("without", "without-pretraining"),
        ),
        differs="Without it, its steps go to instruction tuning, so that both have the same budget.",
    ),
    Table(
        "6",
        "Table 6: the six pairs of injections",
        (
            Row("local direct, global coarse", CONDITIONAL, "36.6"),
            Row("local direct, global fine", "direct-fine", "36.3"),
            Row("local coarse, global coarse", "coarse-coarse", "36.5"),
            Row("local coarse, global fine", "coarse-fine", "36.4"),
            Row("local fine, global coarse", "fine-coarse", "36.0"),
            Row("local fine, global fine", "fine-fine", "36.0"),
        ),
        paper_columns="VideoMME",
    ),
    Table(
        "A3",
        "Table A3: without groups",
        (
            Row("conditional local, in groups", "coarse-local", "36.0"),
            Row("conditional local, without groups", "coarse-local-ungrouped", "33.8"),
        ),
        paper_columns="VideoMME",
        differs="Coarse injection in both: under direct injection there is one query for all tokens, which without groups would "
        "all be equal.",
    ),
    Table(
        "A4",
        "Table A4: an instruction that says nothing",
        (
            Row("conditional local+global, the question", CONDITIONAL),
            Row("conditional local+global, vague", CONDITIONAL, "no worse than unconditional", measure="vague"),
            Row("unconditional local+global", UNCONDITIONAL),
            Row("conditional local, vague", CONDITIONAL_LOCAL, measure="vague"),
            Row("unconditional local", UNCONDITIONAL_LOCAL),
        ),
        paper_columns="in words",
        tokens_differ="local branches beside local+global",
        differs='The compression is conditioned on "What is this video mainly about?", while the LLM reads the real question. '
        "Questions here name one small object, which no summary of a video contains.",
    ),
    Table(
        "A5",
        "Table A5: other uses of the same data",
        (
            Row("descriptions in conditional pre-training", CONDITIONAL),
            Row("descriptions mixed into instruction tuning", "mixed-into-tuning", "helps less"),
            Row(
                "multiple choice in conditional pre-training",
                "multiple-choice-pretraining",
                "34.6 / 40.8, worse than none",
            ),
            Row("no conditional pre-training", "without-pretraining"),
        ),
        paper_columns="as far as known",
        differs="All have the same steps: where there is no pre-training, instruction tuning has its steps.",
    ),
    Table(
        "figure5",
        "Figure 5: compression ratios",
        _ratio_rows(),
        paper_columns="in words",
        tokens_differ="that is what is compared",
        differs="The paper's ratios, (1,3,3) to (8,9,9) on 32 frames of 27 x 27 patches, compress up to 648 times; here 9 to "
        "288 times on 8 frames of 12 x 12. In the paper the loss of the conditional branch grows more slowly.",
    ),
    Table(
        "frames",
        "Table 2: more frames than in training",
        _frames_rows(),
        tokens_differ="more frames make more tokens",
        differs=f"Videos of 64 frames. The paper's rows are 32, 64 and 128 frames of its 7B model, trained with 32; here 8, 16 "
        f"and 32 of a model trained with 8. {THREE} without subtitles.",
    ),
    Table(
        "formulation",
        "The paper's equations against the release's",
        (
            Row("paper", CONDITIONAL),
            Row("release", "release-formulation"),
        ),
        paper_columns="none: the paper does not compare them",
        differs="The same kinds of injection and the same branches, by the equations of the authors' code "
        "([architecture.md](architecture.md)).",
    ),
    Table(
        "plateau",
        "Baselines that train until they stop improving",
        _plateau_rows(),
        paper_columns="none",
        tokens_differ="the average pool has no global tokens",
        differs="Instruction tuning is repeated, its rates rising and falling anew, until the validation score has twice in "
        "a row improved by less than a point; the repetition with the best validation score counts.",
    ),
)
TABLES: dict[str, Table] = {table.name: table for table in _TABLES}
