"""The simulated world: every operation that was sent, and its state now.

Nothing here does I/O, sleeps or runs in the background. Fates are drawn from the seed when an email is sent, and the
traffic up to now is generated whenever somebody looks. Every response depends only on the seed, the clock and what was
sent.
"""

import dataclasses
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from comms_exporter.simulator import ids
from comms_exporter.simulator.conditions import Conditions, FailureSpike
from comms_exporter.simulator.fates import Fate, draw_fates, seeded_random
from comms_exporter.simulator.operations import Message, Operation
from comms_exporter.simulator.traffic import Sender, Traffic

Reading = Literal["cumulative", "exclusive"]
Retention = Literal["gone", "thin"]

WEEK_SECONDS = 7 * 86400.0
MAX_RECIPIENTS = 10_000

Key = tuple[float, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The true counts: how many emails ever reached each stage, and how many operations there were."""

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
    """All operations ever sent, as of *clock*, which returns epoch seconds.

    *speed* divides the drawn delays and the time between requests; timestamps are not changed. *rate* is the number of
    send requests an hour at speed 1. The world exists since *since* (now, if not given), after *history_seconds* of
    traffic at speed 1.
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
        sender: Sender | None = None,
        since: float | None = None,
        history_seconds: float = 0.0,
        conditions: Conditions | None = None,
        spike: FailureSpike | None = None,
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
        self._spike = spike
        self._operations: list[Operation] = []
        self._by_stem: dict[str, Operation] = {}
        self._stalled: list[tuple[Operation, list[Fate]]] = []
        self._compacted = 0
        self._sent = 0
        self._arrived = 0
        since = self._latest if since is None else since
        self._traffic = Traffic(
            seeded_random(f"{seed}/traffic"),
            rate=rate,
            start=since - history_seconds,
            accelerated_from=since,
            speed=speed,
            sender=sender,
        )
        self.advance()

    # Time

    def now(self) -> float:
        """Return the time in this world: the clock's, but it never goes back, and stands still while frozen."""
        if not self._frozen:
            self._latest = max(self._latest, self._clock())
        return self._latest

    def freeze(self) -> None:
        """Stop time until thaw(), so that two requests see the same state."""
        self.advance()
        self._frozen = True

    def thaw(self) -> None:
        """Catch up with the clock."""
        self._frozen = False

    @property
    def frozen(self) -> bool:
        """Whether time is stopped."""
        return self._frozen

    def advance(self) -> float:
        """Generate the traffic up to now, and return the time."""
        now = self.now()
        for at in self._traffic.arrivals(now, self._conditions.traffic):
            self._arrived += 1
            rng = seeded_random(f"{self._seed}/traffic/{self._arrived}")
            recipients, wait = self._traffic.request(rng, at)
            speed = self._traffic.speed_at(at)
            fates = draw_fates(rng, recipients, self._conditions_at(at), wait=wait, speed=speed)
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
        """Send to *recipients* at *at* (default: now), scheduled for *schedule* (default: immediately).

        Without *fates*, they are drawn under *conditions* (default: the current ones). Given *fates*, one for each email
        and in seconds of the clock, take precedence over the other arguments.
        """
        now = self.advance()
        created = now if at is None else at
        self._sent += 1
        rng = seeded_random(f"{self._seed}/sent/{self._sent}")
        if fates is None:
            wait = max(0.0, schedule - created) if schedule is not None else 0.0
            fates = draw_fates(rng, recipients, conditions or self._conditions_at(created), wait=wait, speed=self.speed)
        else:
            _validate(fates)
        if not 1 <= len(fates) <= MAX_RECIPIENTS:
            raise ValueError(f"an operation has 1 to {MAX_RECIPIENTS} recipients, not {len(fates)}")
        return self._add(created, rng.getrandbits(80), fates, schedule, message or Message())

    @property
    def conditions(self) -> Conditions:
        """The conditions for an email sent now."""
        return self._conditions_at(self.now())

    def set_conditions(self, **changes: Any) -> Conditions:
        """Change some of the conditions for emails sent from now on."""
        conditions = dataclasses.replace(self._conditions, **changes)
        now = self.advance()
        self._traffic.settle(now, self._conditions.traffic)
        if self._conditions.stalled and not conditions.stalled:
            self._resume(now)
        self._conditions = conditions
        return self.conditions

    # Reading

    def find(self, identifier: str) -> Operation | None:
        """Return the operation with this id, or None if there is none or it has expired."""
        operation = self._look_up(identifier)
        return operation if operation and operation.id == identifier else None

    def find_email(self, identifier: str) -> tuple[Operation, int] | None:
        """Return the email with this id as its operation and its index there, or None."""
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
        """Yield the listed operations in order of creation, beginning after *beyond*."""
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
        """Whether the operation is older than the retention."""
        return operation.created <= self.now() - self.retention_seconds

    def tally(self, since: float | None = None) -> Tally:
        """Count everything that happened to operations created after *since*, expired ones included."""
        now = self.advance()
        first = 0 if since is None else bisect_right(self._operations, since, key=_created)
        last = bisect_right(self._operations, now, key=_created)
        return _tally(self._operations[first:last], now)

    # Internals

    def _conditions_at(self, moment: float) -> Conditions:
        return self._spike.apply(self._conditions, moment) if self._spike else self._conditions

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
            operation.set_fates([fate.resumed(now - operation.created) for fate in fates])
        self._stalled.clear()

    def _look_up(self, identifier: str) -> Operation | None:
        now = self.advance()
        operation = self._by_stem.get(ids.stem(identifier))
        if operation is None or operation.created > now:
            return None
        return None if self.retention == "gone" and self.expired(operation) else operation

    def _compact(self, now: float) -> None:
        """Drop the single emails of expired operations, so that a simulator can run for months."""
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


def _validate(fates: Sequence[Fate]) -> None:
    for place, fate in enumerate(fates):
        if error := fate.error():
            raise ValueError(f"fate {place}: {error}")


def _created(operation: Operation) -> float:
    return operation.created


def _key(operation: Operation) -> Key:
    return operation.key
