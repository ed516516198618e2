"""How operations changed, and which of their emails were found lost, since the exporter started: for the status page.

It takes a fixed amount of memory for all accounts together.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from comms_exporter.collect.emails.state import Loss
from comms_exporter.model.operations import Operation
from comms_exporter.model.records import Tracked

# At most 9 MB with both, 4 of them for losses at every built-in provider.
MAX_OPERATIONS = 1000
MAX_POINTS = 24
# Of an account, at most this many points are added in a second, on average: the page says what the counters are now anyway.
_POINTS_PER_SECOND = 15


class Point(NamedTuple):
    """The counters of an operation, as Operation.packed holds them, from *time* on."""

    time: float
    packed: bytes


# How many emails of an operation were found lost, by provider and status.
Losses = dict[tuple[str, str], int]


class History:
    """What became of the *max_operations* operations that changed last; each has at most *max_points*."""

    def __init__(self, *, max_operations: int = MAX_OPERATIONS, max_points: int = MAX_POINTS) -> None:
        self.max_operations = max_operations
        self._max_points = max_points
        # Plain tuples, because every change makes one.
        self._points: OrderedDict[tuple[object, str], list[tuple[float, bytes]]] = OrderedDict()
        self._losses: OrderedDict[tuple[object, str], Losses] = OrderedDict()

    def add(self, owner: object, operations: Iterable[Operation], now: float) -> None:
        """Note what the counters of *owner*'s *operations* are *now*."""
        for operation in operations:
            key = (owner, operation.id)
            points = self._points.pop(key, None)
            # An update in the future is wrong.
            time = min(operation.updated, now)
            if points is None:
                _make_room(self._points, self.max_operations)
                points = [(time, operation.packed)]
            elif points[-1][1] != operation.packed:
                points.append((max(time, points[-1][0]), operation.packed))
                if len(points) > self._max_points:
                    # The first and the latest stay, and what is between them gets coarser.
                    del points[1:-1:2]
            self._points[key] = points

    def points(self, owner: object, operation_id: str) -> list[Point]:
        """Return the points of an operation, oldest first; none if it has not changed, or too many others have since."""
        return [Point(*point) for point in self._points.get((owner, operation_id), ())]

    def add_losses(self, owner: object, losses: Iterable[Loss]) -> None:
        """Note that emails of *owner* are lost."""
        for loss in losses:
            if loss.email.operation_id is None:
                continue
            key = (owner, loss.email.operation_id)
            found = self._losses.pop(key, None)
            if found is None:
                _make_room(self._losses, self.max_operations)
                found = {}
            of = (loss.provider, loss.email.status)
            found[of] = found.get(of, 0) + 1
            self._losses[key] = found

    def losses(self, owner: object, operation_id: str) -> Mapping[tuple[str, str], int]:
        """Return how many emails of an operation were found lost, by provider and status."""
        return self._losses.get((owner, operation_id), {})


class AccountHistory:
    """The part of *history* that belongs to one account."""

    def __init__(self, history: History) -> None:
        self._history = history
        # Not the account itself: a history outlives an account that is removed.
        self._owner = object()
        self._last_look = self._next_look = float("-inf")

    def start(self, known: Iterable[Tracked], now: float) -> None:
        """Note what is *known* of operations before the first poll."""
        self._add(known, now)

    def look(self, changed: Collection[Tracked | None], now: float) -> None:
        """Note what the operations are *now* that have *changed*, unless there were many at the last look."""
        # A clock that is set back must not stop it.
        if now >= self._next_look or now < self._last_look:
            self._last_look = now
            self._next_look = now + min(len(changed), self._history.max_operations) / _POINTS_PER_SECOND
            self._add(changed, now)

    def add_losses(self, losses: Iterable[Loss]) -> None:
        """Note that emails are lost."""
        self._history.add_losses(self._owner, losses)

    def losses(self, operation_id: str) -> Mapping[tuple[str, str], int]:
        """Return how many emails of an operation were found lost since the start, by provider and status."""
        return self._history.losses(self._owner, operation_id)

    def points(self, operation: Operation) -> list[Point]:
        """Return how the counters of *operation* changed, oldest first, up to what they are now; none if they have not."""
        points = self._history.points(self._owner, operation.id)
        if points and points[-1].packed != operation.packed:
            points.append(Point(max(operation.updated, points[-1].time), operation.packed))
        return points if len(points) > 1 else []

    def _add(self, tracked: Iterable[Tracked | None], now: float) -> None:
        known = (each.operation for each in tracked if each is not None)
        self._history.add(self._owner, islice(known, self._history.max_operations), now)


def _make_room(entries: OrderedDict[tuple[object, str], Any], limit: int) -> None:
    """Drop the entry that changed longest ago if there is no room for one more."""
    if len(entries) >= limit:
        entries.popitem(last=False)
