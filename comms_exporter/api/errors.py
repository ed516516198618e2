"""Errors of API requests: the class decides about retries, the reason goes into metrics, the message is for people.

CommsError                not worth a retry within the same poll
+-- ConnectionLostError   no complete response: safe to retry
+-- ThrottledError        429 or 503: back off
+-- TooLargeError         a body beyond the limits: a smaller page may fit
"""

REASONS = (
    "auth",
    "forbidden",
    "not_found",
    "bad_request",
    "rate_limited",
    "server",
    "timeout",
    "connection",
    "tls",
    "bad_payload",
)


class CommsError(Exception):
    """The API gave no usable response; *reason* is one of REASONS, *status* the HTTP status where there was one."""

    def __init__(self, reason: str, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


class ConnectionLostError(CommsError):
    """There was no complete response; requests only read, so a retry is safe."""


class ThrottledError(CommsError):
    """The API asked to back off for *retry_after* seconds, None if it did not say how long."""

    def __init__(self, reason: str, message: str, retry_after: float | None) -> None:
        super().__init__(reason, message)
        self.retry_after = retry_after


class TooLargeError(CommsError):
    """A body has more bytes or values than are read."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_payload", message)
