"""What the exporter knows about every operation of one account, and what it has counted.

Nothing here does I/O or awaits. Long work comes in steps (see slices.py); run one at a time, and no lock is needed.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import floor
from operator import add, neg, sub

import msgspec

from comms_exporter.base.slices import SIZE, Steps, batched
from comms_exporter.collect.emails.state import EmailState
from comms_exporter.collect.recent import RecentSums
from comms_exporter.collect.schedule import HOUR, MARGIN, RETENTION
from comms_exporter.collect.view import DURATION_BUCKETS, Exposes, Summary, View
from comms_exporter.model.histogram import Exemplar, Histogram
from comms_exporter.model.operations import Operation, Stats
from comms_exporter.model.readings import REACHED, Reading, decreased_stages, detect_reading, reached_at_most
from comms_exporter.model.records import TOTALS, Extras, Marks, SavedAccount, Snapshot, Tracked, marks_of

# The totals that have exemplars: they name operations behind a spike of failures.
TOTALS_WITH_EXEMPLARS = ("undelivered", "failed")

# What makes progress sooner after its creation is listed for nearly an hour more.
_NEW_SECONDS = 600.0
_COMPLETED = TOTALS.index("operations_completed")
_TOTAL, _SENT, _DELIVERED, _UNDELIVERED, _FAILED, _CANCELED = map(
    TOTALS.index, ("total", "sent", "delivered", "undelivered", "failed", "canceled")
)


@dataclass(slots=True)
class Listing:
    """All pages of one query, applied as a whole or not at all; times are in seconds on the API's clock.

    *ids* are the ids of all operations listed. *operations* are those that differ from what the state knows, *new* is how
    many of them are not tracked yet. *created_after* is how far the query reached back. A *sweep* covers everything that the API still returns.
    """

    operations: dict[str, Operation]
    started: float
    ended: float
    created_after: float = float("-inf")
    sweep: bool = False
    new: int = 0
    ids: set[str] = field(default_factory=set)
    malformed: int = 0
    first_malformed: str = ""
    unknown: Counter[str] = field(default_factory=Counter)


class AccountState:
    """Every operation of one account that the API can still return, and the totals, which outlive them."""

    def __init__(self, *, forced_reading: Reading | None = None, emails: EmailState | None = None) -> None:
        self.forced_reading = forced_reading
        # None if single emails are not collected.
        self.emails = emails
        self.tracked: dict[str, Tracked] = {}
        # The number of operations that were loaded from the state file.
        self.restored = 0
        self.totals = [0] * len(TOTALS)
        self.durations = Histogram(DURATION_BUCKETS)
        self.exemplars: dict[str, Exemplar] = {}
        # See AccountRecord. The horizon never moves back.
        self.first_look: float | None = None
        self.horizon = float("-inf")
        self.last_full_listing: float | None = None
        self.regressions: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.malformed = 0
        # Of the last listing that should have had any, how many operations it had, and how many of those that it should.
        self.listed = 0
        self.unlisted = 0
        # When emails of an operation last made progress, but for opens. A new operation is missing here: it is listed anyway.
        self._progress: dict[str, float] = {}
        self._summary = Summary()
        self._recent = RecentSums()
        self._unsaved: dict[str, Tracked | None] = {}

    def apply(self, listing: Listing) -> Steps[None]:
        """Add the growth in *listing* to the totals, once; nothing ever reduces them.

        The first sweep is the first look: it sets the high-water marks and counts nothing.
        """
        if self.first_look is None and not listing.sweep:
            raise ValueError("the first look must be a sweep")
        self.horizon = max(self.horizon, listing.ended - RETENTION - MARGIN)
        for batch in batched(listing.operations.values()):
            for operation in batch:
                self._observe(operation, listing.ended)
            yield
        if self.first_look is None:
            # The API truncates times to seconds: count what was created within this second as new.
            self.first_look = floor(listing.started)
        if listing.sweep:
            self.last_full_listing = listing.started
            yield from self._forget()
        self.unknown.update(listing.unknown)
        self.malformed += listing.malformed

    def ignores(self, operation: Operation) -> bool:
        """Whether *operation*, which is not tracked, is so old that it may have been counted and forgotten before.

        The API can still return it if it keeps operations for longer, or if a replica lags and says that it is unfinished.
        """
        return operation.created < self.horizon and (self.first_look is not None or not operation.unfinished)

    def mark_gone(self, operation_id: str) -> None:
        """Note that the API no longer returns *operation_id*; its marks are kept until its retention is over."""
        known = self.tracked[operation_id]
        stats = known.operation.stats
        gone = msgspec.structs.replace(known, gone=True)
        self.tracked[operation_id] = self._unsaved[operation_id] = gone
        self._summary.replace(known, stats, gone, stats)

    def restore(self, saved: SavedAccount) -> Steps[None]:
        """Continue from *saved*; the state must be new."""
        self.first_look, self.horizon = saved.first_look, saved.horizon
        self.last_full_listing = saved.last_full_listing
        self.totals = list(saved.totals)
        self.durations.add(saved.durations)
        self.tracked = saved.tracked
        self.restored = len(saved.tracked)
        # Only a view knows the time, and so what is recent.
        self._recent.forget()
        if self.emails is not None:
            yield from self.emails.restore(saved.emails, saved.horizon)
        for batch in batched(self.tracked.values()):
            for each in batch:
                self._summary.add(each, each.operation.stats)
                if self.emails is not None:
                    self.emails.operation_restored(each.operation, each.marks)
            operations = [each.operation for each in batch]
            since = saved.last_full_listing - HOUR
            self._progress.update((each.id, each.updated) for each in operations if each.updated > since)
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
            emails=None if self.emails is None else self.emails.snapshot(),
        )

    def requeue(self, snapshot: Snapshot) -> None:
        """Include the changes of *snapshot* in the next one: it may not have been saved."""
        self._unsaved = {**snapshot.changed, **self._unsaved}
        if self.emails is not None and snapshot.emails is not None:
            self.emails.requeue(snapshot.emails)

    def requeue_all(self) -> None:
        """Make the next snapshot complete: the store has lost what was saved."""
        self._unsaved = {**self._unsaved, **self.tracked}
        if self.emails is not None:
            self.emails.requeue_all()

    def unfinished(self) -> Iterable[Operation]:
        """Return the operations that can still change soon."""
        return (each.operation for each in self._summary.unfinished.values())

    @property
    def created_by_hour(self) -> Mapping[float, int]:
        """How many operations were created in each hour since the epoch, without those that are gone."""
        return self._summary.created_by_hour

    def recently_active(self) -> Collection[Tracked]:
        """Return the operations that are unfinished or were updated in the last hour, and maybe some others."""
        return self._summary.active.values()

    def in_delivery(self, now: float, *, created_before: float) -> Steps[list[Operation]]:
        """Return the operations with emails that are on their way, and with others that were within the last hour."""
        found: list[Operation] = []
        expired: list[str] = []
        for batch in batched(self._progress.items(), 4 * SIZE):
            for operation_id, progress in batch:
                known = self.tracked.get(operation_id)
                if known is None or progress < now - HOUR:
                    expired.append(operation_id)
                elif known.operation.created < created_before and not known.gone and not _is_delivered(known):
                    found.append(known.operation)
            yield
        for operation_id in expired:
            del self._progress[operation_id]
        return found

    def view_of_totals(self) -> View:
        """Return what to publish before the first poll: totals, but nothing about current operations."""
        view = View(tuple(self.totals), self.durations.copy(), self.exemplars.copy(), tracked=len(self.tracked))
        view.emails = None if self.emails is None else self.emails.view()
        return view

    def view(self, *, now: float, active_window: float, limit: int, exposes: Exposes = "active") -> Steps[View]:
        """Return what to publish; see Summary.fill() for which operations it exposes."""
        view = self.view_of_totals()
        yield from self._summary.fill(
            view, self.tracked, now=now, active_window=active_window, limit=limit, exposes=exposes
        )
        if self.forced_reading is not None:
            view.by_reading = Counter({self.forced_reading: len(self.tracked)})
        if not self._recent.covers(now):
            yield from self._rebuild_recent(now)
        view.recent = self._recent.sums(now)
        view.listed, view.unlisted = self.listed, self.unlisted
        return view

    def _observe(self, operation: Operation, now: float) -> None:
        known = self.tracked.get(operation.id)
        if known is None:
            self._track(operation, now)
        elif operation != known.operation or known.gone:
            self._update(known, operation, now)

    def _track(self, operation: Operation, now: float) -> None:
        if self.ignores(operation):
            return
        stats = operation.stats
        reading = self._reading(stats, Reading.UNDECIDED)
        latest = marks_of(stats, operation.status, reading)
        if self.first_look is None or operation.created < self.first_look:
            # The upper bound, so that deciding on a reading later does not count what happened before the first look.
            marks = reached_at_most(stats, reading) + latest[len(REACHED) :]
        else:
            marks = latest
            self._count(latest, operation, now)
        higher = None if marks == latest else marks
        began = _began(None, operation, latest, now)
        tracked = Tracked(operation, reading, None if higher is None and began is None else Extras(higher, began))
        self.tracked[operation.id] = self._unsaved[operation.id] = tracked
        self._summary.add(tracked, stats)
        if self.emails is not None:
            self.emails.operation_grew(operation, latest)
        if operation.updated > now - HOUR and operation.created < now - _NEW_SECONDS:
            self._progress[operation.id] = operation.updated
        began = tracked.began
        if began is not None:
            self._recent.add(began, latest)

    def _update(self, known: Tracked, operation: Operation, now: float) -> None:
        # Keep the id that is already in memory rather than an equal copy.
        operation_id = known.operation.id
        before, stats = known.operation.stats, operation.stats
        reading = self._reading(stats, known.reading)
        # Not known.marks, which would unpack the counters again.
        higher = known.extras.higher_marks if known.extras else None
        old_marks = marks_of(before, known.operation.status, known.reading) if higher is None else higher
        latest = marks_of(stats, operation.status, reading)
        growth = tuple(map(sub, latest, old_marks))
        if min(growth) >= 0:
            marks = latest
        else:
            marks = tuple(map(max, latest, old_marks))
            growth = tuple(map(sub, marks, old_marks))
        if any(growth):
            self._count(growth, operation, now)
            if self.emails is not None:
                self.emails.operation_grew(operation, growth)
        # A lagging replica may return an older version: it can add growth that we missed, but does not replace the newer one.
        # An updatedAt that is hours in the future is wrong, and must not block later versions.
        if operation.updated >= known.operation.updated or known.operation.updated > now + MARGIN:
            # If no mark is above the latest response and the reading is the same, no counter has fallen.
            if marks != latest or reading is not known.reading:
                self.regressions.update(decreased_stages(before, stats, reading))
            began = _began(known, operation, latest, now)
            operation = Operation(
                operation_id, operation.status, operation.created, operation.updated, operation.packed
            )
            higher = None if marks == latest else marks
            after = Tracked(operation, reading, None if higher is None and began is None else Extras(higher, began))
            if operation.created < now - _NEW_SECONDS and _is_progress(growth):
                self._progress[operation_id] = now
        else:
            began = known.extras.began if known.extras else None
            after, stats = Tracked.with_extras(known.operation, reading, marks, began), before
        self.tracked[operation_id] = self._unsaved[operation_id] = after
        self._summary.replace(known, before, after, stats)
        self._update_recent(known, after, growth)

    def _update_recent(self, before: Tracked, after: Tracked, growth: Marks) -> None:
        """Replace *before* by *after* among recent mail; *growth* is that of the marks."""
        old, new = before.operation, after.operation
        if before.extras or after.extras or old.created != new.created or old.status != new.status:
            self._remove_recent(before)
            self._add_recent(after)
        elif new.status != "SCHEDULED":
            # The usual change: more emails were sent. Without higher marks, the latest response grows as the marks do.
            self._recent.add(new.created, growth)

    def _add_recent(self, tracked: Tracked) -> None:
        began = tracked.began
        if began is not None:
            self._recent.add(began, tracked.latest_marks)

    def _remove_recent(self, tracked: Tracked) -> None:
        began = tracked.began
        if began is not None:
            self._recent.add(began, list(map(neg, tracked.latest_marks)))

    def _rebuild_recent(self, now: float) -> Steps[None]:
        """Add up recent mail from all operations: after a start, or when the clock was set back."""
        since = self._recent.restart(now)
        for batch in batched(self.tracked.values()):
            for each in batch:
                if (each.began or since) >= since:
                    self._add_recent(each)
            yield

    def _count(self, growth: Marks, operation: Operation, now: float) -> None:
        self.totals = list(map(add, self.totals, growth))
        if growth[_UNDELIVERED]:
            self.exemplars["undelivered"] = Exemplar(operation.id, growth[_UNDELIVERED], now)
        if growth[_FAILED]:
            self.exemplars["failed"] = Exemplar(operation.id, growth[_FAILED], now)
        if growth[_COMPLETED]:
            seconds = max(0.0, operation.updated - operation.created)
            self.durations.observe(seconds, Exemplar(operation.id, seconds, now))

    def _reading(self, stats: Stats, before: Reading) -> Reading:
        if self.forced_reading is not None:
            return self.forced_reading
        decided = detect_reading(stats)
        return before if decided is Reading.UNDECIDED else decided

    def _forget(self) -> Steps[None]:
        """Forget the finished operations that are too old to change."""
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
                self._summary.remove(each)
                if each.extras is not None:
                    # All others began when they were created, and so too long ago to be recent.
                    self._remove_recent(each)
                operation_id = each.operation.id
                del self.tracked[operation_id]
                self._unsaved[operation_id] = None
            yield
        if self.emails is not None:
            yield from self.emails.forget(self.horizon, self.tracked)


def _is_delivered(tracked: Tracked) -> bool:
    """Whether nothing is left to happen to the emails of *tracked* but opens."""
    marks = tracked.latest_marks
    return marks[_TOTAL] <= marks[_DELIVERED] + marks[_UNDELIVERED] + marks[_FAILED] + marks[_CANCELED]


def _is_progress(growth: Marks) -> bool:
    """Whether anything but opens has grown: they come for days, and say nothing about delivery."""
    return bool(growth[_SENT] or growth[_DELIVERED] or growth[_UNDELIVERED] or growth[_FAILED] or growth[_COMPLETED])


def _began(known: Tracked | None, operation: Operation, latest: Marks, now: float) -> float | None:
    """Return Extras.began for *operation*, the response after *known*; *latest* are its marks.

    An operation that was SCHEDULED when it was first seen begins with the first response that has another status, or that
    has emails sent or failed: recipients can have times of their own.
    """
    if known is not None and known.extras is not None and known.extras.began is not None:
        return known.extras.began
    scheduled = operation.status == "SCHEDULED"
    if scheduled and not (latest[_SENT] or latest[_FAILED]):
        return None if known is None else known.began
    if scheduled or (known is not None and known.operation.status == "SCHEDULED"):
        return min(max(operation.created, operation.updated), now)
    # A creation time in the far future is wrong, and must not stay recent until then.
    return now if operation.created > now + MARGIN else None
