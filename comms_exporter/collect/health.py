"""The health of the polls: what metrics, probes and the status page report about the exporter itself."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Reloads:
    """The result of the last reload of the settings; the start counts as one."""

    last_success: float
    successful: bool = True


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the last poll failed: a reason, see api/errors.py, and a message for people."""

    reason: str
    message: str


@dataclass(slots=True)
class PollHealth:
    """The results of one account's polls; times are in seconds since the epoch, 0 for never.

    Ages use the monotonic clock, which is never set back.
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
        """Whether a poll has finished, successfully or not."""
        return self.polls > 0

    @property
    def up(self) -> bool:
        """Whether the last poll succeeded."""
        return self.attempted and self.problem is None

    def succeeded(self, *, at: float, monotonic: float, took: float) -> None:
        """Record a poll that succeeded: *at* seconds since the epoch, *monotonic* on the monotonic clock."""
        self.polls += 1
        self.problem = None
        self.last_success = at
        self.last_success_monotonic = monotonic
        self.last_duration_seconds = took

    def failed(self, problem: Problem, *, took: float) -> None:
        """Record a poll that failed."""
        self.polls += 1
        self.problem = problem
        self.failures[problem.reason] += 1
        self.last_duration_seconds = took

    def unsaved(self, *, took: float) -> None:
        """Record a poll that succeeded, but whose results could not be saved and so are not shown."""
        self.polls += 1
        self.problem = None
        self.last_duration_seconds = took

    def stale(self, now: float) -> bool:
        """Whether the last success is too long ago to expose operations: five intervals and five minutes.

        *now* is on the monotonic clock.
        """
        return now - self.last_success_monotonic > max(5 * self.interval_seconds, 300)
