"""Lets clients in: on which sockets, past which locks, and how much of us each of them may take.

Whoever is slow, silent or greedy is shown out first, so that there is always room for the next scrape.
"""

import asyncio
import base64
import binascii
import errno
import fcntl
import logging
import os
import resource
import socket
import struct
import termios
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from hashlib import blake2b
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from traceback import walk_tb
from typing import Any, Protocol

import bcrypt
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError
from aiohttp.payload import Payload
from aiohttp.typedefs import Handler

from comms_exporter.base.aiohttp_internals import Connection
from comms_exporter.web.web_config import Rate, WebConfig, WebConfigFile

# Connections at a time; less where the process may have few files open. An idle one costs some 10 kB; with TLS it is
# 280 kB, since asyncio has a buffer of 256 KiB for each.
MAX_CONNECTIONS = 500
MAX_TLS_CONNECTIONS = 200
# Clients at a time that have stopped to read their answer, after STALLED_SECONDS without a byte.
MAX_STALLED = 10
STALLED_SECONDS = 1.0
# Bytes at a time that are kept for the sake of unfinished answers, or four of the largest where that is more; what several
# answers share is counted once. Where it is exceeded, those who read nothing are shown out first, then the slowest.
MAX_HELD_BYTES = 2**26
MAX_HELD_ANSWERS = 4
# Bytes a second. Clients that take as much are not shown out to make room for a new one.
BUSY_RATE = 2**16
# Passwords at a time that wait to be compared, one by one.
MAX_COMPARING = 32
MAX_REQUEST_BYTES = 2**15
HANDSHAKE_SECONDS = 10.0
# For a request to be complete, from its first byte, or from the beginning of its connection.
REQUEST_SECONDS = 10.0
# Longer than Prometheus's default of a minute between scrapes.
KEEPALIVE_SECONDS = 90.0
# For a client to take another byte of an answer, whether or not the connection ends after it.
READING_SECONDS = 10.0
# Between two looks at how much clients have taken.
_LOOK_SECONDS = 0.25
# Written at once. What is larger goes out piece by piece, as the client takes it.
_PIECE = 2**16
_SYSTEMD_FIRST = 3  # SD_LISTEN_FDS_START
_HEADERS = {
    "Server": "comms-exporter",  # without a version: nobody needs to know which holes we may have
    "X-Content-Type-Options": "nosniff",
}

