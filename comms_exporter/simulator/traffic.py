"""When an ordinary sender sends, and how much: mostly single mails, sometimes many, more by day than by night."""

import math
import random
from collections.abc import Iterator
from typing import NamedTuple

_SLOT_SECONDS = 900.0  # the traffic is even for a quarter of an hour
_DAY_SECONDS = 86400.0
_CAMPAIGNS_A_DAY = 4.0


class Request(NamedTuple):
    """What one send request asks for; *wait* is in seconds, 0 for at once."""

    recipients: int
    wait: float


class Traffic:
    """Arrivals at *rate* an hour from *start* on; from *hurried_from* on, time runs *speed* times as fast.

    A Poisson process. What arrives depends on the randomness alone, never on how often anybody asks: the cursor
    only ever stands at an arrival, at the end of a slot, or where the traffic was changed.
    """

    def __init__(self, rng: random.Random, *, rate: float, start: float, hurried_from: float, speed: float) -> None:
        self._rng = rng
        self._rate = rate
        self._hurried_from = hurried_from
        self._speed = speed
        self._cursor = start
        self._slot = start
        self._patience = rng.expovariate(1.0)

    def arrivals(self, until: float, factor: float) -> Iterator[float]:
        """Yield the moments of the requests up to *until*, at *factor* times the usual traffic."""
        while True:
            intensity, slot_ends = self._intensity(factor), self._slot_ends()
            due = self._cursor + self._patience / intensity if intensity else math.inf
            if min(due, slot_ends) > until:
                return
            if due <= slot_ends:
                self._cursor = due
                self._patience = self._rng.expovariate(1.0)
                yield due
            else:
                self._skip(slot_ends, intensity)
                self._slot = slot_ends

    def settle(self, now: float, factor: float) -> None:
        """Bring the account up to *now*, after which the factor may be another one."""
        self._skip(now, self._intensity(factor))

    def request(self, rng: random.Random, at: float) -> Request:
        """Draw what the request that arrives at *at* asks for."""
        recipients = self._draw_recipients(rng)
        if rng.random() < (0.4 if recipients >= 1000 else 0.03):
            return Request(recipients, rng.uniform(600.0, 1.5 * _DAY_SECONDS) / self.speed_at(at))
        return Request(recipients, 0.0)

    def speed_at(self, moment: float) -> float:
        """How fast time runs at *moment*: as usual in the past, at the chosen speed since."""
        return self._speed if moment >= self._hurried_from else 1.0

    def _draw_recipients(self, rng: random.Random) -> int:
        draw = rng.random()
        if draw < min(0.03, _CAMPAIGNS_A_DAY / (24 * self._rate)):
            return min(10_000, max(1000, round(rng.lognormvariate(math.log(2500), 0.5))))
        if draw > 0.9:
            return min(200, 1 + round(rng.paretovariate(0.9)))
        return 1

    def _intensity(self, factor: float) -> float:
        """Requests a second in the present slot."""
        return self._rate / 3600 * self.speed_at(self._slot) * factor * _rhythm(self._simulated(self._slot))

    def _slot_ends(self) -> float:
        if self._slot < self._hurried_from:
            return min(self._slot + _SLOT_SECONDS, self._hurried_from)
        return self._slot + _SLOT_SECONDS / self._speed

    def _simulated(self, moment: float) -> float:
        return moment + max(0.0, moment - self._hurried_from) * (self._speed - 1)

    def _skip(self, to: float, intensity: float) -> None:
        self._patience -= intensity * (to - self._cursor)
        self._cursor = to


def _rhythm(moment: float) -> float:
    """A day's wave around 1: lowest at three in the night, highest at three in the afternoon."""
    return 1 - 0.8 * math.cos(2 * math.pi * (moment / _DAY_SECONDS - 3 / 24))
