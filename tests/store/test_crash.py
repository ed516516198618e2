"""The real process, killed, stopped and restarted while emails are sent: totals stay exact and never decrease."""

import asyncio
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from process import CREDENTIALS, STARTING_SECONDS, exporter, run, scrape, unused_port
from prometheus import Prometheus

from comms_exporter.simulator import NEVER, Fate, World, make_app

SOAK = int(os.environ.get("SOAK", "1"))
SERIES = {
    "created": "comms_emails_created_total",
    "recipients": "comms_email_recipients_total",
    "attempts": "comms_email_attempts_total",
    "sent": "comms_emails_sent_total",
    "delivered": "comms_emails_delivered_total",
    "opened": "comms_emails_opened_total",
    "undelivered": "comms_emails_undelivered_total",
    "failed": "comms_emails_failed_total",
    "canceled": "comms_emails_canceled_total",
    "operations_created": "comms_email_operations_created_total",
    "operations_completed": "comms_email_operations_completed_total",
    "operations_canceled": "comms_email_operations_canceled_total",
}


def short_fate(dice, *, longest=2.0):
    """Return the fate of an email that is finished within seconds."""
    sent = dice.uniform(0, longest)
    fates = [
        Fate(sent=sent, delivered=sent + 0.2, opened=sent + dice.choice([0.5, NEVER])),
        Fate(sent=sent, undelivered=sent + 0.3),
        Fate(failed=sent),
        Fate(queued=NEVER, canceled=sent),
    ]
    return dice.choices(fates, weights=[7, 2, 1, 1])[0]


async def totals(session, url):
    """Return the exporter's totals by the names in the simulator's tally."""
    async with session.get(f"{url}/metrics") as response:
        page = await response.text()
    found = {name: re.search(rf"^{series}{{.*}} (\S+)$", page, re.MULTILINE) for name, series in SERIES.items()}
    return {name: float(match[1]) for name, match in found.items()}


async def test_totals_are_exact_after_kills_at_random_moments(tmp_path):
    """kill -9 again and again while operations change and are saved; no total ever decreases."""
    dice = random.Random(os.environ.get("SEED", "kill"))
    world = World(clock=time.time, reading=dice.choice(["cumulative", "exclusive"]))
    flags = (f"--state.path={tmp_path / 'state.db'}", "--collect.interval=50ms", "--log.level=warn")
    seen = dict.fromkeys(SERIES, 0.0)

    async def check(session, url):
        nonlocal seen
        now = await totals(session, url)
        decreased = {name: (seen[name], now[name]) for name in SERIES if now[name] < seen[name]}
        assert not decreased
        seen = now

    async with TestServer(make_app(world)) as api, aiohttp.ClientSession() as session:
        address = str(api.make_url("/v1"))
        async with exporter(address, *flags, "--log.level=info") as process:
            await process.until("msg=polled")
        for _ in range(8 * SOAK):
            async with exporter(address, *flags, "--log.level=info") as process:
                killing = time.monotonic() + dice.uniform(0, 0.8)
                while time.monotonic() < killing:
                    for _ in range(dice.randrange(3)):
                        world.send(fates=[short_fate(dice) for _ in range(dice.randint(1, 20))])
                    await check(session, process.url)
                    await asyncio.sleep(0.02)
                process.send(signal.SIGKILL)
                await process.ended()
        # Stop the simulator's clock, so that its tally does not change any more.
        world.freeze()
        truth = {name: float(n) for name, n in asdict(world.tally()).items()}
        async with exporter(address, *flags, "--log.level=info") as process:
            deadline = time.monotonic() + 30
            while seen != truth:
                assert time.monotonic() < deadline, (seen, truth)
                await check(session, process.url)
                await asyncio.sleep(0.05)
            assert truth["operations_created"] > 0
            # Later polls add nothing.
            polls = process.stderr.count("msg=polled")
            await process.until(f"(?s)(msg=polled.*){{{polls + 3}}}")
            await check(session, process.url)
            assert truth == seen


async def stopped(process):
    """Stop *process*, which has to end within 5 seconds, and return its exit code."""
    process.send(signal.SIGTERM)
    return await process.ended(5)


