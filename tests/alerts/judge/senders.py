"""Senders: what an account's operations look like over weeks, from what its owner does and what becomes of its mail.

Nothing here is taken from the simulator: what both get wrong alike, no test would notice.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from alerts.judge.exporter import Operation, pack
from alerts.judge.history import Change

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
# Seconds between two moments at which anything can happen to an operation.
TICK = 15.0
# A campaign's operations are looked at less often.
CAMPAIGN_TICK = 60.0
SLOT = 10 * MINUTE
# Recipients in one operation, at most.
MOST_RECIPIENTS = 10_000

# How the emails of a day spread over its hours.
OFFICE = (0.2, 0.1, 0.1, 0.1, 0.1, 0.3, 1, 2.5, 5, 7.5, 8.5, 8.5, 6.5, 7, 8, 8, 7.5, 6, 4, 3.5, 3, 2.5, 1.5, 0.6)
SHOP = (1.6, 1, 0.7, 0.5, 0.5, 0.8, 1.8, 3, 4, 4.6, 5, 5.2, 5.4, 5.2, 5, 5, 5.2, 5.6, 6.2, 7, 7.6, 7.4, 6, 3.6)
# All of it within opening hours, which begin and end sharply.
SHIFT = (*(0.1,) * 8, *(1.0,) * 9, *(0.1,) * 7)
FLAT = (1.0,) * 24
NIGHT = (0, 0, 9, 8, 1, *(0,) * 19)
EVERY_DAY = (1.0,) * 7
# Monday first.
WEEKDAYS = (1.15, 1.2, 1.15, 1.1, 1.05, 0.65, 0.7)
SHIFT_DAYS = (1.0, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1)
WORKING_DAYS = (1.4, 1.4, 1.4, 1.4, 1.35, 0.03, 0.02)


@dataclass(frozen=True)
class Campaign:
    """A mailing to *recipients* every week on *weekday* (0 is Monday; None: every day) at *hour*, sent over *hours*."""

    recipients: int
    weekday: int | None = 1
    hour: float = 10.0
    hours: float = 0.5
    bounce: float = 0.02


@dataclass(frozen=True)
class Sender:
    """What is usual for an account."""

    name: str
    per_day: float = 0.0
    # Emails in one transactional operation.
    batch: int = 1
    hours: Sequence[float] = SHOP
    weekdays: Sequence[float] = WEEKDAYS
    zone: str = "Europe/Berlin"
    campaigns: Sequence[Campaign] = ()
    # Of the operations, and how many hours ahead at most.
    scheduled: float = 0.0
    ahead: float = 72.0
    canceled: float = 0.004
    fail: float = 0.003
    bounce: float = 0.018
    # Of the bounces, those that take hours.
    late: float = 0.4
    # Of the emails, those whose receivers accept nothing and give up after three days.
    giving_up: float = 0.0
    # Of the deliveries, those that are deferred for minutes to hours.
    deferred: float = 0.04
    opens: float = 0.0
    exclusive: bool = False
    # Emails a second in an operation of many.
    pace: float = 40.0
    # The share of the usual traffic on certain days.
    days: dict[date, float] = field(default_factory=dict)
    # How much of today's traffic there is more of in a year.
    growth: float = 0.0


@dataclass(frozen=True)
class Effect:
    """What is different from *begin* to *end*; None means as usual."""

    begin: float
    end: float
    fail: float | None = None
    bounce: float | None = None
    # Emails handled, as a share of the usual demand.
    pace: float | None = None
    # Of the outcomes of emails, those that arrive; the others do after the end.
    outcomes: float | None = None
    traffic: float | None = None
    campaigns: float | None = None
    # Scheduled operations wait on at their time.
    schedules: bool = True
    # Of the operations that wait for their schedule at the beginning, those that are canceled.
    cancel: float = 0.0
    # Whether all this concerns a single large operation, the first that is being sent.
    one: bool = False


class Arrival(NamedTuple):
    """A send request: when, to how many, how many emails a second, and how many seconds *ahead* of its schedule."""

    time: float
    emails: int
    rate: float
    bounce: float
    campaign: bool = False
    ahead: float = 0.0


USUAL = Effect(-math.inf, math.inf)


# In how many parts the emails of an operation that are handled in one moment come to their end.
_PARTS = {"delivered": 3, "undelivered": 5, "opened": 3}


class _Op:
    """An operation in the making."""

    __slots__ = (
        "attempts",
        "bounce",
        "campaign",
        "canceled",
        "created",
        "delivered",
        "failed",
        "id",
        "number",
        "opened",
        "queued",
        "rate",
        "scheduled",
        "sent",
        "status",
        "total",
        "undelivered",
    )

    def __init__(self, number: int, name: str, arrival: Arrival) -> None:
        self.number = number
        self.id = f"comms_operation_{name}_{number:07d}"
        self.created = float(int(arrival.time))
        self.total = self.queued = arrival.emails
        self.rate = arrival.rate
        self.bounce = arrival.bounce
        self.campaign = arrival.campaign
        self.status = "PROCESSING"
        self.scheduled = self.sent = self.delivered = self.undelivered = self.failed = self.canceled = 0
        self.opened = self.attempts = 0

    def as_of(self, moment: float, *, exclusive: bool) -> Operation:
        """Return what the API answers at *moment*."""
        sent, delivered = self.sent, self.delivered
        if exclusive:
            sent -= delivered + self.undelivered
            delivered -= self.opened
        stats = (
            self.total,
            self.total,
            self.attempts,
            self.scheduled,
            self.queued,
            sent,
            delivered,
            self.opened,
            self.undelivered,
            self.failed,
            self.canceled,
        )
        return Operation(self.id, self.status, self.created, float(int(moment)), pack(stats))


class Mail:
    """The mail of one *sender* between two times; the same seed and effects give the same mail."""

    def __init__(
        self, sender: Sender, *, begin: float, end: float, effects: Sequence[Effect] = (), seed: int = 0
    ) -> None:
        self.sender = sender
        self._begin, self._end = begin, end
        self._effects = effects
        # One source for what is asked for and one for what becomes of it: an effect must not shuffle all that follows.
        self._asked = random.Random(f"{seed}-{sender.name}-asked")
        self._fate = random.Random(f"{seed}-{sender.name}-fate")
        self._zone = ZoneInfo(sender.zone)
        self._weight = sum(sender.hours) * sum(sender.weekdays) / 7
        self._ops = 0
        self._numbers = 0
        self._results: list[tuple[float, int, _Op, str, int]] = []
        self._changes: list[Change] = []
        self._dirty: dict[str, _Op] = {}
        self._tokens = 0.0
        self._queue: deque[_Op] = deque()
        self._running: list[_Op] = []
        self._waiting: list[tuple[float, int, _Op]] = []
        self._cancels = sorted((each for each in effects if each.cancel > 0), key=lambda each: -each.begin)
        self._last_campaign_tick = -math.inf
        self._victim: _Op | None = None

    def changes(self) -> list[Change]:
        """Return what the API answers, in the order of time."""
        arrivals = sorted([*self._transactions(), *self._mailings()], key=lambda arrival: arrival[0])
        arrivals.reverse()
        now = self._begin
        while now < self._end:
            effect = self._effect(now)
            self._arrive(arrivals, now)
            self._leave_schedules(effect, now)
            if effect.pace is not None:
                # What all operations together may send in this tick, and a little that is left of the last.
                usual = self.rate(now) * TICK
                self._tokens = min(self._tokens + effect.pace * usual, max(3.0, 4 * usual))
            if self._queue:
                self._handle(effect, now)
            self._progress_all(effect, now)
            while self._results and self._results[0][0] <= now:
                _, _, op, kind, n = heapq.heappop(self._results)
                self._outcome(op, kind, n, effect, now)
            for op in self._dirty.values():
                operation = op.as_of(now, exclusive=self.sender.exclusive)
                self._changes.append(Change(now, self.sender.name, op.id, operation))
            self._dirty.clear()
            now = self._next(now, arrivals, effect)
        return self._changes

    def _arrive(self, arrivals: list[Arrival], now: float) -> None:
        while arrivals and arrivals[-1].time <= now:
            arrival = arrivals.pop()
            op = _Op(self._ops, self.sender.name, arrival)
            self._ops += 1
            self._dirty[op.id] = op
            if arrival.ahead > 0:
                op.status, op.scheduled, op.queued = "SCHEDULED", op.total, 0
                heapq.heappush(self._waiting, (arrival.time + arrival.ahead, op.number, op))
            else:
                self._begin_to_send(op)

    def _begin_to_send(self, op: _Op) -> None:
        (self._queue if op.total <= 3 else self._running).append(op)

    def _leave_schedules(self, effect: Effect, now: float) -> None:
        while self._cancels and self._cancels[-1].begin <= now:
            self._cancel(self._cancels.pop().cancel)
        while effect.schedules and self._waiting and self._waiting[0][0] <= now:
            _, _, op = heapq.heappop(self._waiting)
            if op.status == "CANCELED":
                continue
            op.status, op.queued, op.scheduled = "PROCESSING", op.total, 0
            self._dirty[op.id] = op
            self._begin_to_send(op)

    def _progress_all(self, effect: Effect, now: float) -> None:
        if not self._running:
            return
        if effect.one and self._victim is None:
            self._victim = self._running[0]
        campaigns = now - self._last_campaign_tick >= CAMPAIGN_TICK
        if campaigns:
            self._last_campaign_tick = now
        self._running = [op for op in self._running if not self._progress(op, effect, now, campaigns=campaigns)]

    def rate(self, moment: float) -> float:
        """Return how many transactional emails a second are usual at *moment*."""
        sender = self.sender
        local = datetime.fromtimestamp(moment, self._zone)
        share = sender.hours[local.hour] * sender.weekdays[local.weekday()] / self._weight
        share *= sender.days.get(local.date(), 1.0) * (1 + sender.growth * (moment - self._begin) / (365 * DAY))
        return sender.per_day * share / HOUR

    def _next(self, now: float, arrivals: list[Arrival], effect: Effect) -> float:
        """Return the next moment at which anything can happen."""
        if self._queue or self._running:
            return now + TICK
        moments = [self._end]
        if arrivals:
            moments.append(arrivals[-1].time)
        if self._results:
            moments.append(self._results[0][0])
        if self._waiting:
            due = self._waiting[0][0]
            moments.append(due if effect.schedules else max(due, effect.end))
        moments += [each.begin for each in self._cancels]
        ticks = max(1, math.ceil((min(moments) - now) / TICK))
        return now + ticks * TICK

    def _effect(self, moment: float) -> Effect:
        for effect in self._effects:
            if effect.begin <= moment < effect.end:
                return effect
        return USUAL

    def _transactions(self) -> Iterator[Arrival]:
        sender = self.sender
        if sender.per_day <= 0:
            return
        slot = self._begin
        while slot < self._end:
            effect = self._effect(slot + SLOT / 2)
            usual = self.rate(slot + SLOT / 2) * SLOT / sender.batch
            moments = sorted(slot + self._asked.random() * SLOT for _ in range(poisson(self._asked, usual)))
            if effect.traffic is not None:
                moments = list(self._resized(moments, usual, effect.traffic, slot))
            for moment in moments:
                total = 1
                if sender.batch > 1:
                    total = max(1, min(MOST_RECIPIENTS, round(sender.batch * self._asked.lognormvariate(-0.18, 0.6))))
                ahead = 0.0
                if self._asked.random() < sender.scheduled:
                    ahead = (0.2 + self._asked.random()) * sender.ahead * HOUR / 1.2
                yield Arrival(moment, total, sender.pace, sender.bounce, ahead=ahead)
            slot += SLOT

    def _resized(self, moments: list[float], usual: float, factor: float, slot: float) -> Iterator[float]:
        """Yield more or fewer *moments*, without touching the source that all later ones come from."""
        fate = random.Random(f"{slot}-{self.sender.name}")
        if factor <= 1:
            yield from (moment for moment in moments if fate.random() < factor)
            return
        extra = [slot + fate.random() * SLOT for _ in range(poisson(fate, usual * (factor - 1)))]
        yield from sorted([*moments, *extra])

    def _mailings(self) -> Iterator[Arrival]:
        day = datetime.fromtimestamp(self._begin, self._zone).replace(hour=0, minute=0, second=0, microsecond=0)
        while day.timestamp() < self._end:
            for campaign in self.sender.campaigns:
                if campaign.weekday not in {None, day.weekday()} or self.sender.days.get(day.date(), 1.0) < 0.5:
                    continue
                moment = day.timestamp() + campaign.hour * HOUR + self._asked.gauss(0, 4 * MINUTE)
                effect = self._effect(moment)
                if not self._begin <= moment < self._end or effect.campaigns == 0:
                    continue
                size = round(campaign.recipients * self._asked.uniform(0.92, 1.08) * (effect.campaigns or 1))
                while size > 0:
                    part = min(size, MOST_RECIPIENTS)
                    rate = part / (campaign.hours * HOUR) * self._asked.uniform(0.95, 1.4)
                    yield Arrival(moment, part, rate, campaign.bounce, campaign=True)
                    moment += self._asked.uniform(0.3, 3)
                    size -= part
            day = (day + timedelta(days=1)).replace(hour=0)

    def _cancel(self, share: float) -> None:
        for _, _, op in sorted(self._waiting, key=lambda each: each[1]):
            if op.status == "SCHEDULED" and self._fate.random() < share:
                op.status, op.canceled, op.scheduled = "CANCELED", op.total, 0
                self._dirty[op.id] = op

    def _handle(self, effect: Effect, now: float) -> None:
        """Send the small operations that are queued, as many as the pace allows."""
        queue = self._queue
        slow = effect.pace is not None and not effect.one
        # What came in this very moment is seen queued first.
        left = deque(op for op in queue if op.created > now - 3)
        for op in queue:
            if op.created > now - 3:
                continue
            if slow:
                if self._tokens < op.queued:
                    left.append(op)
                    continue
                self._tokens -= op.queued
            self._send(op, op.queued, effect, now)
        queue.clear()
        queue.extend(sorted(left, key=lambda op: op.number))

    def _progress(self, op: _Op, effect: Effect, now: float, *, campaigns: bool) -> bool:
        """Send some of a large operation, and return whether that was all of it."""
        if op.campaign and not campaigns:
            return False
        slow = effect.pace is not None and self._concerns(effect, op)
        part = op.rate * (CAMPAIGN_TICK if op.campaign else TICK)
        if slow and (op.campaign or effect.one):
            part *= effect.pace
        elif slow:
            part = min(part, self._tokens)
        # A rate below one email a tick is one email now and then.
        whole = int(part) + (self._fate.random() < part % 1)
        n = min(op.queued, whole)
        if n > 0:
            self._send(op, n, effect, now)
            if slow:
                self._tokens -= n
        return op.queued == 0

    def _concerns(self, effect: Effect, op: _Op) -> bool:
        return not effect.one or op is self._victim

    def _send(self, op: _Op, n: int, effect: Effect, now: float) -> None:
        sender, fate = self.sender, self._fate
        concerned = self._concerns(effect, op)
        fail = effect.fail if effect.fail is not None and concerned else sender.fail
        bounce = effect.bounce if effect.bounce is not None and concerned else op.bounce
        failed = binomial(fate, n, fail)
        sent = n - failed
        op.queued -= n
        op.attempts += n
        op.failed += failed
        op.sent += sent
        if op.queued == 0:
            op.status = "COMPLETED"
        self._dirty[op.id] = op
        giving_up = binomial(fate, sent, sender.giving_up)
        bounced = binomial(fate, sent - giving_up, bounce)
        late = binomial(fate, bounced, sender.late)
        deferred = binomial(fate, sent - giving_up - bounced, sender.deferred)
        self._later(op, "undelivered", bounced - late, now, lambda: fate.uniform(5, 50))
        self._later(op, "undelivered", late, now, lambda: min(70 * HOUR, fate.lognormvariate(math.log(3 * HOUR), 1.3)))
        self._later(op, "undelivered", giving_up, now, lambda: 72 * HOUR + fate.uniform(0, 20 * MINUTE))
        self._later(op, "delivered", sent - giving_up - bounced - deferred, now, lambda: fate.uniform(2, 25))
        self._later(
            op, "delivered", deferred, now, lambda: min(12 * HOUR, fate.lognormvariate(math.log(9 * MINUTE), 1.1))
        )

    def _later(self, op: _Op, kind: str, n: int, now: float, delay: Callable[[], float]) -> None:
        """Have *n* emails of *op* come to an end, in a few parts."""
        parts = min(n, _PARTS[kind])
        for part in range(parts):
            share = n // parts + (part < n % parts)
            self._numbers += 1
            heapq.heappush(self._results, (now + delay(), self._numbers, op, kind, share))

    def _outcome(self, op: _Op, kind: str, n: int, effect: Effect, now: float) -> None:
        if effect.outcomes is not None and kind != "opened":
            arriving = binomial(self._fate, n, effect.outcomes)
            if arriving < n:
                self._numbers += 1
                moment = effect.end + self._fate.uniform(0, 20 * MINUTE)
                heapq.heappush(self._results, (moment, self._numbers, op, kind, n - arriving))
            n = arriving
            if n == 0:
                return
        setattr(op, kind, getattr(op, kind) + n)
        self._dirty[op.id] = op
        if kind == "delivered" and self.sender.opens:
            opened = binomial(self._fate, n, self.sender.opens)
            self._later(op, "opened", opened, now, lambda: self._fate.lognormvariate(math.log(40 * MINUTE), 1.4))


def poisson(source: random.Random, mean: float) -> int:
    """Return a Poisson number."""
    if mean > 50:
        return max(0, round(source.gauss(mean, math.sqrt(mean))))
    limit, product, n = math.exp(-mean), source.random(), 0
    while product > limit:
        product *= source.random()
        n += 1
    return n


def binomial(source: random.Random, n: int, p: float) -> int:
    """Return how many of *n* come true, each with the probability *p*."""
    if n <= 0 or p <= 0:
        return 0
    if p >= 1:
        return n
    if n <= 12:
        return sum(source.random() < p for _ in range(n))
    if n * p < 40:
        return min(n, poisson(source, n * p))
    if n * (1 - p) < 40:
        return n - min(n, poisson(source, n * (1 - p)))
    return min(n, max(0, round(source.gauss(n * p, math.sqrt(n * p * (1 - p))))))
