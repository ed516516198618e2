"""Slow, idle and greedy clients: each of them is limited, and none of them keeps scrapes from getting through."""

import asyncio
import re
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from web.certificates import TLS, trusting
from web.serving import (
    HUGE,
    PAGE,
    configured,
    connect,
    get,
    make_app,
    port_of,
    read_until_closed,
    server_connections,
    serving,
    stall,
)

from comms_exporter.web.limits import Limits
from comms_exporter.web.server import listening


class TestSlowClients:
    async def test_are_disconnected_without_a_request(self):
        async with serving(limits=Limits(request_seconds=0.2)) as url:
            silent, _ = await connect(url)
            assert b"" == await read_until_closed(silent)

    async def test_are_disconnected_if_a_request_arrives_too_slowly(self):
        async with serving(limits=Limits(request_seconds=0.3)) as url:
            reader, writer = await connect(url, b"GET / HTTP/1.1\r\n")

            async def drip():
                while True:
                    writer.write(b"X-A: b\r\n")
                    await asyncio.sleep(0.01)

            dripping = asyncio.create_task(drip())
            assert b"" == await read_until_closed(reader)
            dripping.cancel()

    async def test_may_be_idle_for_longer_between_two_requests(self):
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        async with serving(limits=Limits(request_seconds=0.2, keepalive_seconds=0.8)) as url:
            reader, writer = await connect(url, request)
            assert b"ok\n" in await reader.readuntil(b"ok\n")
            began = time.monotonic()
            assert b"" == await read_until_closed(reader)
            assert time.monotonic() - began > 0.4
            reader, writer = await connect(url, request)
            assert b"ok\n" in await reader.readuntil(b"ok\n")
            writer.write(b"GET / HT")
            began = time.monotonic()
            assert b"" == await read_until_closed(reader)
            assert time.monotonic() - began < 0.7

    async def test_are_disconnected_if_they_stop_reading(self):
        async with serving(limits=Limits(reading_seconds=0.2)) as url:
            reader, _ = await connect(url, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", limit=1024)
            await reader.readexactly(10)
            # Meanwhile, another client reads the whole page.
            assert PAGE.decode() == (await get(url, "/large"))[1]
            while len(server_connections(url)) > 0:  # noqa: ASYNC110  the system closes them
                await asyncio.sleep(0.02)
            assert len(await read_until_closed(reader)) < len(PAGE)

    async def test_are_disconnected_if_they_do_not_read_the_end(self):
        """Even if the rest of the response is in our buffer, and the connection is about to close."""
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            async with listening(make_app(), [], sockets=[listener], limits=Limits(reading_seconds=0.2)) as [url]:
                client.connect(("127.0.0.1", port_of(url)))
                client.sendall(b"GET /medium HTTP/1.0\r\n\r\n")
                while len(server_connections(url)) == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                while len(server_connections(url)) > 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                client.settimeout(5)
                read = 0
                with suppress(ConnectionError):
                    while piece := client.recv(2**16):
                        read += len(piece)
                assert read < 60_000

    async def test_may_take_long_if_they_keep_reading(self):
        async with serving(limits=Limits(reading_seconds=0.5)) as url:
            reader, writer = await connect(
                url, b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", limit=2**16
            )
            read = 0
            while piece := await reader.read(2**16):
                read += len(piece)
                await asyncio.sleep(0.002)
            assert read > len(PAGE)
            writer.close()


class TestGreedyClients:
    @pytest.mark.parametrize(
        "flood",
        [
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
            b"GET / HTTP/1.1\r\nX: " + b"y" * 10_000 + b"\r\n\r\n",
            b"GET /" + b"y" * 10_000 + b" HTTP/1.1\r\n\r\n",
        ],
        ids=["many headers", "a long header", "a long path"],
    )
    async def test_get_an_error_for_large_headers(self, flood):
        async with serving() as url:
            reader, _ = await connect(url, flood)
            assert (await read_until_closed(reader)).startswith(b"HTTP/1.0 400 Bad Request")

    @pytest.mark.parametrize("line", [b"X-%d: y\r\n", b"X-%d: " + b"y" * 2000 + b"\r\n"], ids=["short", "long"])
    async def test_cannot_send_endless_headers(self, line):
        async with serving() as url:
            _reader, writer = await connect(url, b"GET / HTTP/1.1\r\n")

            async def flood():
                for number in range(1_000_000):
                    writer.write(line % number)
                    await writer.drain()

            with pytest.raises(ConnectionError):
                await flood()
            assert (200, "ok\n") == await get(url)

    async def test_may_send_a_large_body_that_the_handler_reads(self):
        async with serving() as url, aiohttp.ClientSession() as session:
            async with session.post(f"{url}/read", data=b"x" * 900_000) as response:
                assert "900000" == await response.text()
            async with session.get(url) as response:
                assert 200 == response.status

    async def test_cannot_send_an_endless_body_that_the_handler_does_not_read(self):
        async with serving() as url:
            reader, writer = await connect(url, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
            with suppress(ConnectionError):
                for _ in range(10_000):
                    writer.write(b"x" * 10_000)
                    await writer.drain()
            assert len(await read_until_closed(reader)) < 1000
            assert (200, "ok\n") == await get(url)

    async def test_lose_idle_connections_to_later_clients(self):
        async with serving(limits=Limits(connections=10)) as url, aiohttp.ClientSession() as session:
            idle = [await connect(url) for _ in range(9)]
            for _ in range(3):
                async with session.get(url) as response:
                    assert "ok\n" == await response.text()
                idle += [await connect(url) for _ in range(9)]
                assert (200, "ok\n") == await get(url)
            for reader, _ in idle[:-10]:
                assert b"" == await read_until_closed(reader)

    async def test_cannot_hold_many_unread_responses(self):
        async with serving(limits=Limits(stalled_clients=3), shutdown_seconds=0.1) as url:
            readers = []
            for _ in range(10):
                reader, _ = await connect(url, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", limit=1024)
                await reader.readexactly(10)
                readers.append(reader)
            assert PAGE.decode() == (await get(url, "/large"))[1]
            while len(server_connections(url)) > 3:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def download(url, path, *, megabits):
    """Read *path* at *megabits* per second, and return how many bytes arrived."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await loop.sock_connect(client, ("127.0.0.1", port_of(url)))
        await loop.sock_sendall(client, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        began, received = loop.time(), 0
        with suppress(ConnectionError):
            while piece := await loop.sock_recv(client, 65536):
                received += len(piece)
                await asyncio.sleep(began + received * 8 / (megabits * 1e6) - loop.time())
    return received


class TestProgress:
    """A client that reads its response is not disconnected because of those that do not."""

    async def test_protects_from_40_stalled_clients(self):
        async def crowd(url):
            while True:
                for _ in range(40):
                    await stall(url, "/huge")
                await asyncio.sleep(0.2)

        async with serving(shutdown_seconds=0.1) as url:
            crowding = asyncio.create_task(crowd(url))
            try:
                assert await download(url, "/huge", megabits=100) > len(HUGE)
            finally:
                crowding.cancel()

    async def test_protects_from_new_connections(self):
        async with serving(limits=Limits(connections=10), shutdown_seconds=0.1) as url:
            downloading = asyncio.create_task(download(url, "/large", megabits=300))
            while not downloading.done():
                await connect(url)
                await asyncio.sleep(0.002)
            assert await downloading > len(PAGE)
            assert (200, "ok\n") == await get(url)

    async def test_protects_at_any_speed(self):
        limits = Limits(reading_seconds=0.5, stalled_seconds=0.4, stalled_clients=0)
        async with serving(limits=limits, shutdown_seconds=0.1) as url:
            downloading = asyncio.create_task(download(url, "/large", megabits=1))
            await asyncio.sleep(2)
            assert not downloading.done(), "disconnected at 1 Mbit/s"
            downloading.cancel()

    async def test_does_not_protect_the_slowest_if_responses_need_too_much_memory(self):
        async with serving(limits=Limits(response_bytes=1, stalled_seconds=60), shutdown_seconds=0.1) as url:
            downloading = asyncio.create_task(download(url, "/large", megabits=100))
            for _ in range(20):
                await stall(url, "/unshared")
            while len(server_connections(url)) > 9:  # noqa: ASYNC110  four times the largest response, 72 MB
                await asyncio.sleep(0.02)
            assert await downloading > len(PAGE)


CROWDED = """
import asyncio, signal
from aiohttp import web
from comms_exporter.config import parse_listen_address
from comms_exporter.web.server import listening
async def main():
    app = web.Application()
    async def page(_): return web.Response(body=b"comms_operations 1234567890\\n" * 300_000)
    app.router.add_get("/metrics", page)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with listening(app, [parse_listen_address("127.0.0.1:0")], shutdown_seconds=0.5) as urls:
        print(*urls, flush=True)
        await stop.wait()
asyncio.run(main())
"""
LIMITS = Limits()
CROWDED_PAGE = b"comms_operations 1234567890\n" * 300_000  # 8.4 MB


class Crowded:
    """A server in a separate process."""

    async def __aenter__(self):
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", CROWDED),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self.url = (await self.process.stdout.readline()).decode().strip()
        return self

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def stop(self):
        """Stop the server, and return its exit code and what it wrote to stderr."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            _, stderr = await self.process.communicate()
        return self.process.returncode, stderr.decode()

    def megabytes(self, field="VmRSS"):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[1]) / 1000

    def files(self):
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    async def scrape(self):
        """Return how long a scrape over a new connection takes, in seconds."""
        began = time.monotonic()
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session,
            session.get(f"{self.url}/metrics") as response,
        ):
            assert await response.read() == CROWDED_PAGE
        return time.monotonic() - began

    async def connect(self, sent=b""):
        loop = asyncio.get_running_loop()
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(client, ("127.0.0.1", port_of(self.url)))
        await loop.sock_sendall(client, sent)
        return client


@pytest.fixture
def many_files():
    """Allow as many open files as 5,000 clients need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 6000:
        pytest.skip(f"a process may open only {hard} files here, and 5,000 clients need 6,000")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 6000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestCrowd:
    async def test_of_5000_idle_and_200_stalled_clients_delays_no_scrape(self, many_files, capsys):
        """The latest of them stay connected: a scrape does not need them all to be disconnected."""
        clients, took = [], {}
        async with Crowded() as server:
            await server.scrape()
            took["alone"] = await server.scrape()
            before, files = server.megabytes(), server.files()
            try:
                for number in range(5000):
                    clients.append(await server.connect((b"", b"GET /metrics HTTP/1.1\r\nX-Half: ")[number % 2]))
                    if number % 1000 == 999:
                        await server.scrape()
                took["with the idle"] = await server.scrape()
                idle_peak = server.megabytes("VmHWM")
                assert LIMITS.connections - 5 <= server.files() - files <= LIMITS.connections

                for number in range(200):
                    clients.append(await server.connect(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))
                    if number % 50 == 49:
                        await server.scrape()
                took["with the slow"] = await server.scrape()
                peak = server.megabytes("VmHWM")
            finally:
                for client in clients:
                    client.close()
            while server.files() > files:  # noqa: ASYNC110  another process closes them
                await asyncio.sleep(0.02)
            took["afterwards"] = await server.scrape()
            after = server.megabytes()
            with capsys.disabled():
                print(  # noqa: T201
                    f"\n5,000 idle, 200 slow readers of {len(CROWDED_PAGE) / 1e6:.1f} MB: a scrape takes",
                    ", ".join(f"{seconds:.3f} s {when}" for when, seconds in took.items()),
                    f"; memory is {before:.0f} MB before, {idle_peak:.0f} MB at most with the idle,",
                    f"{peak:.0f} MB at most with the slow, {after:.0f} MB after",
                )
            # A page per slow client would be 1,680 MB. Python does not return all memory to the system at once.
            assert peak - before < 4 * LIMITS.stalled_clients * len(CROWDED_PAGE) / 1e6
            assert (0, "") == await server.stop()

    async def test_of_incomplete_handshakes_delays_no_request(self, here, made, log, many_files):
        async with configured(here, TLS, log) as (url, _):
            crowd = [await connect(url) for _ in range(1000)]
            assert (200, "ok\n") == await get(url, ssl=trusting(made / "server.pem"))
            assert 1000 == len(crowd)

    async def test_is_limited_where_few_files_may_be_open(self):
        """With the default limit of 256 of some systems, half of the files are left for everything else."""
        async with Crowded() as server:
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (256, 256))
            clients = [await server.connect() for _ in range(600)]
            await server.scrape()
            for client in clients:
                client.close()
            assert (0, "") == await server.stop()

    async def test_of_incomplete_handshakes_loses_the_oldest_first(self, here, made, log):
        async with configured(here, TLS, log, limits=Limits(tls_connections=5)) as (url, _):
            crowd = [await connect(url) for _ in range(20)]
            assert (200, "ok\n") == await get(url, ssl=trusting(made / "server.pem"))
            for reader, _ in crowd[:15]:
                assert b"" == await read_until_closed(reader)
