"""Run the exporter as a process of its own on a free port, and end it with the test."""

import asyncio
import os
import re
import socket
import sys
import tempfile
import time
from contextlib import asynccontextmanager

import aiohttp

STARTING_SECONDS = 20
STOPPING_SECONDS = 10
CREDENTIALS = {"TWILIO_ACCOUNT_SID": "ACtest", "TWILIO_AUTH_TOKEN": "canary-token-1234567890"}


class Process:
    """A running exporter: its output so far, and its *url*."""

    def __init__(self, process):
        self._process = process
        self.stderr = ""
        self.stdout = ""
        self.url = ""
        self._readers = [
            asyncio.create_task(self._read(process.stderr, "stderr")),
            asyncio.create_task(self._read(process.stdout, "stdout")),
        ]
        self._output_changed = asyncio.Condition()

    @property
    def pid(self):
        return self._process.pid

    async def _read(self, stream, name):
        while line := await stream.readline():
            setattr(self, name, getattr(self, name) + line.decode())
            async with self._output_changed:
                self._output_changed.notify_all()

    async def until(self, pattern, seconds=STARTING_SECONDS):
        """Wait until the output matches *pattern*, and return the match."""

        def match():
            return re.search(pattern, self.stderr + self.stdout)

        try:
            async with asyncio.timeout(seconds), self._output_changed:
                await self._output_changed.wait_for(match)
        except TimeoutError:
            raise AssertionError(f"no {pattern!r} in:\n{self.stderr}{self.stdout}") from None
        return match()

    def send(self, number):
        self._process.send_signal(number)

    async def ended(self, seconds=STOPPING_SECONDS):
        """Wait for the end of the process and of its output, and return the exit code."""
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
    """Run `comms-exporter` with *arguments* in a home of its own; its environment is *environ* and nothing else."""
    # What one process saves in its home must not greet the next one, and nothing may stay on the machine.
    with tempfile.TemporaryDirectory() as home:
        process = Process(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "comms_exporter",
                *arguments,
                env={"PATH": os.environ["PATH"], "HOME": home, **(environ or {})},
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
    """Run the exporter with the API at *api* within the context, which starts when the exporter listens."""
    address = ("--web.listen-address=127.0.0.1:0",) if listen else ()
    flags = (f"--api.base-url={api}", *address, "--state.path=", *arguments)
    async with run(*flags, environ={**CREDENTIALS, **(environ or {})}) as process:
        match = await process.until(r"msg=listening.* address=(\S+)|\"address\": ?\"([^\"]+)\"")
        process.url = match[1] or match[2]
        yield process


async def run_to_end(*arguments, environ=None):
    """Run a command that ends by itself, and return its exit code, stdout and stderr."""
    async with run(*arguments, environ=environ) as process:
        code = await process.ended(STARTING_SECONDS)
        return code, process.stdout, process.stderr


def unused_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def scrape(url, path="/metrics"):
    async with aiohttp.ClientSession() as session, session.get(f"{url}{path}") as response:
        return await response.text()


async def until(url, pattern, seconds=20, path="/metrics"):
    """Scrape *url* until the page at *path* matches *pattern*, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        page = await scrape(url, path)
        if re.search(pattern, page, re.MULTILINE):
            return page
        assert time.monotonic() < deadline, f"no {pattern!r} in:\n{page}"
        await asyncio.sleep(0.05)