@contextmanager
def locked(path):
    """Lock the state file at *path* for all other processes; give a function that unlocks it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        yield connection.close


class TestStopping:
    """A signal to stop, at any moment and any number of times, ends the process with 0 within seconds; nothing is lost."""

    @pytest.fixture
    async def api(self):
        world = World(clock=time.time)
        async with TestServer(make_app(world)) as server:
            yield SimpleNamespace(world=world, url=str(server.make_url("/v1")))

    @pytest.fixture
    def flags(self, tmp_path):
        return (f"--state.path={tmp_path / 'state.db'}", "--collect.interval=50ms")

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("arguments", [(), ("demo",), ("simulator",)])
    async def test_while_modules_are_imported(self, tmp_path, number, arguments):
        (tmp_path / "aiohttp.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
        async with run(*arguments, environ={"PYTHONPATH": str(tmp_path), **CREDENTIALS}) as process:
            await process.until("importing")
            process.send(number)

            assert await process.ended(5) == 0

    async def test_a_check_that_has_not_begun_fails(self, tmp_path):
        (tmp_path / "aiohttp.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
        async with run("check", environ={"PYTHONPATH": str(tmp_path), **CREDENTIALS}) as process:
            await process.until("importing")

            assert await stopped(process) == -signal.SIGTERM

    async def test_a_reload_before_the_settings_are_read_is_ignored(self, tmp_path):
        (tmp_path / "aiohttp.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
        async with run(environ={"PYTHONPATH": str(tmp_path), **CREDENTIALS}) as process:
            await process.until("importing")
            process.send(signal.SIGHUP)

            assert await stopped(process) == 0

    async def test_as_the_first_process(self, tmp_path):
        """The kernel delivers only signals with a handler to it."""
        (tmp_path / "aiohttp.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
        command = ("unshare", "--fork", "--pid", "--kill-child", sys.executable, "-m", "comms_exporter")
        if not succeeds(*command[:4], "true"):
            pytest.skip("no namespaces can be made here")
        unshare = await asyncio.create_subprocess_exec(
            *command, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert await unshare.stdout.readline() == b"importing\n"
            os.kill(child_of(unshare.pid), signal.SIGTERM)

            async with asyncio.timeout(5):
                assert await unshare.wait() == 0
        finally:
            if unshare.returncode is None:
                unshare.kill()
                await unshare.wait()

    @pytest.mark.parametrize("turn", range(3 * SOAK))
    async def test_repeatedly(self, api, flags, turn):
        async with exporter(api.url, *flags) as process:
            await process.until("msg=polled")
            ending = asyncio.create_task(process.ended(5))
            process.send(signal.SIGTERM)
            while not ending.done():
                await asyncio.sleep(0.001 * (1 + turn % 3))
                # Not with the method of *process*, which would reap the exit code that ended() waits for.
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGTERM)

            assert await ending == 0

    async def test_at_random_moments_during_the_start(self, api, flags):
        dice = random.Random(os.environ.get("SEED", "stop"))
        for _ in range(5 * SOAK):
            async with run(
                f"--api.base-url={api.url}", "--web.listen-address=127.0.0.1:0", *flags, environ=CREDENTIALS
            ) as process:
                # The interpreter takes a moment before it runs the program's first line.
                await eventually(lambda: handles(process.pid, signal.SIGTERM))
                await asyncio.sleep(dice.uniform(0, 1.2))

                assert await stopped(process) == 0, process.stderr

    async def test_while_the_state_is_locked_at_the_start(self, api, flags, tmp_path):
        async with exporter(api.url, *flags) as process:
            await process.until("msg=polled")
            assert await stopped(process) == 0
        path = tmp_path / "state.db"
        with locked(path):
            async with run(f"--api.base-url={api.url}", *flags, environ=CREDENTIALS) as process:
                await eventually(lambda: str(path) in opened_by(process.pid))

                assert await stopped(process) == 0
                assert process.stderr == ""

    @pytest.mark.parametrize("is_released", [False, True])
    async def test_while_the_state_is_locked(self, api, flags, tmp_path, is_released):
        """The next start counts what could not be saved, and continues from what could."""
        async with exporter(api.url, *flags) as process:
            await process.until("msg=polled")
            requests = "comms_exporter_api_requests_total"
            with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as somebody:
                somebody.execute("BEGIN IMMEDIATE")
                api.world.send(fates=[Fate(sent=0, delivered=0)] * 7)
                api.world.freeze()
                # Once the poll that lists them waits for its save, there are no more requests.
                before = None
                while (now := re.findall(rf"^{requests}.*", await scrape(process.url), re.MULTILINE)) != before:
                    before = now
                    await asyncio.sleep(0.5)
                process.send(signal.SIGTERM)
                if is_released:
                    await asyncio.sleep(0.3)
                    somebody.execute("ROLLBACK")
                assert await process.ended(5) == 0
        if is_released:
            async with exporter(f"http://127.0.0.1:{unused_port()}/v1", *flags) as process:
                assert 7 == (await totals_of("delivered", process.url))
        async with exporter(api.url, *flags) as process:
            await process.until("msg=polled")
            assert 7 == (await totals_of("delivered", process.url))


async def totals_of(name, url):
    async with aiohttp.ClientSession() as session:
        return (await totals(session, url))[name]


async def eventually(holds):
    async with asyncio.timeout(STARTING_SECONDS):
        while True:
            if holds():
                return
            await asyncio.sleep(0.001)


def succeeds(*command):
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def child_of(pid):
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def handles(pid, number):
    """Whether the process has a handler for the signal *number* yet."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught[1], 16) & 1 << (number - 1))


