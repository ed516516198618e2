"""Limit how fast a client sends requests."""

from collections.abc import Awaitable, Callable

from comms_exporter.base.token_bucket import TokenBucket


class RateLimiter:
    """Allows *requests_per_second*, with bursts of as many requests, but of at least one."""

    def __init__(
        self,
        requests_per_second: float,
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._bucket = TokenBucket(
            burst=max(1.0, requests_per_second), seconds_per_token=1 / requests_per_second, monotonic=monotonic
        )
        self._sleep = sleep

    async def acquire(self, before_wait: Callable[[float], None] = lambda _: None) -> None:
        """Wait until the next request may be sent; call *before_wait* with the seconds, if there are any to wait."""
        seconds = self._bucket.reserve()
        if seconds > 0:
            before_wait(seconds)
            await self._sleep(seconds)
