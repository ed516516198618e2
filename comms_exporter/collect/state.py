"""What we know about every operation of one account, and what we have counted so far.

Nothing here does I/O or awaits. What takes long comes in steps (see slices.py); one who takes them at a time needs no lock.
"""

import heapq
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from itertools import islice
from math import floor
from operator import attrgetter, ge

import msgspec

from comms_exporter.base.slices import SIZE, Steps, batched
from comms_exporter.model.histogram import Exemplar, Histogram
from comms_exporter.model.operations import STATS, STATUSES, Operation, Stats
from comms_exporter.model.readings import REACHED, Reading, decreased_stages, detect_reading, reached_at_most
from comms_exporter.model.records import TOTALS, Marks, SavedAccount, Snapshot, Tracked, marks_of

DAY = 86400.0
# Twilio returns an operation for 7 days after its creation; the margin is for clocks and laggards.
RETENTION = 7 * DAY
MARGIN = 3600.0

# Totals whose last mover is worth naming beside a spike.
EXEMPLIFIED = ("undelivered", "failed")

# Seconds to a week: a transactional mail takes seconds, a campaign hours, a schedule days.
DURATION_BUCKETS = (5, 15, 30, 60, 120, 300, 600, 1800, 3600, 2 * 3600, 6 * 3600, 12 * 3600, DAY, 3 * DAY, 7 * DAY)

# How many statuses that we do not know have series of their own; the rest are OTHER. A label needs a bounded list of values.
MOST_UNKNOWN_STATUSES = 20
OTHER = "OTHER"

_COMPLETED = TOTALS.index("operations_completed")
_EXEMPLIFIED = frozenset(map(TOTALS.index, EXEMPLIFIED))
_INDEXES = range(len(TOTALS))
_QUEUED = STATS.index("queued")
_SCHEDULED = STATS.index("scheduled")
_NOTHING: Marks = (0,) * len(TOTALS)
_ID = attrgetter("id")


@dataclass(slots=True)
class Listing:
    """All pages of one answer, applied whole or not at all; times are seconds on the API's clock.

    *operations* are those that are not known as they are, *new* is how many of these are not tracked yet, *seen* are the
    ids of all. *sweep* says that the listing covers all that the API still returns.
    """

    operations: dict[str, Operation]
    started: float
    ended: float
    sweep: bool = False
    new: int = 0
    seen: set[str] = field(default_factory=set)
    malformed: int = 0
    first_malformed: str = ""
    unknown: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True, eq=False)
