"""What a comparison with a reference number came to: the vocabulary of the parity checks."""

from dataclasses import dataclass

import torch

TOLERANCE = (
    1e-4  # absolute, float32: outputs have standard deviation 0.4 to 5, the reference's own noise is below 2e-5
)
EXACT = 0.0


@dataclass(frozen=True)
class Comparison:
    """One number, or table of numbers, against its reference.

    Attributes:
        what: what was compared.
        difference: the largest absolute difference; the number of entries that differ for whole tables of integers.
        tolerance: what is allowed.
        unit: of the difference, for the report.
    """

    what: str
    difference: float
    tolerance: float = TOLERANCE
    unit: str = ""

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance  # false for NaN


@dataclass(frozen=True)
class LeftOut:
    """Something that is not compared, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class CaseResult:
    """What became of one case.

    Attributes:
        case_id, kind: as in index.json.
        comparisons: all that was compared.
        left_out: all that was not, with reasons.
    """

    case_id: str
    kind: str
    comparisons: tuple[Comparison, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def applies(self) -> bool:
        """Whether anything could be compared."""
        return bool(self.comparisons)

    @property
    def misses(self) -> list[Comparison]:
        return [comparison for comparison in self.comparisons if not comparison.passed]

    @property
    def passed(self) -> bool:
        return not self.misses

    def line(self) -> str:
        """One line for a report: the verdict, the worst comparison relative to its tolerance, reasons."""
        if not self.applies:
            return f"left out  {self.case_id}: {_reasons(self.left_out)}"
        worst = max(self.misses or self.comparisons, key=_severity)
        text = f"{'agrees' if self.passed else 'MISS':8}  {self.case_id}: "
        text += f"{worst.difference:.2e}{worst.unit} in {worst.what} (allowed {worst.tolerance:.0e}{worst.unit})"
        text += f", {len(self.comparisons)} compared"
        return text + (f"; left out: {_reasons(self.left_out)}" if self.left_out else "")


def largest(what: str, ours: torch.Tensor, reference: torch.Tensor, tolerance: float = TOLERANCE) -> Comparison:
    """Compare two tensors; another shape is infinitely far away."""
    if ours.shape != reference.shape:
        return Comparison(
            f"{what} (shape {tuple(ours.shape)}, expected {tuple(reference.shape)})", float("inf"), tolerance
        )
    if not ours.numel():
        return Comparison(what, 0.0, tolerance)
    return Comparison(what, (ours.double() - reference.double()).abs().max().item(), tolerance)


def different_entries(what: str, pairs) -> Comparison:
    """Compare a table exactly: how many of the (ours, reference) pairs differ."""
    return Comparison(what, float(sum(ours != reference for ours, reference in pairs)), EXACT, " rows")


def _severity(comparison: Comparison) -> float:
    if comparison.difference != comparison.difference:
        return float("inf")
    return comparison.difference / comparison.tolerance if comparison.tolerance else comparison.difference


def _reasons(left_out: tuple[LeftOut, ...]) -> str:
    """Reasons, each once, with what they apply to."""
    by_reason: dict[str, list[str]] = {}
    for item in left_out:
        by_reason.setdefault(item.reason, []).append(item.what)
    return "; ".join(f"{', '.join(whats)} ({reason})" for reason, whats in by_reason.items())
