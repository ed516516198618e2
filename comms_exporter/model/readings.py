"""What an operation's counters mean: the only module that knows they can be read in two ways.

Twilio's own samples disagree. In some, an opened email still counts as delivered and as sent (*cumulative*); in others it
counts as opened only (*exclusive*). Everything else calls `reached()`, which returns the same for the same history under
either reading.
"""

from enum import StrEnum

from comms_exporter.model.operations import STATS, Stats

# The stages that an email never leaves once it has reached them.
REACHED = ("total", "recipients", "attempts", "sent", "delivered", "opened", "undelivered", "failed", "canceled")

# The number of emails that reached each stage of REACHED.
Reached = tuple[int, ...]


class Reading(StrEnum):
    """How to read an operation's counters."""

    CUMULATIVE = "cumulative"
    EXCLUSIVE = "exclusive"
    UNDECIDED = "undecided"


# Every response of an operation is read here, and looking up a member of an enum takes twice as long as an addition.
_CUMULATIVE, _EXCLUSIVE, _UNDECIDED = Reading.CUMULATIVE, Reading.EXCLUSIVE, Reading.UNDECIDED


def detect_reading(stats: Stats) -> Reading:
    """Return the only reading under which *stats* add up to the total, UNDECIDED if both or neither do."""
    total, _, _, scheduled, queued, sent, delivered, opened, undelivered, failed, canceled = _without_none(stats)
    before_delivery = scheduled + queued + sent + failed + canceled
    everything = before_delivery + delivered + opened + undelivered
    if before_delivery == total < everything:
        return _CUMULATIVE
    if before_delivery < total == everything:
        return _EXCLUSIVE
    return _UNDECIDED


def reached(stats: Stats, reading: Reading) -> Reached:
    """Return the lower bound of how many emails reached each stage of REACHED; a missing counter is 0.

    Under UNDECIDED that is the result of CUMULATIVE, the lower of the two.
    """
    total, recipients, attempts, _, _, sent, delivered, opened, undelivered, failed, canceled = _without_none(stats)
    if reading is _EXCLUSIVE:
        delivered += opened
        sent += delivered + undelivered
    return total, recipients, attempts, sent, delivered, opened, undelivered, failed, canceled


def reached_at_most(stats: Stats, reading: Reading) -> Reached:
    """Return the upper bound of how many emails reached each stage: under UNDECIDED the result of EXCLUSIVE."""
    return reached(stats, Reading.EXCLUSIVE if reading is Reading.UNDECIDED else reading)


def decreased_stages(before: Stats, now: Stats, reading: Reading) -> list[str]:
    """Return the stages that fewer emails have reached *now* than *before*: a contradiction in the API's responses."""
    # A counter that is missing now has not decreased.
    now = tuple(b if n is None else n for b, n in zip(before, now, strict=True))
    readings = (reading,) if reading is not Reading.UNDECIDED else (Reading.CUMULATIVE, Reading.EXCLUSIVE)
    pairs = [(reached(before, each), reached(now, each)) for each in readings]
    return [
        name for index, name in enumerate(REACHED) if all(later[index] < earlier[index] for earlier, later in pairs)
    ]


def stat(stats: Stats, name: str) -> int | None:
    """Return the counter *name* of *stats*."""
    return stats[STATS.index(name)]


def _without_none(stats: Stats) -> tuple[int, ...]:
    try:
        # Three times as fast as `None in stats`, which compares every counter with None.
        sum(stats)  # type: ignore[arg-type]
    except TypeError:
        return tuple(n or 0 for n in stats)
    return stats  # type: ignore[return-value]
