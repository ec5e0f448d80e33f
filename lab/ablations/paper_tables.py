"""The paper's tables: its numbers, and the variants that stand for its rows.

Source of all numbers: HICom (CVPR 2025), the table that is named. 0.5B LLM, 32 frames, instruction tuning on VideoChat2-IT,
where nothing else is said. Three numbers are VideoMME / MVBench / EgoSchema.
"""

from dataclasses import dataclass

from .variants import (
    CONDITIONAL,
    CONDITIONAL_LOCAL,
    PLATEAU,
    POOL,
    POOL_MORE_TOKENS,
    POOL_MOST_TOKENS,
    RATIOS,
    UNCONDITIONAL,
    UNCONDITIONAL_LOCAL,
    VARIANTS,
)

THREE = "VideoMME / MVBench / EgoSchema"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        label: what the paper calls it.
        variant: that stands for it; None if there is none.
        paper: the paper's numbers as text; empty if it has none.
        paper_tokens: the paper's visual tokens.
        measure: what the variant is tried on, a key of its scores.
        kind: of the questions that count.
        plateau: the variant after training until nothing improves.
        why: it was not run, where no variant stands for it.
    """

    label: str
    variant: str | None
    paper: str = ""
    paper_tokens: int | None = None
    measure: str = "questions"
    kind: str = "all"
    plateau: bool = False
    why: str = ""

    @property
    def num_tokens(self) -> int | None:
        """Visual tokens of the variant, of as many frames as are sampled."""
        if self.variant is None:
            return None
        variant = VARIANTS[self.variant]
        if not self.measure.endswith(" frames"):
            return variant.num_tokens
        return variant.config.num_tokens((int(self.measure.split()[0]), 12, 12))


@dataclass(frozen=True)
class Table:
    """A table of the paper, or a comparison that stands beside them.

    Args:
        name: on the command line.
        title: above it.
        rows: in the paper's order.
        paper_columns: what the paper's numbers are; empty if it has none.
        tokens_differ: why the rows do not all have the same number of visual tokens; empty if they have.
        differs: from the paper, beyond what holds for all tables.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    paper_columns: str = THREE
    tokens_differ: str = ""
    differs: str = ""


_FROZEN_LLM = (
    "Conditional pre-training freezes the LLM. A variant without this stage, or with its data in instruction tuning, therefore "
    "trains the LLM for more steps."
)
_NO_BASELINE = (
    "the projector of LLaVA-OneVision, which pools 2 x 2 patches in every frame, is no compressor of this package"
)


def _ratio_rows() -> tuple[Row, ...]:
    rows = []
    for ratio in RATIOS:
        suffix = "-".join(map(str, ratio))
        for kind in ("average-pool", "unconditional-local", "conditional-local"):
            name = f"{kind}-{suffix}"
            name = name if name in VARIANTS else kind
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
            rows.append(Row(f"{VARIANTS[name].title}, {count} frames", name, told, tokens, f"{count} frames"))
    return tuple(rows)


def _plateau_rows() -> tuple[Row, ...]:
    rows = [Row(VARIANTS[CONDITIONAL].title, CONDITIONAL)]
    for name in PLATEAU:
        rows.append(Row(VARIANTS[name].title, name))
        rows.append(Row(f"{VARIANTS[name].title}, to the plateau", name, plateau=True))
    rows.append(
        Row(
            f"{VARIANTS[POOL_MORE_TOKENS].title}, to the plateau",
            None,
            why="the further training would have taken too long",
        )
    )
    return tuple(rows)


