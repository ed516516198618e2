"""How much of the exporter a client may use."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on connections, on the memory of responses, and on time, in seconds."""

    # Fewer where the process may open few files. An idle connection costs about 10 kB. With TLS it costs 280 kB, because
    # asyncio allocates a buffer of 256 KiB for each.
    connections: int = 500
    tls_connections: int = 200
    handshake_seconds: float = 10.0
    # For a request to arrive, from its first byte or from the start of the connection.
    request_seconds: float = 10.0
    request_bytes: int = 2**15
    # Longer than the minute between scrapes that is Prometheus's default.
    keepalive_seconds: float = 90.0

    # A client that reads nothing of its response for stalled_seconds is stalled. Only so many may be stalled at a time, and
    # none for longer than reading_seconds, even if the connection is about to close.
    stalled_clients: int = 10
    stalled_seconds: float = 1.0
    reading_seconds: float = 10.0
    # A client that reads this many bytes per second is not disconnected to make room for a new connection.
    fast_bytes_per_second: int = 2**16
    # Memory of unfinished responses: this many bytes, or this many times the largest response if that is more. A buffer
    # that several responses share counts once.
    response_bytes: int = 2**26
    largest_responses: int = 4

    # Passwords are verified one at a time; so many may wait.
    waiting_passwords: int = 32
