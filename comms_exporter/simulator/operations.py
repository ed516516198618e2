"""One operation: its emails' fates, and how they stand at any moment.

Everything is decided beforehand, so every answer is a pure function of the moment asked about.
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
    """Whom an email is from or to."""

    address: str
    name: str | None = None


_SENDER = Address("sender@example.com", "Sender")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What was asked to be sent; an empty *to* stands for made-up recipients."""

    sender: Address = _SENDER
    to: tuple[Address, ...] = ()
    subject: str = "Simulated email"
    tags: dict[str, str] = field(default_factory=dict)


class Operation:
    """One send request and what becomes of it."""

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
        self.decide(fates)

    def decide(self, fates: Sequence[Fate]) -> None:
        """Fix the fate of every email; done again only for mail that was stalled."""
        passed = dict(zip(Fate._fields, zip(*fates, strict=True), strict=True))
        retries = [self.created + retry for made in passed["retries"] for retry in made]
        columns = {stage: array("d", [self.created + moment for moment in passed[stage]]) for stage in STAGES}
        self._emails = {stage: column for stage, column in columns.items() if min(column) < NEVER}
        self._reached = {stage: _chronicle(column) for stage, column in self._emails.items()}
        self._attempts = _chronicle([*columns["sent"], *retries])
        self._starts = min(columns["queued"])
        self._ends = max(map(min, columns["sent"], columns["failed"], columns["canceled"]))

    @property
    def key(self) -> tuple[float, str]:
        """Where it stands among all operations."""
        return self.created, self.id

    def reached(self, now: float) -> Reached:
        """Count the emails that have reached each stage by *now*."""
        return Reached(*(bisect_right(self._reached.get(stage, ()), now) for stage in STAGES))

    def attempts(self, now: float) -> int:
        """Count the attempts made by *now*."""
        return bisect_right(self._attempts, now)

    def status(self, now: float) -> str:
        """The operation's status at *now*, in the API's words."""
        if now >= self._ends:
            return "COMPLETED" if self._starts < NEVER else "CANCELED"
        return "PROCESSING" if now >= self._starts else "SCHEDULED"

    def updated(self, now: float) -> float:
        """When something last happened to it, as of *now*."""
        return max(_latest(moments, now, self.created) for moments in [*self._reached.values(), self._attempts])

    def compact(self) -> None:
        """Forget the single emails of an operation whose emails can no longer be asked for."""
        self._emails = {}

    def email_status(self, email: int, now: float) -> str:
        """The status of the email at index *email*, in the API's words."""
        status = "SCHEDULED"
        for stage in STAGES:
            if self._passed(stage, email) <= now:
                status = stage.upper()
        return status

    def email_updated(self, email: int, now: float) -> float:
        """When something last happened to the email at index *email*."""
        passed = [self._passed(stage, email) for stage in STAGES]
        return max([self.created, *(moment for moment in passed if moment <= now)])

    def _passed(self, stage: str, email: int) -> float:
        column = self._emails.get(stage)
        return math.inf if column is None else column[email]


def _chronicle(moments: Sequence[float]) -> "array[float]":
    return array("d", sorted(moment for moment in moments if moment < NEVER))


def _latest(moments: Sequence[float], now: float, otherwise: float) -> float:
    happened = bisect_right(moments, now)
    return moments[happened - 1] if happened else otherwise
