"""When a sender sends, to how many recipients, and how far ahead it schedules."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_SLOT_SECONDS = 900.0  # the rate is constant within a quarter of an hour
_DAY_SECONDS = 86400.0
_SCHEDULED_CAMPAIGNS = 0.4  # share


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """The habits of a sender at speed 1; by default an ordinary one: mostly single emails, more by day than by night."""

    daily_wave: float = 0.8  # how far the rate swings around its mean in the course of a day; 0 keeps it level
    groups: float = 0.1  # share of the requests that go to 2 to 200 recipients
    campaigns_per_day: float = 4.0
    campaign_recipients: float = 2500.0  # median
    scheduled: float = 0.03  # share of the requests
    schedule_seconds: tuple[float, float] = (600.0, 1.5 * _DAY_SECONDS)  # how far ahead: at least, at most


class Request(NamedTuple):
    """One send request; *wait* is how many seconds ahead it is scheduled, 0 for immediate sending."""

    recipients: int
    wait: float


class Traffic:
    """The send requests of *sender* from *start* on: *rate* an hour, and *speed* times as many from *accelerated_from* on.

    A Poisson process. Arrivals depend on the random numbers alone, never on how often anybody asks for them: the cursor
    only ever stands at an arrival, at the end of a slot, or where the rate was changed.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        rate: float,
        start: float,
        accelerated_from: float,
        speed: float,
        sender: Sender | None = None,
    ) -> None:
        self._rng = rng
        self._rate = rate
        self._accelerated_from = accelerated_from
        self._speed = speed
        self._sender = sender or Sender()
        self._cursor = start
        self._slot = start
        self._remaining = rng.expovariate(1.0)  # expected arrivals between the cursor and the next arrival

    def arrivals(self, until: float, factor: float) -> Iterator[float]:
        """Yield the times of the requests up to *until*, at *factor* times the usual rate."""
        while True:
            intensity, slot_end = self._intensity(factor), self._slot_end()
            due = self._cursor + self._remaining / intensity if intensity else math.inf
            if min(due, slot_end) > until:
                return
            if due <= slot_end:
                self._cursor = due
                self._remaining = self._rng.expovariate(1.0)
                yield due
            else:
                self._move_to(slot_end, intensity)
                self._slot = slot_end

    def settle(self, now: float, factor: float) -> None:
        """Move the cursor to *now*, so that another factor applies from there on."""
        self._move_to(now, self._intensity(factor))

    def request(self, rng: random.Random, at: float) -> Request:
        """Draw the request that arrives at *at*."""
        recipients, is_campaign = self._draw_recipients(rng)
        if rng.random() < (_SCHEDULED_CAMPAIGNS if is_campaign else self._sender.scheduled):
            return Request(recipients, rng.uniform(*self._sender.schedule_seconds) / self.speed_at(at))
        return Request(recipients, 0.0)

    def speed_at(self, moment: float) -> float:
        """Return how many times faster than real life things happen at *moment*: history is not accelerated."""
        return self._speed if moment >= self._accelerated_from else 1.0

    def _draw_recipients(self, rng: random.Random) -> tuple[int, bool]:
        """Draw the number of recipients, and whether that makes a campaign."""
        sender, draw = self._sender, rng.random()
        if draw < min(0.03, sender.campaigns_per_day / (24 * self._rate)):
            median = sender.campaign_recipients
            return min(10_000, round(max(0.4 * median, rng.lognormvariate(math.log(median), 0.5)))), True
        if draw > 1 - self._sender.groups:
            return min(200, 1 + round(rng.paretovariate(0.9))), False
        return 1, False

    def _intensity(self, factor: float) -> float:
        """Return the requests per second in the current slot."""
        return self._rate / 3600 * self.speed_at(self._slot) * factor * self._wave(self._simulated(self._slot))

    def _wave(self, moment: float) -> float:
        """Return the factor of the time of day: lowest at three at night, highest at three in the afternoon."""
        return 1 - self._sender.daily_wave * math.cos(2 * math.pi * (moment / _DAY_SECONDS - 3 / 24))

    def _slot_end(self) -> float:
        if self._slot < self._accelerated_from:
            return min(self._slot + _SLOT_SECONDS, self._accelerated_from)
        return self._slot + _SLOT_SECONDS / self._speed

    def _simulated(self, moment: float) -> float:
        return moment + max(0.0, moment - self._accelerated_from) * (self._speed - 1)

    def _move_to(self, moment: float, intensity: float) -> None:
        self._remaining -= intensity * (moment - self._cursor)
        self._cursor = moment
