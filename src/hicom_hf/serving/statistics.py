"""What an engine counts, and how it is written for Prometheus."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds


@dataclass
class Histogram:
    """Seconds, counted in buckets."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def __add__(self, other: "Histogram") -> "Histogram":
        return Histogram([sum(pair) for pair in zip(self.counts, other.counts, strict=True)], self.total + other.total)

    def lines(self, name: str) -> list[str]:
        below, lines = 0, [f"# TYPE {name} histogram"]
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            below += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*lines, f"{name}_sum {self.total}", f"{name}_count {below}"]


@dataclass
class Statistics:
    """Counts since the engine began; the engine's lock guards them.

    Attributes:
        answered, failed, cancelled, refused: requests, by how they ended; refused ones never waited.
        batches, rows: of `generate`; rows / batches is the mean size.
        videos_encoded, videos_cached: how the features of a video came.
        prompt_tokens, visual_tokens, cached_tokens, new_tokens: of requests that were answered; visual tokens are part of the
            prompt, cached ones are those of videos that were in the cache.
        first_token: seconds from the arrival of a request to its first token.
        whole_answer: likewise to its end.
    """

    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    batches: int = 0
    rows: int = 0
    videos_encoded: int = 0
    videos_cached: int = 0
    prompt_tokens: int = 0
    visual_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    first_token: Histogram = field(default_factory=Histogram)
    whole_answer: Histogram = field(default_factory=Histogram)

    def __add__(self, other: "Statistics") -> "Statistics":
        """The counts of two engines together."""
        return Statistics(*(getattr(self, name.name) + getattr(other, name.name) for name in fields(self)))

    def prometheus(self, gauges: Mapping[str, float]) -> str:
        """All counts in Prometheus' text format.

        Args:
            gauges: further values by name, which may go down as well.
        """
        lines = ["# TYPE hicom_requests_total counter"]
        lines += [
            f'hicom_requests_total{{outcome="{name}"}} {getattr(self, name)}'
            for name in ("answered", "failed", "cancelled", "refused")
        ]
        for name in (
            "batches",
            "rows",
            "videos_encoded",
            "videos_cached",
            "prompt_tokens",
            "visual_tokens",
            "cached_tokens",
            "new_tokens",
        ):
            lines += [f"# TYPE hicom_{name}_total counter", f"hicom_{name}_total {getattr(self, name)}"]
        for name, value in gauges.items():
            lines += [f"# TYPE hicom_{name} gauge", f"hicom_{name} {value}"]
        lines += self.first_token.lines("hicom_first_token_seconds") + self.whole_answer.lines("hicom_answer_seconds")
        return "\n".join(lines) + "\n"
