"""The real process, killed and restarted while mail goes out: nothing is lost, nothing counts twice, nothing falls."""

import asyncio
import os
import random
import re
import signal
import time
from dataclasses import asdict
from itertools import pairwise
from urllib.parse import urlsplit

import aiohttp
from aiohttp.test_utils import TestServer
from process import exporter, unused_port
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


def quick(dice, *, longest=2.0):
    """Return an email's fate that is over in seconds."""
    sent = dice.uniform(0, longest)
    fates = [
        Fate(sent=sent, delivered=sent + 0.2, opened=sent + dice.choice([0.5, NEVER])),
        Fate(sent=sent, undelivered=sent + 0.3),
        Fate(failed=sent),
        Fate(queued=NEVER, canceled=sent),
    ]
    return dice.choices(fates, weights=[7, 2, 1, 1])[0]


async def totals(session, url):
    """Return what the exporter has counted, by the names of the simulator's own tally."""
    async with session.get(f"{url}/metrics") as response:
        page = await response.text()
    found = {name: re.search(rf"^{series}{{.*}} (\S+)$", page, re.MULTILINE) for name, series in SERIES.items()}
    return {name: float(match[1]) for name, match in found.items()}


async def test_killed_at_random_moments_it_counts_the_truth(tmp_path):
    """kill -9 again and again, while operations live and are saved; the last count is exact, and none ever fell."""
    dice = random.Random(os.environ.get("SEED", "kill"))
    world = World(clock=time.time, reading=dice.choice(["cumulative", "exclusive"]))
    flags = (f"--state.path={tmp_path / 'state.db'}", "--collect.interval=50ms", "--log.level=warn")
    seen = dict.fromkeys(SERIES, 0.0)

    async def look(session, url):
        nonlocal seen
        now = await totals(session, url)
        fallen = {name: (seen[name], now[name]) for name in SERIES if now[name] < seen[name]}
        assert not fallen
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
                        world.send(fates=[quick(dice) for _ in range(dice.randint(1, 20))])
                    await look(session, process.url)
                    await asyncio.sleep(0.02)
                process.send(signal.SIGKILL)
                await process.ended()
        # Time stands still, so that the truth does not run away while it is read.
        world.freeze()
        truth = {name: float(n) for name, n in asdict(world.tally()).items()}
        async with exporter(address, *flags, "--log.level=info") as process:
            deadline = time.monotonic() + 30
            while seen != truth:
                assert time.monotonic() < deadline, (seen, truth)
                await look(session, process.url)
                await asyncio.sleep(0.05)
            assert truth["operations_created"] > 0
            # Nothing is added afterwards, either.
            polls = process.said.count("msg=polled")
            await process.until(f"(?s)(msg=polled.*){{{polls + 3}}}")
            await look(session, process.url)
            assert truth == seen


def risen(samples):
    """Return what a counter rose by in *samples*, as Prometheus understands resets."""
    values = [value for _, value in samples]
    return sum(after if after < before else after - before for before, after in pairwise(values))


async def test_no_start_makes_a_spike(prometheus_binaries, tmp_path):
    """First start, restart with state, restart without, and an account that is added: increase() never exceeds the truth."""
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
                    world.send(fates=[quick(dice, longest=0.5) for _ in range(10)])
                emails = 30 * (number + 1)
                assert emails == world.tally(since=began).created
                await prometheus.until(f"max(timestamp(comms_up)) >= {scraped} + 3")
        truth = asdict(world.tally(since=began))
        for name, series in SERIES.items():
            for labels, samples in await prometheus.query_range(series, began, time.time()):
                assert risen(samples) <= truth[name], (name, labels, samples)
            for labels, value in await prometheus.query(f"increase({series}[1h])"):
                # Prometheus extrapolates beyond the first and the last sample, by up to half an interval each.
                assert value <= truth[name] * 1.1, (name, labels)
        ((_, samples),) = await prometheus.query_range('comms_emails_created_total{account="shop"}', began, time.time())
        assert risen(samples) > 60
