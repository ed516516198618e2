"""One operation: the fates of its emails, and its state at any time.

All fates are fixed in advance, so every state is a pure function of the time.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from comms_exporter.simulator.fates import NEVER, Fate

STAGES = ("queued", "sent", "delivered", "opened", "undelivered", "failed", "canceled")


class Reached(NamedTuple):
    """How many emails of an operation ever reached each stage."""

    queued: int
    sent: int
    delivered: int
    opened: int
    undelivered: int
    failed: int
    canceled: int


class Address(NamedTuple):
    """A sender or recipient of an email."""

    address: str
    name: str | None = None


_SENDER = Address("sender@example.com", "Sender")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """The content of a send request; with an empty *to*, recipients are generated."""

    sender: Address = _SENDER
    to: tuple[Address, ...] = ()
    subject: str = "Simulated email"
    tags: dict[str, str] = field(default_factory=dict)


class Operation:
    """One send request and its emails."""

    __slots__ = (
        "_attempts", "_emails", "_ends", "_reached", "_starts", "created", "id", "message", "schedule", "total",
    )  # fmt: skip

    def __init__(
        self,
        *,
        operation_id: str,
        created: float,
        fates: Sequence[Fate],
        message: Message,
        schedule: float | None = None,
    ) -> None:
        self.id = operation_id
        self.created = created
        self.message = message
        self.schedule = schedule
        self.total = len(fates)
        self.set_fates(fates)

    def set_fates(self, fates: Sequence[Fate]) -> None:
        """Fix the fate of every email; called again only when stalled emails resume."""
        columns_by_stage = dict(zip(Fate._fields, zip(*fates, strict=True), strict=True))
        retries = [self.created + retry for email in columns_by_stage["retries"] for retry in email]
        columns = {stage: array("d", [self.created + moment for moment in columns_by_stage[stage]]) for stage in STAGES}
        self._emails = {stage: column for stage, column in columns.items() if min(column) < NEVER}
        self._reached = {stage: _sorted_times(column) for stage, column in self._emails.items()}
        self._attempts = _sorted_times([*columns["sent"], *retries])
        self._starts = min(columns["queued"])
        self._ends = max(map(min, columns["sent"], columns["failed"], columns["canceled"]))

    @property
    def key(self) -> tuple[float, str]:
        """Its place in the order of creation."""
        return self.created, self.id

    def reached(self, now: float) -> Reached:
        """Count the emails that have reached each stage by *now*."""
        return Reached(*(bisect_right(self._reached.get(stage, ()), now) for stage in STAGES))

    def attempts(self, now: float) -> int:
        """Count the attempts made by *now*."""
        return bisect_right(self._attempts, now)

    def status(self, now: float) -> str:
        """Return the operation's status at *now*, as the API spells it."""
        if now >= self._ends:
            return "COMPLETED" if self._starts < NEVER else "CANCELED"
        return "PROCESSING" if now >= self._starts else "SCHEDULED"

    def updated(self, now: float) -> float:
        """Return when it last changed before *now*."""
        return max(_latest(moments, now, self.created) for moments in [*self._reached.values(), self._attempts])

    def compact(self) -> None:
        """Drop the data of single emails, once they can no longer be listed or fetched."""
        self._emails = {}

    def email_status(self, email: int, now: float) -> str:
        """Return the status of the email at index *email*, as the API spells it."""
        status = "SCHEDULED"
        for stage in STAGES:
            if self._time_of(stage, email) <= now:
                status = stage.upper()
        return status

    def email_updated(self, email: int, now: float) -> float:
        """Return when the email at index *email* last changed."""
        times = [self._time_of(stage, email) for stage in STAGES]
        return max([self.created, *(moment for moment in times if moment <= now)])

    def _time_of(self, stage: str, email: int) -> float:
        column = self._emails.get(stage)
        return math.inf if column is None else column[email]


def _sorted_times(moments: Sequence[float]) -> "array[float]":
    return array("d", sorted(moment for moment in moments if moment < NEVER))


def _latest(moments: Sequence[float], now: float, default: float) -> float:
    count = bisect_right(moments, now)
    return moments[count - 1] if count else default
