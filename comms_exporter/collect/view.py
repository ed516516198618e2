"""What scrapes may see of an account: an immutable view, and what it takes to build one without reading the whole state."""

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from operator import attrgetter
from typing import Any, Literal

from comms_exporter.base.slices import SIZE, Steps, batched
from comms_exporter.collect.emails.view import EmailsView
from comms_exporter.collect.recent import NO_SUMS, Sums
from comms_exporter.collect.schedule import DAY, HOUR, MARGIN
from comms_exporter.model.histogram import Exemplar, Histogram
from comms_exporter.model.operations import LOST, NOTHING_LOST, STATS, STATUSES, TERMINAL, Operation, Stats
from comms_exporter.model.readings import Reading
from comms_exporter.model.records import TOTALS, Tracked

# Seconds to a week: a transactional email takes seconds, a campaign hours, a scheduled email days.
DURATION_BUCKETS = (5, 15, 30, 60, 120, 300, 600, 1800, 3600, 2 * 3600, 6 * 3600, 12 * 3600, DAY, 3 * DAY, 7 * DAY)

# How many unknown statuses have series of their own; the rest are counted as OTHER. A label needs a bounded set of values.
MAX_UNKNOWN_STATUSES = 20
OTHER = "OTHER"

_QUEUED = STATS.index("queued")
_SCHEDULED = STATS.index("scheduled")
_NEVER = float("inf")

# Which of the active operations have series.
Exposes = Literal["active", "troubled", "none"]


@dataclass(slots=True, eq=False)
class View:
    """The published part of the state at one moment; each view is equal only to itself."""

    totals: tuple[int, ...] = (0,) * len(TOTALS)
    durations: Histogram = field(default_factory=lambda: Histogram(DURATION_BUCKETS))
    exemplars: dict[str, Exemplar] = field(default_factory=dict)
    tracked: int = 0
    # What the status page lists of the active operations, and how many there are besides.
    shown: list[Operation] = field(default_factory=list)
    not_shown: int = 0
    # Those of them that have series, and how many others would have some if the limit were higher.
    exposed: list[Operation] = field(default_factory=list)
    hidden: int = 0
    queued: int = 0
    scheduled: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    by_reading: Counter[Reading] = field(default_factory=Counter)
    oldest_unfinished: dict[str, float] = field(default_factory=dict)
    # When the operation began that has been in PROCESSING for longest.
    oldest_processing: float | None = None
    recent: dict[str, Sums] = field(default_factory=lambda: NO_SUMS)
    listed: int = 0
    unlisted: int = 0
    # None if emails are not collected.
    emails: EmailsView | None = None


