"""Which operations a poll lists, by their age, and what that costs in requests.

Most operations change soon after they were created. So every poll lists the last hour, every tenth the last day, and one
per hour everything that the API still returns: a sweep. After failed polls, the next one reaches back further.
"""

import zlib
from typing import NamedTuple

HOUR = 3600.0
DAY = 86400.0
# Twilio returns an operation for 7 days after its creation. The margin allows for clock skew and late updates.
RETENTION = 7 * DAY
MARGIN = 3600.0
# Polls from one listing of the last day to the next.
DAY_POLLS = 10


class Window(NamedTuple):
    """How many *seconds* back a listing reaches; a *sweep* covers everything that the API still returns."""

    seconds: float
    sweep: bool


class Schedule:
    """Picks the window of each poll; times are on the monotonic clock, and both wider windows are due at once."""

    def __init__(self, *, interval: float, now: float) -> None:
        self._interval = interval
        self.next_day = now
        self.next_sweep = now

    def window(self, now: float, *, outage: float) -> Window:
        """Return the narrowest window that is due *now*, *outage* seconds after the last successful poll if it failed since.

        Once an outage is longer than the time between two listings of the day, operations of any age may have changed
        unseen.
        """
        if now >= self.next_sweep or outage >= DAY_POLLS * self._interval:
            return Window(RETENTION + MARGIN, sweep=True)
        return Window(max(DAY if now >= self.next_day else 0.0, HOUR + outage), sweep=False)

    def listed(self, window: Window, now: float) -> None:
        """Note that a listing of *window*, picked at *now*, has succeeded."""
        if window.sweep:
            self.next_sweep = now + HOUR
        if window.sweep or now >= self.next_day:
            self.next_day = now + DAY_POLLS * self._interval


def phase(name: str) -> float:
    """Return when the account *name* is polled within an interval, from 0 to less than 1; the same in every process."""
    return zlib.crc32(name.encode()) / 2**32


def requests_per_hour(operations_per_week: int, *, interval: float, page_size: int) -> float:
    """Return how many requests an hour of polls needs, without those for operations that stay unfinished for long."""

    def pages(window: float) -> int:
        return 1 + int(operations_per_week * window / (7 * DAY)) // page_size

    polls = HOUR / interval
    sweeps = min(1.0, polls)
    days = max(0.0, polls / DAY_POLLS - sweeps)
    return sweeps * pages(7 * DAY) + days * pages(DAY) + (polls - sweeps - days) * pages(HOUR)
