"""A token bucket, for every rate limit: of API requests, of scrapes, of log lines."""

from collections.abc import Callable


class TokenBucket:
    """Holds up to *burst* tokens, starts full, and gets a new token every *seconds_per_token* seconds."""

    def __init__(self, *, burst: float, seconds_per_token: float, monotonic: Callable[[], float]) -> None:
        self._burst = burst
        self._seconds_per_token = seconds_per_token
        self._monotonic = monotonic
        # Negative while tokens are reserved that are still to come.
        self._tokens = burst
        self._refilled_at = monotonic()

    def take(self) -> bool:
        """Take a token if there is one, and return whether there was."""
        self._refill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def reserve(self) -> float:
        """Take the next token in advance, and return how many seconds to wait for it."""
        self._refill()
        self._tokens -= 1
        return max(0.0, -self._tokens * self._seconds_per_token)

    def _refill(self) -> None:
        now = self._monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) / self._seconds_per_token)
        self._refilled_at = now
