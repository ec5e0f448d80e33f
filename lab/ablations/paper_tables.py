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
    POOL_MOST_TOKENS,
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
        kind: of the questions that count.
        plateau: the arm after training until nothing improves.
        why: it was not run, where no arm stands for it.
    """

    label: str
    arm: str | None
    paper: str = ""
    paper_tokens: int | None = None
    measure: str = "questions"
    kind: str = "all"
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
    "Conditional pre-training freezes the LLM, so an arm without it, or with its data in instruction tuning, trains the LLM for "
    "more steps."
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
    rows.append(
        Row(
            f"{ARMS[POOL_MORE_TOKENS].title}, to the plateau",
            None,
            why="training it on, too, would have taken too long",
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
        tokens_differ="the average pool is tried at more tokens, too, and the global branch adds its own; both as in the paper",
        differs="The LLM's pre-training has read the layout of (4,3,3) most, that of (2,4,3) never, and global tokens alone in "
        "only 6 % of its contexts.",
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
        differs="Where there is no pre-training, its steps go to instruction tuning, so that all have the same budget; in the "
        f"paper these train less. {_FROZEN_LLM} In the paper, only the conditional compression gains on all three benchmarks.",
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
        differs="Coarse injection in both conditional rows: under direct injection there is one query for all tokens, which "
        "without groups would all be equal. The paper does not say what it injects without groups; its row in groups is the "
        "direct one of table 4.",
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
        tokens_differ="local branches beside local+global, and the average pool has no global tokens",
        differs='An invalid instruction of the paper is itself the question; here these are the questions of the kind "vague", '
        'such as "What is this video mainly about?", which ask for the commonest colour. The last two rows are harder, and the '
        "paper has none like them: the compression is conditioned on that vague question while the LLM reads the real one, of "
        "any kind, which mostly asks about a few small objects.",
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
        differs="All have the same steps: where there is no pre-training, instruction tuning has its steps. "
        f"{_FROZEN_LLM}",
    ),
    Table(
        "figure5",
        "Figure 5: compression ratios",
        _ratio_rows(),
        paper_columns="",
        tokens_differ="that is what is compared",
        differs="The paper's ratios, (1,3,3) to (8,9,9) on 32 frames of 27 x 27 patches, compress up to 648 times; here 9 to "
        "288 times on 8 frames of 12 x 12. (4,6,6) and (8,6,6) leave 2 x 2 groups of each frame, the paper's (4,9,9) and "
        "(8,9,9) 3 x 3, and (8,6,6) leaves one in time, the paper's four. In the paper the loss of the conditional branch grows "
        "more slowly; it gives the figure no numbers. The LLM's pre-training has read the layout of (4,3,3) in at least 58 % of "
        "its batches, those of the other ratios in at most 5 % each.",
    ),
    Table(
        "frames",
        "Table 2: more frames than in training",
        _frames_rows(),
        tokens_differ="more frames make more tokens",
        differs=f"Videos of 64 frames. The paper's rows are 32, 64 and 128 frames of its 7B model, trained with 32; here 8, 16 "
        f"and 32 of a model whose three stages train with 8. Before them, the LLM's pre-training on words has read layouts of "
        f"16, 32 and 64 frames, too. {THREE} without subtitles.",
    ),
    Table(
        "formulation",
        "The paper's equations against the release's",
        (
            Row("paper", CONDITIONAL),
            Row("release", "release-formulation"),
        ),
        paper_columns="",
        differs="The paper does not compare them. The same kinds of injection and the same branches, by the equations of the "
        "authors' code "
        "([architecture.md](architecture.md)).",
    ),
    Table(
        "plateau",
        "Baselines that train until they stop improving",
        _plateau_rows(),
        paper_columns="",
        tokens_differ="the average pool has no global tokens, so 32 in place of 40",
        differs="More steps than everywhere else: instruction tuning is repeated, its rates rising and falling anew, until the "
        "validation score has twice in a row been less than a point above the best before, or as often as the bound allows; "
        "the repetition with the best validation score counts.",
    ),
)
TABLES: dict[str, Table] = {table.name: table for table in _TABLES}
