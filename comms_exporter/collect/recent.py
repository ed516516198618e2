"""What became of recent mail: sums over the operations that began to be sent within the last minutes, hours and days.

A window of time mixes bounces with mail that they do not belong to. These sums belong together: what is counted as sent,
as delivered and as lost is the same mail.
"""

from collections.abc import Iterator, Sequence
from operator import add, sub

from comms_exporter.model.readings import REACHED

# Label value and seconds, the longest last. Most bounces come within seconds; where a receiver keeps retrying, after days.
WINDOWS = {"10m": 600.0, "1h": 3600.0, "6h": 6 * 3600.0, "1d": 86400.0, "3d": 3 * 86400.0}
# The counts that are summed up.
STAGES = ("total", "sent", "delivered", "undelivered", "failed")

Sums = tuple[int, ...]

_LENGTHS = tuple(WINDOWS.values())
# Operations that began in the same minute leave a window together, up to a minute late.
_MINUTE = 60.0
# How far a clock may be set back before the sums have to be made again.
_SPARE_SECONDS = 3600.0
_TOTAL, _SENT, _DELIVERED, _UNDELIVERED, _FAILED = map(REACHED.index, STAGES)
_NOTHING: Sums = (0,) * len(STAGES)
NO_SUMS = dict.fromkeys(WINDOWS, _NOTHING)


class RecentSums:
    """Sums of STAGES by when operations began; a change costs one addition, whatever was sent before.

    Times are seconds since the epoch. Nothing is kept of what left the longest window long ago, so there are never more
    buckets than minutes in it.
    """

    def __init__(self) -> None:
        self._clear(float("-inf"))

    def add(self, began: float, change: Sequence[int]) -> None:
        """Add *change*, in the order of REACHED, to the counts of an operation that began at *began*."""
        bucket = began // _MINUTE
        if bucket < self._kept_since:
            return
        sums = self._changes.get(bucket)
        if sums is None:
            sums = self._changes[bucket] = [0] * len(STAGES)
        # Not in a loop: every change of an operation comes here.
        sums[0] += change[_TOTAL]
        sums[1] += change[_SENT]
        sums[2] += change[_DELIVERED]
        sums[3] += change[_UNDELIVERED]
        sums[4] += change[_FAILED]

    def sums(self, now: float) -> dict[str, Sums]:
        """Return the sums of each of WINDOWS that ends *now*; covers() tells whether they are complete."""
        self._take_over_changes()
        for index, edge in enumerate(_edges(now)):
            self._move(index, edge)
        self._drop_before(_kept_since(now))
        return dict(zip(WINDOWS, self._sums, strict=True))

    def covers(self, now: float) -> bool:
        """Whether nothing was dropped that belongs to a window that ends *now*."""
        return _edges(now)[-1] >= self._kept_since

    def forget(self) -> None:
        """Drop everything, and ignore every change before restart()."""
        self._clear(float("inf"))

    def restart(self, now: float) -> float:
        """Drop everything, and return since when operations have to be added again for windows that end *now*."""
        self._clear(_kept_since(now))
        return self._kept_since * _MINUTE

    def _clear(self, kept_since: float) -> None:
        self._kept_since = kept_since
        self._buckets: dict[float, Sums] = {}
        # What the next look adds to the buckets and the sums.
        self._changes: dict[float, list[int]] = {}
        # The sum of each window, and the first bucket in it.
        self._sums = [_NOTHING] * len(WINDOWS)
        self._window_edges = [kept_since] * len(WINDOWS)

    def _take_over_changes(self) -> None:
        for bucket, change in self._changes.items():
            after = tuple(map(add, self._buckets.get(bucket, _NOTHING), change))
            if after == _NOTHING:
                self._buckets.pop(bucket, None)
            else:
                self._buckets[bucket] = after
        for index, edge in enumerate(self._window_edges):
            inside = [change for bucket, change in self._changes.items() if bucket >= edge]
            self._sums[index] = tuple(map(sum, zip(self._sums[index], *inside, strict=True)))
        self._changes = {}

    def _move(self, index: int, edge: float) -> None:
        before, self._window_edges[index] = self._window_edges[index], edge
        # A clock that was set back brings buckets back into the window.
        change = sub if edge > before else add
        for bucket in self._between(min(before, edge), max(before, edge)):
            self._sums[index] = tuple(map(change, self._sums[index], self._buckets[bucket]))

    def _drop_before(self, edge: float) -> None:
        if edge > self._kept_since:
            for bucket in list(self._between(self._kept_since, edge)):
                del self._buckets[bucket]
            self._kept_since = edge

    def _between(self, first: float, end: float) -> Iterator[float]:
        """Yield the buckets from *first* up to *end*, in whichever way takes fewer steps."""
        if end - first > len(self._buckets):
            return (bucket for bucket in self._buckets if first <= bucket < end)
        return (bucket for bucket in _count_up(first, end) if bucket in self._buckets)


def _count_up(first: float, end: float) -> Iterator[float]:
    while first < end:
        yield first
        first += 1.0


def _edges(now: float) -> list[float]:
    """Return the first bucket of each window that ends *now*."""
    return [(now - seconds) // _MINUTE for seconds in _LENGTHS]


def _kept_since(now: float) -> float:
    return (now - _LENGTHS[-1] - _SPARE_SECONDS) // _MINUTE
