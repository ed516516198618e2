"""What the status page shows, as plain values; times are seconds since the epoch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

# An unfinished operation that has not changed for this long deserves a look.
STUCK_SECONDS = 3600.0

# Worst first, as the page lists accounts.
Health = Literal["stopped", "failing", "starting", "healthy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The state of polling for one account.

    *good* is None until the first poll has ended; *next_poll_seconds* is 0 while a poll is running.
    """

    name: str
    good: bool | None
    alive: bool = True
    success_age_seconds: float | None = None
    reason: str = ""
    message: str = ""
    advice: str = ""
    next_poll_seconds: float = 0.0
    requests_a_day: float = 0.0
    tracked: int = 0
    hidden: int = 0

    @property
    def health(self) -> Health:
        """The state of the account's poll loop, in one word."""
        if not self.alive:
            return "stopped"
        if self.good is None:
            return "starting"
        return "healthy" if self.good else "failing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """How many of an operation's emails reached each stage; an email counts in every stage it has passed."""

    total: int
    sent: int
    delivered: int
    opened: int
    failed: int
    undelivered: int
    canceled: int


class OperationRow(NamedTuple):
    """What searching and sorting need of one operation; *funnel* is called only for rows that are rendered.

    *failures* counts the emails that failed or were not delivered.
    """

    account: str
    id: str
    status: str
    finished: bool
    created: float
    updated: float
    failures: int
    funnel: Callable[[], Funnel]

    def is_stuck(self, now: float) -> bool:
        """Whether the operation should have changed by *now* and has not."""
        # A scheduled operation is meant to wait.
        return not self.finished and self.status != "SCHEDULED" and now - self.updated > STUCK_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything the status page can show at the moment *now*; iterating over *operations* collects them."""

    version: str
    now: float
    telemetry_path: str
    accounts: Sequence[Account] = ()
    operations: Iterable[OperationRow] = ()
