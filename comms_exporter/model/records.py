"""What a store keeps of an account, as plain records: the state restores itself from them, and any database can hold them."""

from dataclasses import dataclass

import msgspec

from comms_exporter.model.email_records import EmailsSnapshot, SavedEmails
from comms_exporter.model.histogram import Histogram
from comms_exporter.model.operations import Operation, Stats
from comms_exporter.model.readings import REACHED, Reading, reached

# What totals count: emails that reached a stage, and operations that did.
TOTALS = (*REACHED, "operations_created", "operations_completed", "operations_canceled")

# One operation's part of TOTALS.
Marks = tuple[int, ...]

# Whether an operation was created, completed and canceled, by its status.
_UNFINISHED = (1, 0, 0)
_OPERATION_MARKS = {"COMPLETED": (1, 1, 0), "CANCELED": (1, 0, 1)}


class Extras(msgspec.Struct, frozen=True, gc=False):
    """What only few operations have, so that the others need no memory for it."""

    # None while the latest response has the highest counts.
    higher_marks: Marks | None = None
    # None if the operation began to be sent when it was created.
    began: float | None = None


class Tracked(msgspec.Struct, frozen=True, gc=False):
    """One operation: the latest response, how to read it, and what the response does not say.

    *gone* means that the API answered 404: the operation is neither shown nor fetched until a listing returns it again.
    """

    operation: Operation
    reading: Reading
    # None for nearly all: a million tuples of marks would take 150 MB.
    extras: Extras | None = None
    gone: bool = False

    @classmethod
    def with_extras(
        cls, operation: Operation, reading: Reading, marks: Marks, began: float | None, *, gone: bool = False
    ) -> "Tracked":
        """Return a tracked operation whose high-water marks are *marks*; *began* as in Extras."""
        higher = None if marks == marks_of(operation.stats, operation.status, reading) else marks
        return cls(operation, reading, None if higher is None and began is None else Extras(higher, began), gone)

    @property
    def marks(self) -> Marks:
        """The highest value ever seen of each of TOTALS."""
        extras = self.extras
        if extras is not None and extras.higher_marks is not None:
            return extras.higher_marks
        return self.latest_marks

    @property
    def latest_marks(self) -> Marks:
        """The value of each of TOTALS in the latest response."""
        return marks_of(self.operation.stats, self.operation.status, self.reading)

    @property
    def began(self) -> float | None:
        """When the operation began to be sent; None if it has been waiting for its scheduled time ever since."""
        extras = self.extras
        if extras is not None and extras.began is not None:
            return extras.began
        return None if self.operation.status == "SCHEDULED" else self.operation.created


def marks_of(stats: Stats, status: str, reading: Reading) -> Marks:
    """Return what one response says of TOTALS: emails by stage, and whether it was created, completed, canceled."""
    return reached(stats, reading) + _OPERATION_MARKS.get(status, _UNFINISHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRecord:
    """What is kept once per account; times are seconds since the epoch.

    *first_look* is when counting began. An operation created before *horizon* may have been counted and forgotten.
    *last_full_listing* is when everything that the API still returned was last listed. *totals* are in the order of TOTALS.
    """

    first_look: float
    horizon: float
    last_full_listing: float
    totals: tuple[int, ...]
    durations: Histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedAccount(AccountRecord):
    """An account as a store loads it; *tracked* are its operations by id, *emails* is None if none were collected."""

    tracked: dict[str, Tracked]
    emails: SavedEmails | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(AccountRecord):
    """The changes of an account since the last snapshot; later changes do not affect it.

    *changed* are operations by id, None for one that was forgotten. *tracked* is how many operations the account has in all.
    *emails* is None if none are collected.
    """

    tracked: int
    changed: dict[str, Tracked | None]
    emails: EmailsSnapshot | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the snapshot holds every operation and every email of the account."""
        return self.tracked == sum(each is not None for each in self.changed.values()) and (
            self.emails is None or self.emails.is_complete
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing that is counted has changed."""
        return not self.changed and (self.emails is None or self.emails.is_empty)
