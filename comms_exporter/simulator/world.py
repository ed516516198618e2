"""A sender's world of email operations: what was sent, and what has become of it by now.

Nothing here does I/O, sleeps or runs by itself. Fates are drawn from the seed when something is sent, traffic up to
now is made up whenever somebody looks, and what an answer says depends only on the seed, the clock and what was sent.
"""

import dataclasses
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from comms_exporter.simulator import ids
from comms_exporter.simulator.fates import Conditions, Fate, dice, draw_fates
from comms_exporter.simulator.operations import Message, Operation
from comms_exporter.simulator.traffic import Traffic

Reading = Literal["cumulative", "exclusive"]
Retention = Literal["gone", "thin"]

WEEK_SECONDS = 7 * 86400.0
MAX_RECIPIENTS = 10_000

Key = tuple[float, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The truth: how many emails ever reached each stage, and how many operations."""

    created: int = 0
    recipients: int = 0
    attempts: int = 0
    sent: int = 0
    delivered: int = 0
    opened: int = 0
    undelivered: int = 0
    failed: int = 0
    canceled: int = 0
    operations_created: int = 0
    operations_completed: int = 0
    operations_canceled: int = 0


class World:
    """Everything that was ever sent, seen through *clock*, which tells epoch seconds.

    *speed* divides the drawn delays and the time between requests; the timestamps remain the clock's own.
    *rate* is the traffic in requests an hour at natural speed; *history_seconds* of it are already there at the start.
    """

    def __init__(
        self,
        *,
        seed: object = 0,
        clock: Callable[[], float],
        speed: float = 1.0,
        reading: Reading = "cumulative",
        omit: Sequence[str] = (),
        rate: float = 0.0,
        history_seconds: float = 0.0,
        conditions: Conditions | None = None,
        retention: Retention = "gone",
        retention_seconds: float = WEEK_SECONDS,
    ) -> None:
        if not 0 < speed < math.inf:
            raise ValueError(f"speed must be more than 0, not {speed}")
        if not 0 <= rate < math.inf:
            raise ValueError(f"rate must be 0 or more, not {rate}")
        self.speed = speed
        self.reading: Reading = reading
        self.omit = frozenset(omit)
        self.retention: Retention = retention
        self.retention_seconds = retention_seconds
        self._seed = seed
        self._clock = clock
        self._latest = clock()
        self._frozen = False
        self._conditions = conditions or Conditions()
        self._operations: list[Operation] = []
        self._by_stem: dict[str, Operation] = {}
        self._stalled: list[tuple[Operation, list[Fate]]] = []
        self._compacted = 0
        self._sent = 0
        self._arrived = 0
        self._traffic = Traffic(
            dice(f"{seed}/traffic"),
            rate=rate,
            start=self._latest - history_seconds,
            hurried_from=self._latest,
            speed=speed,
        )
        self.advance()

    # Time

    def now(self) -> float:
        """The world's present: the clock's, but never earlier than before, and standing still while frozen."""
        if not self._frozen:
            self._latest = max(self._latest, self._clock())
        return self._latest

    def freeze(self) -> None:
        """Let nothing happen until thaw(), so that two looks see the same."""
        self.advance()
        self._frozen = True

    def thaw(self) -> None:
        """Catch up with the clock and go on."""
        self._frozen = False

    @property
    def frozen(self) -> bool:
        """Whether time stands still."""
        return self._frozen

    def advance(self) -> float:
        """Make up the traffic until now, and say when that is."""
        now = self.now()
        for at in self._traffic.arrivals(now, self._conditions.traffic):
            self._arrived += 1
            rng = dice(f"{self._seed}/traffic/{self._arrived}")
            recipients, wait = self._traffic.request(rng, at)
            speed = self._traffic.speed_at(at)
            fates = draw_fates(rng, recipients, self._conditions, wait=wait, speed=speed)
            schedule = at + wait if wait else None
            self._add(at, rng.getrandbits(80), fates, schedule, Message())
        self._compact(now)
        return now

    # Sending

    def send(
        self,
        recipients: int = 1,
        *,
        at: float | None = None,
        schedule: float | None = None,
        fates: Sequence[Fate] | None = None,
        conditions: Conditions | None = None,
        message: Message | None = None,
    ) -> Operation:
        """Send to *recipients*, at *at* or now, to go out at *schedule* or at once.

        *fates*, one for each email, are taken as they are, in seconds of the clock, whatever the other arguments say;
        otherwise they are drawn under *conditions* or those that hold.
        """
        now = self.advance()
        created = now if at is None else at
        self._sent += 1
        rng = dice(f"{self._seed}/sent/{self._sent}")
        if fates is None:
            wait = max(0.0, schedule - created) if schedule is not None else 0.0
            fates = draw_fates(rng, recipients, conditions or self._conditions, wait=wait, speed=self.speed)
        else:
            _refuse_flaws(fates)
        if not 1 <= len(fates) <= MAX_RECIPIENTS:
            raise ValueError(f"an operation has 1 to {MAX_RECIPIENTS} recipients, not {len(fates)}")
        return self._add(created, rng.getrandbits(80), fates, schedule, message or Message())

    @property
    def conditions(self) -> Conditions:
        """What mail sent now meets with."""
        return self._conditions

    def set_conditions(self, **changes: Any) -> Conditions:
        """Change what mail sent from now on meets with; what is left out stays as it is."""
        conditions = dataclasses.replace(self._conditions, **changes)
        now = self.advance()
        self._traffic.settle(now, self._conditions.traffic)
        if self._conditions.stalled and not conditions.stalled:
            self._resume(now)
        self._conditions = conditions
        return conditions

    # Looking

    def find(self, identifier: str) -> Operation | None:
        """The operation with this id, or None if there is none or no longer one."""
        operation = self._look_up(identifier)
        return operation if operation and operation.id == identifier else None

    def find_email(self, identifier: str) -> tuple[Operation, int] | None:
        """The email with this id, as its operation and its index there, or None."""
        operation, index = self._look_up(identifier), ids.email_index(identifier)
        if operation is None or index is None or index >= operation.total or self.expired(operation):
            return None
        return operation, index

    def operations(
        self,
        *,
        created_from: float = -math.inf,
        created_before: float = math.inf,
        beyond: Key | None = None,
        newest_first: bool = True,
    ) -> Iterator[Operation]:
        """Yield the operations there are in order of creation, those after *beyond* in that order."""
        now = self.advance()
        if self.retention == "gone":
            created_from = max(created_from, math.nextafter(now - self.retention_seconds, math.inf))
        low = bisect_left(self._operations, created_from, key=_created)
        high = bisect_left(self._operations, min(created_before, math.nextafter(now, math.inf)), key=_created)
        if beyond and newest_first:
            high = min(high, bisect_left(self._operations, beyond, key=_key))
        elif beyond:
            low = max(low, bisect_right(self._operations, beyond, key=_key))
        places = range(high - 1, low - 1, -1) if newest_first else range(low, high)
        return (self._operations[place] for place in places)

    def expired(self, operation: Operation) -> bool:
        """Whether the operation is older than Twilio promises to remember."""
        return operation.created <= self.now() - self.retention_seconds

    def tally(self, since: float | None = None) -> Tally:
        """Count what ever happened to everything created after *since*, whether it can still be asked for or not."""
        now = self.advance()
        first = 0 if since is None else bisect_right(self._operations, since, key=_created)
        last = bisect_right(self._operations, now, key=_created)
        return _tally(self._operations[first:last], now)

    # Within

    def _add(
        self, created: float, entropy: int, fates: Sequence[Fate], schedule: float | None, message: Message
    ) -> Operation:
        operation = Operation(
            operation_id=ids.operation_id(created, entropy),
            created=created,
            fates=[fate.stalled() for fate in fates] if self._conditions.stalled else fates,
            message=message,
            schedule=schedule,
        )
        if self._conditions.stalled:
            self._stalled.append((operation, list(fates)))
        insort(self._operations, operation, key=_key)
        self._by_stem[ids.stem(operation.id)] = operation
        return operation

    def _resume(self, now: float) -> None:
        for operation, fates in self._stalled:
            operation.decide([fate.resumed(now - operation.created) for fate in fates])
        self._stalled.clear()

    def _look_up(self, identifier: str) -> Operation | None:
        now = self.advance()
        operation = self._by_stem.get(ids.stem(identifier))
        if operation is None or operation.created > now:
            return None
        return None if self.retention == "gone" and self.expired(operation) else operation

    def _compact(self, now: float) -> None:
        """Drop the single emails of what has expired, so that a simulator can run for months."""
        while self._compacted < len(self._operations):
            operation = self._operations[self._compacted]
            if operation.created > now - self.retention_seconds:
                return
            operation.compact()
            self._compacted += 1


def _tally(operations: Sequence[Operation], now: float) -> Tally:
    sums = dict.fromkeys((field.name for field in dataclasses.fields(Tally)), 0)
    for operation in operations:
        reached = operation.reached(now)
        status = operation.status(now)
        sums["created"] += operation.total
        sums["recipients"] += operation.total
        sums["attempts"] += operation.attempts(now)
        for stage in ("sent", "delivered", "opened", "undelivered", "failed", "canceled"):
            sums[stage] += getattr(reached, stage)
        sums["operations_created"] += 1
        sums["operations_completed"] += status == "COMPLETED"
        sums["operations_canceled"] += status == "CANCELED"
    return Tally(**sums)


def _refuse_flaws(fates: Sequence[Fate]) -> None:
    for place, fate in enumerate(fates):
        if flaw := fate.flaw():
            raise ValueError(f"fate {place}: {flaw}")


def _created(operation: Operation) -> float:
    return operation.created


def _key(operation: Operation) -> Key:
    return operation.key
