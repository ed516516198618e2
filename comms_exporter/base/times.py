"""Decides which moments we can work with, and writes them; all are seconds since the epoch.

`datetime` knows the years 1 to 9999 and raises OverflowError or ValueError beyond them, and everything that shows a time
uses it. So a time that comes from outside is checked with `is_representable` where it is read, and a time that we have
computed is clamped where it is written.
"""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = (datetime.min.replace(tzinfo=UTC) - _EPOCH).total_seconds()
# The last whole second: what is a fraction later might be rounded into the year 10000.
LATEST = (datetime.max.replace(tzinfo=UTC, microsecond=0) - _EPOCH).total_seconds()


def is_representable(moment: float) -> bool:
    """Whether *moment* is within the years 1 to 9999 in UTC, and a number at all."""
    return EARLIEST <= moment <= LATEST


def as_utc(moment: float) -> datetime:
    """Return *moment* in UTC, the nearest one that is representable."""
    # In this order NaN becomes EARLIEST. Not fromtimestamp(), which depends on the platform's range.
    return _EPOCH + timedelta(seconds=max(EARLIEST, min(moment, LATEST)))


def iso(moment: float) -> str:
    """Return *moment* as ISO 8601 to the second, for a log or a page."""
    return as_utc(moment).isoformat(timespec="seconds")


def rfc3339(moment: float) -> str:
    """Return *moment* as the API wants it in a query: whole seconds, and nothing before the epoch."""
    # strftime's %Y has no leading zeros, so years before 1000 would be malformed.
    return as_utc(max(0.0, moment)).strftime("%Y-%m-%dT%H:%M:%SZ")