class Summary:
    """Sums over all tracked operations, and the unfinished and active ones, updated with every change.

    A view is made from it, so publishing one after a poll does not cost as much as a week of operations.
    """

    def __init__(self) -> None:
        self.unfinished: dict[str, Tracked] = {}
        self.active: dict[str, Tracked] = {}
        # A finished operation that was last updated before this time may be missing in active.
        self._active_since = float("-inf")
        self.created_by_hour: Counter[float] = Counter()
        # Which operations the last view showed, if there were more than the limit allows.
        self._shown: set[str] = set()
        self._by_status: Counter[str] = Counter()
        self._by_reading: Counter[Reading] = Counter()
        self._queued = 0
        self._scheduled = 0

    def add(self, tracked: Tracked, stats: Stats) -> None:
        """Include *tracked*; *stats* are its counters, which take time to unpack."""
        self._count(tracked, stats, 1)
        operation = tracked.operation
        if tracked.gone:
            self.active.pop(operation.id, None)
        else:
            # fill() drops it if it was updated too long ago.
            self.active[operation.id] = tracked
        if operation.unfinished and not tracked.gone:
            self.unfinished[operation.id] = tracked
        else:
            self.unfinished.pop(operation.id, None)

    def replace(self, before: Tracked, old: Stats, after: Tracked, new: Stats) -> None:
        """Replace *before*, with the counters *old*, by *after*, with *new* ones."""
        if (
            before.gone
            or after.gone
            or before.reading is not after.reading
            or before.operation.status != after.operation.status
            or before.operation.created != after.operation.created
        ):
            self._count(before, old, -1)
            self.add(after, new)
            return
        # The usual change: more emails were sent.
        operation_id = after.operation.id
        self._queued += (new[_QUEUED] or 0) - (old[_QUEUED] or 0)
        self._scheduled += (new[_SCHEDULED] or 0) - (old[_SCHEDULED] or 0)
        self.active[operation_id] = after
        if operation_id in self.unfinished:
            self.unfinished[operation_id] = after

    def remove(self, tracked: Tracked) -> None:
        """Forget *tracked*."""
        operation = tracked.operation
        self._count(tracked, operation.stats, -1)
        self.active.pop(operation.id, None)
        self.unfinished.pop(operation.id, None)

    def fill(
        self,
        view: View,
        tracked: Mapping[str, Tracked],
        *,
        now: float,
        active_window: float,
        limit: int,
        exposes: Exposes = "active",
    ) -> Steps[None]:
        """Add to *view* the sums over all operations, which are *tracked*, and the operations to show and to expose.

        Those are active: unfinished, or updated within *active_window*. Of more than *limit*, those in trouble are chosen first.
        *exposes* says which of them have series: all, only those in trouble, or none.
        """
        self.created_by_hour = +self.created_by_hour
        by_status = +self._by_status
        named = _named(by_status)
        view.by_status = _by_name(by_status, named)
        view.by_reading = +self._by_reading
        view.queued, view.scheduled = self._queued, self._scheduled
        yield from self._fill_oldest(view, named)
        active = yield from self._select_active(tracked, since=now - active_window)
        view.shown = yield from self._choose(active, limit)
        view.not_shown = len(active) - len(view.shown)
        if exposes == "active":
            view.exposed, view.hidden = view.shown, view.not_shown
        elif exposes == "troubled":
            view.exposed = yield from _troubled(view.shown)
            troubled = view.exposed if len(view.shown) == len(active) else (yield from _troubled(active))
            view.hidden = len(troubled) - len(view.exposed)

    def _fill_oldest(self, view: View, named: Container[str]) -> Steps[None]:
        oldest = view.oldest_unfinished
        processing = _NEVER
        for batch in batched(self.unfinished.values()):
            for each in batch:
                created = each.operation.created
                status = each.operation.status if each.operation.status in named else OTHER
                if created < oldest.get(status, _NEVER):
                    oldest[status] = created
                if status == "PROCESSING":
                    began = created if each.extras is None else each.began or created
                    processing = min(processing, began)
            yield
        if "PROCESSING" in oldest:
            view.oldest_processing = processing

    def _select_active(self, tracked: Mapping[str, Tracked], *, since: float) -> Steps[list[Operation]]:
        """Return the operations that are unfinished or were updated *since* then, and drop those that are out of reach."""
        if since < self._active_since:
            yield from self._reselect(tracked)
        active: list[Operation] = []
        expired: list[str] = []
        for batch in batched(self.active.values(), 4 * SIZE):
            for each in batch:
                operation = each.operation
                if operation.updated >= since or operation.unfinished:
                    active.append(operation)
                elif operation.updated < since - MARGIN:
                    expired.append(operation.id)
            yield
        for operation_id in expired:
            del self.active[operation_id]
        self._active_since = max(self._active_since, since - MARGIN)
        return active

    def _choose(self, active: Collection[Operation], limit: int) -> Steps[list[Operation]]:
        """Return the *limit* operations with the highest precedence, in their original order.

        Operations that are within a tenth of the last place keep theirs if they have one. Otherwise some would gain and lose
        it from poll to poll.
        """
        before, self._shown = self._shown, set()
        if len(active) <= limit:
            return list(active)
        if limit == 0:
            return []
        troubled = yield from _troubled(active)
        ranking = yield from _sorted(troubled, _trouble)
        if len(troubled) < limit:
            ranking = chain(ranking, (yield from _sorted(active, _last_update)))
        tenth = limit // 10
        ids = islice(_distinct_ids(ranking), limit + tenth)
        for batch in batched(islice(ids, limit - tenth)):
            self._shown.update(batch)
            yield
        others: list[str] = []
        for batch in batched(ids):
            kept = [each for each in batch if each in before]
            self._shown.update(kept[: limit - len(self._shown)])
            others += [each for each in batch if each not in before]
            yield
        self._shown.update(others[: limit - len(self._shown)])
        return [each for each in active if each.id in self._shown]

    def _reselect(self, tracked: Mapping[str, Tracked]) -> Steps[None]:
        """Consider every operation again: a reload made the window longer, or the clock was set back."""
        self.active = {}
        for batch in batched(tracked.values(), 4 * SIZE):
            self.active.update((each.operation.id, each) for each in batch if not each.gone)
            yield
        self._active_since = float("-inf")

    def _count(self, tracked: Tracked, stats: Stats, sign: int) -> None:
        """Add *tracked* to the sums, or subtract it."""
        self._by_reading[tracked.reading] += sign
        if tracked.gone:
            return
        self._by_status[tracked.operation.status] += sign
        self.created_by_hour[tracked.operation.created // HOUR] += sign
        self._queued += sign * (stats[_QUEUED] or 0)
        self._scheduled += sign * (stats[_SCHEDULED] or 0)


def _named(by_status: Counter[str]) -> Container[str]:
    """Return the statuses that have series of their own: the documented ones, and the most frequent others."""
    if len(by_status) <= MAX_UNKNOWN_STATUSES:
        return by_status
    unknown = (status for status in by_status if status not in STATUSES)
    frequent = heapq.nsmallest(MAX_UNKNOWN_STATUSES, unknown, key=lambda status: (-by_status[status], status))
    return {*STATUSES, *frequent}


def _by_name(by_status: Counter[str], named: Container[str]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for status, count in by_status.items():
        sums[status if status in named else OTHER] += count
    return sums


def _troubled(operations: Collection[Operation]) -> Steps[list[Operation]]:
    """Return the *operations* that are unfinished or have lost emails."""
    troubled: list[Operation] = []
    for batch in batched(operations, 4 * SIZE):
        troubled += [
            each
            for each in batch
            # The bytes first, because unpacking takes longer.
            if each.status not in TERMINAL or (each.packed[LOST] != NOTHING_LOST and each.lost)
        ]
        yield
    return troubled


def _sorted(operations: Collection[Operation], key: Callable[[Operation], Any]) -> Steps[Iterator[Operation]]:
    """Return *operations* from the highest *key* to the lowest."""
    runs = []
    for batch in batched(operations, 4 * SIZE):
        runs.append(sorted(batch, key=key, reverse=True))
        yield
    return heapq.merge(*runs, key=key, reverse=True)


def _distinct_ids(operations: Iterable[Operation]) -> Iterator[str]:
    seen: set[str] = set()
    for each in operations:
        if each.id not in seen:
            seen.add(each.id)
            yield each.id


def _trouble(operation: Operation) -> tuple[int, int, float, str]:
    """Return what sorts operations in trouble, the worst highest.

    First those in progress, of which the oldest may be stuck, then those that lost the most, then those that wait for their time.
    """
    lost = operation.lost
    if operation.status in TERMINAL or (operation.status == "SCHEDULED" and lost):
        return 1, lost, operation.updated, operation.id
    return 0 if operation.status == "SCHEDULED" else 2, lost, -operation.created, operation.id


_last_update = attrgetter("updated", "id")
