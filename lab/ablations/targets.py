"""The targets, whether they are met, and where the conditional compression is behind."""

from dataclasses import dataclass, replace

from .campaign import LEVELS
from .paper_tables import TABLES, Row
from .results import Results
from .variants import (
    CONDITIONAL,
    CONDITIONAL_LOCAL,
    INJECTION_PAIRS,
    PLATEAU,
    POOL,
    POOL_MORE_TOKENS,
    POOL_MOST_TOKENS,
    RATIO,
    RATIOS,
    UNCONDITIONAL,
    UNCONDITIONAL_LOCAL,
    VARIANTS,
)

MARGIN = 10.0  # points by which the conditional compression should be better
WELL_ABOVE = 10.0  # points over chance
ENOUGH_SEEDS = 3  # a verdict on fewer seeds states their number


@dataclass(frozen=True)
class Target:
    """Something that was to be shown.

    Args:
        text: what.
        met: whether it was; None if it was not measured.
        numbers: the scores behind it.
        seeds: how many.
        still_improving: a baseline was, when its training ended; then "met" cannot be said.
    """

    text: str
    met: bool | None
    numbers: str = ""
    seeds: int = 0
    still_improving: bool = False

    @property
    def verdict(self) -> str:
        if self.met is None:
            return "not run"
        verdict = ("open" if self.still_improving else "met") if self.met else "**missed**"
        return verdict if self.seeds >= ENOUGH_SEEDS else f"{verdict} ({_seeds(self.seeds)})"


def targets(results: Results) -> list[Target]:
    """All targets, in their order; what is compared has the same seeds."""
    best, unconditional, pool = (_row(name) for name in (CONDITIONAL, UNCONDITIONAL, POOL))
    wanted = (
        ("conditional local+global at least 10 points above unconditional local+global", unconditional, MARGIN),
        ("... and above the average pool at 32 tokens, the nearest number below its 40", pool, MARGIN),
        ("... and above the average pool at 48 tokens, the nearest number above", _row(POOL_MORE_TOKENS), MARGIN),
        ("... and above unconditional local+global trained to its plateau", _trained_on(UNCONDITIONAL), MARGIN),
        ("... and above unconditional local trained to its plateau", _trained_on(UNCONDITIONAL_LOCAL), MARGIN),
        ("... and above the average pool trained to its plateau, at 32 tokens", _trained_on(POOL), MARGIN),
        ("conditional local+global not below conditional local", _row(CONDITIONAL_LOCAL), 0.0),
    )
    found = [_above(results, text, best, other, margin) for text, other, margin in wanted]
    return [*found, _pool_above_chance(results), *_growth(results), _vague(results)]


def _row(name: str) -> Row:
    return Row(VARIANTS[name].title, name)


def _trained_on(name: str) -> Row:
    return Row(f"{VARIANTS[name].title} to the plateau", name, plateau=True)


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _above(results: Results, text: str, row: Row, other: Row, margin: float) -> Target:
    found = results.shared((row, other))
    if found is None:
        return Target(text, None)
    value, beside = found
    seeds, improving = len(value.scores), 0
    numbers = f"{value.told} against {beside.told}, {value.mean - beside.mean:+.1f}, {_seeds(seeds)}"
    if other.plateau:
        shared = results.scores(row)
        improving = sum(
            not result["stopped"] for result in results.of(other.variant, True) if result["seed"] in shared
        )
        numbers += f"; {improving} of {seeds} were still improving"
    return Target(text, value.mean >= beside.mean + margin, numbers, seeds, improving > 0)


def _pool_above_chance(results: Results) -> Target:
    text = (
        f"at some level of clutter, the average pool (to its plateau if it was run) {WELL_ABOVE:g} points above chance"
    )
    row = _trained_on(POOL) if results.of(POOL, plateau=True) else _row(POOL)
    found = []
    for level in LEVELS:
        value = results.value(row, level=level)
        if value is not None:
            chance = results.value(row, level=level, of="chance").mean
            found.append((value.mean - chance, f"{level} {value}, chance {chance:.1f}"))
    if not found:
        return Target(text, None)
    seeds = len(results.scores(row))
    numbers = f"{'; '.join(words for _, words in found)}; {_seeds(seeds)}"
    return Target(text, max(found)[0] >= WELL_ABOVE, numbers, seeds)


def of_ratio(kind: str, ratio: tuple[int, ...]) -> str:
    """The variant of figure 5."""
    name = f"{kind}-{'-'.join(map(str, ratio))}"
    return name if name in VARIANTS else kind


