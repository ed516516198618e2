"""Whatever a client sends, the exporter keeps running, logs little, and repeats nothing of the request."""

import asyncio
import os
import random
import re
import signal
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from process import CREDENTIALS, exporter, scrape, until

from comms_exporter.simulator import World
from comms_exporter.simulator import make_app as simulated

SOAK = int(os.environ.get("SOAK", "1"))
SEED = int(os.environ.get("SEED", "1"))
CANARY = "c4n4ry"
AUTHORIZATION = f"Authorization: Basic {CANARY}\r\nX-{CANARY}: {CANARY}\r\n"
MALFORMED = {
    "an invalid version": f"GET /{CANARY} HTTP/{CANARY}\r\n{AUTHORIZATION}\r\n",
    "a long header": f"GET /{CANARY} HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}X: {CANARY * 2000}\r\n\r\n",
    "a long path": f"GET /{CANARY * 2000} HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}\r\n",
    "many headers": f"GET / HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}" + f"X-{CANARY}: y\r\n" * 99 + "\r\n",
    "a missing host": f"GET /{CANARY} HTTP/1.1\r\n{AUTHORIZATION}\r\n",
    "two lengths": f"GET /{CANARY} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n{AUTHORIZATION}\r\n",
    "length and chunks": f"POST /{CANARY} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"
    f"{AUTHORIZATION}\r\n",
    "an invalid chunk": f"POST /{CANARY} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{AUTHORIZATION}\r\n{CANARY}\r\n",
    "a broken gzip": f"POST /{CANARY} HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 6\r\n"
    f"{AUTHORIZATION}\r\n{CANARY}",
    "an unknown method": f"{CANARY} / HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}\r\n",
    "an invalid port": f"GET http://x:{CANARY}/ HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}\r\n",
    "a control character": f"GET /{CANARY}\x01 HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}\r\n",
    "an invalid expectation": f"GET /{CANARY} HTTP/1.1\r\nHost: x\r\nExpect: \xff{CANARY}\r\n{AUTHORIZATION}\r\n",
    "TLS": f"\x16\x03\x01\x02\x00{CANARY}",
}


async def send(url, sent, seconds=5):
    """Send *sent*, and return everything until the server closes the connection or sends nothing for *seconds*."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    answer = b""
    with suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(seconds):
            writer.write(sent)
            writer.write_eof()
            while piece := await reader.read(2**16):
                answer += piece
    writer.transport.abort()
    return answer


@pytest.fixture
async def api():
    async with TestServer(simulated(World(seed=0, clock=time.time, rate=1))) as server:
        yield str(server.make_url("/v1"))


def malformed_lines(log):
    return [line for line in log.splitlines() if "malformed" in line or "suppressed" in line]


class TestMalformedRequests:
    async def test_cause_few_short_log_lines_without_their_content(self, api):
        async with exporter(api) as process:
            for request in MALFORMED.values():
                for _ in range(10):
                    answer = await send(process.url, request.encode("latin-1"))
                    assert CANARY.encode() not in answer
                    assert not re.search(rb"(?i)python|aiohttp", answer)
                    assert answer.startswith(b"HTTP/") or not answer
            await scrape(process.url)
            process.send(signal.SIGTERM)
            assert 0 == await process.ended()

        lines = malformed_lines(process.stderr)
        assert CANARY not in process.stderr
        assert "level=error" not in process.stderr, "only our own bugs are errors"
        assert max(map(len, process.stderr.splitlines())) < 300
        assert len(lines) <= 15
        counted = sum(int(match[1]) for line in lines if (match := re.search(r"suppressed=(\d+)", line)))
        counted += sum("malformed" in line for line in lines)
        # A few of the requests are not malformed in every version of aiohttp.
        assert counted > 8 * len(MALFORMED)
        assert counted <= 10 * len(MALFORMED)


@asynccontextmanager
async def logging_to(stderr, api, *shell):
    """Run the exporter with *stderr*; yields its URL and process once it listens."""
    process = await asyncio.create_subprocess_exec(
        *shell,
        *(sys.executable, "-m", "comms_exporter", f"--api.base-url={api}", "--web.listen-address=127.0.0.1:0"),
        *("--state.path=", "--collect.interval=1s"),
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **CREDENTIALS},
        stderr=stderr,
    )
    try:
        async with asyncio.timeout(60):
            while (port := listening_port(process.pid)) is None:
                assert process.returncode is None
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def listening_port(pid):
    """Return the port that the process listens on, as the system lists it: its log may be unreadable."""
    inodes = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            inodes.add(str(file.readlink()))
    for words in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:]):
        if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
            return int(words[1].rpartition(":")[2], 16)
    return None


async def ended(process):
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        return await process.wait()


@pytest.fixture
def full_pipe():
    """A full pipe, as (read end, write end)."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 512)
    os.set_blocking(writing, True)
    yield reading, writing
    os.close(reading)
    os.close(writing)


