"""Numbers out of a campaign's results: means and spreads over seeds, of all questions, a level of clutter or a kind."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev

from hicom_hf.shapes import KINDS

from .campaign import Campaign
from .paper_tables import Row
from .variants import VARIANTS

WIDE = 5.0  # points of spread from which on seeds are listed one by one


@dataclass(frozen=True)
class Value:
    """A score over seeds.

    Args:
        scores: one per seed, in percent.
    """

    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return mean(self.scores)

    @property
    def spread(self) -> float | None:
        """Standard deviation of a sample; None of a single seed."""
        return stdev(self.scores) if len(self.scores) > 1 else None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.spread is None else f"{self.mean:.1f} ± {self.spread:.1f}"

    @property
    def told(self) -> str:
        """With each seed's score where they differ so much that the mean represents none of them."""
        if self.spread is None or self.spread < WIDE:
            return str(self)
        return f"{self} ({', '.join(f'{score:.1f}' for score in self.scores)})"


def mean_right(
    by_dataset: dict[str, dict], kind: str = "all", datasets: Iterable[str] = (), of: str = "right"
) -> float | None:
    """Right answers in percent over data sets, every question counting alike; None if none of the kind is asked.

    Args:
        by_dataset: tables of `lab.hicom_tiny.scoring.table`.
        kind: of the questions.
        datasets: only these.
        of: "right" or "chance".
    """
    chosen = [rows[kind] for name, rows in by_dataset.items() if kind in rows and (not datasets or name in datasets)]
    questions = sum(row["questions"] for row in chosen)
    return sum(row[of] * row["questions"] for row in chosen) / questions if questions else None


class Results:
    """What the seeds of a campaign have found.

    Args:
        campaign: it may still be running.
    """

    def __init__(self, campaign: Campaign):
        self.campaign = campaign
        self._found: dict[tuple[str, bool], list[dict]] = {}
        for plateau in (False, True):
            for name, variant in VARIANTS.items():
                runs = [campaign.final_run(variant, seed, plateau) for seed in campaign.seeds]
                results = [campaign.result(run) for run in runs]
                self._found[name, plateau] = [result for result in results if result is not None]

    def of(self, variant: str, plateau: bool = False) -> list[dict]:
        """The results of a variant, one per seed that was run."""
        return self._found[variant, plateau]

    def scores(
        self, row: Row, kind: str | None = None, level: str | None = None, of: str = "right"
    ) -> dict[int, float]:
        """A row's score by seed, as far as its seeds were run and asked such questions.

        Args:
            row: of a table.
            kind: of questions, in place of the row's own.
            level: of clutter; None for all.
            of: "right" or "chance".
        """
        if row.variant is None:
            return {}
        levels = () if level is None else (level,)
        found = {
            result["seed"]: mean_right(result["scores"][row.measure], kind or row.kind, levels, of)
            for result in self.of(row.variant, row.plateau)
            if row.measure in result["scores"]
        }
        return {seed: score for seed, score in found.items() if score is not None}

    def value(self, row: Row, **view) -> Value | None:
        """A row's score; None if no seed of it was run. See `scores`."""
        scores = self.scores(row, **view)
        return Value(tuple(scores.values())) if scores else None

    def shared(self, rows: Iterable[Row], **view) -> list[Value] | None:
        """The rows' scores over the seeds that all of them have; None if there is no such seed. See `scores`."""
        found = [self.scores(row, **view) for row in rows]
        seeds = [seed for seed in found[0] if all(seed in scores for scores in found)]
        return [Value(tuple(scores[seed] for seed in seeds)) for scores in found] if seeds else None

    def questions(self, row: Row) -> int:
        """How many questions a row's variant was asked; 0 if it was not run."""
        for result in self.of(row.variant, row.plateau) if row.variant else ():
            tables = result["scores"].get(row.measure, {})
            return sum(rows[row.kind]["questions"] for rows in tables.values() if row.kind in rows)
        return 0

    def variant(self, name: str, **options) -> Value | None:
        """A variant's score on the questions."""
        return self.value(Row(name, name, plateau=options.pop("plateau", False)), **options)

    def kinds(self) -> list[str]:
        """Kinds of questions that were asked, without "all"."""
        tables = [
            rows
            for results in self._found.values()
            for result in results
            for rows in result["scores"]["questions"].values()
        ]
        return [kind for kind in KINDS if any(kind in rows for rows in tables)]