_TABLES = (
    Table(
        "4",
        "Table 4: parts of the compressor",
        (
            Row("average pool (1,3,3)", POOL_MOST_TOKENS, "35.7 / 44.8 / 43.2", 2592),
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
        tokens_differ="the average pool also has rows with more tokens, and the global branch adds tokens, both as in the paper",
        differs="In its pre-training the LLM read the layout of (4,3,3) most often, that of (2,4,3) never, and global tokens "
        "alone in 6 % of its contexts.",
    ),
    Table(
        "5",
        "Table 5: with and without conditional pre-training",
        (
            Row("average pool, without", "average-pool-without-pretraining", "34.1 / 42.7 / 40.6"),
            Row("average pool, with", POOL, "34.0 / 43.7 / 41.9"),
            Row("unconditional local+global, without", "unconditional-without-pretraining", "35.4 / 42.8 / 41.64"),
            Row("unconditional local+global, with", UNCONDITIONAL, "34.7 / 44.1 / 42.4"),
            Row("conditional local+global, without", "without-pretraining", "36.0 / 44.0 / 41.6"),
            Row("conditional local+global, with", CONDITIONAL, "36.6 / 45.0 / 43.5"),
        ),
        tokens_differ="the average pool has no global tokens",
        differs="A variant without pre-training has more steps of instruction tuning, so that all budgets are equal. In the "
        f"paper such variants train less. {_FROZEN_LLM} In the paper only the conditional "
        "compression gains on all three benchmarks.",
    ),
    Table(
        "6",
        "Table 6: the six pairs of injections",
        (
            Row("local direct, global coarse", CONDITIONAL, "36.6 / 45.0 / 43.5"),
            Row("local direct, global fine", "direct-fine", "36.3 / 44.1 / 43.5"),
            Row("local coarse, global coarse", "coarse-coarse", "36.5 / 44.1 / 42.7"),
            Row("local coarse, global fine", "coarse-fine", "36.4 / 44.3 / 43.5"),
            Row("local fine, global coarse", "fine-coarse", "36.0 / 44.2 / 42.7"),
            Row("local fine, global fine", "fine-fine", "36.0 / 43.6 / 42.0"),
        ),
    ),
    Table(
        "A3",
        "Table A3: without groups",
        (
            Row("unconditional local, in groups", UNCONDITIONAL_LOCAL, "34.4 / 43.7 / 42.7"),
            Row("unconditional local, without groups", "unconditional-local-ungrouped", "32.5 / 42.9 / 39.9"),
            Row("conditional local, in groups", "coarse-local", "36.0 / 44.0 / 43.2"),
            Row("conditional local, without groups", "coarse-local-ungrouped", "33.8 / 43.6 / 41.6"),
        ),
        differs="Both conditional rows use coarse injection. Under direct injection all tokens have the same query, so without "
        "groups they would be equal. The paper does not state its injection without groups. Its row with groups is the direct "
        "one of table 4.",
    ),
    Table(
        "A4",
        "Table A4: an instruction that says nothing",
        (
            Row("conditional local+global, vague questions", CONDITIONAL, "48.1", kind="vague"),
            Row("unconditional local+global, vague questions", UNCONDITIONAL, "47.9", kind="vague"),
            Row("conditional local, vague questions", CONDITIONAL_LOCAL, kind="vague"),
            Row("unconditional local, vague questions", UNCONDITIONAL_LOCAL, kind="vague"),
            Row("average pool, vague questions", POOL, kind="vague"),
            Row("conditional local+global, all questions", CONDITIONAL, "valid ones: 35.0"),
            Row("unconditional local+global, all questions", UNCONDITIONAL, "valid ones: 32.9"),
            Row("unconditional local, all questions", UNCONDITIONAL_LOCAL),
            Row("average pool, all questions", POOL),
            Row("conditional local+global, compressed as for a vague one", CONDITIONAL, measure="vague"),
            Row("conditional local, compressed as for a vague one", CONDITIONAL_LOCAL, measure="vague"),
        ),
        paper_columns="VideoMME, invalid instructions",
        tokens_differ="local branches and the average pool have no global tokens",
        differs='In the paper an invalid instruction is itself the question. Here the kind "vague" stands for it: questions '
        'such as "What is this video mainly about?", which ask for the most frequent colour. The last two rows have no '
        "counterpart in the paper and are harder: the compression is conditioned on the vague question, while the LLM reads "
        "the real question, which mostly asks about a few small objects.",
    ),
    Table(
        "A5",
        "Table A5: other uses of the same data",
        (
            Row("baseline, no conditional pre-training", None, "36.1 / 42.5", why=_NO_BASELINE),
            Row("no conditional pre-training", "without-pretraining", "36.0 / 41.6"),
            Row("baseline, descriptions mixed into instruction tuning", None, "36.4 / 43.3", why=_NO_BASELINE),
            Row("descriptions mixed into instruction tuning", "mixed-into-tuning", "36.2 / 42.4"),
            Row("baseline, descriptions in conditional pre-training", None, "36.2 / 43.2", why=_NO_BASELINE),
            Row("descriptions in conditional pre-training", CONDITIONAL, "36.6 / 43.5"),
            Row("multiple choice in conditional pre-training", "multiple-choice-pretraining", "34.6 / 40.8"),
        ),
        paper_columns="VideoMME / EgoSchema",
        differs="All variants have the same number of steps; without pre-training, its steps go to instruction tuning. "
        f"{_FROZEN_LLM}",
    ),
    Table(
        "figure5",
        "Figure 5: compression ratios",
        _ratio_rows(),
        paper_columns="",
        tokens_differ="the number of tokens is what the figure compares",
        differs="The paper compresses 32 frames of 27 x 27 patches 9 to 648 times, ours 8 frames of 12 x 12 patches 9 to 288 "
        "times. The two highest ratios leave 2 x 2 groups per frame here, 3 x 3 in the paper; the highest leaves one group in "
        "time here, four in the paper. In the paper the conditional branch loses accuracy more slowly; the figure has no "
        "numbers. In its pre-training the LLM read the layout of (4,3,3) in at least 58 % of its batches, each other "
        "layout in at most 5 %.",
    ),
    Table(
        "frames",
        "Table 2: more frames than in training",
        _frames_rows(),
        tokens_differ="more frames make more tokens",
        differs=f"The paper samples 32, 64 and 128 frames with a 7B model trained on 32. Here 8, 16 and 32 frames are sampled "
        f"from videos of 64, with a model whose three stages train on 8. The LLM's pre-training on words also read layouts of "
        f"16, 32 and 64 frames. {THREE} without subtitles.",
    ),
    Table(
        "formulation",
        "The paper's equations against the release's",
        (
            Row("paper", CONDITIONAL),
            Row("release", "release-formulation"),
        ),
        paper_columns="",
        differs="The paper does not compare them. Injections and branches are of the same kind; the equations are those of the "
        "authors' code ([architecture.md](architecture.md#two-formulations)).",
    ),
    Table(
        "plateau",
        "Baselines that train until they stop improving",
        _plateau_rows(),
        paper_columns="",
        tokens_differ="the average pool has no global tokens, so 32 in place of 40",
        differs="These baselines have more steps than in all other tables. Instruction tuning is repeated, each time with its "
        "whole schedule of rates, until two repetitions in a row gain less than a point over the best one before, or until the "
        "bound on repetitions is reached. The repetition with the best validation score counts.",
    ),
)
TABLES: dict[str, Table] = {table.name: table for table in _TABLES}
