"""What was to be shown, whether it was, and where the conditional compression loses."""

from dataclasses import dataclass

from .arms import (
    ARMS,
    CONDITIONAL,
    CONDITIONAL_LOCAL,
    POOL,
    POOL_MORE_TOKENS,
    RATIO,
    RATIOS,
    UNCONDITIONAL,
    UNCONDITIONAL_LOCAL,
)
from .campaign import LEVELS
from .paper_tables import TABLES, Row
from .results import Results, Value

MARGIN = 10.0  # points by which the conditional compression shall be better
WELL_ABOVE = 10.0  # points over chance


@dataclass(frozen=True)
class Target:
    """Something that was to be shown.

    Args:
        text: what.
        met: whether it was; None if it was not measured.
        numbers: the scores behind it.
    """

    text: str
    met: bool | None
    numbers: str = ""

    @property
    def verdict(self) -> str:
        return {True: "met", False: "**missed**", None: "not run"}[self.met]


def targets(results: Results) -> list[Target]:
    """All targets, in their order."""
    best = results.arm(CONDITIONAL)
    found = [
        _above(
            "conditional local+global at least 10 points above unconditional local+global",
            best,
            results.arm(UNCONDITIONAL),
        ),
        _above("... and above the average pool at 32 tokens, the next number below its 40", best, results.arm(POOL)),
        _above(
            "... and above the average pool at 48 tokens, the next number above", best, results.arm(POOL_MORE_TOKENS)
        ),
        _above(
            "... and above unconditional local+global trained to its plateau",
            best,
            results.arm(UNCONDITIONAL, plateau=True),
        ),
        _above("... and above the average pool trained to its plateau", best, results.arm(POOL, plateau=True)),
        _above(
            "conditional local+global not below conditional local", best, results.arm(CONDITIONAL_LOCAL), margin=0.0
        ),
    ]
    return [*found, _pool_above_chance(results), *_growth(results), _vague(results)]


def _above(text: str, value: Value | None, other: Value | None, margin: float = MARGIN) -> Target:
    if value is None or other is None:
        return Target(text, None)
    return Target(text, value.mean >= other.mean + margin, f"{value} against {other}")


def _pool_above_chance(results: Results) -> Target:
    text = (
        f"at some level of clutter, the average pool (to its plateau if it was run) {WELL_ABOVE:g} points above chance"
    )
    plateau = results.arm(POOL, plateau=True) is not None
    rows = []
    for level in LEVELS:
        value = results.arm(POOL, plateau=plateau, level=level)
        if value is not None:
            chance = results.arm(POOL, plateau=plateau, level=level, of="chance").mean
            rows.append((value.mean - chance, f"{level} {value}, chance {chance:.1f}"))
    if not rows:
        return Target(text, None)
    return Target(text, max(rows)[0] >= WELL_ABOVE, "; ".join(words for _, words in rows))


def of_ratio(kind: str, ratio: tuple[int, ...]) -> str:
    """The arm of figure 5."""
    name = f"{kind}-{'-'.join(map(str, ratio))}"
    return name if name in ARMS else kind


def _growth(results: Results) -> list[Target]:
    """How much is lost from the smallest ratio to the largest one."""
    found = []
    for other in ("unconditional-local", "average-pool"):
        span = f"from {_written(RATIOS[0])} to {_written(RATIOS[-1])}"
        text = f"{span}, conditional local loses less than {other.replace('-', ' ')}"
        ends = [
            [results.arm(of_ratio(kind, ratio)) for ratio in (RATIOS[0], RATIOS[-1])]
            for kind in ("conditional-local", other)
        ]
        if any(value is None for pair in ends for value in pair):
            found.append(Target(text, None))
            continue
        losses = [first.mean - last.mean for first, last in ends]
        chance = results.arm(of_ratio(other, RATIOS[0]), of="chance").mean
        room = ends[1][0].mean - chance
        numbers = f"{losses[0]:.1f} against {losses[1]:.1f} points"
        numbers += f"; the other begins {room:.1f} points above chance, more it cannot lose"
        found.append(Target(text, losses[0] < losses[1], numbers))
    return found


def _vague(results: Results) -> Target:
    text = "under a vague instruction, conditional local+global no worse than unconditional"
    vague = results.value(Row("", CONDITIONAL, measure="vague"))
    return _above(text, vague, results.arm(UNCONDITIONAL), margin=0.0)


def _written(ratio: tuple[int, ...]) -> str:
    return f"({','.join(map(str, ratio))})"


# Losses --------------------------------------------------------------------------------------------------------------------


def pairs() -> list[tuple[Row, Row]]:
    """Conditional rows, each beside what is to be compared with it at the same number of tokens."""
    found = [(CONDITIONAL, UNCONDITIONAL), ("conditional-global", "unconditional-global")]
    for ratio in RATIOS:
        conditional = of_ratio("conditional-local", ratio)
        found += [(conditional, of_ratio(other, ratio)) for other in ("unconditional-local", "average-pool")]
    assert (CONDITIONAL_LOCAL, UNCONDITIONAL_LOCAL) in found and (CONDITIONAL_LOCAL, POOL) in found, RATIO
    rows = [tuple(Row(ARMS[name].title, name) for name in pair) for pair in found]
    frames = {(row.arm, row.measure): row for row in TABLES["frames"].rows}
    rows += [(row, frames[UNCONDITIONAL, measure]) for (arm, measure), row in frames.items() if arm == CONDITIONAL]
    vague = {row.arm: row for row in TABLES["A4"].rows if row.measure == "vague"}
    rows += [
        (vague[name], Row(ARMS[other].title, other))
        for name, other in ((CONDITIONAL, UNCONDITIONAL), (CONDITIONAL_LOCAL, UNCONDITIONAL_LOCAL))
    ]
    rows += [
        (Row(ARMS[CONDITIONAL].title, CONDITIONAL), Row(f"{ARMS[name].title} to the plateau", name, plateau=True))
        for name in (UNCONDITIONAL, POOL)
    ]
    return rows


def losses(results: Results) -> list[str]:
    """Every comparison that the conditional compression loses, over all questions, at a level of clutter, or in a kind."""
    found = []
    for row, other in pairs():
        views = [("over all", {})]
        if not row.measure.endswith("frames"):
            views += [(f"{level} clutter", {"level": level}) for level in LEVELS]
        views += [(f"questions of {kind}", {"kind": kind}) for kind in results.kinds()]
        lost = []
        for words, view in views:
            value, beside = results.value(row, **view), results.value(other, **view)
            if value is not None and beside is not None and value.mean < beside.mean:
                lost.append(f"{words} {value} against {beside}")
        if lost:
            found.append(f"{row.label}, beside {other.label}: {'; '.join(lost)}")
    return found
