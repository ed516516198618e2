"""An hour in which every fifth request fails: backoff is respected, reasons are right, and finally all totals are exact."""

import asyncio
import os
import random

import pytest
from harness import HOUR, simulator_harness
from operations import NOW, page_of
from prometheus_client.parser import text_string_to_metric_families

from comms_exporter.collect.health import Reloads
from comms_exporter.expose.exposition import Exposition
from comms_exporter.model.records import TOTALS
from comms_exporter.simulator import Dialect

SOAK = int(os.environ.get("SOAK", "1"))
SHARE = 0.2
INTERVAL = 15.0
LISTING = "/v1/Emails/Operations"

REASONS = {
    "401": "auth", "403": "forbidden", "404": "not_found", "429": "rate_limited", "500": "server", "502": "server",
    "503": "server", "reset": "connection", "reset-body": "connection", "truncated": "bad_payload", "empty": "bad_payload",
    "hang": "timeout",
}  # fmt: skip
# Faults that never fail a poll by themselves.
HARMLESS = ("blank-token", "malformed", "unknown-field", "unknown-status", "unknown-counter")
# Faults that lead back to an earlier page: on the first one they cost a request, on others the listing would never end.
LOOPS = ("repeat-token", "empty-page")
WAITS = (("seconds", 0), ("seconds", 1), ("seconds", 45), ("seconds", 200), ("date", 7), ("date", 100), ("none", 1))


class RandomFaults:
    """Draws a fault for each request, and logs it: (time, path, kind, seconds of Retry-After)."""

    def __init__(self, harness, kinds, *, seed):
        self._harness = harness
        self._kinds = kinds
        self._rng = random.Random(f"{seed}/faults")
        self._draw = harness.faults.draw
        self.hangs = 0
        self.over = False
        self.log = []
        harness.faults.draw = self.draw

    def draw(self, method, path):
        faults = self._harness.faults
        faults.clear()
        retry_after = None
        if self.hangs > 0:
            self.hangs -= 1
            faults.add("hang")
        elif not self.over and self._rng.random() < SHARE:
            kind = self._rng.choice(self._kinds)
            form, seconds = self._rng.choice(WAITS)
            faults.add(kind, retry_after=seconds, retry_after_form=form)
            retry_after = seconds if kind in {"429", "503"} and form != "none" else None
        fault = self._draw(method, path)
        self.log.append((self._harness.clock.now, path, fault and fault.kind, retry_after))
        return fault