# What a request does to aiohttp or to us where it is the request that is wrong. Nothing but a request brings text that cannot
# be encoded: bytes in its headers that are no UTF-8.
_MALFORMED = (HttpProcessingError, web.RequestPayloadError, UnicodeEncodeError)

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
        self._answering: dict[_Connection, None] = {}
        self._next_look: asyncio.TimerHandle | None = None
        # How many unfinished answers each chunk is a part of.
        self._holders: Counter[int] = Counter()
        self._held_bytes = 0
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
        if self._next_look is not None:
            self._next_look.cancel()

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
            # The last one has only come.
            earlier = islice(self._inside, len(self._inside) - 1)
            connection = next((each for each in earlier if not each.is_busy()), next(iter(self._inside)))
            del self._inside[connection]
            connection.abort()

    def knows(self, connection: "_Connection") -> bool:
        return connection in self._inside

    def heard(self, connection: "_Connection") -> None:
        if connection in self._inside:
            del self._inside[connection]
            self._inside[connection] = None

    def begins(self, connection: "_Connection", chunks: Sequence[bytes]) -> None:
        """Watch how *connection* takes an answer of *chunks*, and make room for them."""
        self._answering[connection] = None
        for chunk in chunks:
            self._holders[id(chunk)] += 1
            if self._holders[id(chunk)] == 1:
                self._held_bytes += len(chunk)
        while self._held_bytes > self._most_held() and (least := self._least(connection)) is not None:
            least.abort()
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def releases(self, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            self._holders[id(chunk)] -= 1
            if self._holders[id(chunk)] == 0:
                del self._holders[id(chunk)]
                self._held_bytes -= len(chunk)

    def _most_held(self) -> int:
        largest = max(sum(map(len, each.holding)) for each in self._answering)
        return max(MAX_HELD_BYTES, MAX_HELD_ANSWERS * largest)

    def _least(self, newest: "_Connection") -> "_Connection | None":
        """Return who takes least of those without whom less would be held."""
        others = [
            each
            for each in self._answering
            if each is not newest and any(self._holders[id(chunk)] == 1 for chunk in each.holding)
        ]
        for each in others:
            each.look()
        return min(others, key=lambda each: (each.idle_seconds < STALLED_SECONDS, each.rate), default=None)

    def _look(self) -> None:
        """Show out those who have stopped to read; whoever makes progress counts as heard."""
        self._next_look = None
        stalled = []
        for connection in list(self._answering):
            connection.look()
            if connection.idle_seconds < _LOOK_SECONDS:
                self.heard(connection)
            if connection.has_all():
                del self._answering[connection]
            elif connection.idle_seconds >= READING_SECONDS:
                connection.abort()
            elif connection.idle_seconds >= STALLED_SECONDS:
                stalled.append(connection)
        stalled.sort(key=lambda each: each.idle_seconds)
        for connection in stalled[MAX_STALLED:]:
            connection.abort()
        if self._answering:
            self._next_look = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def hung_up(self, connection: "_Connection") -> None:
        self._answering.pop(connection, None)

    def gone(self, connection: "_Connection") -> None:
        self._inside.pop(connection, None)
        self.hung_up(connection)


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
        # Of the answer: what it keeps in memory, how much of it the client has taken, and since when, and when last.
        self.holding: Sequence[bytes] = ()
        self._answer: AbstractStreamWriter | None = None
        self._sending = False
        self._taken = 0
        self._begun = 0.0
        self._progress = 0.0

    def abort(self) -> None:
        """Hang up, whatever is under way."""
        self._door.hung_up(self)
        self._release()
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
        if self._request_limit is not None:
            self._request_limit.cancel()
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
        elif isinstance(exc, _MALFORMED):
            status = 400
        response = web.Response(status=status, text=f"{status}: {HTTPStatus(status).phrase}\n", headers=headers)
        response.force_close()
        return response

    def log_exception(self, *_: Any, exc_info: BaseException | None = None, **__: Any) -> None:
        """Log what went wrong while answering."""
        self._report(exc_info)

    def _report(self, error: BaseException | None) -> None:
        """Log *error* in one line without its message or its locals: a stranger's request may be in them."""
        if isinstance(error, _MALFORMED):
            client = self.peername[0] if isinstance(self.peername, tuple) else "a Unix socket"
            _log.warning("malformed request from %s", client)
        elif not isinstance(error, ConnectionError):
            _log.error("a request could not be answered; this is a bug: %s", _place(error))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer, as fast as the client takes it."""
        self._answer = request.writer
        self._sending = True
        self._taken = 0
        self._begun = self._progress = _now()
        self.holding = _chunks(resp)
        self._door.begins(self, self.holding)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._sending = False
            self._release()

    def _release(self) -> None:
        self._door.releases(self.holding)
        self.holding = ()

    def look(self) -> None:
        """Note how much of its answer the client has taken."""
        unread = self._unread()
        taken = (self._answer.output_size if self._answer else 0) - unread
        if taken != self._taken or not unread:
            self._taken, self._progress = taken, _now()

    def has_all(self) -> bool:
        """Say whether nothing more of the answer has to be taken."""
        return not self._sending and not self._unread()

    def is_busy(self) -> bool:
        """Say whether the client is taking an answer."""
        if self.has_all():
            return False
        self.look()
        return self.idle_seconds < STALLED_SECONDS and self.rate >= BUSY_RATE

    @property
    def idle_seconds(self) -> float:
        """For how long the client has not taken anything of its answer."""
        return _now() - self._progress

    @property
    def rate(self) -> float:
        """How many bytes a second the client has taken of its answer."""
        return self._taken / max(_now() - self._begun, _LOOK_SECONDS)

    def _unread(self) -> int:
        """Return how many bytes wait for the client in our buffer and in the system's."""
        if self.wire is None:
            return 0
        return self.wire.get_write_buffer_size() + _unacknowledged(self.wire.get_extra_info("socket"))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _unacknowledged(connected: socket.socket) -> int:
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4)))
    except OSError:  # there is no such thing here: then our own buffer has to do
        return 0
    return int(count)


def _chunks(response: web.StreamResponse) -> Sequence[bytes]:
    body = response.body if isinstance(response, web.Response) else None
    chunks: Sequence[bytes] = getattr(body, "chunks", ())
    return [body] if isinstance(body, bytes) else chunks


class _Pieces(Payload):
    """Bytes that go out piece by piece: aiohttp would copy them all into the connection's buffer at once."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._size = len(body)
        self.chunks = [body]

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        view = memoryview(self._value)
        for start in range(0, len(view), _PIECE):
            await writer.write(view[start : start + _PIECE])
            # A client as fast as we are would never have us wait.
            await asyncio.sleep(0)


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
            response.body = _Pieces(response.body)
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
