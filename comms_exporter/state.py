"""What we know about every operation of one account, and what we have counted so far.

Nothing here does I/O or awaits, so between two awaits the state is always whole and needs no lock.
"""

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import floor
from typing import Any

from comms_exporter.health import Exemplar, Histogram
from comms_exporter.models import Operation, Stats
from comms_exporter.stats import REACHED, Reading, at_most, fallen, reached, reading_of, stat

DAY = 86400.0
# Twilio returns an operation for 7 days after its creation; the margin is for clocks and laggards.
RETENTION = 7 * DAY
MARGIN = 3600.0

# What totals count: emails that reached a stage, and operations that did.
TOTALS = (*REACHED, "operations_created", "operations_completed", "operations_canceled")
# Totals whose last mover is worth naming beside a spike.
EXEMPLIFIED = ("undelivered", "failed")

# Seconds to a week: a transactional mail takes seconds, a campaign hours, a schedule days.
DURATION_BUCKETS = (5, 15, 30, 60, 120, 300, 600, 1800, 3600, 2 * 3600, 6 * 3600, 12 * 3600, DAY, 3 * DAY, 7 * DAY)

Marks = tuple[int, ...]

_COMPLETED = TOTALS.index("operations_completed")


@dataclass(slots=True)
class Tracked:
    """One operation: the newest answer, how to read it, and the highest count ever seen of each of TOTALS."""

    operation: Operation
    reading: Reading
    marks: Marks
    # The API said 404: nothing to show or ask for until a listing returns it again.
    gone: bool = False


@dataclass(slots=True)
class Listing:
    """All pages of one answer, applied whole or not at all; times are seconds on the API's clock.

    *operations* are those that are not known as they are, *seen* are the ids of all. *sweep* says that the listing
    covers all that the API still returns.
    """

    operations: dict[str, Operation]
    started: float
    ended: float
    sweep: bool = False
    seen: set[str] = field(default_factory=set)
    malformed: list[str] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What has to be saved of an account's state; later changes leave it alone."""

    first_look: float
    horizon: float
    seen: float
    totals: tuple[int, ...]
    durations: dict[str, Any]
    changed: list[tuple[Operation, Reading, Marks, bool]]
    forgotten: list[str]


@dataclass(slots=True)
class View:
    """What is shown of the state, as it was at one moment."""

    totals: tuple[int, ...] = (0,) * len(TOTALS)
    durations: Histogram = field(default_factory=lambda: Histogram(DURATION_BUCKETS))
    exemplars: dict[str, Exemplar] = field(default_factory=dict)
    tracked: int = 0
    exposed: list[Operation] = field(default_factory=list)
    hidden: int = 0
    queued: int = 0
    scheduled: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    by_reading: Counter[Reading] = field(default_factory=Counter)
    oldest_unfinished: dict[str, float] = field(default_factory=dict)

    @classmethod
    def before_the_first_poll(cls, state: "AccountState") -> "View":
        """Return what a new process knows of an account: what was counted, but of no operation how it is now."""
        return cls(tuple(state.totals), state.durations.copy(), tracked=len(state.tracked))


