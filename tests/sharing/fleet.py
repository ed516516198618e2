"""Several exporters that share their accounts, what their pages say together, and what may go wrong with them."""

import asyncio
import json
import re
import signal
import time
from contextlib import AsyncExitStack

import aiohttp
import process

_TOTAL = re.compile(r'^comms_emails_(\w+)_total\{account="(\w+)"\} (\S+)$', re.MULTILINE)
_STAGES = {"created": "total", "sent": "sent", "delivered": "delivered", "failed": "failed"}


class Fleet:
    """Exporters of the same *accounts*, of *world*, with the same database."""

    def __init__(self, folder, *, world, database, schema, accounts, interval="2s", failover="6s"):
        self.accounts = accounts
        self._world = world
        config = folder / "config.yml"
        config.write_text(
            json.dumps(
                {
                    "accounts": [
                        {"name": name, "account_sid": name, "auth_token": "canary-token", "base_url": world.url}
                        for name in accounts
                    ]
                }
            )
        )
        self._flags = (
            f"--config.file={config}",
            f"--state.url={database}",
            f"--state.schema={schema}",
            f"--state.failover-timeout={failover}",
            f"--collect.interval={interval}",
            "--log.level=warn",
        )
        self.exporters = {}
        self._stacks = {}
        self.paused = set()
        # What was wrong on the pages so far.
        self.fallen = []
        self.shown_twice = []
        self._highest = {}
        self._session = None

    async def __aenter__(self):
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=8))
        return self

    async def __aexit__(self, *_):
        for name in list(self.exporters):
            await self.kill(name)
        await self._session.close()

    async def start(self, name):
        stack = AsyncExitStack()
        address = f"127.0.0.1:{process.unused_port()}"
        exporter = await stack.enter_async_context(process.run(*self._flags, f"--web.listen-address={address}"))
        exporter.url = f"http://{address}"
        self.exporters[name] = exporter
        self._stacks[name] = stack

    async def kill(self, name):
        """End an exporter with SIGKILL."""
        self.paused.discard(name)
        exporter = self.exporters.pop(name)
        exporter.send(signal.SIGKILL)
        await exporter.ended()
        await self._stacks.pop(name).aclose()

    async def stop(self, name):
        """End an exporter with SIGTERM, and return its exit code."""
        exporter = self.exporters.pop(name)
        exporter.send(signal.SIGTERM)
        code = await exporter.ended()
        await self._stacks.pop(name).aclose()
        return code

    def pause(self, name):
        self.paused.add(name)
        self.exporters[name].send(signal.SIGSTOP)

    def resume(self, name):
        self.paused.discard(name)
        self.exporters[name].send(signal.SIGCONT)

    async def _page(self, name):
        try:
            async with self._session.get(f"{self.exporters[name].url}/metrics") as response:
                return await response.text()
        except (aiohttp.ClientError, TimeoutError, KeyError):
            return ""

    async def scrape(self):
        """Read all pages at once; return which accounts each exporter shows. Remember what is wrong."""
        names = [name for name in self.exporters if name not in self.paused]
        pages = dict(zip(names, await asyncio.gather(*map(self._page, names)), strict=True))
        shown = {}
        for name, page in pages.items():
            shown[name] = set()
            for stage, account, value in _TOTAL.findall(page):
                if stage not in _STAGES:
                    continue
                shown[name].add(account)
                highest = self._highest.get((account, stage), 0.0)
                if float(value) < highest:
                    self.fallen.append((account, stage, name, float(value), highest))
                self._highest[account, stage] = max(highest, float(value))
        seen = {}
        for name, accounts in shown.items():
            for account in accounts:
                if account in seen:
                    self.shown_twice.append((time.time(), account, seen[account], name))
                seen[account] = name
        return shown

    async def ready(self, seconds=60):
        """Wait until every account has been polled by the exporter that shows it."""
        deadline = time.monotonic() + seconds
        for exporter in self.exporters.values():
            while True:
                async with self._session.get(f"{exporter.url}/-/ready") as response:
                    if response.status == 200:
                        break
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)

    def differences(self):
        """Return every total that is not the truth."""
        return [
            (account, stage, self._highest.get((account, stage)), truth)
            for account in self.accounts
            for stage, stat in _STAGES.items()
            if (truth := self._world.truth(account, stat)) != self._highest.get((account, stage))
        ]

    async def settle(self, seconds, done):
        """Scrape until *done* says so of what is shown, and return that; fail after *seconds*."""
        deadline = time.monotonic() + seconds
        while True:
            shown = await self.scrape()
            if done(shown):
                return shown
            assert time.monotonic() < deadline, {name: len(accounts) for name, accounts in shown.items()}
            await asyncio.sleep(0.2)
