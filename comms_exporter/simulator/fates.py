"""What happens to an email, drawn once when it is sent.

The shares and delays are those of an ordinary sender with a clean list. Delays have heavy tails, as real ones do.
"""

import math
import random
from collections.abc import Collection
from typing import NamedTuple

from comms_exporter.simulator.conditions import Conditions

NEVER = math.inf

_EMAILS_PER_SECOND = 25.0  # how fast one operation is sent: a campaign of thousands takes minutes
_DEFERRED = 0.04  # share of the delivered emails that the receiving server defers at first
_EXPIRED = 0.4  # share of the undelivered emails that Twilio retries until it gives up
_HOUR = 3600.0
_DAY = 24 * _HOUR


class Fate(NamedTuple):
    """When one email reaches each stage, in seconds after its operation was created; NEVER if it does not."""

    queued: float = 0.0  # it is scheduled until then
    sent: float = NEVER
    delivered: float = NEVER
    opened: float = NEVER
    undelivered: float = NEVER
    failed: float = NEVER
    canceled: float = NEVER
    retries: tuple[float, ...] = ()  # attempts after the first, which is made when the email is sent

    def error(self) -> str | None:
        """Return why no email can have this fate, or None if one can."""
        if NEVER not in (self.queued, self.canceled):
            return "only a scheduled email can be canceled: queued or canceled must be NEVER"
        if NEVER not in (self.sent, self.failed):
            return "a failed email is not sent: sent or failed must be NEVER"
        if NEVER not in (self.delivered, self.undelivered):
            return "an email is delivered or undelivered, not both"
        transitions = (
            ("queued", self.queued, "sent", self.sent),
            ("queued", self.queued, "failed", self.failed),
            ("sent", self.sent, "delivered", self.delivered),
            ("sent", self.sent, "undelivered", self.undelivered),
            ("delivered", self.delivered, "opened", self.opened),
        )
        for first, earlier, second, later in transitions:
            if later < earlier:
                return f"{second} comes before {first}"
        if min(self.queued, self.canceled, *self.retries) < 0:
            return "nothing can happen before the operation is created"
        if any(retry < self.sent for retry in self.retries):
            return "a retry comes before sent"
        return None

    def stalled(self) -> "Fate":
        """Return the fate of the same email if it never leaves the queue."""
        return Fate(queued=self.queued, canceled=self.canceled)

    def resumed(self, at: float) -> "Fate":
        """Return the fate of the same email if the queue does not move until *at*."""
        held = max(0.0, at - self.queued)
        return Fate(
            queued=self.queued,
            sent=self.sent + held,
            delivered=self.delivered + held,
            opened=self.opened + held,
            undelivered=self.undelivered + held,
            failed=self.failed + held,
            canceled=self.canceled,
            retries=tuple(retry + held for retry in self.retries),
        )


def seeded_random(seed: object) -> random.Random:
    """Return a generator that draws the same numbers for the same *seed* on every machine."""
    return random.Random(str(seed))  # noqa: S311 - repeatable on purpose


def draw_fates(
    rng: random.Random,
    emails: int,
    conditions: Conditions,
    *,
    wait: float = 0.0,
    speed: float = 1.0,
    refused: Collection[int] = (),
) -> list[Fate]:
    """Draw the fate of every email of one operation that is scheduled *wait* seconds ahead.

    *refused* has the indexes of the emails that the recipient's provider refuses.
    """
    if wait > 0 and rng.random() < conditions.canceled:
        return [Fate(queued=NEVER, canceled=wait * rng.random())] * emails
    if not refused:
        return [_draw_fate(rng, conditions, email / _EMAILS_PER_SECOND, wait, speed) for email in range(emails)]
    refusing = conditions.refusing()
    return [
        _draw_fate(rng, refusing if email in refused else conditions, email / _EMAILS_PER_SECOND, wait, speed)
        for email in range(emails)
    ]


def _draw_fate(rng: random.Random, conditions: Conditions, turn: float, wait: float, speed: float) -> Fate:
    scale = conditions.delay / speed
    leaves = wait + scale * (turn + _lognormal(rng, 1.2, 0.8))
    if rng.random() < conditions.failed:
        return Fate(queued=wait, failed=leaves)
    if rng.random() < conditions.undelivered:
        return _bounce(rng, wait, leaves, scale)
    return _delivery(rng, conditions, wait, leaves, speed)


def _bounce(rng: random.Random, wait: float, sent: float, scale: float) -> Fate:
    if rng.random() < _EXPIRED:
        undelivered = sent + scale * min(2 * _HOUR * rng.paretovariate(0.9), 3 * _DAY)
        return Fate(queued=wait, sent=sent, undelivered=undelivered, retries=_retries(rng, sent, undelivered))
    return Fate(queued=wait, sent=sent, undelivered=sent + scale * _lognormal(rng, 5.0, 1.2))


def _delivery(rng: random.Random, conditions: Conditions, wait: float, sent: float, speed: float) -> Fate:
    scale = conditions.delay / speed
    retries: tuple[float, ...] = ()
    if rng.random() < _DEFERRED:
        delivered = sent + scale * min(60 * rng.paretovariate(0.8), _DAY)
        retries = _retries(rng, sent, delivered)
    else:
        delivered = sent + scale * _lognormal(rng, 3.0, 1.2)
    # The delay does not apply to readers: a slow queue does not make them read later.
    is_opened = rng.random() < conditions.opened
    opened = delivered + min(_lognormal(rng, 0.75 * _HOUR, 1.8), 3 * _DAY) / speed if is_opened else NEVER
    return Fate(queued=wait, sent=sent, delivered=delivered, opened=opened, retries=retries)


def _retries(rng: random.Random, sent: float, ended: float) -> tuple[float, ...]:
    """Draw one to four retries with growing intervals; the last one is at *ended*."""
    count = rng.randint(1, 4)
    return tuple(sent + (ended - sent) * (turn / count) ** 2 for turn in range(1, count + 1))


def _lognormal(rng: random.Random, median: float, sigma: float) -> float:
    return rng.lognormvariate(math.log(median), sigma)
