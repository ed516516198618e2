"""The real program as a process of its own, listening on a free port of this machine, gone when the test is."""

import asyncio
import os
import re
import socket
import sys
import time
from contextlib import asynccontextmanager

import aiohttp

STARTING_SECONDS = 20
STOPPING_SECONDS = 10
CREDENTIALS = {"TWILIO_ACCOUNT_SID": "ACtest", "TWILIO_AUTH_TOKEN": "canary-token-1234567890"}


class Process:
    """A running exporter: where it listens, and all that it has said."""

    def __init__(self, process):
        self._process = process
        self.said = ""
        self.printed = ""
        self.url = ""
        self._readers = [
            asyncio.create_task(self._read(process.stderr, "said")),
            asyncio.create_task(self._read(process.stdout, "printed")),
        ]
        self._heard = asyncio.Condition()

    @property
    def pid(self):
        return self._process.pid

    async def _read(self, stream, name):
        while line := await stream.readline():
            setattr(self, name, getattr(self, name) + line.decode())
            async with self._heard:
                self._heard.notify_all()

    async def until(self, pattern, seconds=STARTING_SECONDS):
        """Return the match of *pattern* in what it says, once it says it."""

        def found():
            return re.search(pattern, self.said + self.printed)

        try:
            async with asyncio.timeout(seconds), self._heard:
                await self._heard.wait_for(found)
        except TimeoutError:
            raise AssertionError(f"no {pattern!r} in:\n{self.said}{self.printed}") from None
        return found()

    def send(self, number):
        self._process.send_signal(number)

    async def ended(self, seconds=STOPPING_SECONDS):
        """Return the exit code, once it has ended and said all it had to say."""
        async with asyncio.timeout(seconds):
            code = await self._process.wait()
            await asyncio.gather(*self._readers)
        return code

    async def kill(self):
        if self._process.returncode is None:
            self._process.kill()
        await self.ended()


@asynccontextmanager
async def run(*arguments, environ=None):
    """Run `comms-exporter` with *arguments* and nothing but *environ* of an environment."""
    process = Process(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "comms_exporter",
            *arguments,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(environ or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    try:
        yield process
    finally:
        await process.kill()


@asynccontextmanager
async def exporter(api, *arguments, environ=None, listen=True):
    """Run the exporter on the API at *api*, until the context ends; ready to answer, polled or not."""
    address = ("--web.listen-address=127.0.0.1:0",) if listen else ()
    flags = (f"--api.base-url={api}", *address, "--state.path=", *arguments)
    async with run(*flags, environ={**CREDENTIALS, **(environ or {})}) as process:
        match = await process.until(r"msg=listening.* address=(\S+)|\"address\": ?\"([^\"]+)\"")
        process.url = match[1] or match[2]
        yield process


async def answer(*arguments, environ=None):
    """Return (exit code, stdout, stderr) of a run that ends by itself."""
    async with run(*arguments, environ=environ) as process:
        code = await process.ended(STARTING_SECONDS)
        return code, process.printed, process.said


def unused_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def scrape(url, path="/metrics"):
    async with aiohttp.ClientSession() as session, session.get(f"{url}{path}") as response:
        return await response.text()


async def until(url, pattern, seconds=20):
    """Return the metrics at *url* once *pattern* is in them."""
    deadline = time.monotonic() + seconds
    while True:
        page = await scrape(url)
        if re.search(pattern, page, re.MULTILINE):
            return page
        assert time.monotonic() < deadline, f"no {pattern!r} in:\n{page}"
        await asyncio.sleep(0.05)
