"""One operation: the fates of its emails, and its state at any time.

All fates are fixed in advance, so every state is a pure function of the time.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from comms_exporter.simulator.fates import NEVER, Fate
from comms_exporter.simulator.mail import Message, draw_message

# The operations that keep the times of single emails have this in common, because each dict takes memory.
_IN_ORDER: Mapping[str, "array[int]"] = MappingProxyType({})

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


class Operation:
    """One send request and its emails; its *message* is given, or drawn from a seed whenever it is needed."""

    __slots__ = (
        "_attempts", "_emails", "_ends", "_message", "_order", "_reached", "_starts", "created", "id", "schedule", "total",
    )  # fmt: skip

    def __init__(
        self,
        *,
        operation_id: str,
        created: float,
        fates: Sequence[Fate],
        message: Message | int,
        schedule: float | None = None,
    ) -> None:
        self.id = operation_id
        self.created = created
        self._message = message
        self.schedule = schedule
        self.total = len(fates)
        self.set_fates(fates)

    def set_fates(self, fates: Sequence[Fate]) -> None:
        """Fix the fate of every email; called again only when stalled emails resume."""
        columns_by_stage = dict(zip(Fate._fields, zip(*fates, strict=True), strict=True))
        retries = [self.created + retry for email in columns_by_stage["retries"] for retry in email]
        columns = {stage: array("d", [self.created + moment for moment in columns_by_stage[stage]]) for stage in STAGES}
        self._emails = {stage: column for stage, column in columns.items() if min(column) < NEVER}
        self._order = _IN_ORDER
        self._reached = {stage: _sorted_times(column) for stage, column in self._emails.items()}
        self._attempts = _sorted_times([*columns["sent"], *retries])
        self._starts = min(columns["queued"])
        self._ends = max(map(min, columns["sent"], columns["failed"], columns["canceled"]))

    @property
    def key(self) -> tuple[float, str]:
        """Its place in the order of creation."""
        return self.created, self.id

    @property
    def message(self) -> Message:
        """What was sent, by whom, and to whom."""
        return draw_message(self._message) if isinstance(self._message, int) else self._message

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
        """Drop the times of single emails, once they can no longer be listed or fetched; keep their order."""
        if self.total > 1:
            self._order = {
                stage: array("H", sorted(range(self.total), key=column.__getitem__))
                for stage, column in self._emails.items()
            }
        self._emails = {}

    def emails_that_reached(self, stage: str, now: float) -> Iterable[int]:
        """Return the indexes of the emails that have reached *stage* by *now*."""
        if column := self._emails.get(stage):
            return (email for email, moment in enumerate(column) if moment <= now)
        count = bisect_right(self._reached.get(stage, ()), now)
        return self._order[stage][:count] if self.total > 1 and count else range(count)

    def emails_with_status(self, status: str | None, now: float, *, first: int = 0) -> Iterable[int]:
        """Return the indexes, from *first* on, of the emails that have *status* at *now*, or of all emails."""
        if status is None:
            return range(first, self.total)
        column = self._emails.get(status.lower())
        if column is None and status != "SCHEDULED":
            return ()
        # Most operations have no email with a rare status, so one look at them is enough.
        return (
            email
            for email in range(first, self.total)
            if (column is None or column[email] <= now) and self.email_status(email, now) == status
        )

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


class SentEmail(NamedTuple):
    """One email of an operation, which has it at index *place*."""

    operation: Operation
    place: int

    @property
    def key(self) -> tuple[float, str]:
        """Its place in the order of creation, which it shares with the other emails of its operation."""
        return self.operation.key


def _sorted_times(moments: Sequence[float]) -> "array[float]":
    return array("d", sorted(moment for moment in moments if moment < NEVER))


def _latest(moments: Sequence[float], now: float, default: float) -> float:
    count = bisect_right(moments, now)
    return moments[count - 1] if count else default
