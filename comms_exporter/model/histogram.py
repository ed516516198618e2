"""Histograms as Prometheus has them, and exemplars."""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import NamedTuple


class Exemplar(NamedTuple):
    """The operation or email that last moved a counter, by how much, and when (seconds since the epoch).

    *label* is the name under which its id is exposed.
    """

    id: str
    value: float
    time: float
    label: str = "operation_id"


@dataclass(slots=True)
class Histogram:
    """Counts of values by bucket; *bounds* are the inclusive upper bounds of all buckets but the last.

    Each bucket remembers its last exemplar. Exemplars play no part in a comparison: they change only with the counts.
    """

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0
    exemplars: dict[int, Exemplar] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.counts:
            self.counts = [0] * (len(self.bounds) + 1)

    def copy(self) -> "Histogram":
        """Return a histogram that later observations do not change."""
        return Histogram(self.bounds, self.counts.copy(), self.sum, self.exemplars.copy())

    def add(self, other: "Histogram") -> None:
        """Add the counts of *other*; a bucket with another bound goes into the first bucket that contains it."""
        for bound, count in zip((*other.bounds, float("inf")), other.counts, strict=True):
            self.counts[bisect_left(self.bounds, bound)] += count
        self.sum += other.sum

    def observe(self, value: float, exemplar: Exemplar | None = None) -> None:
        """Count *value* in the first bucket whose bound is not below it."""
        index = bisect_left(self.bounds, value)
        self.counts[index] += 1
        self.sum += value
        if exemplar is not None:
            self.exemplars[index] = exemplar
