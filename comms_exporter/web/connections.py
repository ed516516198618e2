"""One client's connection: time limits on its requests, and how fast it reads its responses."""

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Sequence
from typing import Any, Protocol

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from comms_exporter.base.aiohttp_internals import ServerConnection
from comms_exporter.web.limits import Limits
from comms_exporter.web.request_errors import error_response, log_request_error
from comms_exporter.web.responses import WRITE_SIZE, buffers_of

# A rate that is measured over less time than this means little.
_MIN_RATE_SECONDS = 0.25


class Supervisor(Protocol):
    """What a connection reports to, and what decides whether it stays open."""

    def includes(self, connection: "Connection") -> bool: ...  # noqa: D102
    def received(self, connection: "Connection") -> None: ...  # noqa: D102
    def response_started(self, connection: "Connection") -> None: ...  # noqa: D102
    def response_ended(self, buffers: Sequence[bytes]) -> None: ...  # noqa: D102
    def aborted(self, connection: "Connection") -> None: ...  # noqa: D102
    def closed(self, connection: "Connection") -> None: ...  # noqa: D102


class Connection(ServerConnection):
    """A connection with limits where aiohttp would wait forever."""

    def __init__(self, server: web.Server, limits: Limits, supervisor: Supervisor) -> None:
        super().__init__(
            server,
            keepalive_seconds=limits.keepalive_seconds,
            lingering_seconds=1.0,  # for a body that no handler reads
            max_headers=64,
        )
        self.handshake: asyncio.Task[None] | None = None
        self.handshake_started = False
        # The memory that the current response uses.
        self.buffers: Sequence[bytes] = ()
        self._limits = limits
        self._supervisor = supervisor
        self._client: asyncio.Transport | None = None
        self._unfinished_bytes = 0
        self._request_timeout: asyncio.TimerHandle | None = None
        # The progress of the current response.
        self._writer: AbstractStreamWriter | None = None
        self._sending = False
        self._bytes_read = 0
        self._started = 0.0
        self._last_progress = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether the handshake has succeeded and the connection is open."""
        return self._client is not None

    def abort(self) -> None:
        """Close the connection at once."""
        self._supervisor.aborted(self)
        self._release_buffers()
        if self._client is not None:
            self._client.abort()
        elif self.handshake is not None:
            self.handshake.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request, unless the connection was aborted during the handshake."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._client = transport
        transport.set_write_buffer_limits(high=WRITE_SIZE)
        super().connection_made(transport)
        self._start_request_timeout()
        if not self._supervisor.includes(self):
            self.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._client = None
        self._supervisor.closed(self)
        self._stop_request_timeout()
        super().connection_lost(exc)

    # Requests.

    def data_received(self, data: bytes) -> None:
        """Parse *data*, and limit the size and duration of a request that is not complete."""
        self._supervisor.received(self)
        requests_before = self.requests_received
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001  asyncio would log it together with the data
            self._log_error(error)
            self.abort()
            return
        if self.requests_received != requests_before:
            self._unfinished_bytes = 0
            self._stop_request_timeout()
            return
        if not self.waits_for_request:  # it is a body: aiohttp accepts no more of it than the handler reads
            return
        self._unfinished_bytes += len(data)
        if self._unfinished_bytes > self._limits.request_bytes:
            self.abort()
        elif self._request_timeout is None:
            self._start_request_timeout()

    def _start_request_timeout(self) -> None:
        loop = asyncio.get_running_loop()
        self._request_timeout = loop.call_later(self._limits.request_seconds, self._request_timed_out)

    def _stop_request_timeout(self) -> None:
        if self._request_timeout is not None:
            self._request_timeout.cancel()
            self._request_timeout = None

    def _request_timed_out(self) -> None:
        self._request_timeout = None
        if self.waits_for_request:
            self.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  it repeats parts of the request
    ) -> web.StreamResponse:
        """Return the response to a request that is malformed, or whose handler failed."""
        self._log_error(exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the response has already started")
        return error_response(exc, status)

    def log_exception(self, *_: Any, exc_info: BaseException | None = None, **__: Any) -> None:
        """Log the exception of a request handler."""
        self._log_error(exc_info)

    def _log_error(self, error: BaseException | None) -> None:
        log_request_error(error, self.peername[0] if isinstance(self.peername, tuple) else "a Unix socket")

    # Responses.

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the response, as fast as the client reads it."""
        self._writer = request.writer
        self._sending = True
        self._bytes_read = 0
        self._started = self._last_progress = _now()
        self.buffers = buffers_of(resp)
        self._supervisor.response_started(self)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._sending = False
            self._release_buffers()

    def _release_buffers(self) -> None:
        self._supervisor.response_ended(self.buffers)
        self.buffers = ()

    def update_progress(self) -> None:
        """Note how much of the response the client has read."""
        unread = self._unread_bytes()
        read = (self._writer.output_size if self._writer else 0) - unread
        if read != self._bytes_read or not unread:
            self._bytes_read, self._last_progress = read, _now()

    def has_read_response(self) -> bool:
        """Whether the client has read the response to its end."""
        return not self._sending and not self._unread_bytes()

    def is_reading_fast(self) -> bool:
        """Whether the client reads a response fast enough not to be disconnected in favor of another."""
        if self.has_read_response():
            return False
        self.update_progress()
        is_stalled = self.idle_seconds >= self._limits.stalled_seconds
        return not is_stalled and self.bytes_per_second >= self._limits.fast_bytes_per_second

    @property
    def idle_seconds(self) -> float:
        """How long the client has read nothing of its response."""
        return _now() - self._last_progress

    @property
    def bytes_per_second(self) -> float:
        """The average speed at which the client has read its response so far."""
        return self._bytes_read / max(_now() - self._started, _MIN_RATE_SECONDS)

    def _unread_bytes(self) -> int:
        """Return how many bytes wait for the client, in our buffer and in the system's."""
        if self._client is None:
            return 0
        return self._client.get_write_buffer_size() + _unacknowledged(self._client.get_extra_info("socket"))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _unacknowledged(connected: socket.socket) -> int:
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4)))
    except OSError:  # not available on this system: count only our own buffer
        return 0
    return int(count)
