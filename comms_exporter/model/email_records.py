"""What is counted of emails, and what a store keeps of it, as plain records.

Of a single email there is only a digest of its id, when it was created, and the stages that it was ever seen to have reached.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from comms_exporter.model.histogram import Histogram

# The stages that are counted by provider, sender domain and tag, in the order of their bits.
STAGES = ("sent", "delivered", "opened", "undelivered", "failed")
_SENT, _DELIVERED, _OPENED, _UNDELIVERED, _FAILED, INBOUND = (1 << bit for bit in range(6))
ALL_STAGES = _SENT | _DELIVERED | _OPENED | _UNDELIVERED | _FAILED | INBOUND
LOSSES = _UNDELIVERED | _FAILED
# What only `--emails.collect=all` counts.
DELIVERIES = _SENT | _DELIVERED | _OPENED

# The stages that an email with this status has reached. An email never leaves a stage that it has reached.
REACHED_BY_STATUS: Mapping[str, int] = {
    "SENT": _SENT,
    "DELIVERED": _SENT | _DELIVERED,
    "OPENED": _SENT | _DELIVERED | _OPENED,
    "UNDELIVERED": _SENT | _UNDELIVERED,
    "FAILED": _FAILED,
    "INBOUND": INBOUND,
}

# Counts in the order of STAGES.
Counts = tuple[int, ...]
# A label of by_* metrics, and one of its values. Tags are the labels `tag:KEY`; codes of errors have only one count.
Series = tuple[str, str]
PROVIDER, SENDER_DOMAIN, TAG_PREFIX, CODE = "provider", "sender_domain", "tag:", "code"


class KnownEmail(NamedTuple):
    """What is kept of an email: the minute of its creation since the epoch, and its stages as bits.

    *hours_after* is how many hours after its operation it was created, as far as that is known.
    """

    minute: int
    hours_after: int
    stages: int

    def packed(self) -> int:
        """Return all of it as one number: a million emails a week would take three times the memory otherwise."""
        return self.minute << 16 | self.hours_after << 8 | self.stages


MAX_HOURS_AFTER = 255


def unpack_email(packed: int) -> KnownEmail:
    """Return what KnownEmail.packed() packed."""
    return KnownEmail(packed >> 16, packed >> 8 & 255, packed & 255)


def email_key(email_id: str) -> int:
    """Return the number under which an email is known: 128 bits of a digest, so ids of any length take the same memory."""
    return int.from_bytes(blake2b(email_id.encode("utf-8", "surrogatepass"), digest_size=16).digest())


class FirstLook(NamedTuple):
    """When counting of some stages began, and whether all earlier emails have been looked at since; they are not counted."""

    at: float
    complete: bool


class OperationErrors(NamedTuple):
    """What /Errors last said about an operation that had this many *failed* emails: errors by code."""

    failed: int
    codes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailTotals:
    """What is kept once per account; times are seconds since the epoch.

    *losses* and *deliveries* are the first looks at these stages, None before them. *inbound_seen* is up to when all inbound
    emails are counted. *errors_since* is when errors were first asked for.
    """

    losses: FirstLook | None = None
    deliveries: FirstLook | None = None
    inbound: int = 0
    inbound_seen: float | None = None
    errors_since: float | None = None
    delays: Histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedEmails:
    """The emails of an account as a store loads them; *known* are packed KnownEmails by their keys."""

    totals: EmailTotals
    counts: dict[Series, Counts]
    known: dict[int, int]
    errors: dict[str, OperationErrors]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailsSnapshot:
    """The changes since the last snapshot; None stands for what was forgotten.

    *known_in_all* and *errors_in_all* are how many emails and operations with errors the account has.
    """

    totals: EmailTotals
    counts: dict[Series, Counts]
    known: dict[int, int | None]
    errors: dict[str, OperationErrors | None]
    counts_in_all: int
    known_in_all: int
    errors_in_all: int

    @property
    def is_complete(self) -> bool:
        """Whether the snapshot holds everything."""
        return (self.counts_in_all, self.known_in_all, self.errors_in_all) == (
            len(self.counts),
            sum(each is not None for each in self.known.values()),
            sum(each is not None for each in self.errors.values()),
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing that was counted has changed."""
        return not (self.counts or self.known or self.errors)
