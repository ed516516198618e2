"""Lets clients in: on which sockets, past which locks, and how much of us each of them may take.

Whoever is slow, silent or greedy is shown out first, so that there is always room for the next scrape.
"""

import asyncio
import base64
import binascii
import errno
import io
import logging
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from hashlib import blake2b
from http import HTTPStatus
from pathlib import Path
from traceback import walk_tb
from typing import Any, Protocol

import bcrypt
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError
from aiohttp.typedefs import Handler

from comms_exporter.aiohttp_internals import Connection
from comms_exporter.webconfig import Rate, WebConfig, WebConfigFile

# Connections at a time; less where the process may have few files open. An idle one costs some 10 kB; with TLS it is
# 280 kB, since asyncio has a buffer of 256 KiB for each.
MAX_CONNECTIONS = 500
MAX_TLS_CONNECTIONS = 200
# Answers at a time that wait for their client to read on: each holds a page.
MAX_STALLED = 10
# Passwords at a time that wait to be compared, one by one.
MAX_COMPARING = 32
MAX_REQUEST_BYTES = 2**15
HANDSHAKE_SECONDS = 10.0
# For a request to be complete, from its first byte, or from the beginning of its connection.
REQUEST_SECONDS = 10.0
# Longer than Prometheus's default of a minute between scrapes.
KEEPALIVE_SECONDS = 90.0
# For a client to take the next 512 KiB, or the rest of an answer after which the connection ends.
READING_SECONDS = 10.0
# Written at once. What is larger goes out piece by piece, as the client takes it.
_PIECE = 2**16
_SYSTEMD_FIRST = 3  # SD_LISTEN_FDS_START
_HEADERS = {
    "Server": "comms-exporter",  # without a version: nobody needs to know which holes we may have
    "X-Content-Type-Options": "nosniff",
}

# Through the standard library's logging, which limits the rate: these lines are strangers' doing.
_log = logging.getLogger(__name__)


class CannotListenError(Exception):
    """There is no such address, or it is taken; the message says which and why."""


class Address(Protocol):
    """Where to listen; no host means every interface."""

    @property
    def host(self) -> str | None: ...  # noqa: D102
    @property
    def port(self) -> int: ...  # noqa: D102


@asynccontextmanager
async def listening(
    app: web.Application,
    addresses: Sequence[Address],
    *,
    sockets: Sequence[socket.socket] = (),
    security: WebConfigFile | None = None,
    shutdown_seconds: float = 2.0,
) -> AsyncIterator[list[str]]:
    """Serve *app* on all *addresses* and *sockets* within the context, as *security* says; gives their URLs."""
    guard(app, security)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=shutdown_seconds)
    await runner.setup()
    assert runner.server is not None  # noqa: S101  since setup
    door = _Door(runner.server, security)
    try:
        for listener in sockets:
            door.open(listener)
        urls = [_url(listener, None, door.scheme) for listener in sockets]
        for address in addresses:
            bound = await _bind(address)
            for listener in bound:
                door.open(listener)
            urls.append(_url(bound[0], address.host or "localhost", door.scheme))
        yield urls
    finally:
        await door.close()
        await runner.cleanup()
        await door.empty()


