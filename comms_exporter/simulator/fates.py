"""What becomes of an email, drawn once when it is sent.

The shares and delays are those of an ordinary sender with a tidy list; the tails are heavy, as tails of mail are.
"""

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

NEVER = math.inf

_EMAILS_PER_SECOND = 25.0  # how fast one operation leaves Twilio: a campaign of thousands takes minutes
_DEFERRED = 0.04  # of the delivered, how many are put off at first by the other server
_GIVEN_UP = 0.4  # of the undelivered, how many were put off until Twilio gave up
_HOUR = 3600.0
_DAY = 24 * _HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What mail meets with, from the moment it is sent: shares are of the emails that come so far."""

    failed: float = 0.004
    undelivered: float = 0.025
    opened: float = 0.35
    canceled: float = 0.1  # of the scheduled operations
    delay: float = 1.0  # how many times slower than usual mail is sent and delivered
    stalled: bool = False  # mail stays queued until this ends
    traffic: float = 1.0  # how many times the usual traffic; 0 is none

    def __post_init__(self) -> None:
        for name in ("failed", "undelivered", "opened", "canceled"):
            if not 0 <= _number(name, getattr(self, name)) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        if not 0 < _number("delay", self.delay) < math.inf:
            raise ValueError(f"delay must be more than 0, not {self.delay}")
        if not 0 <= _number("traffic", self.traffic) < math.inf:
            raise ValueError(f"traffic must be 0 or more, not {self.traffic}")
        if not isinstance(self.stalled, bool):
            raise ValueError(f"stalled must be true or false, not {self.stalled!r}")  # noqa: TRY004 - one kind of error for every bad value


class Fate(NamedTuple):
    """When one email passes each stage, in seconds after its operation was created; NEVER where it does not."""

    queued: float = 0.0  # until then it is scheduled
    sent: float = NEVER
    delivered: float = NEVER
    opened: float = NEVER
    undelivered: float = NEVER
    failed: float = NEVER
    canceled: float = NEVER
    retries: tuple[float, ...] = ()  # attempts beyond the first, which is made when it is sent

    def flaw(self) -> str | None:
        """Say why no email could have this fate, or None if one could."""
        if NEVER not in (self.queued, self.canceled):
            return "only a scheduled email is canceled: one of queued and canceled must be NEVER"
        if NEVER not in (self.sent, self.failed):
            return "an email fails instead of being sent: one of sent and failed must be NEVER"
        if NEVER not in (self.delivered, self.undelivered):
            return "an email is delivered or undelivered, not both"
        ways = (
            ("queued", self.queued, "sent", self.sent),
            ("queued", self.queued, "failed", self.failed),
            ("sent", self.sent, "delivered", self.delivered),
            ("sent", self.sent, "undelivered", self.undelivered),
            ("delivered", self.delivered, "opened", self.opened),
        )
        for before, earlier, after, later in ways:
            if later < earlier:
                return f"{after} comes before {before}"
        if min(self.queued, self.canceled, *self.retries) < 0:
            return "nothing happens before the operation is created"
        if any(retry < self.sent for retry in self.retries):
            return "a retry comes before sent"
        return None

    def stalled(self) -> "Fate":
        """The same email if nothing ever left the queue."""
        return Fate(queued=self.queued, canceled=self.canceled)

    def resumed(self, at: float) -> "Fate":
        """The same email if the queue stood still until *at*."""
        late = max(0.0, at - self.queued)
        return Fate(
            queued=self.queued,
            sent=self.sent + late,
            delivered=self.delivered + late,
            opened=self.opened + late,
            undelivered=self.undelivered + late,
            failed=self.failed + late,
            canceled=self.canceled,
            retries=tuple(retry + late for retry in self.retries),
        )


def dice(seed: object) -> random.Random:
    """Randomness that is the same for the same *seed*, on every machine and in every process."""
    return random.Random(str(seed))  # noqa: S311 - repeatable on purpose


def draw_fates(
    rng: random.Random, emails: int, conditions: Conditions, *, wait: float = 0.0, speed: float = 1.0
) -> list[Fate]:
    """Draw what becomes of every email of one operation that waits *wait* seconds for its schedule."""
    if wait > 0 and rng.random() < conditions.canceled:
        return [Fate(queued=NEVER, canceled=wait * rng.random())] * emails
    return [_draw_fate(rng, conditions, turn / _EMAILS_PER_SECOND, wait, speed) for turn in range(emails)]


def _draw_fate(rng: random.Random, conditions: Conditions, turn: float, wait: float, speed: float) -> Fate:
    pace = conditions.delay / speed
    leaves = wait + pace * (turn + _around(rng, 1.2, 0.8))
    if rng.random() < conditions.failed:
        return Fate(queued=wait, failed=leaves)
    if rng.random() < conditions.undelivered:
        return _bounce(rng, wait, leaves, pace)
    return _delivery(rng, conditions, wait, leaves, speed)


def _bounce(rng: random.Random, wait: float, sent: float, pace: float) -> Fate:
    if rng.random() < _GIVEN_UP:
        undelivered = sent + pace * min(2 * _HOUR * rng.paretovariate(0.9), 3 * _DAY)
        return Fate(queued=wait, sent=sent, undelivered=undelivered, retries=_retries(rng, sent, undelivered))
    return Fate(queued=wait, sent=sent, undelivered=sent + pace * _around(rng, 5.0, 1.2))


def _delivery(rng: random.Random, conditions: Conditions, wait: float, sent: float, speed: float) -> Fate:
    pace = conditions.delay / speed
    retries: tuple[float, ...] = ()
    if rng.random() < _DEFERRED:
        delivered = sent + pace * min(60 * rng.paretovariate(0.8), _DAY)
        retries = _retries(rng, sent, delivered)
    else:
        delivered = sent + pace * _around(rng, 3.0, 1.2)
    # People read when they read: a slow queue does not make them slower.
    reading = rng.random() < conditions.opened
    opened = delivered + min(_around(rng, 0.75 * _HOUR, 1.8), 3 * _DAY) / speed if reading else NEVER
    return Fate(queued=wait, sent=sent, delivered=delivered, opened=opened, retries=retries)


def _retries(rng: random.Random, sent: float, ended: float) -> tuple[float, ...]:
    """Between one and four attempts, further and further apart; the last one settles it."""
    count = rng.randint(1, 4)
    return tuple(sent + (ended - sent) * (turn / count) ** 2 for turn in range(1, count + 1))


def _around(rng: random.Random, median: float, spread: float) -> float:
    return rng.lognormvariate(math.log(median), spread)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, not {value!r}")  # noqa: TRY004 - one kind of error for every bad value
    return value
