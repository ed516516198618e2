"""What a store keeps of an account, as plain records: the state restores itself from them, and any database can hold them."""

from dataclasses import dataclass

import msgspec

from comms_exporter.model.histogram import Histogram
from comms_exporter.model.operations import Operation, Stats
from comms_exporter.model.readings import REACHED, Reading, reached

# What totals count: emails that reached a stage, and operations that did.
TOTALS = (*REACHED, "operations_created", "operations_completed", "operations_canceled")

# One operation's part of TOTALS.
Marks = tuple[int, ...]


class Tracked(msgspec.Struct, frozen=True, gc=False):
    """One operation: the latest response, how to read it, and its high-water marks.

    *gone* means that the API answered 404: the operation is neither shown nor fetched until a listing returns it again.
    """

    operation: Operation
    reading: Reading
    # None while the latest response has the highest counts, as nearly always: a million tuples would take 150 MB.
    higher_marks: Marks | None = None
    gone: bool = False

    @classmethod
    def with_marks(cls, operation: Operation, reading: Reading, marks: Marks, *, gone: bool = False) -> "Tracked":
        """Return a tracked operation whose high-water marks are *marks*."""
        latest = marks_of(operation.stats, operation.status, reading)
        return cls(operation, reading, None if marks == latest else marks, gone)

    @property
    def marks(self) -> Marks:
        """The highest value ever seen of each of TOTALS."""
        if self.higher_marks is not None:
            return self.higher_marks
        return marks_of(self.operation.stats, self.operation.status, self.reading)


def marks_of(stats: Stats, status: str, reading: Reading) -> Marks:
    """Return what one response says of TOTALS: emails by stage, and whether it was created, completed, canceled."""
    return *reached(stats, reading), 1, int(status == "COMPLETED"), int(status == "CANCELED")


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
    """An account as a store loads it; *tracked* are its operations by id."""

    tracked: dict[str, Tracked]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(AccountRecord):
    """The changes of an account since the last snapshot; later changes do not affect it.

    *changed* are operations by id, None for one that was forgotten. *tracked* is how many operations the account has in all.
    """

    tracked: int
    changed: dict[str, Tracked | None]

    @property
    def is_complete(self) -> bool:
        """Whether *changed* holds every operation of the account."""
        return self.tracked == sum(each is not None for each in self.changed.values())
