"""Parse and format timestamps within the range that datetime supports; all are seconds since the epoch.

`datetime` supports the years 1 to 9999 and raises OverflowError or ValueError beyond them, wherever a time is shown. So a
time from outside is checked with `is_representable` when it is read, and a computed time is clamped when it is written.
"""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = (datetime.min.replace(tzinfo=UTC) - _EPOCH).total_seconds()
# A whole second: with a fraction it could be rounded up into the year 10000.
LATEST = (datetime.max.replace(tzinfo=UTC, microsecond=0) - _EPOCH).total_seconds()


def is_representable(moment: float) -> bool:
    """Return whether *moment* is in the years 1 to 9999 in UTC, and not NaN."""
    return EARLIEST <= moment <= LATEST


def as_utc(moment: float) -> datetime:
    """Return *moment* in UTC, or the nearest representable time."""
    # In this order NaN becomes EARLIEST. Not fromtimestamp(), whose range depends on the platform.
    return _EPOCH + timedelta(seconds=max(EARLIEST, min(moment, LATEST)))


def iso(moment: float) -> str:
    """Return *moment* in ISO 8601 to the second, for a log or a page."""
    return as_utc(moment).isoformat(timespec="seconds")


def rfc3339(moment: float) -> str:
    """Return *moment* as the API's query parameters need it: whole seconds, not before the epoch."""
    # strftime's %Y has no leading zeros, so years before 1000 would be malformed.
    return as_utc(max(0.0, moment)).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_http_date(value: str) -> float | None:
    """Return the time in a Date or Retry-After header, None if it is invalid or not representable."""
    try:
        date = parsedate_to_datetime(value)
        # HTTP dates are in GMT; without a time zone, Python would assume the local one.
        moment = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return moment if is_representable(moment) else None
