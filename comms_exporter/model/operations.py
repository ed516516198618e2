"""Operations: what Twilio calls a request to send email, with its status and its counters.

Source: https://www.twilio.com/docs/email/api/reference/email-operation-resource
"""

import struct

import msgspec

STATS = (
    "total",
    "recipients",
    "attempts",
    "scheduled",
    "queued",
    "sent",
    "delivered",
    "opened",
    "undelivered",
    "failed",
    "canceled",
)
STATUSES = ("SCHEDULED", "PROCESSING", "COMPLETED", "CANCELED")
TERMINAL = frozenset({"COMPLETED", "CANCELED"})
# Prometheus stores floats: above this, a count is not exact.
MAX_COUNT = 2**53

# The counters of an operation in the order of STATS, None for one that the API left out.
Stats = tuple[int | None, ...]

# Eight bytes for each counter. No count is negative, so -1 stands for a missing one.
_PACKED = struct.Struct(f"<{len(STATS)}q")
_MISSING = -1
# The bytes of undelivered and failed, which are neighbors, and what they are in nearly all operations.
LOST = slice(8 * STATS.index("undelivered"), 8 * STATS.index("failed") + 8)
NOTHING_LOST = bytes(16)
_PACKED_LOST = struct.Struct("<2q")


class Operation(msgspec.Struct, frozen=True, gc=False):
    """One operation as the API last described it; times are seconds since the epoch.

    A large sender has a million of them in a week, so the counters are packed: 121 bytes instead of up to 480.
    """

    id: str
    status: str
    created: float
    updated: float
    packed: bytes

    @property
    def stats(self) -> Stats:
        """The counters, unpacked."""
        return stats_of(self.packed)

    @property
    def unfinished(self) -> bool:
        """Whether its counters may still change; an unknown status counts as unfinished."""
        return self.status not in TERMINAL

    @property
    def lost(self) -> int:
        """How many emails failed or were not delivered."""
        return sum(max(0, count) for count in _PACKED_LOST.unpack(self.packed[LOST]))


def pack(stats: Stats) -> bytes:
    """Return *stats* as Operation.packed holds them."""
    if None in stats:
        return _PACKED.pack(*(_MISSING if n is None else n for n in stats))
    return _PACKED.pack(*stats)


def stats_of(packed: bytes) -> Stats:
    """Return the counters in *packed*."""
    stats = _PACKED.unpack(packed)
    return tuple(None if n == _MISSING else n for n in stats) if _MISSING in stats else stats


def unpack(packed: bytes) -> tuple[int, ...]:
    """Return the counters in *packed*, -1 for a missing one."""
    return _PACKED.unpack(packed)
