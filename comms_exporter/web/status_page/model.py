"""What the status page shows, as plain values; times are seconds since the epoch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

# An unfinished operation that has not changed for this long deserves a look.
STUCK_SECONDS = 3600.0

# Worst first, as the page lists accounts.
Health = Literal["stopped", "failing", "starting", "healthy"]


class Lost(NamedTuple):
    """How many emails with one value of a label were lost; *share* is percent of their emails, None if that is unknown."""

    value: str
    emails: int
    share: float | None


class LostBy(NamedTuple):
    """The values of one *label* that lost the most emails, worst first, and how many *others* have lost any."""

    label: str
    values: Sequence[Lost]
    others: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Emails:
    """How collecting the emails of an account goes, and who was lost in the last *lost_seconds*.

    *good* is None until the first round has ended. *unattributed* is how many lost emails were not found yet.
    """

    everything: bool
    good: bool | None
    success_age_seconds: float | None
    lost_seconds: float
    reason: str = ""
    message: str = ""
    advice: str = ""
    tracked: int = 0
    unattributed: int = 0
    requests_a_day: float = 0.0
    lost: Sequence[LostBy] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The state of polling for one account.

    *good* is None until the first poll has ended; *next_poll_seconds* is 0 while a poll is running. *emails* is None where
    they are not collected.
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
    emails: Emails | None = None
    # None if the accounts are not shared.
    owned_seconds: float | None = None

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
        return is_stuck(self.status, self.updated, now, finished=self.finished)


class HistoryPoint(NamedTuple):
    """What an operation's counters were from *time* on."""

    time: float
    funnel: Funnel


class LostAt(NamedTuple):
    """How many emails to one mailbox provider were lost."""

    provider: str
    failed: int
    undelivered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationDetail:
    """Everything that is known of one operation; *began* is None if it waits for its scheduled time.

    *gone* means that the API no longer returns it. *history* is empty if nothing has changed since the start. *lost* has the
    lost emails that were found since the start, None where emails are not collected.
    """

    version: str
    now: float
    account: str
    id: str
    status: str
    finished: bool
    created: float
    began: float | None
    updated: float
    gone: bool
    funnel: Funnel
    history: Sequence[HistoryPoint]
    lost: Sequence[LostAt] | None = None

    @property
    def found_lost(self) -> int:
        """How many lost emails were found."""
        return sum(each.failed + each.undelivered for each in self.lost or ())

    @property
    def stuck(self) -> bool:
        """Whether the operation should have changed by now and has not."""
        return not self.gone and is_stuck(self.status, self.updated, self.now, finished=self.finished)

    @property
    def stages(self) -> list[tuple[str, int, str, int]]:
        """Each stage: its name, its emails, and the stage that it is a share of with that stage's emails."""
        funnel = self.funnel
        return [
            ("total", funnel.total, "", 0),
            ("sent", funnel.sent, "total" if funnel.total else "", funnel.total),
            ("delivered", funnel.delivered, "sent" if funnel.sent else "", funnel.sent),
            ("opened", funnel.opened, "delivered" if funnel.delivered else "", funnel.delivered),
            ("undelivered", funnel.undelivered, "sent" if funnel.sent else "", funnel.sent),
            ("failed", funnel.failed, "total" if funnel.total else "", funnel.total),
            ("canceled", funnel.canceled, "total" if funnel.total else "", funnel.total),
        ]

    @property
    def times(self) -> list[tuple[str, float]]:
        """When something happened to the operation, in order."""
        began = [] if self.began is None else [("Began to be sent", self.began)]
        return [("Created", self.created), *began, ("Last change", self.updated)]


def is_stuck(status: str, updated: float, now: float, *, finished: bool) -> bool:
    """Whether an operation that changed at *updated* should have changed again by *now*."""
    # A scheduled operation is meant to wait.
    return not finished and status != "SCHEDULED" and now - updated > STUCK_SECONDS


class Exporter(NamedTuple):
    """One of the exporters that share the accounts: *age_seconds* since it joined, and how many accounts it owns."""

    name: str
    this: bool
    age_seconds: float
    accounts: int


class Owned(NamedTuple):
    """An account that another exporter owns, or nobody if *owner* is empty, and for how long."""

    name: str
    owner: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedAccounts:
    """How exporters share the accounts; not *connected* means that the database does not answer at the moment."""

    connected: bool
    exporters: Sequence[Exporter]
    elsewhere: Sequence[Owned]

    def found(self, name: str) -> list[Owned]:
        """Return the accounts of others with *name* in their name."""
        return [each for each in self.elsewhere if name.casefold() in each.name.casefold()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything the status page can show at the moment *now*; iterating over *accounts* and *operations* collects them."""

    version: str
    now: float
    telemetry_path: str
    accounts: Iterable[Account] = ()
    operations: Iterable[OperationRow] = ()
    # None if the accounts are not shared.
    shared: SharedAccounts | None = None
