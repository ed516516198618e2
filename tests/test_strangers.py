"""Whatever a stranger sends to the port, the exporter goes on, says little about it, and repeats none of it."""

import asyncio
import os
import re
import signal
import sys
import time
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp.test_utils import TestServer
from process import CREDENTIALS, exporter, scrape, until, unused_port

from comms_exporter.simulator import World
from comms_exporter.simulator import make_app as simulated

CANARY = "c4n4ry"
AUTHORIZATION = f"Authorization: Basic {CANARY}\r\nX-{CANARY}: {CANARY}\r\n"
MALFORMED = {
    "an odd version": f"GET /{CANARY} HTTP/{CANARY}\r\n{AUTHORIZATION}\r\n",
    "a long header": f"GET /{CANARY} HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}X: {CANARY * 2000}\r\n\r\n",
    "a long path": f"GET /{CANARY * 2000} HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}\r\n",
    "many headers": f"GET / HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}" + f"X-{CANARY}: y\r\n" * 99 + "\r\n",
    "no host": f"GET /{CANARY} HTTP/1.1\r\n{AUTHORIZATION}\r\n",
    "two lengths": f"GET /{CANARY} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n{AUTHORIZATION}\r\n",
    "length and chunks": f"POST /{CANARY} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"
    f"{AUTHORIZATION}\r\n",
    "no chunk": f"POST /{CANARY} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{AUTHORIZATION}\r\n{CANARY}\r\n",
    "a broken gzip": f"POST /{CANARY} HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 6\r\n"
    f"{AUTHORIZATION}\r\n{CANARY}",
    "an unknown method": f"{CANARY} / HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}\r\n",
    "another port": f"GET http://x:{CANARY}/ HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}\r\n",
    "an odd character": f"GET /{CANARY}\x01 HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}\r\n",
    "TLS": f"\x16\x03\x01\x02\x00{CANARY}",
}


async def send(url, sent, seconds=5):
    """Return all that is answered to *sent* before the other side hangs up, or says no more."""
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


def malformed_lines(said):
    return [line for line in said.splitlines() if "malformed" in line or "suppressed" in line]


class TestMalformedRequests:
    async def test_write_few_short_lines_that_repeat_nothing(self, api):
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

        lines = malformed_lines(process.said)
        assert CANARY not in process.said
        assert "level=error" not in process.said, "a bug of ours would be"
        assert max(map(len, process.said.splitlines())) < 300
        assert len(lines) <= 15
        told = sum(int(match[1]) for line in lines if (match := re.search(r"suppressed=(\d+)", line)))
        told += sum("malformed" in line for line in lines)
        assert told > 8 * len(MALFORMED), "most of them are malformed, and each is counted once"
        assert told <= 10 * len(MALFORMED)


@asynccontextmanager
async def speaking_to(stderr, api, *shell):
    """Run the exporter with *stderr*; gives its URL and the process, once it answers."""
    port = unused_port()
    process = await asyncio.create_subprocess_exec(
        *shell,
        *(sys.executable, "-m", "comms_exporter", f"--api.base-url={api}", f"--web.listen-address=127.0.0.1:{port}"),
        *("--state.path=", "--collect.interval=1s"),
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **CREDENTIALS},
        stderr=stderr,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    await scrape(url, "/-/healthy")
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield url, process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ended(process):
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        return await process.wait()


@pytest.fixture
def full_pipe():
    """A pipe that is full, as (end to read from, end to write to)."""
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
    async def test_that_nobody_reads_stops_neither_scrapes_nor_polls_nor_the_end(self, api, full_pipe):
        async with speaking_to(full_pipe[1], api) as (url, process):
            for _ in range(50):
                await send(url, MALFORMED["a long header"].encode())
            page = await until(url, r"^comms_up")
            seen = polls(page)
            while polls(await scrape(url)) <= seen:  # noqa: ASYNC110  the other process does it
                await asyncio.sleep(0.1)
            assert 0 == await ended(process)

    async def test_that_is_closed_stops_nothing(self, api):
        async with speaking_to(None, api, "/bin/sh", "-c", 'exec "$0" "$@" 2>&-') as (url, process):
            for request in MALFORMED.values():
                await send(url, request.encode("latin-1"))
            await until(url, r"^comms_up")
            assert 0 == await ended(process)

    async def test_whose_reader_is_gone_stops_nothing(self, api):
        reading, writing = os.pipe()
        os.close(reading)
        async with speaking_to(writing, api) as (url, process):
            os.close(writing)
            for request in MALFORMED.values():
                await send(url, request.encode("latin-1"))
            await until(url, r"^comms_up")
            assert 0 == await ended(process)


def polls(page):
    return sum(
        float(count) for count in re.findall(r"^comms_exporter_api_requests_total\{.*\} (\S+)$", page, re.MULTILINE)
    )
