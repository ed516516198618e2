"""Tell a recording what the polls of an account bring."""

from collections.abc import Callable, Sequence
from typing import Protocol

from comms_exporter.api.errors import CommsError, ThrottledError
from comms_exporter.collect.state import Listing
from comms_exporter.model.operations import Operation

# The closest status code or kind of failure for each of REASONS.
_ANSWERS: dict[str, int | str] = {
    "auth": 401,
    "forbidden": 403,
    "not_found": 404,
    "bad_request": 400,
    "rate_limited": 429,
    "server": 500,
    "timeout": "timeout",
    "connection": "connection",
    "tls": "connection",
    "bad_payload": 500,
}


class Recorder(Protocol):
    """Records events of accounts without making a poll wait."""

    def changed(self, account: str, at: float, operations: Sequence[Operation]) -> None: ...  # noqa: D102
    def deleted(self, account: str, at: float, operation_id: str) -> None: ...  # noqa: D102
    def answered(self, account: str, at: float, answer: int | str, retry_after: float | None) -> None: ...  # noqa: D102


class AccountRecording:
    """Records the polls of *account* with *recorder*; without one, it does nothing. *now* is the time at the API."""

    def __init__(self, recorder: Recorder | None, account: str, *, now: Callable[[], float]) -> None:
        self._recorder = recorder
        self._account = account
        self._now = now
        self._last_answer: int | str | None = None

    def listed(self, listing: Listing) -> None:
        """Record the operations of *listing* that differ from what is known."""
        if self._recorder is not None and listing.operations:
            self._recorder.changed(self._account, self._now(), list(listing.operations.values()))

    def gone(self, operation_id: str) -> None:
        """Record that the API no longer knows *operation_id*."""
        if self._recorder is not None:
            self._recorder.deleted(self._account, self._now(), operation_id)

    def polled(self, error: CommsError | None, *, began: float) -> None:
        """Record how the poll that *began* at that time ended, if the one before ended differently."""
        answer = "ok" if error is None else answer_of(error)
        if self._recorder is not None and answer != self._last_answer:
            retry_after = error.retry_after if isinstance(error, ThrottledError) else None
            self._recorder.answered(self._account, began, answer, retry_after)
        self._last_answer = answer


def answer_of(error: CommsError) -> int | str:
    """Return the status code or the kind of failure that *error* stands for."""
    if isinstance(error, ThrottledError) and error.reason == "server":
        return 503
    return _ANSWERS[error.reason]