class TestStderr:
    async def test_that_is_not_read_blocks_no_scrapes_polls_or_shutdown(self, api, full_pipe):
        async with logging_to(full_pipe[1], api) as (url, process):
            for _ in range(50):
                await send(url, MALFORMED["a long header"].encode())
            page = await until(url, r"^comms_up")
            before = polls(page)
            while polls(await scrape(url)) <= before:  # noqa: ASYNC110  another process polls
                await asyncio.sleep(0.1)
            assert 0 == await ended(process)

    async def test_that_is_closed_blocks_nothing(self, api):
        async with logging_to(None, api, "/bin/sh", "-c", 'exec "$0" "$@" 2>&-') as (url, process):
            for request in MALFORMED.values():
                await send(url, request.encode("latin-1"))
            await until(url, r"^comms_up")
            assert 0 == await ended(process)

    async def test_without_a_reader_blocks_nothing(self, api):
        reading, writing = os.pipe()
        os.close(reading)
        async with logging_to(writing, api) as (url, process):
            os.close(writing)
            for request in MALFORMED.values():
                await send(url, request.encode("latin-1"))
            await until(url, r"^comms_up")
            assert 0 == await ended(process)


def polls(page):
    return sum(
        float(count) for count in re.findall(r"^comms_exporter_api_requests_total\{.*\} (\S+)$", page, re.MULTILINE)
    )


PATHS = ("/", "/metrics", "/?q=a&sort=stuck&page=2", "/-/healthy", "/-/reload", "/static/style.css", "/nowhere")
HEADERS = (
    "Accept-Encoding: gzip",
    "Expect: 100-continue",
    "Upgrade: websocket\r\nConnection: Upgrade",
    "Connection: close",
    "Content-Type: application/x-www-form-urlencoded",
    "Cookie: a=b; " + "c" * 200,
    "Origin: http://x",
)


