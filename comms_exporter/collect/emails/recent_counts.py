"""How the counts of emails have grown in about the last hour, for the status page: totals since the first look say little."""

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from comms_exporter.collect.schedule import HOUR
from comms_exporter.model.email_records import Counts, Series

# Between two counts that are kept.
_STEP_SECONDS = HOUR / 4


class CountsAt(NamedTuple):
    """The counts as they were at *time*."""

    time: float
    counts: Mapping[Series, Counts]


class RecentCounts:
    """A few of the counts of the last hour; none of them changes any more."""

    def __init__(self, counts: Mapping[Series, Counts], now: float) -> None:
        self._kept = deque([CountsAt(now, counts)])

    def look(self, counts: Mapping[Series, Counts], now: float) -> None:
        """Note the *counts* of *now*."""
        if now < self._kept[-1].time:
            # The clock was set back.
            self._kept = deque([CountsAt(now, self._kept[-1].counts)])
        if now - self._kept[-1].time >= _STEP_SECONDS:
            self._kept.append(CountsAt(now, counts))
        while len(self._kept) > 1 and self._kept[1].time <= now - HOUR:
            self._kept.popleft()

    @property
    def before(self) -> CountsAt:
        """The counts of at least an hour ago, or of the start."""
        return self._kept[0]
