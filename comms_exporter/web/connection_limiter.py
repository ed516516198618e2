"""Accept connections, and disconnect idle, stalled and slow clients first, so that scrapes always get through."""

import asyncio
import errno
import resource
import socket
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import islice

from aiohttp import web

from comms_exporter.web.connections import Connection
from comms_exporter.web.limits import Limits
from comms_exporter.web.web_config_file import WebConfigFile

# Between two checks of how much clients have read.
_CHECK_SECONDS = 0.25
# After accept() has failed.
_RETRY_SECONDS = 0.1


class ConnectionLimiter:
    """Accepts connections, and closes some if clients use more than *limits* allows."""

    def __init__(self, server: web.Server, web_config: WebConfigFile | None, limits: Limits) -> None:
        self._server = server
        self._web_config = web_config
        self._limits = limits
        most = limits.connections if self.scheme == "http" else limits.tls_connections
        self._max_connections = min(most, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        # The connection that was silent for longest comes first.
        self._connections: dict[Connection, None] = {}
        self._responding: dict[Connection, None] = {}
        self._memory = _ResponseMemory()
        self._next_check: asyncio.TimerHandle | None = None
        self._handshakes: set[asyncio.Task[None]] = set()
        self._listeners: list[socket.socket] = []

    @property
    def scheme(self) -> str:
        """The URL scheme: https if TLS is configured."""
        return "http" if self._web_config is None or self._web_config.current().context is None else "https"

    def accept_from(self, listener: socket.socket) -> None:
        """Accept connections from *listener*, which is closed by `stop_accepting`."""
        listener.setblocking(False)
        # The system queues this many connections until they are accepted.
        listener.listen(1024)
        self._listeners.append(listener)
        self._start_accepting(listener)

    async def stop_accepting(self) -> None:
        """Accept no more connections, and cancel handshakes."""
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        handshakes = list(self._handshakes)
        for task in handshakes:
            task.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)

    async def disconnect_all(self) -> None:
        """Close the remaining connections, and wait until all are closed."""
        while self._connections:
            for connection in list(self._connections):
                connection.abort()
            await asyncio.sleep(0)
        if self._next_check is not None:
            self._next_check.cancel()

    def _start_accepting(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Accept one connection; if more are queued, the loop calls this again after other tasks."""
        # Not sock_accept(): it loses an accepted connection if it is cancelled at the wrong moment.
        try:
            client, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                self._limit_connections(len(self._connections) // 2)
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(_RETRY_SECONDS, self._start_accepting, listener)
            return
        client.setblocking(False)
        connection = Connection(self._server, self._limits, self)
        connection.handshake = asyncio.get_running_loop().create_task(self._connect(connection, client))
        self._handshakes.add(connection.handshake)
        # The callback runs even if the task is cancelled before it starts.
        connection.handshake.add_done_callback(partial(self._handshake_done, connection, client))
        self._connections[connection] = None
        self._limit_connections(self._max_connections)

    async def _connect(self, connection: Connection, client: socket.socket) -> None:
        connection.handshake_started = True
        context = self._web_config.current().context if self._web_config else None
        seconds = self._limits.handshake_seconds if context else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, client, ssl=context, ssl_handshake_timeout=seconds, ssl_shutdown_timeout=seconds
            )
        except OSError:  # TLS errors are OSErrors, too; a port scan must not fill the log
            pass

    def _handshake_done(self, connection: Connection, client: socket.socket, task: asyncio.Task[None]) -> None:
        self._handshakes.discard(task)
        connection.handshake = None
        if not connection.is_connected:
            self._connections.pop(connection, None)
        if not connection.handshake_started:
            client.close()

    def _limit_connections(self, limit: int) -> None:
        while len(self._connections) > limit:
            # All but the last, which has just been accepted.
            earlier = islice(self._connections, len(self._connections) - 1)
            connection = next((each for each in earlier if not each.is_reading_fast()), next(iter(self._connections)))
            del self._connections[connection]
            connection.abort()

    # Called by connections.

    def includes(self, connection: Connection) -> bool:
        """Whether *connection* may stay open."""
        return connection in self._connections

    def received(self, connection: Connection) -> None:
        """Note that *connection* is not silent."""
        if connection in self._connections:
            del self._connections[connection]
            self._connections[connection] = None

    def response_started(self, connection: Connection) -> None:
        """Watch how fast *connection* reads its response, and free memory for it."""
        self._responding[connection] = None
        self._memory.add(connection.buffers)
        while self._memory.size > self._max_memory() and (slowest := self._slowest(connection)) is not None:
            slowest.abort()
        self._schedule_check()

    def response_ended(self, buffers: Sequence[bytes]) -> None:
        """Note that a response needs its *buffers* no longer."""
        self._memory.remove(buffers)

    def aborted(self, connection: Connection) -> None:
        """Watch *connection* no longer."""
        self._responding.pop(connection, None)

    def closed(self, connection: Connection) -> None:
        """Forget *connection*."""
        self._connections.pop(connection, None)
        self.aborted(connection)

    # Clients that do not read.

    def _max_memory(self) -> int:
        largest = max(sum(map(len, each.buffers)) for each in self._responding)
        return max(self._limits.response_bytes, self._limits.largest_responses * largest)

    def _slowest(self, newest: Connection) -> Connection | None:
        """Return the client that reads most slowly, of those whose disconnection frees memory."""
        others = [each for each in self._responding if each is not newest and self._memory.is_sole_owner(each.buffers)]
        for each in others:
            each.update_progress()
        stalled_seconds = self._limits.stalled_seconds
        return min(others, key=lambda each: (each.idle_seconds < stalled_seconds, each.bytes_per_second), default=None)

    def _schedule_check(self) -> None:
        if self._responding and self._next_check is None:
            self._next_check = asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check)

    def _check(self) -> None:
        """Disconnect clients that stopped reading; one that makes progress is not silent."""
        self._next_check = None
        stalled = []
        for connection in list(self._responding):
            connection.update_progress()
            if connection.idle_seconds < _CHECK_SECONDS:
                self.received(connection)
            if connection.has_read_response():
                del self._responding[connection]
            elif connection.idle_seconds >= self._limits.reading_seconds:
                connection.abort()
            elif connection.idle_seconds >= self._limits.stalled_seconds:
                stalled.append(connection)
        stalled.sort(key=lambda each: each.idle_seconds)
        for connection in stalled[self._limits.stalled_clients :]:
            connection.abort()
        self._schedule_check()


class _ResponseMemory:
    """The memory of unfinished responses: a buffer that several of them share counts once."""

    def __init__(self) -> None:
        self.size = 0
        self._owners: Counter[int] = Counter()

    def add(self, buffers: Sequence[bytes]) -> None:
        for buffer in buffers:
            self._owners[id(buffer)] += 1
            if self._owners[id(buffer)] == 1:
                self.size += len(buffer)

    def remove(self, buffers: Sequence[bytes]) -> None:
        for buffer in buffers:
            self._owners[id(buffer)] -= 1
            if self._owners[id(buffer)] == 0:
                del self._owners[id(buffer)]
                self.size -= len(buffer)

    def is_sole_owner(self, buffers: Sequence[bytes]) -> bool:
        """Whether one of *buffers* belongs to no other response."""
        return any(self._owners[id(buffer)] == 1 for buffer in buffers)