class RandomClient:
    """Sends random requests that depend only on *seed*."""

    def __init__(self, seed):
        self._rng = random.Random(f"{seed}/client")

    def request(self):
        rng = self._rng
        method = rng.choice(["GET", "GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "CONNECT", "TRACE", "BREW"])
        version = rng.choice(["1.1", "1.1", "1.1", "1.0", "0.9", "2.0", "1.10"])
        head = f"{method} {rng.choice(PATHS)} HTTP/{version}\r\nHost: x\r\n{AUTHORIZATION}"
        head += "".join(f"{each}\r\n" for each in HEADERS if rng.random() < 0.15)
        body = CANARY.encode() * rng.randrange(4)
        framing = rng.choice(["none", "none", "length", "wrong length", "chunks", "bad chunks", "two", "gzip"])
        if framing in {"length", "wrong length", "two", "gzip"}:
            head += f"Content-Length: {len(body) + rng.randrange(-9, 99) * (framing == 'wrong length')}\r\n"
        if framing in {"chunks", "bad chunks", "two"}:
            head += "Transfer-Encoding: chunked\r\n"
            size = f"{len(body):x}" if framing != "bad chunks" else rng.choice(["-1", "g", "f" * 40, "1;" * 3000, ""])
            body = f"{size}\r\n".encode() + body + b"\r\n" + rng.choice([b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b""])
        if framing == "gzip":
            head += "Content-Encoding: gzip\r\n"
        return head.encode() + b"\r\n" + (body if framing != "none" else b"")

    def mutated(self, data):
        rng, data = self._rng, bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 8])):
            start = rng.randrange(len(data) + 1)
            end = min(len(data), start + rng.choice([0, 1, 1, 5, 50]))
            data[start:end] = rng.choice(
                [rng.randbytes(end - start), b"", b"\0", b"\r\n", b"\r", b" ", b"\xff\xfe", bytes(data[:end]), b":" * 9]
            )
        return bytes(data)

    def sent(self):
        """Return the bytes that one connection sends."""
        rng = self._rng
        kind = rng.choice(["good", "mutated", "mutated", "mutated", "half", "large", "pipeline", "TLS", "noise"])
        data = self.request()
        if kind == "mutated":
            return self.mutated(data)
        if kind == "half":
            return data[: rng.randrange(len(data))]
        if kind == "large":
            line = rng.choice([b"X: " + b"y" * 9000, b"X: y", f"X-{CANARY}: ".encode() + b"y" * 500])
            return data[:-2] + (line + b"\r\n") * rng.choice([1, 63, 70, 500]) + b"\r\n"
        if kind == "pipeline":
            return b"".join(self.request() for _ in range(rng.choice([2, 5, 40, 200])))
        if kind == "TLS":
            return b"\x16\x03\x01" + rng.randbytes(rng.choice([2, 60, 600]))
        return data if kind == "good" else rng.randbytes(rng.choice([1, 100, 10_000]))

    def pieces(self, data):
        """Return *data* in random pieces, which arrive separately."""
        cuts = sorted(self._rng.randrange(len(data) + 1) for _ in range(self._rng.choice([0, 0, 1, 5])))
        return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def bytes_read(self):
        """Return after how many bytes of a response the client disconnects, or None if it reads everything."""
        return self._rng.choice([None, None, None, 0, 1000])


async def exchange(url, pieces, bytes_read):
    answer = b""
    with suppress(ConnectionError, TimeoutError):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        try:
            async with asyncio.timeout(0.25):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                while bytes_read is None or len(answer) < bytes_read:
                    if not (piece := await reader.read(2**16)):
                        break
                    answer += piece
        finally:
            writer.transport.abort()
    return answer


def resources_of(pid):
    """Return the peak memory of a process in megabytes, and the number of its open files."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1000, len(list(Path(f"/proc/{pid}/fd").iterdir()))


class TestFuzz:
    async def test_no_bytes_crash_the_exporter(self, api):
        """SOAK=100 sends a hundred times as many requests; SEED=2 sends others."""
        client = RandomClient(SEED)
        async with exporter(api) as process:
            await until(process.url, r"^comms_up")
            for _ in range(10 * SOAK):
                exchanges = [
                    exchange(process.url, client.pieces(client.sent()), client.bytes_read()) for _ in range(30)
                ]
                for answer in await asyncio.gather(*exchanges):
                    assert not re.search(rb"(?i)\nserver: (?!comms-exporter\r)", answer)
                    assert b"Traceback" not in answer
                assert "comms_up" in await scrape(process.url)
            megabytes, files = resources_of(process.pid)
            process.send(signal.SIGTERM)
            assert 0 == await process.ended()

        assert CANARY not in process.stderr
        assert [] == [
            line for line in process.stderr.splitlines() if "level=error" in line or not line.startswith("ts=")
        ]
        assert megabytes < 200
        assert files < 100
