"""Decide whether a failed request is retried, and when."""

from collections.abc import Callable
from dataclasses import dataclass

from comms_exporter.api.errors import CommsError, ConnectionLostError, ThrottledError

# Longest wait within a listing; for a longer one the listing is given up, and the next poll starts it again.
MAX_WAIT_WITHIN_LISTING_SECONDS = 60.0

_BACKOFF_BASE_SECONDS = 0.5
_BACKOFF_LIMIT_SECONDS = 8.0


@dataclass(slots=True)
class RetryBudget:
    """The retries that one poll has left, shared by all its requests.

    *before_wait* is called before every wait of the poll, for a response too, with how many seconds it can take at most.
    """

    retries_left: int = 2
    before_wait: Callable[[float], None] = lambda _: None

    def take(self) -> bool:
        """Use one retry, and return whether there was one left."""
        self.retries_left -= 1
        return self.retries_left >= 0


def retry_delay(error: CommsError, *, retries: int, jitter: float, within_listing: bool) -> float | None:
    """Return how many seconds to wait before the next retry, None if *error* is not worth one.

    *retries* of this request came before, *jitter* is from 0 to 1. A request that does not continue a listing is not
    retried when throttled: nothing is lost if the poll fails, and the wait shows in its health at once.
    """
    if isinstance(error, ConnectionLostError):
        return jitter * min(_BACKOFF_LIMIT_SECONDS, _BACKOFF_BASE_SECONDS * 2.0**retries)
    if isinstance(error, ThrottledError) and within_listing:
        wait = jitter * _BACKOFF_LIMIT_SECONDS if error.retry_after is None else error.retry_after
        return wait if wait <= MAX_WAIT_WITHIN_LISTING_SECONDS else None
    return None