def opened_by(pid):
    found = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(each.readlink()))
    return found


def increase_of(samples):
    """Return the increase of a counter in *samples*, with resets as Prometheus handles them."""
    values = [value for _, value in samples]
    return sum(after if after < before else after - before for before, after in pairwise(values))


async def test_starts_make_no_spike(prometheus_binaries, tmp_path):
    """First start, restart with and without state, a new account: increase() never exceeds what was sent."""
    dice = random.Random(7)
    world = World(clock=time.time)
    for n in range(300):
        world.send(at=time.time() - 100 - n * 60, fates=[Fate(sent=1, delivered=2)] * 5)
    port = unused_port()
    state = tmp_path / "state.db"
    accounts = tmp_path / "accounts.yml"
    accounts.write_text(
        "accounts:\n"
        "  - {name: shop, account_sid: ACtest, auth_token: canary}\n"
        "  - {name: added, account_sid: ACtest, auth_token: canary}\n"
    )
    bare = {"TWILIO_ACCOUNT_SID": "", "TWILIO_AUTH_TOKEN": ""}
    runs = [
        ((), {}),
        ((), {}),
        ((f"--state.path={tmp_path / 'new.db'}",), {}),
        ((f"--config.file={accounts}", f"--state.path={tmp_path / 'new.db'}"), bare),
    ]
    async with (
        TestServer(make_app(world)) as api,
        Prometheus(prometheus_binaries, tmp_path, targets=[f"127.0.0.1:{port}"]) as prometheus,
    ):
        began = time.time()
        for number, (flags, environ) in enumerate(runs):
            named = () if environ else ("--account.name=shop",)
            async with exporter(
                str(api.make_url("/v1")),
                f"--state.path={state}",
                "--collect.interval=200ms",
                f"--web.listen-address=127.0.0.1:{port}",
                *named,
                *flags,
                environ=environ,
                listen=False,
            ) as process:
                await process.until("msg=polled")
                assert urlsplit(process.url).port == port
                await prometheus.until('comms_up{account="shop"} == 1', within=30)
                ((_, scraped),) = await prometheus.query("max(timestamp(comms_up))")
                for _ in range(3):
                    world.send(fates=[short_fate(dice, longest=0.5) for _ in range(10)])
                emails = 30 * (number + 1)
                assert emails == world.tally(since=began).created
                await prometheus.until(f"max(timestamp(comms_up)) >= {scraped} + 3")
        truth = asdict(world.tally(since=began))
        for name, series in SERIES.items():
            for labels, samples in await prometheus.query_range(series, began, time.time()):
                assert increase_of(samples) <= truth[name], (name, labels, samples)
            for labels, value in await prometheus.query(f"increase({series}[1h])"):
                # Prometheus extrapolates beyond the first and the last sample, by up to half an interval each.
                assert value <= truth[name] * 1.1, (name, labels)
        ((_, samples),) = await prometheus.query_range('comms_emails_created_total{account="shop"}', began, time.time())
        assert increase_of(samples) > 60
