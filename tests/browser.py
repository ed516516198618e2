"""A headless browser, controlled through its DevTools protocol."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

BINARIES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)


def chromium() -> str:
    """Return the path of the browser. Without one, skip the test, or fail it in CI."""
    for name in BINARIES:
        if path := shutil.which(name):
            return path
    reason = "chromium is not installed: apt-get install --no-install-recommends chromium"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class Tab:
    """A browser tab, the problems that it reported, and the URLs that it requested."""

    def __init__(self, socket):
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers = {}
        self._loaded = asyncio.Event()
        self.problems = []
        self.requests = []

    async def listen(self):
        async for message in self._socket:
            event = json.loads(message.data)
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
                continue
            method, params = event["method"], event["params"]
            if method == "Page.loadEventFired":
                self._loaded.set()
            elif method == "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning", "assert"}:
                self.problems.append(str(params["args"]))
            elif method == "Runtime.exceptionThrown":
                self.problems.append(str(params["exceptionDetails"]))
            elif method == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
                self.problems.append(params["entry"]["text"])

    async def call(self, method, **params):
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_str(json.dumps({"id": number, "method": method, "params": params}))
        answer = await asyncio.wait_for(self._answers[number], 20)
        assert "error" not in answer, answer
        return answer["result"]

    async def open(self, url):
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        await asyncio.wait_for(self._loaded.wait(), 20)

    async def follow(self, element_id):
        """Click a link or a button that opens another page, and wait until that is loaded."""
        self._loaded.clear()
        # After a moment, because a page that is replaced cannot return a result.
        await self.run(f"setTimeout(() => document.getElementById('{element_id}').click()), 0")
        await asyncio.wait_for(self._loaded.wait(), 20)

    async def run(self, script):
        """Return the value of *script* on the page."""
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, script):
        """Wait until *script* is true of the page."""
        async with asyncio.timeout(20):
            while not await self.run(script):  # noqa: ASYNC110  the browser sends no event for it
                await asyncio.sleep(0.02)

    async def resize(self, *, width=1200, height=900, dark=False):
        """Set the size of the window, and light or dark mode."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path):
        image = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(Path(path).write_bytes, base64.b64decode(image["data"]))


@asynccontextmanager
async def browsing(folder):
    """Run a browser with its profile in *folder* within the context; yields a tab."""
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  it returns at once
            [chromium(), *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"], stdout=log, stderr=log
        )
    try:
        port = await _port(folder / "profile" / "DevToolsActivePort", process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                (page,) = [each for each in await answer.json() if each["type"] == "page"]
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                listening = asyncio.create_task(tab.listen())
                for area in ("Page", "Runtime", "Log", "Network"):
                    await tab.call(f"{area}.enable")
                yield tab
                await tab.call("Browser.close")
                await listening
    finally:
        try:
            await asyncio.to_thread(process.wait, 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _port(path, process):
    async with asyncio.timeout(30):
        while not (path.exists() and path.read_text().count("\n")):
            assert process.poll() is None, "the browser has exited; see browser.log"
            await asyncio.sleep(0.05)
    return int(path.read_text().splitlines()[0])
