"""Scrapes over raw sockets and keep-alive connections, so that the cost of the client is the same for every server.

Usage: python -m bench.expose.scraper; see rpc.py. A target is {"url": ..., "headers": {...}, "every": scrape in one of so many
rounds}.
"""

import socket
import threading
import time
from urllib.parse import urlsplit

from bench.rpc import reply, serve_blocking

_BUFFER_BYTES = 2**20
_TIMEOUT_SECONDS = 240


class Connection:
    """A connection to a target, opened again if the server closes it."""

    def __init__(self, target):
        url = urlsplit(target["url"])
        self._address = url.hostname, url.port
        headers = "".join(f"{name}: {value}\r\n" for name, value in target["headers"].items())
        self._request = f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\n{headers}\r\n".encode()
        self._socket = None
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    def scrape(self):
        """Scrape once, read the whole response, and return the milliseconds."""
        began = time.perf_counter()
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=_TIMEOUT_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(self._request)
        self._read()
        return 1000 * (time.perf_counter() - began)

    def _read(self):
        received = b""
        while b"\r\n\r\n" not in received:
            count = self._socket.recv_into(self._buffer)
            if not count:
                raise ConnectionError(f"{self._address} closed the connection")
            received += self._buffer[:count]
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").lower().split("\r\n")
        if " 200" not in status:
            raise ConnectionError(f"{self._address}: {status}")
        headers = dict(line.split(": ", 1) for line in lines)
        if headers.get("transfer-encoding") == "chunked":
            self._read_chunks(body[-7:])
        else:
            missing = int(headers["content-length"]) - len(body)
            while missing > 0:
                missing -= self._socket.recv_into(self._buffer) or missing
        if status.startswith("http/1.0") or headers.get("connection") == "close":
            self._socket.close()
            self._socket = None

    def _read_chunks(self, tail):
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            count = self._socket.recv_into(self._buffer)
            if not count:
                raise ConnectionError(f"{self._address} closed the connection in the middle of a response")
            tail = (tail + bytes(self._buffer[max(0, count - 7) : count]))[-7:]


def rounds(targets, count):
    """Return the milliseconds of each target's scrapes in *count* rounds; the order rotates from round to round."""
    connections = [Connection(target) for target in targets]
    for target, connection in zip(targets, connections, strict=True):
        if target.get("every", 1) == 1:
            connection.scrape()
    took = [[] for _ in targets]
    for number in range(count):
        for turn in range(len(targets)):
            index = (turn + number) % len(targets)
            if number % targets[index].get("every", 1) == 0:
                took[index].append(connections[index].scrape())
    return took


def together(target, clients, count):
    """Return the milliseconds of the scrapes of *clients* that scrape *count* times, always at the same time."""
    took = []
    gate = threading.Barrier(clients)

    def scrape():
        connection = Connection(target)
        connection.scrape()
        for _ in range(count):
            gate.wait()
            took.append(connection.scrape())

    threads = [threading.Thread(target=scrape) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


class Steady:
    """Clients that scrape at the same times until they are stopped."""

    def __init__(self):
        self._took = []
        self._more = threading.Condition()
        self._stop = threading.Event()
        self._threads = []

    def begin(self, target, clients, every):
        """Start *clients* that scrape concurrently every *every* seconds."""
        self._stop.clear()
        self._threads = [
            threading.Thread(target=self._scrape, args=(target, every), daemon=True) for _ in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def taken(self):
        """Return the milliseconds of the scrapes since the last call; if there were none, wait for the next one."""
        with self._more:
            if not self._more.wait_for(lambda: self._took, _TIMEOUT_SECONDS):
                raise TimeoutError(f"no scrape in {_TIMEOUT_SECONDS} seconds")
            taken, self._took = self._took, []
            return taken

    def end(self):
        """Stop the clients."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _scrape(self, target, every):
        connection = Connection(target)
        while not self._stop.wait(every - time.time() % every):
            took = connection.scrape()
            with self._more:
                self._took.append(took)
                self._more.notify()


if __name__ == "__main__":
    steady = Steady()
    reply("ready")
    serve_blocking(
        {
            "rounds": rounds,
            "together": together,
            "begin": steady.begin,
            "taken": steady.taken,
            "end": steady.end,
        }
    )