class View:
    """What is shown of the state, as it was at one moment; no other view is the same."""

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
        # How many operations the process started with.
        self.restored = 0
        self.totals = [0] * len(TOTALS)
        self.durations = Histogram(DURATION_BUCKETS)
        self.exemplars: dict[str, Exemplar] = {}
        # When the first look began; operations created before it never count as new.
        self.first_look: float | None = None
        # What was created before it may have been counted and forgotten; it never moves back.
        self.horizon = float("-inf")
        # When everything was last looked at.
        self.last_full_listing: float | None = None
        self._unsaved: dict[str, Tracked | None] = {}
        # What a view says of all operations, kept up with every change: a poll must not cost what a week has sent.
        self._by_status: Counter[str] = Counter()
        self._by_reading: Counter[Reading] = Counter()
        self._queued = 0
        self._scheduled = 0
        self._unfinished: dict[str, Tracked] = {}
        self._active: dict[str, Tracked] = {}
        # What is finished and was updated before may be missing there.
        self._active_since = float("-inf")
        self.regressions: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.malformed = 0

    def apply(self, listing: Listing) -> Steps[None]:
        """Take over *listing*: growth is added to the totals, once; nothing is ever taken away from them.

        The first sweep is the first look: it sets high-water marks and counts nothing.
        """
        if self.first_look is None and not listing.sweep:
            raise ValueError("the first look must see everything")
        self.horizon = max(self.horizon, listing.ended - RETENTION - MARGIN)
        for batch in batched(listing.operations.values()):
            for operation in batch:
                self._observe(operation, listing.ended)
            yield
        if self.first_look is None:
            # Twilio's times are whole seconds: what was created in this very second is new.
            self.first_look = floor(listing.started)
        if listing.sweep:
            self.last_full_listing = listing.started
            yield from self._forget()
        self.unknown.update(listing.unknown)
        self.malformed += listing.malformed

    def ignores(self, operation: Operation) -> bool:
        """Whether *operation*, which is not tracked, is too old to become so: it was counted and forgotten, or never ours.

        Neither a server that keeps its operations longer nor a replica that believes them unfinished changes that.
        """
        return operation.created < self.horizon and (self.first_look is not None or not operation.unfinished)

    def mark_gone(self, operation_id: str) -> None:
        """Note that the API no longer knows *operation_id*; its marks stay until its retention is over."""
        known = self.tracked[operation_id]
        stats = known.operation.stats
        self._replace(known, stats, msgspec.structs.replace(known, gone=True), stats)

    def restore(self, saved: SavedAccount) -> Steps[None]:
        """Continue from *saved*; the state must be new."""
        self.first_look, self.horizon = saved.first_look, saved.horizon
        self.last_full_listing = saved.last_full_listing
        self.totals = list(saved.totals)
        self.durations.add(saved.durations)
        self.tracked = saved.tracked
        self.restored = len(saved.tracked)
        for batch in batched(self.tracked.values()):
            for each in batch:
                self._enter(each, each.operation.stats)
            yield

    def snapshot(self) -> Snapshot | None:
        """Return the changes since the last snapshot; None before the first look."""
        if self.first_look is None or self.last_full_listing is None:
            return None
        changed, self._unsaved = self._unsaved, {}
        return Snapshot(
            first_look=self.first_look,
            horizon=self.horizon,
            last_full_listing=self.last_full_listing,
            totals=tuple(self.totals),
            durations=self.durations.copy(),
            tracked=len(self.tracked),
            changed=changed,
        )

    def requeue(self, snapshot: Snapshot) -> None:
        """Include the changes of *snapshot* in the next one: it is not known to be saved."""
        self._unsaved = {**snapshot.changed, **self._unsaved}

    def requeue_all(self) -> None:
        """Make the next snapshot complete: the store has lost what was saved."""
        self._unsaved = {**self._unsaved, **self.tracked}

    def unfinished(self) -> Iterable[Operation]:
        """Return the operations that are still to be followed."""
        return (each.operation for each in self._unfinished.values())

    def view(self, *, now: float, active_window: float, limit: int) -> Steps[View]:
        """Return what to show: unfinished operations, and those updated within *active_window*.

        Of more than *limit*, unfinished ones and then the most recently updated are shown.
        """
        by_status = +self._by_status
        named = _named(by_status)
        oldest: dict[str, float] = {}
        for batch in batched(self._unfinished.values()):
            for each in batch:
                created = each.operation.created
                status = each.operation.status if each.operation.status in named else OTHER
                oldest[status] = min(created, oldest.get(status, created))
            yield
        earliest = now - active_window
        if earliest < self._active_since:
            yield from self._recall()
        active: list[Operation] = []
        over: list[str] = []
        for batch in batched(self._active.values(), 4 * SIZE):
            for each in batch:
                operation = each.operation
                if operation.updated >= earliest or operation.unfinished:
                    active.append(operation)
                elif operation.updated < earliest - MARGIN:
                    over.append(operation.id)
            yield
        for operation_id in over:
            del self._active[operation_id]
        self._active_since = max(self._active_since, earliest - MARGIN)
        exposed = active if len(active) <= limit else (yield from _first(active, limit))
        readings = (
            self._by_reading if self.forced_reading is None else Counter({self.forced_reading: len(self.tracked)})
        )
        return View(
            tuple(self.totals),
            self.durations.copy(),
            self.exemplars.copy(),
            tracked=len(self.tracked),
            exposed=exposed,
            hidden=len(active) - len(exposed),
            queued=self._queued,
            scheduled=self._scheduled,
            by_status=_by_name(by_status, named),
            by_reading=+readings,
            oldest_unfinished=oldest,
        )

    def _recall(self) -> Steps[None]:
        """Consider every operation again: the window has become longer, or the clock was ahead."""
        self._active = {}
        for batch in batched(self.tracked.values(), 4 * SIZE):
            self._active.update((each.operation.id, each) for each in batch if not each.gone)
            yield
        self._active_since = float("-inf")

    def _observe(self, operation: Operation, now: float) -> None:
        known = self.tracked.get(operation.id)
        if known is None:
            self._meet(operation, now)
        elif operation != known.operation or known.gone:
            self._follow(known, operation, now)

    def _meet(self, operation: Operation, now: float) -> None:
        if self.ignores(operation):
            return
        stats = operation.stats
        reading = self._reading(stats, Reading.UNDECIDED)
        said = marks_of(stats, operation.status, reading)
        if self.first_look is None or operation.created < self.first_look:
            # The upper bound, so that making up our mind later adds nothing that happened before the first look.
            marks = reached_at_most(stats, reading) + said[len(REACHED) :]
        else:
            marks = said
            self._count(_NOTHING, marks, operation, now)
        tracked = Tracked(operation, reading, None if marks == said else marks)
        self.tracked[operation.id] = self._unsaved[operation.id] = tracked
        self._enter(tracked, stats)

    def _follow(self, known: Tracked, operation: Operation, now: float) -> None:
        before, stats = known.operation.stats, operation.stats
        reading = self._reading(stats, known.reading)
        old_marks = known.marks
        said = marks_of(stats, operation.status, reading)
        marks = said if all(map(ge, said, old_marks)) else tuple(map(max, said, old_marks))
        self._count(old_marks, marks, operation, now)
        # A replica that lags may answer with the past: it can add what we never saw, not undo what we know.
        # Nor may one whose updatedAt is hours ahead, and so wrong, hide what follows it.
        if operation.updated >= known.operation.updated or known.operation.updated > now + MARGIN:
            # What is no lower than all that was ever seen has not fallen, if it is read as it was.
            if marks != said or reading is not known.reading:
                self.regressions.update(decreased_stages(before, stats, reading))
            # With the id that is in memory already.
            operation = Operation(
                known.operation.id, operation.status, operation.created, operation.updated, operation.packed
            )
            after = Tracked(operation, reading, None if marks == said else marks)
        else:
            after, stats = Tracked.with_marks(known.operation, reading, marks), before
        self._replace(known, before, after, stats)

    def _replace(self, before: Tracked, old: Stats, after: Tracked, new: Stats) -> None:
        """Put *after*, with the counters *new*, in the place of *before*, with *old* ones."""
        operation_id = after.operation.id
        self.tracked[operation_id] = self._unsaved[operation_id] = after
        if (
            before.gone
            or after.gone
            or before.reading is not after.reading
            or before.operation.status != after.operation.status
        ):
            self._add(before, old, -1)
            self._enter(after, new)
            return
        # Most have only sent on.
        self._queued += (new[_QUEUED] or 0) - (old[_QUEUED] or 0)
        self._scheduled += (new[_SCHEDULED] or 0) - (old[_SCHEDULED] or 0)
        self._active[operation_id] = after
        if operation_id in self._unfinished:
            self._unfinished[operation_id] = after

    def _count(self, before: Marks, after: Marks, operation: Operation, now: float) -> None:
        if before == after:
            return
        for index, old, new in zip(_INDEXES, before, after, strict=True):
            if new != old:
                self.totals[index] += new - old
                if index in _EXEMPLIFIED:
                    self.exemplars[TOTALS[index]] = Exemplar(operation.id, new - old, now)
        if after[_COMPLETED] > before[_COMPLETED]:
            seconds = max(0.0, operation.updated - operation.created)
            self.durations.observe(seconds, Exemplar(operation.id, seconds, now))

    def _reading(self, stats: Stats, before: Reading) -> Reading:
        if self.forced_reading is not None:
            return self.forced_reading
        decided = detect_reading(stats)
        return before if decided is Reading.UNDECIDED else decided

    def _enter(self, each: Tracked, stats: Stats) -> None:
        """Add *each* to what is said of all, in the place of what was followed and shown of it so far."""
        self._add(each, stats, 1)
        operation = each.operation
        if each.gone:
            self._active.pop(operation.id, None)
        else:
            # Whether it is recent enough to be shown is for the next view to say.
            self._active[operation.id] = each
        if operation.unfinished and not each.gone:
            self._unfinished[operation.id] = each
        else:
            self._unfinished.pop(operation.id, None)

    def _add(self, each: Tracked, stats: Stats, sign: int) -> None:
        """Add *each*, with its *stats*, to the sums, or take it out again."""
        self._by_reading[each.reading] += sign
        if each.gone:
            return
        self._by_status[each.operation.status] += sign
        self._queued += sign * (stats[_QUEUED] or 0)
        self._scheduled += sign * (stats[_SCHEDULED] or 0)

    def _forget(self) -> Steps[None]:
        expired: list[Tracked] = []
        for batch in batched(self.tracked.values(), 4 * SIZE):
            expired += [
                each
                for each in batch
                if each.operation.created < self.horizon and (each.gone or not each.operation.unfinished)
            ]
            yield
        for batch in batched(expired):
            for each in batch:
                self._add(each, each.operation.stats, -1)
                operation_id = each.operation.id
                self._active.pop(operation_id, None)
                self._unfinished.pop(operation_id, None)
                del self.tracked[operation_id]
                self._unsaved[operation_id] = None
            yield