class Account:
    """The poll loop of one account, checked after every poll."""

    def __init__(self, harness, random_faults, *, seed):
        self.harness = harness
        self.random_faults = random_faults
        self.rng = random.Random(f"{seed}/mail")
        self.first_look = None
        self.reasons = []
        self.intervals = set()
        self._stretch = 1
        self._ends = float("inf")
        self._before = list(harness.poller.state.totals)
        self._page = Exposition(lambda: [harness.poller], reloads=Reloads(last_success=NOW), monotonic=harness.clock)
        self._poll = harness.poller.poll
        harness.poller.poll = self.poll

    def send(self):
        for _ in range(self.rng.randrange(3)):
            later = self.harness.clock.now + self.rng.choice([0, 0, 0, 100, 2 * HOUR])
            self.harness.world.send(self.rng.randint(1, 4), schedule=later)

    async def run(self, *, seconds):
        """Run the poller's loop for *seconds* of its clock."""
        self._ends = self.harness.clock.now + seconds
        with pytest.raises(asyncio.CancelledError):
            await self.harness.poller.run()

    async def poll(self):
        if self.harness.clock.now >= self._ends:
            raise asyncio.CancelledError
        if self.first_look is not None:
            self.send()
        await self.once()

    async def once(self):
        begun = len(self.random_faults.log)
        await self._poll()
        self.check(self.random_faults.log[begun:])

    def check(self, requests):
        """Compare health, interval and totals with what the API did in *requests*."""
        harness, health = self.harness, self.harness.poller.health
        _, path, kind, _ = requests[-1]
        alone = path != LISTING
        if kind in REASONS and not (alone and kind == "404"):
            expected = REASONS[kind]
        elif kind in LOOPS:
            expected = "bad_payload"
        else:
            expected = None
        assert expected == (health.problem and health.problem.reason)
        if expected is not None:
            self.reasons.append(expected)

        if kind in {"429", "503"}:
            self._stretch = min(8, 2 * self._stretch)
        elif expected is None:
            self._stretch = max(1, self._stretch // 2)
        assert self._stretch * INTERVAL == health.interval_seconds
        self.intervals.add(health.interval_seconds)

        shown = self.scrape()
        assert float(expected is None) == shown["comms_up"]
        assert len(self.reasons) == shown["comms_exporter_poll_failures_total"]
        assert health.interval_seconds == shown["comms_exporter_poll_interval_seconds"]

        if self.first_look is None and harness.poller.state.first_look is not None:
            self.first_look = harness.clock.now
        now = harness.poller.state.totals
        assert all(before <= after for before, after in zip(self._before, now, strict=True))
        assert all(counted <= true for counted, true in zip(now, self.truth(), strict=True))
        self._before = list(now)

    def scrape(self):
        names = ["comms_up", "comms_exporter_poll_failures_total", "comms_exporter_poll_interval_seconds"]
        shown = dict.fromkeys(names, 0.0)
        for family in text_string_to_metric_families(page_of(self._page, names=names).decode()):
            for sample in family.samples:
                if sample.name in shown:
                    shown[sample.name] += sample.value
        return shown

    def truth(self):
        tally = self.harness.world.tally(
            since=self.first_look if self.first_look is not None else self.harness.clock.now
        )
        return [getattr(tally, "created" if name == "total" else name) for name in TOTALS]


KINDS = [*(kind for kind in REASONS if kind != "hang"), *HARMLESS, *LOOPS]


@pytest.mark.parametrize("seed", range(SOAK))
@pytest.mark.parametrize(("reading", "envelope"), [("cumulative", "operations"), ("exclusive", "data")])
async def test_totals_are_exact_after_an_hour_of_faults(seed, reading, envelope):
    """The sweep after the last fault corrects everything."""
    async with simulator_harness(
        reading=reading, dialect=Dialect(envelope=envelope), page_size=50, interval=INTERVAL
    ) as harness:
        account = Account(harness, RandomFaults(harness, KINDS, seed=seed), seed=seed)
        await account.run(seconds=HOUR)

        assert len(account.reasons) > 20
        assert {INTERVAL, 2 * INTERVAL} <= account.intervals
        await recovers(account)


async def test_totals_are_exact_after_minutes_with_a_server_that_hangs():
    async with simulator_harness(request_timeout=0.5, page_size=50, interval=INTERVAL) as harness:
        account = Account(harness, RandomFaults(harness, KINDS, seed="silence"), seed="silence")
        await account.run(seconds=100)
        account.random_faults.hangs = 4
        await account.run(seconds=200)

        assert "timeout" in account.reasons
        await recovers(account)


async def recovers(account):
    """After the faults, totals are as if there had been none, and every backoff was respected."""
    harness = account.harness
    account.random_faults.over = True
    await account.run(seconds=10 * INTERVAL)
    assert INTERVAL == harness.poller.health.interval_seconds
    harness.clock.now += HOUR
    account.send()
    await account.once()

    assert harness.poller.health.up
    assert dict(zip(TOTALS, account.truth(), strict=True)) == dict(
        zip(TOTALS, harness.poller.state.totals, strict=True)
    )
    assert {} == harness.poller.state.regressions
    check_backoff(account.random_faults.log)


def check_backoff(requests):
    """Check that no request came before the end of a Retry-After."""
    until = float("-inf")
    for when, _, _, retry_after in requests:
        assert when >= until
        if retry_after is not None:
            until = when + retry_after