def _growth(results: Results) -> list[Target]:
    """How much is lost from the smallest ratio to the largest one, and the gap at each."""
    found = []
    for other in ("unconditional-local", "average-pool"):
        span = f"from {_written(RATIOS[0])} to {_written(RATIOS[-1])}"
        text = f"{span}, conditional local loses less than {other.replace('-', ' ')}"
        kinds = ("conditional-local", other)
        values = results.shared(_row(of_ratio(kind, ratio)) for ratio in RATIOS for kind in kinds)
        if values is None:
            found.append(Target(text, None))
            continue
        ours, others = [value.mean for value in values[::2]], [value.mean for value in values[1::2]]
        lost, other_lost = ours[0] - ours[-1], others[0] - others[-1]
        seeds, chance = len(values[0].scores), results.value(_row(of_ratio(other, RATIOS[0])), of="chance").mean
        gaps = ", ".join(f"{mean - beside:+.1f}" for mean, beside in zip(ours, others, strict=True))
        numbers = f"{lost:.1f} against {other_lost:.1f} points, {_seeds(seeds)}"
        numbers += f"; the other begins {others[0] - chance:.1f} points above chance, more it cannot lose"
        numbers += f"; from ratio to ratio, conditional is {gaps} points ahead"
        found.append(Target(text, lost < other_lost, numbers, seeds))
    return found


def _vague(results: Results) -> Target:
    text = "asked vague questions, conditional local+global no worse than unconditional"
    row, other = (Row("", name, kind="vague") for name in (CONDITIONAL, UNCONDITIONAL))
    target = _above(results, text, row, other, 0.0)
    return replace(target, numbers=f"{target.numbers}; {results.questions(row)} questions") if target.seeds else target


def _written(ratio: tuple[int, ...]) -> str:
    return f"({','.join(map(str, ratio))})"


# Losses --------------------------------------------------------------------------------------------------------------------


def pairs() -> list[tuple[Row, Row]]:
    """Conditional rows, each beside what is to be compared with it."""
    found = [
        *(
            (CONDITIONAL, other)
            for other in (UNCONDITIONAL, POOL, POOL_MORE_TOKENS, POOL_MOST_TOKENS, CONDITIONAL_LOCAL)
        ),
        ("conditional-global", "unconditional-global"),
        ("without-pretraining", "unconditional-without-pretraining"),
        ("without-pretraining", "average-pool-without-pretraining"),
        ("coarse-local-ungrouped", "unconditional-local-ungrouped"),
        ("conditional-global", of_ratio("average-pool", RATIOS[2])),  # as many tokens
        *((name, other) for name in INJECTION_PAIRS for other in (UNCONDITIONAL, POOL)),
        *(("coarse-local", other) for other in (UNCONDITIONAL_LOCAL, POOL)),
        *(("release-formulation", other) for other in (UNCONDITIONAL, POOL)),
    ]
    for ratio in RATIOS:
        conditional = of_ratio("conditional-local", ratio)
        found += [(conditional, of_ratio(other, ratio)) for other in ("unconditional-local", "average-pool")]
    assert (CONDITIONAL_LOCAL, UNCONDITIONAL_LOCAL) in found and (CONDITIONAL_LOCAL, POOL) in found, RATIO
    rows = [(_row(name), _row(other)) for name, other in found]
    frames = {(row.variant, row.measure): row for row in TABLES["frames"].rows}
    rows += [
        (row, frames[other, measure])
        for (variant, measure), row in frames.items()
        for other in (UNCONDITIONAL, POOL)
        if variant == CONDITIONAL
    ]
    vague = {row.variant: row for row in TABLES["A4"].rows if row.measure == "vague"}
    rows += [
        (vague[name], _row(other))
        for name, other in (
            (CONDITIONAL, UNCONDITIONAL),
            (CONDITIONAL, POOL),
            (CONDITIONAL_LOCAL, UNCONDITIONAL_LOCAL),
            (CONDITIONAL_LOCAL, POOL),
        )
    ]
    return [*rows, *((_row(CONDITIONAL), _trained_on(name)) for name in PLATEAU)]


@dataclass(frozen=True)
class Loss:
    """A pair in which the conditional variant is behind in some view.

    Attributes:
        row, other: the conditional variant, and what stands beside it.
        num_seeds: that both have.
        behind: view ("all", a level of clutter, or a kind of question) -> points by which the variant is behind.
    """

    row: Row
    other: Row
    num_seeds: int
    behind: dict[str, float]


def views(results: Results) -> dict[str, dict[str, str]]:
    """What a pair is compared in: all questions, each level of clutter, each kind of question."""
    levels = {level: {"level": level} for level in LEVELS}
    return {"all": {}, **levels, **{kind: {"kind": kind} for kind in results.kinds()}}


def losses(results: Results) -> list[Loss]:
    """Every comparison that the conditional compression loses."""
    found = []
    for row, other in pairs():
        behind, seeds = {}, 0
        for name, view in views(results).items():
            if "level" in view and row.measure.endswith("frames"):
                continue  # the longer videos have one level of clutter
            value, beside = results.shared((row, other), **view) or (None, None)
            if value is not None and value.mean < beside.mean:
                behind[name] = beside.mean - value.mean
                seeds = len(value.scores)
        if behind:
            found.append(Loss(row, other, seeds, behind))
    return found
