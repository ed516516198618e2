"""Statistics about one account's API requests, as its metrics show them."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from comms_exporter.model.histogram import Histogram

# Seconds. Most responses take tens of milliseconds; the slowest run into --api.timeout.
REQUEST_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(slots=True)
class RequestStats:
    """Requests by status code, their durations, retries, and the time spent backing off."""

    requests: Counter[str] = field(default_factory=Counter)
    durations: Histogram = field(default_factory=lambda: Histogram(REQUEST_BUCKETS))
    retries: int = 0
    monotonic: Callable[[], float] = time.monotonic
    _waited: float = 0.0
    _wait_from: float = 0.0
    _wait_until: float = 0.0

    @property
    def waited_seconds(self) -> float:
        """How long the API has made us wait so far; waits for our own rate limiter do not count."""
        return self._waited + max(0.0, min(self.monotonic(), self._wait_until) - self._wait_from)

    @property
    def backing_off(self) -> bool:
        """Whether waited_seconds grows at the moment."""
        return self.monotonic() < self._wait_until

    def backoff_started(self, seconds: float) -> None:
        """Count up to *seconds* from now as waiting, unless the backoff ends earlier."""
        self.backoff_ended()
        self._wait_until = self._wait_from + seconds

    def backoff_ended(self) -> None:
        """Stop counting."""
        self._waited = self.waited_seconds
        self._wait_from = self._wait_until = self.monotonic()