def systemd_sockets(environ: Mapping[str, str], pid: int) -> list[socket.socket]:
    """Return the sockets that systemd listens on for the process *pid*, as sd_listen_fds(3) tells."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not count.isdecimal() or int(count) == 0:
        raise CannotListenError("systemd has passed no socket; start this by its .socket unit")
    sockets: list[socket.socket] = []
    try:
        for number in range(_SYSTEMD_FIRST, _SYSTEMD_FIRST + int(count)):
            sockets.append(socket.socket(fileno=number))
            sockets[-1].set_inheritable(False)
        accepting = all(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for each in sockets)
    except OSError:
        accepting = False
    if not accepting:
        for each in sockets:
            each.close()
        raise CannotListenError("systemd has passed something that nothing can connect to; write ListenStream=")
    return sockets


async def _bind(address: Address) -> list[socket.socket]:
    try:
        if address.host is None:
            return [_everywhere(address.port)]
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        bound: list[socket.socket] = []
        try:
            for family, *_, where in dict.fromkeys(found):
                bound.append(socket.create_server(where, family=family))
        except OSError:
            for each in bound:
                each.close()
            raise
    except OSError as error:
        # Python tells the address again where the system only says why; names are not resolved by the system.
        reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        raise CannotListenError(f"cannot listen on {address}: {reason}") from None
    return bound


def _everywhere(port: int) -> socket.socket:
    # One socket for both families, so that port 0 is one port.
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                raise
    return socket.create_server(("", port))


def _url(listener: socket.socket, host: str | None, scheme: str) -> str:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"{scheme}+unix:{os.fsdecode(name)}"
    host = host or name[0]
    return f"{scheme}://[{host}]:{name[1]}" if ":" in host else f"{scheme}://{host}:{name[1]}"


# Who is inside.


class _Door:
    """Accepts connections and knows them all, those first from which nothing was heard for longest."""

    def __init__(self, server: web.Server, security: WebConfigFile | None) -> None:
        self._server = server
        self._security = security
        most = MAX_CONNECTIONS if self.scheme == "http" else MAX_TLS_CONNECTIONS
        self._room = min(most, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._inside: dict[_Connection, None] = {}
        self._stalled: dict[_Connection, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[socket.socket] = []

    @property
    def scheme(self) -> str:
        return "http" if self._security is None or self._security.current().context is None else "https"

    def open(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        # What the system keeps for us until we come round to accept it.
        listener.listen(1024)
        self._listeners.append(listener)
        self._start(self._accept(listener))

    async def close(self) -> None:
        """Let nobody in any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()

    async def empty(self) -> None:
        """Show out whoever is left, and wait until the last is gone."""
        while self._inside:
            for connection in list(self._inside):
                connection.abort()
            await asyncio.sleep(0)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    self._make_room(len(self._inside) // 2)
                await asyncio.sleep(0.1)
                continue
            connection = _Connection(self, self._server)
            connection.handshake = self._start(self._admit(connection, client))
            # Called even where the task is cancelled before it has begun.
            connection.handshake.add_done_callback(partial(self._admitted, connection, client))
            self._inside[connection] = None
            self._make_room(self._room)
            # While many wait, sock_accept() would never give way to anything else.
            await asyncio.sleep(0)

    async def _admit(self, connection: "_Connection", client: socket.socket) -> None:
        connection.begun = True
        context = self._security.current().context if self._security else None
        seconds = HANDSHAKE_SECONDS if context else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, client, ssl=context, ssl_handshake_timeout=seconds, ssl_shutdown_timeout=seconds
            )
        except OSError:  # TLS errors are OSErrors, too; whoever scans us need not fill the log
            pass

    def _admitted(self, connection: "_Connection", client: socket.socket, _: asyncio.Task[None]) -> None:
        connection.handshake = None
        if connection.wire is None:
            self._inside.pop(connection, None)
        if not connection.begun:
            client.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _make_room(self, room: int) -> None:
        while len(self._inside) > room:
            connection = next(iter(self._inside))
            del self._inside[connection]
            connection.abort()

    def knows(self, connection: "_Connection") -> bool:
        return connection in self._inside

    def heard(self, connection: "_Connection") -> None:
        if connection in self._inside:
            del self._inside[connection]
            self._inside[connection] = None

    def stalled(self, connection: "_Connection") -> None:
        self._stalled[connection] = None
        if len(self._stalled) > MAX_STALLED:
            next(iter(self._stalled)).abort()

    def flows(self, connection: "_Connection") -> None:
        self._stalled.pop(connection, None)

    def gone(self, connection: "_Connection") -> None:
        self._inside.pop(connection, None)
        self._stalled.pop(connection, None)


