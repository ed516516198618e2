"""The simulated world: every operation that was sent, and its state now.

Nothing here does I/O, sleeps or runs in the background. Fates are drawn from the seed when an email is sent, and the
traffic up to now is generated whenever somebody looks. Every response depends only on the seed, the clock and what was
sent.
"""

import dataclasses
import math
import random
from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from comms_exporter.simulator import ids
from comms_exporter.simulator.conditions import Conditions, FailureSpike
from comms_exporter.simulator.fates import Fate, draw_fates, seeded_random
from comms_exporter.simulator.inbound import InboundEmail, inbound_email
from comms_exporter.simulator.mail import Address, Message, draw_message, message_seed, provider_of, reply_after
from comms_exporter.simulator.operations import Operation, SentEmail
from comms_exporter.simulator.traffic import Sender, Traffic

Reading = Literal["cumulative", "exclusive"]
Retention = Literal["gone", "thin"]

WEEK_SECONDS = 7 * 86400.0
MAX_RECIPIENTS = 10_000

# The stages of outcome that emails are counted in by provider, sender and tag.
_TALLIED = ("sent", "delivered", "opened", "undelivered", "failed", "canceled")
_REPLY_EVERY = 50  # send requests

Key = tuple[float, str]
Item = TypeVar("Item", Operation, InboundEmail)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailTally:
    """The true counts of emails that ever reached each stage, as {stage: {value: count}}.

    *tag* has values of the form key:value. *error* counts failed emails by the code that /Errors lists for them.
    """

    recipient_domain: dict[str, dict[str, int]]
    provider: dict[str, dict[str, int]]
    sender_domain: dict[str, dict[str, int]]
    tag: dict[str, dict[str, int]]
    error: dict[str, int]
    inbound: int


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
        self._inbound: list[InboundEmail] = []
        self._inbound_by_id: dict[str, InboundEmail] = {}
        self._compacted = 0
        self._traffic_seed, self._sent_seed = (
            seeded_random(f"{seed}/messages/{series}").getrandbits(64) for series in ("traffic", "sent")
        )
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
            message = message_seed(self._traffic_seed, self._arrived)
            fates = _draw_fates(rng, recipients, self._conditions_at(at), message, wait=wait, speed=speed)
            schedule = at + wait if wait else None
            entropy = rng.getrandbits(80)
            self._add(at, entropy, fates, schedule, message)
            if self._arrived % _REPLY_EVERY == 0:
                self._reply(draw_message(message), at, entropy, speed)
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
        and in seconds of the clock, take precedence over the other arguments. Without a *message*, one is drawn.
        """
        now = self.advance()
        created = now if at is None else at
        self._sent += 1
        rng = seeded_random(f"{self._seed}/sent/{self._sent}")
        sent = message or message_seed(self._sent_seed, self._sent)
        if fates is None:
            wait = max(0.0, schedule - created) if schedule is not None else 0.0
            met = conditions or self._conditions_at(created)
            fates = _draw_fates(rng, recipients, met, sent, wait=wait, speed=self.speed)
        else:
            _validate(fates)
        if not 1 <= len(fates) <= MAX_RECIPIENTS:
            raise ValueError(f"an operation has 1 to {MAX_RECIPIENTS} recipients, not {len(fates)}")
        return self._add(created, rng.getrandbits(80), fates, schedule, sent)

    def receive(self, *, at: float | None = None, sender: Address | None = None) -> InboundEmail:
        """Receive an email from *sender* at *at* (default: now)."""
        now = self.advance()
        created = now if at is None else at
        entropy = seeded_random(f"{self._seed}/received/{len(self._inbound)}").getrandbits(80)
        sender = sender or Address("somebody@gmail.com")
        email = inbound_email(created, entropy, sender=sender, to=Message().sender)
        self._add_inbound(email)
        return email

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

    def find_email(self, identifier: str) -> SentEmail | InboundEmail | None:
        """Return the email with this id, or None."""
        operation, index = self._look_up(identifier), ids.email_index(identifier)
        if operation is None or index is None:
            return self._find_inbound(identifier)
        return SentEmail(operation, index) if index < operation.total and not self.expired(operation) else None

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
        created_before = min(created_before, math.nextafter(now, math.inf))
        return _between(self._operations, created_from, created_before, beyond, newest_first=newest_first)

    def inbound(
        self,
        *,
        created_from: float = -math.inf,
        created_before: float = math.inf,
        beyond: Key | None = None,
        newest_first: bool = True,
    ) -> Iterator[InboundEmail]:
        """Yield the listed inbound emails in order of creation, beginning after *beyond*."""
        now = self.advance()
        created_from = max(created_from, math.nextafter(now - self.retention_seconds, math.inf))
        created_before = min(created_before, math.nextafter(now, math.inf))
        return _between(self._inbound, created_from, created_before, beyond, newest_first=newest_first)

    def expired(self, operation: Operation) -> bool:
        """Whether the operation is older than the retention."""
        return operation.created <= self.now() - self.retention_seconds

    def tally(self, since: float | None = None) -> Tally:
        """Count everything that happened to operations created after *since*, expired ones included."""
        now = self.advance()
        return _tally(_sent_since(self._operations, since, now), now)

    def email_tally(self, since: float | None = None) -> EmailTally:
        """Count the emails of operations created after *since* by whom they were from and to, expired ones included."""
        now = self.advance()
        inbound = _sent_since(self._inbound, since, now)
        return _email_tally(_sent_since(self._operations, since, now), now, inbound=len(inbound))

    # Internals

    def _conditions_at(self, moment: float) -> Conditions:
        return self._spike.apply(self._conditions, moment) if self._spike else self._conditions

    def _reply(self, message: Message, sent: float, entropy: int, speed: float) -> None:
        replied = sent + reply_after(message) / speed
        self._add_inbound(inbound_email(replied, entropy, sender=message.recipient(0), to=message.sender))

    def _add_inbound(self, email: InboundEmail) -> None:
        insort(self._inbound, email, key=_key)
        self._inbound_by_id[email.id] = email

    def _add(
        self, created: float, entropy: int, fates: Sequence[Fate], schedule: float | None, message: Message | int
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

    def _find_inbound(self, identifier: str) -> InboundEmail | None:
        email, now = self._inbound_by_id.get(identifier), self.now()
        return email if email and now - self.retention_seconds < email.created <= now else None

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


def _draw_fates(
    rng: random.Random, emails: int, conditions: Conditions, message: Message | int, *, wait: float, speed: float
) -> list[Fate]:
    refused: Collection[int] = ()
    if conditions.concern_a_part:
        sent = draw_message(message) if isinstance(message, int) else message
        conditions = conditions.for_message(sent)
        if provider := conditions.refusing_provider:
            refused = {email for email in range(emails) if provider_of(sent.recipient_domain(email)) == provider}
    return draw_fates(rng, emails, conditions, wait=wait, speed=speed, refused=refused)


def _between(
    items: Sequence[Item], created_from: float, created_before: float, beyond: Key | None, *, newest_first: bool
) -> Iterator[Item]:
    low = bisect_left(items, created_from, key=_created)
    high = bisect_left(items, created_before, key=_created)
    if beyond and newest_first:
        high = min(high, bisect_left(items, beyond, key=_key))
    elif beyond:
        low = max(low, bisect_right(items, beyond, key=_key))
    places = range(high - 1, low - 1, -1) if newest_first else range(low, high)
    return (items[place] for place in places)


def _sent_since(items: Sequence[Item], since: float | None, now: float) -> Sequence[Item]:
    first = 0 if since is None else bisect_right(items, since, key=_created)
    return items[first : bisect_right(items, now, key=_created)]


def _email_tally(operations: Sequence[Operation], now: float, *, inbound: int) -> EmailTally:
    domains, providers, senders, tags = (defaultdict[str, Counter[str]](Counter) for _ in range(4))
    errors = Counter[str]()
    for operation in operations:
        message = operation.message
        for stage in _TALLIED:
            emails = list(operation.emails_that_reached(stage, now))
            if not emails:
                continue
            domains[stage].update(map(message.recipient_domain, emails))
            senders[stage][message.sender.domain] += len(emails)
            for key, value in message.tags.items():
                tags[stage][f"{key}:{value}"] += len(emails)
            if stage == "failed":
                errors.update(map(message.error, emails))
    for stage, counts in domains.items():
        for domain, count in counts.items():
            providers[stage][provider_of(domain)] += count
    plain = [{stage: dict(counts) for stage, counts in each.items()} for each in (domains, providers, senders, tags)]
    return EmailTally(
        recipient_domain=plain[0],
        provider=plain[1],
        sender_domain=plain[2],
        tag=plain[3],
        error=dict(errors),
        inbound=inbound,
    )


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


def _created(item: Operation | InboundEmail) -> float:
    return item.created


def _key(item: Operation | InboundEmail) -> Key:
    return item.key
