"""How the collecting itself is going: what /metrics, the probes and the status page say about us."""

from collections import Counter
from dataclasses import dataclass, field


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
