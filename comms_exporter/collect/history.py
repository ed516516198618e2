"""How the counters of operations changed since the exporter started, in a fixed amount of memory for all accounts together."""

from collections import OrderedDict, deque
from typing import NamedTuple

from comms_exporter.model.operations import Operation

# At most 5 MB with both.
MAX_OPERATIONS = 1000
MAX_POINTS = 24


# Operations before a change, and their packed counters after it.
Changes = deque[tuple[Operation, bytes]]


class Point(NamedTuple):
    """The counters of an operation, as Operation.packed holds them, from *time* on."""

    time: float
    packed: bytes


class History:
    """The points of the *max_operations* operations that changed last; each has at most *max_points*."""

    def __init__(self, *, max_operations: int = MAX_OPERATIONS, max_points: int = MAX_POINTS) -> None:
        self._max_operations = max_operations
        self._max_points = max_points
        # Plain tuples, because every change of a poll makes one.
        self._points: OrderedDict[tuple[object, str], list[tuple[float, bytes]]] = OrderedDict()

    def changes(self) -> Changes:
        """Return an empty collection for the changes of one poll, which keeps as many of the latest as the history does."""
        return deque(maxlen=self._max_operations)

    def add(self, owner: object, changes: Changes, now: float) -> None:
        """Note that *now* the counters of *owner*'s operations have changed."""
        for before, packed in changes:
            key = (owner, before.id)
            points = self._points.pop(key, None)
            if points is None:
                if len(self._points) >= self._max_operations:
                    self._points.popitem(last=False)
                points = [(min(before.updated, now), before.packed)]
            points.append((now, packed))
            if len(points) > self._max_points:
                # The first and the latest stay, and what is between them gets coarser.
                del points[1:-1:2]
            self._points[key] = points

    def points(self, owner: object, operation_id: str) -> list[Point]:
        """Return the points of an operation, oldest first; none if it has not changed, or too many others have since."""
        return [Point(*point) for point in self._points.get((owner, operation_id), ())]
