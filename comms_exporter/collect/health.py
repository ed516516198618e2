"""How the collecting itself is going: what /metrics, the probes and the status page say about us."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Histogram:
    """A histogram with fixed upper *bounds*; each bucket remembers who last fell into it."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def __eq__(self, other: object) -> bool:
        """Whether both have counted the same; whom the buckets remember follows from that."""
        return isinstance(other, Histogram) and (self.bounds, self.counts, self.sum) == (
            other.bounds,
            other.counts,
            other.sum,
        )

    __hash__ = None  # type: ignore[assignment]  # it changes

    def copy(self) -> "Histogram":
        """Return a histogram that later observations leave alone."""
        copy = Histogram(self.bounds)
        copy.counts, copy.sum, copy.exemplars = self.counts.copy(), self.sum, self.exemplars.copy()
        return copy

    def restore(self, *, bounds: Sequence[float], counts: Sequence[int], sum: float) -> None:  # noqa: A002
        """Go on from counts that were saved; those of other bounds go into the first bucket of ours that holds them."""
        for bound, count in zip((*bounds, float("inf")), counts, strict=True):
            self.counts[bisect_left(self.bounds, bound)] += count
        self.sum += sum

    def observe(self, value: float, exemplar: "Exemplar | None" = None) -> None:
        """Count *value*, which falls into the first bucket whose bound is not below it."""
        index = bisect_left(self.bounds, value)
        self.counts[index] += 1
        self.sum += value
        if exemplar is not None:
            self.exemplars[index] = exemplar


class Exemplar(NamedTuple):
    """The operation that last moved a counter, by how much, and when (seconds since the epoch)."""

    operation_id: str
    value: float
    time: float


@dataclass(slots=True)
class Reloads:
    """How the last reload of the settings went; the start counts as one."""

    last_success: float
    successful: bool = True


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the last poll failed: one of REASONS, and a sentence for people."""

    reason: str
    message: str


@dataclass(slots=True)
class PollHealth:
    """How one account's polls are going; times are seconds since the epoch, 0 for never.

    Ages are computed on the monotonic clock, which nobody sets back.
    """

    interval_seconds: float
    polls: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    problem: Problem | None = None
    last_duration_seconds: float = 0.0
    last_success: float = 0.0
    last_success_monotonic: float = float("-inf")
    last_save: float = 0.0
    save_failures: int = 0

    @property
    def attempted(self) -> bool:
        """Whether a poll has come to an end, whatever came of it."""
        return self.polls > 0

    @property
    def up(self) -> bool:
        """Whether the last poll succeeded."""
        return self.attempted and self.problem is None

    def succeeded(self, *, at: float, monotonic: float, took: float) -> None:
        """Note a poll that was good to its end, *at* which time on either clock."""
        self.polls += 1
        self.problem = None
        self.last_success = at
        self.last_success_monotonic = monotonic
        self.last_duration_seconds = took

    def failed(self, problem: Problem, *, took: float) -> None:
        """Note a poll that ended early."""
        self.polls += 1
        self.problem = problem
        self.failures[problem.reason] += 1
        self.last_duration_seconds = took

    def stale(self, now: float) -> bool:
        """Whether what we know of single operations is too old to be shown: five polls missed, and five minutes.

        *now* is on the monotonic clock.
        """
        return now - self.last_success_monotonic > max(5 * self.interval_seconds, 300)
