"""What an operation's counters say has happened: the one place that knows they can be read two ways.

Twilio's own samples disagree. In some, an email that was opened still counts as delivered and as sent
(*cumulative*); in others it counts as opened only (*exclusive*). Everything else in this package asks
`reached()`, whose answer is the same for the same history under either reading.
"""

from enum import StrEnum

from comms_exporter.model.operations import STATS, Stats

REACHED = ("total", "recipients", "attempts", "sent", "delivered", "opened", "undelivered", "failed", "canceled")

Reached = tuple[int, ...]


class Reading(StrEnum):
    """How an operation's counters are to be read."""

    CUMULATIVE = "cumulative"
    EXCLUSIVE = "exclusive"
    UNDECIDED = "undecided"


def reading_of(stats: Stats) -> Reading:
    """Return the only reading under which *stats* account for every email, UNDECIDED where both or neither do."""
    total, _, _, scheduled, queued, sent, delivered, opened, undelivered, failed, canceled = _plain(stats)
    before_delivery = scheduled + queued + sent + failed + canceled
    everything = before_delivery + delivered + opened + undelivered
    if before_delivery == total < everything:
        return Reading.CUMULATIVE
    if before_delivery < total == everything:
        return Reading.EXCLUSIVE
    return Reading.UNDECIDED


def reached(stats: Stats, reading: Reading) -> Reached:
    """Return how many emails ever reached each stage of REACHED, at least; a missing counter has seen none.

    UNDECIDED gives the lower bound of both readings, which is what the cumulative one says.
    """
    total, recipients, attempts, _, _, sent, delivered, opened, undelivered, failed, canceled = _plain(stats)
    if reading is Reading.EXCLUSIVE:
        delivered += opened
        sent += delivered + undelivered
    return total, recipients, attempts, sent, delivered, opened, undelivered, failed, canceled


def at_most(stats: Stats, reading: Reading) -> Reached:
    """Return the upper bound: how many emails can have reached each stage, whichever reading is true."""
    return reached(stats, Reading.EXCLUSIVE if reading is Reading.UNDECIDED else reading)


def fallen(before: Stats, now: Stats, reading: Reading) -> list[str]:
    """Return the stages of REACHED that fewer emails have reached *now* than *before*, which no history explains."""
    # What an answer leaves out has not fallen.
    now = tuple(b if n is None else n for b, n in zip(before, now, strict=True))
    readings = (reading,) if reading is not Reading.UNDECIDED else (Reading.CUMULATIVE, Reading.EXCLUSIVE)
    pairs = [(reached(before, each), reached(now, each)) for each in readings]
    return [
        name for index, name in enumerate(REACHED) if all(later[index] < earlier[index] for earlier, later in pairs)
    ]


def _plain(stats: Stats) -> tuple[int, ...]:
    return tuple(n or 0 for n in stats) if None in stats else stats  # type: ignore[return-value]


def stat(stats: Stats, name: str) -> int | None:
    """Return the counter *name* as the API says it."""
    return stats[STATS.index(name)]