def _named(by_status: Counter[str]) -> Container[str]:
    """Return those of the statuses that are shown by their names: what the API documents, and the most frequent others."""
    if len(by_status) <= MOST_UNKNOWN_STATUSES:
        return by_status
    unknown = (status for status in by_status if status not in STATUSES)
    frequent = heapq.nsmallest(MOST_UNKNOWN_STATUSES, unknown, key=lambda status: (-by_status[status], status))
    return {*STATUSES, *frequent}


def _by_name(by_status: Counter[str], named: Container[str]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for status, count in by_status.items():
        sums[status if status in named else OTHER] += count
    return sums


def _first(operations: list[Operation], limit: int) -> Steps[list[Operation]]:
    """Return the *limit* first of *operations* by precedence, in the order that they were in."""
    if limit == 0:
        return []
    runs = []
    for batch in batched(operations, 4 * SIZE):
        runs.append(sorted(batch, key=_precedence))
        yield
    ranking = heapq.merge(*runs, key=_precedence)
    chosen: set[str] = set()
    while some := set(map(_ID, islice(ranking, min(SIZE, limit - len(chosen))))):
        chosen |= some
        yield
    return [each for each in operations if each.id in chosen]


def _precedence(operation: Operation) -> tuple[bool, float, str]:
    return not operation.unfinished, -operation.updated, operation.id