class AccountState:
    """Every operation of one account that the API can still return, and the totals that outlive them."""

    def __init__(self, *, forced_reading: Reading | None = None) -> None:
        self.forced_reading = forced_reading
        self.tracked: dict[str, Tracked] = {}
        self.totals = [0] * len(TOTALS)
        self.durations = Histogram(DURATION_BUCKETS)
        self.exemplars: dict[str, Exemplar] = {}
        # When the first look began; operations created before it never count as new.
        self.first_look: float | None = None
        # What was created before it may have been counted and forgotten; it never moves back.
        self.horizon = float("-inf")
        # When everything was last looked at.
        self.seen: float | None = None
        self.unsaved: set[str] = set()
        # What a view says of all operations, kept up with every change: a poll must not cost what a week has sent.
        self._by_status: Counter[str] = Counter()
        self._by_reading: Counter[Reading] = Counter()
        self._queued = 0
        self._scheduled = 0
        self._unfinished: dict[str, Tracked] = {}
        self._active: dict[str, Tracked] = {}
        self.regressions: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.malformed = 0

    def apply(self, listing: Listing) -> None:
        """Take over *listing*: growth is added to the totals, once; nothing is ever taken away from them.

        The first sweep is the first look: it sets high-water marks and counts nothing.
        """
        if self.first_look is None and not listing.sweep:
            raise ValueError("the first look must see everything")
        self.horizon = max(self.horizon, listing.ended - RETENTION - MARGIN)
        for operation in listing.operations.values():
            self._observe(operation, listing.ended)
        if self.first_look is None:
            # Twilio's times are whole seconds: what was created in this very second is new.
            self.first_look = floor(listing.started)
        if listing.sweep:
            self.seen = listing.started
            self._forget()
        self.unknown.update(listing.unknown)
        self.malformed += len(listing.malformed)

    def lost(self, operation_id: str) -> None:
        """Take over that the API no longer knows *operation_id*; its marks stay until its retention is over."""
        known = self.tracked[operation_id]
        self._leave(known)
        known.gone = True
        self._enter(known)
        self.unsaved.add(operation_id)

    def restore(self, tracked: Iterable[Tracked]) -> None:
        """Take over what was saved of operations."""
        for each in tracked:
            self.tracked[each.operation.id] = each
            self._enter(each)

    def knows(self, operation: Operation) -> bool:
        """Whether *operation* is known exactly as it is, so that applying it would change nothing."""
        known = self.tracked.get(operation.id)
        return known is not None and known.operation == operation and not known.gone

    def snapshot(self) -> Snapshot | None:
        """Return what is new since saved() was last told; None before the first look."""
        if self.first_look is None or self.seen is None:
            return None
        kept = [self.tracked[name] for name in self.unsaved if name in self.tracked]
        return Snapshot(
            self.first_look,
            self.horizon,
            self.seen,
            tuple(self.totals),
            {"bounds": self.durations.bounds, "counts": self.durations.counts.copy(), "sum": self.durations.sum},
            # Plain tuples: ten thousand copies of a dataclass would hold the loop for 40 ms.
            [(each.operation, each.reading, each.marks, each.gone) for each in kept],
            [name for name in self.unsaved if name not in self.tracked],
        )

    def saved(self) -> None:
        """Take over that the last snapshot is where it belongs."""
        self.unsaved.clear()

    def save_everything(self) -> None:
        """Take over that what was saved is lost."""
        self.unsaved.update(self.tracked)

    def unfinished(self) -> Iterable[Operation]:
        """Return the operations that are still to be followed."""
        return (each.operation for each in self._unfinished.values())

    def view(self, *, now: float, active_window: float, limit: int) -> View:
        """Return what to show: unfinished operations, then those updated within *active_window*, at most *limit*."""
        oldest: dict[str, float] = {}
        for each in self._unfinished.values():
            status, created = each.operation.status, each.operation.created
            oldest[status] = min(created, oldest.get(status, created))
        earliest = now - active_window
        for operation_id in [
            each.operation.id
            for each in self._active.values()
            if each.operation.updated < earliest and not each.operation.unfinished
        ]:
            del self._active[operation_id]
        readings = (
            self._by_reading if self.forced_reading is None else Counter({self.forced_reading: len(self.tracked)})
        )
        exposed = heapq.nsmallest(limit, (each.operation for each in self._active.values()), key=_precedence)
        return View(
            tuple(self.totals),
            self.durations.copy(),
            self.exemplars.copy(),
            tracked=len(self.tracked),
            exposed=exposed,
            hidden=len(self._active) - len(exposed),
            queued=self._queued,
            scheduled=self._scheduled,
            by_status=+self._by_status,
            by_reading=+readings,
            oldest_unfinished=oldest,
        )

    def _observe(self, operation: Operation, now: float) -> None:
        known = self.tracked.get(operation.id)
        if known is None:
            self._meet(operation, now)
        elif operation != known.operation or known.gone:
            self._follow(known, operation, now)

    def _meet(self, operation: Operation, now: float) -> None:
        expired = operation.created < self.horizon
        if expired and not operation.unfinished:
            # Counted and forgotten, or never ours: a server that keeps its operations longer changes nothing.
            return
        reading = self._reading(operation.stats, Reading.UNDECIDED)
        nothing = (0,) * len(TOTALS)
        if self.first_look is None or operation.created < self.first_look or expired:
            # The upper bound, so that making up our mind later adds nothing that happened before the first look.
            marks = at_most(operation.stats, reading) + _milestones(operation)
        else:
            marks = reached(operation.stats, reading) + _milestones(operation)
            self._count(nothing, marks, operation, now)
        self.tracked[operation.id] = tracked = Tracked(operation, reading, marks)
        self._enter(tracked)
        self.unsaved.add(operation.id)

    def _follow(self, known: Tracked, operation: Operation, now: float) -> None:
        self._leave(known)
        known.reading = self._reading(operation.stats, known.reading)
        marks = tuple(map(max, known.marks, reached(operation.stats, known.reading) + _milestones(operation)))
        self._count(known.marks, marks, operation, now)
        known.marks = marks
        known.gone = False
        # A replica that lags may answer with the past: it can add what we never saw, not undo what we know.
        # Nor may one whose updatedAt is hours ahead, and so wrong, hide what follows it.
        if operation.updated >= known.operation.updated or known.operation.updated > now + MARGIN:
            self.regressions.update(fallen(known.operation.stats, operation.stats, known.reading))
            known.operation = operation
        self._enter(known)
        self.unsaved.add(operation.id)

    def _count(self, before: Marks, after: Marks, operation: Operation, now: float) -> None:
        if before == after:
            return
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            self.totals[index] += new - old
            if new > old and TOTALS[index] in EXEMPLIFIED:
                self.exemplars[TOTALS[index]] = Exemplar(operation.id, new - old, now)
        if after[_COMPLETED] > before[_COMPLETED]:
            seconds = max(0.0, operation.updated - operation.created)
            self.durations.observe(seconds, Exemplar(operation.id, seconds, now))

    def _reading(self, stats: Stats, before: Reading) -> Reading:
        if self.forced_reading is not None:
            return self.forced_reading
        decided = reading_of(stats)
        return before if decided is Reading.UNDECIDED else decided

    def _enter(self, each: Tracked) -> None:
        """Add *each*, as it is now, to what is said of all."""
        self._by_reading[each.reading] += 1
        if each.gone:
            return
        operation = each.operation
        self._by_status[operation.status] += 1
        self._queued += stat(operation.stats, "queued") or 0
        self._scheduled += stat(operation.stats, "scheduled") or 0
        # Whether it is recent enough to be shown is for the next view to say.
        self._active[operation.id] = each
        if operation.unfinished:
            self._unfinished[operation.id] = each

    def _leave(self, each: Tracked) -> None:
        """Take *each*, as it still is, out of what is said of all."""
        self._by_reading[each.reading] -= 1
        if each.gone:
            return
        operation = each.operation
        self._by_status[operation.status] -= 1
        self._queued -= stat(operation.stats, "queued") or 0
        self._scheduled -= stat(operation.stats, "scheduled") or 0
        self._active.pop(operation.id, None)
        self._unfinished.pop(operation.id, None)

    def _forget(self) -> None:
        expired = [
            operation_id
            for operation_id, each in self.tracked.items()
            if each.operation.created < self.horizon and (each.gone or not each.operation.unfinished)
        ]
        for operation_id in expired:
            self._leave(self.tracked.pop(operation_id))
        self.unsaved.update(expired)


def _milestones(operation: Operation) -> Marks:
    """Return what the operation itself has reached: created, completed, canceled."""
    return 1, int(operation.status == "COMPLETED"), int(operation.status == "CANCELED")


def _precedence(operation: Operation) -> tuple[bool, float, str]:
    return not operation.unfinished, -operation.updated, operation.id