class _Connection(Connection):
    """One client, with a time limit on what aiohttp would wait for without end."""

    def __init__(self, door: _Door, server: web.Server) -> None:
        super().__init__(
            server,
            keepalive_seconds=KEEPALIVE_SECONDS,
            lingering_seconds=1.0,  # for a body that nobody asked for
            max_headers=64,
        )
        self.begun = False
        self.handshake: asyncio.Task[None] | None = None
        self.wire: asyncio.Transport | None = None
        self._door = door
        self._unfinished_bytes = 0
        self._request_limit: asyncio.TimerHandle | None = None
        self._reading_limit: asyncio.TimerHandle | None = None

    def abort(self) -> None:
        """Hang up, whatever is under way."""
        self._door.flows(self)
        if self.wire is not None:
            self.wire.abort()
        elif self.handshake is not None:
            self.handshake.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self.wire = transport
        transport.set_write_buffer_limits(high=_PIECE)
        super().connection_made(transport)
        self._expect_request()
        if not self._door.knows(self):
            self.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.wire = None
        self._door.gone(self)
        for limit in (self._request_limit, self._reading_limit):
            if limit is not None:
                limit.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._door.heard(self)
        known = self.requests_received
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001  asyncio would log it with what was sent
            self._report(error)
            self.abort()
            return
        if self.requests_received != known:
            self._unfinished_bytes = 0
            if self._request_limit is not None:
                self._request_limit.cancel()
                self._request_limit = None
            return
        if not self.waits_for_request:  # then this is a body, which aiohttp lets in no faster than it is read
            return
        self._unfinished_bytes += len(data)
        if self._unfinished_bytes > MAX_REQUEST_BYTES:
            self.abort()
        elif self._request_limit is None:
            self._expect_request()

    def _expect_request(self) -> None:
        self._request_limit = asyncio.get_running_loop().call_later(REQUEST_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        self._request_limit = None
        if self.waits_for_request:
            self.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  it repeats what was sent
    ) -> web.StreamResponse:
        """Return the answer to a request that is malformed, or that we failed to answer."""
        self._report(exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun, and cannot become another one")
        headers = dict(_HEADERS)
        if isinstance(exc, BadHttpMethod):
            # aiohttp knows no path yet, so these are the methods of all of them.
            status, headers["Allow"] = 405, "GET, HEAD, POST, PUT"
        response = web.Response(status=status, text=f"{status}: {HTTPStatus(status).phrase}\n", headers=headers)
        response.force_close()
        return response

    def log_exception(self, *_: Any, exc_info: BaseException | None = None, **__: Any) -> None:
        """Log what went wrong while answering."""
        self._report(exc_info)

    def _report(self, error: BaseException | None) -> None:
        """Log *error* in one line without its message or its locals: a stranger's request may be in them."""
        if isinstance(error, HttpProcessingError | web.RequestPayloadError):
            client = self.peername[0] if isinstance(self.peername, tuple) else "a Unix socket"
            _log.warning("malformed request from %s", client)
        elif not isinstance(error, ConnectionError):
            _log.error("a request could not be answered; this is a bug: %s", _place(error))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()
        self._door.stalled(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading_limit is not None:
            self._reading_limit.cancel()
        self._door.flows(self)

    async def start(self) -> None:
        """Answer until the client or we have had enough; what was not read some time later never will be."""
        try:
            await super().start()
        finally:
            if self.wire is not None:
                self._expect_reading()

    def _expect_reading(self) -> None:
        if self._reading_limit is not None:
            self._reading_limit.cancel()
        self._reading_limit = asyncio.get_running_loop().call_later(READING_SECONDS, self.abort)


def _place(error: BaseException | None) -> str:
    """Return the type of *error* and where it comes from, the innermost of our calls first."""
    if error is None:
        return "no exception"
    calls = [
        f"{Path(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}"
        for frame, line in walk_tb(error.__traceback__)
    ]
    return " < ".join([type(error).__name__, *calls[:-6:-1]])


# What they may do.


def guard(app: web.Application, security: WebConfigFile | None, *, clock: Callable[[], float] = time.monotonic) -> None:
    """Have *app* ask for passwords, count requests and add headers as *security* says."""
    passwords = Passwords()
    bucket = Bucket(clock)

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if security is not None:
            await _let_in(request, security.current().config, passwords, bucket)
        response = await handler(request)
        if isinstance(response, web.Response) and isinstance(response.body, bytes) and len(response.body) > _PIECE:
            # aiohttp would put bytes into the connection's buffer all at once, a copy for everybody who is slow to read.
            response.body = io.BytesIO(response.body)
        return response

    async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(_HEADERS)
        if security is not None:
            response.headers.update(security.current().config.headers)

    async def let_go(_: web.Application) -> None:
        passwords.close()

    app.middlewares.insert(0, guarded)
    app.on_response_prepare.append(add_headers)
    app.on_cleanup.append(let_go)


async def _let_in(request: web.Request, config: WebConfig, passwords: "Passwords", bucket: "Bucket") -> None:
    if not bucket.allows(config.rate):
        raise web.HTTPTooManyRequests
    if not config.users:
        return
    try:
        known = await passwords.accept(request.headers.get("Authorization", ""), config.users)
    except BusyError:
        raise web.HTTPServiceUnavailable(headers={"Retry-After": "5"}) from None
    if not known:
        raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Basic"})


class BusyError(Exception):
    """Too many passwords wait to be compared."""


class Passwords:
    """Tells who gives the right password, one comparison at a time, and each only once."""

    def __init__(self, *, matches: Callable[[bytes, bytes], bool] | None = None) -> None:
        self._matches = matches or _matches
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bcrypt")
        # Passwords are remembered by what only this process can compute of them.
        self._key = os.urandom(32)
        self._comparing: dict[bytes, asyncio.Future[bool]] = {}
        self._right: dict[bytes, bytes] = {}  # one for each user, so that no flood of wrong ones displaces it
        self._wrong: dict[bytes, None] = {}

    async def accept(self, authorization: str, users: Mapping[bytes, bytes]) -> bool:
        """Say whether the header names one of *users* and its password, and take as long where it names nobody."""
        given = _credentials(authorization)
        if given is None:
            return False
        user, password = given
        hashed = users.get(user) or self._somebody(user, users)
        secret = b":".join(base64.b64encode(part) for part in (user, hashed, password))
        fingerprint = blake2b(secret, key=self._key).digest()
        if self._right.get(user) == fingerprint:
            return True
        if fingerprint in self._wrong:
            return False
        comparison = self._comparing.get(fingerprint)
        if comparison is None:
            if len(self._comparing) >= MAX_COMPARING:
                raise BusyError
            loop = asyncio.get_running_loop()
            comparison = loop.run_in_executor(self._thread, self._matches, password, hashed)
            self._comparing[fingerprint] = comparison
            comparison.add_done_callback(lambda _: self._comparing.pop(fingerprint))
        # Others may wait for the same one.
        if await asyncio.shield(comparison) and user in users:
            self._right[user] = fingerprint
            return True
        self._wrong[fingerprint] = None
        if len(self._wrong) > 100:
            del self._wrong[next(iter(self._wrong))]
        return False

    def close(self) -> None:
        """Compare no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _somebody(self, user: bytes, users: Mapping[bytes, bytes]) -> bytes:
        # Of the cost of some user, always the same for a name: where costs differ, no cost tells who exists.
        costs = [hashed[4:6] for hashed in users.values()]
        number = int.from_bytes(blake2b(user, key=self._key).digest())
        return b"$2b$%b$%b" % (costs[number % len(costs)], b"." * 53)


def _matches(password: bytes, hashed: bytes) -> bool:
    # bcrypt looks at no more than 72 bytes, and Python's refuses to pretend otherwise.
    return len(password) <= 72 and bcrypt.checkpw(password, hashed)


def _credentials(authorization: str) -> tuple[bytes, bytes] | None:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None


class Bucket:
    """As many requests as a rate allows."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rate: Rate | None = None
        self._tokens = 0.0
        self._filled = 0.0

    def allows(self, rate: Rate | None) -> bool:
        """Take a token and say whether there was one; a new *rate* begins with a full bucket."""
        if rate is None:
            return True
        now = self._clock()
        if rate != self._rate:
            self._rate, self._tokens, self._filled = rate, float(rate.burst), now
        self._tokens = min(rate.burst, self._tokens + (now - self._filled) / rate.interval_seconds)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
