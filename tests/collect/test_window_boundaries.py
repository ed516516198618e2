"""Nothing is missed or counted twice where one window or poll ends and the next one begins."""

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from math import floor

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from harness import HOUR, simulator_harness
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import NOW
from yarl import URL

from comms_exporter.model.readings import REACHED
from comms_exporter.model.records import TOTALS
from comms_exporter.simulator import Dialect, Fate, make_app

SOAK = int(os.environ.get("SOAK", "1"))
FATES = (
    [Fate(sent=0, delivered=0, opened=0)],
    [Fate(sent=1, delivered=20, opened=90), Fate(sent=2, undelivered=31)],
    [Fate(queued=0, failed=5), Fate(sent=400, delivered=1900, opened=2 * HOUR, retries=(500,))],
    [Fate(queued=2 * HOUR, sent=2 * HOUR, delivered=2 * HOUR + 1)],
    [Fate(queued=float("inf"), canceled=60)] * 2,
)


def truth(operation, now):
    """Return what has truly happened to *operation*, in the order of TOTALS."""
    reached = operation.reached(now)
    counts = [getattr(reached, name) for name in REACHED[3:]]
    status = operation.status(now)
    created = [operation.total, operation.total, operation.attempts(now)]
    return (*created, *counts, 1, int(status == "COMPLETED"), int(status == "CANCELED"))


@dataclass(frozen=True, kw_only=True)
class Step:
    """What happens before the next poll, and during it."""

    after: int = 30
    # (seconds before the poll, index of FATES)
    sent: tuple[tuple[int, int], ...] = ()
    # (before which request of the poll, how many seconds later, index of FATES)
    arriving: tuple[tuple[int, int, int], ...] = ()
    fault: str | None = None
    # How many requests fail; None for all.
    times: int | None = None
    # By how many hours the exporter's clock is wrong from now on.
    wrong: float | None = None


class Account:
    """A harness whose exporter has a clock of its own, and whose emails are sent while pages are read."""

    def __init__(self, harness, *, wrong, sends_date):
        self.harness = harness
        self.wrong = wrong
        self.sends_date = sends_date
        self.sent = []
        self.baseline = None
        self.arriving = []
        self.requests = 0
        poller = harness.poller
        poller._clock = poller._reader._clock = poller._client._clock = lambda: harness.clock.now + self.wrong * HOUR

    def send(self, at, fates):
        self.sent.append(self.harness.world.send(at=at, fates=FATES[fates]))

    @web.middleware
    async def arrive(self, request, handler):
        """Let time pass and operations be created between two requests of one listing."""
        for place, seconds, fates in self.arriving:
            if place == self.requests:
                self.harness.clock.now += seconds
                self.send(floor(self.harness.clock.now), fates)
        self.requests += 1
        return await handler(request)

    async def set_date(self, _, response):
        response.headers["Date"] = formatdate(self.harness.clock(), usegmt=True)
        if not self.sends_date:
            del response.headers["Date"]

    async def live(self, step):
        """Run *step*, and check what the exporter guarantees after every poll."""
        jumped = step.wrong is not None and step.wrong != self.wrong
        if step.wrong is not None:
            self.wrong = step.wrong
        for before, fates in step.sent:
            self.send(self.harness.clock.now + max(0, step.after - before), fates)
        self.arriving, self.requests = step.arriving, 0
        self.harness.faults.clear()
        if step.fault is not None:
            self.harness.faults.add(step.fault, times=step.times)
        there = [operation.id for operation in self.sent]
        await self.harness.poll(after=step.after)
        self.harness.faults.clear()
        tracked = self.harness.poller.state.tracked
        if self.baseline is None and self.harness.poller.state.first_look is not None:
            self.baseline = {name: each.marks for name, each in tracked.items()}
        assert all(shown <= true for shown, true in zip(self.harness.poller.state.totals, self.truth(), strict=True))
        # Either the clock of the window is right, or it is behind and the window is too long.
        sure = not jumped if self.sends_date else self.wrong <= 0
        if self.harness.poller.health.up and sure:
            assert [] == [name for name in there if name not in tracked]

    def truth(self):
        """Return what has happened since the first look, in the order of TOTALS."""
        now, nothing = self.harness.clock.now, (0,) * len(TOTALS)
        counted = [
            [is_now - was for is_now, was in zip(truth(each, now), self.baseline.get(each.id, nothing), strict=True)]
            for each in (self.sent if self.baseline is not None else ())
        ]
        return [sum(column) for column in zip(nothing, *counted, strict=True)]

    async def settle(self):
        """Poll until the totals have to be exact: once, and at the next sweep."""
        await self.live(Step())
        await self.live(Step(after=int(HOUR)))
        assert self.harness.poller.health.up
        assert dict(zip(TOTALS, self.truth(), strict=True)) == dict(
            zip(TOTALS, self.harness.poller.state.totals, strict=True)
        )
        assert {} == self.harness.poller.state.regressions
        assert 0 == self.harness.poller.state.malformed


@asynccontextmanager
async def account(*, dialect=None, reading="cumulative", page_size=3, wrong=0.0, sends_date=True):
    async with simulator_harness(reading=reading, page_size=page_size) as harness:
        made = Account(harness, wrong=wrong, sends_date=sends_date)
        app = make_app(harness.world, harness.faults, dialect=dialect or Dialect())
        app.middlewares.append(made.arrive)
        app.on_response_prepare.append(made.set_date)
        async with TestServer(app) as server:
            harness.poller._client._base = URL(str(server.make_url("/v1")))
            yield made


dialects = st.builds(
    Dialect,
    order=st.sampled_from(["newest", "oldest"]),
    bounds=st.sampled_from(["exclusive", "inclusive"]),
    ignore_filters=st.booleans(),
    envelope=st.sampled_from(["operations", "data"]),
)
hours = st.sampled_from([0, 0, 1, -1, 3, -3, 11.5, -11.5, 25, -25])
fates = st.integers(0, len(FATES) - 1)
steps = st.builds(
    Step,
    after=st.sampled_from([1, 5, 30, 30, 30, 31, 240, 1800, 3599, 3600]),
    sent=st.lists(st.tuples(st.integers(0, 5), fates), max_size=4).map(tuple),
    arriving=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), fates), max_size=2).map(tuple),
    fault=st.sampled_from(
        [None] * 6 + ["500", "reset", "reset-body", "truncated", "404", "429", "empty-page", "repeat-token"]
    ),
    times=st.sampled_from([1, 2, 3, None]),
    wrong=st.none() | hours,
)
lives = st.lists(steps, min_size=1, max_size=8)


class TestWindowBoundaries:
    @settings(max_examples=70 * SOAK, deadline=None)
    @given(
        dialect=dialects,
        reading=st.sampled_from(["cumulative", "exclusive"]),
        page_size=st.integers(1, 5),
        wrong=hours,
        old=st.lists(st.tuples(st.integers(0, 6 * 24 * 3600), fates), max_size=4),
        life=lives,
    )
    async def test_with_a_date_header(self, dialect, reading, page_size, wrong, old, life):
        """The exporter's clock may be wrong and may jump: windows use the API's."""
        async with account(dialect=dialect, reading=reading, page_size=page_size, wrong=wrong) as each:
            for age, its_fates in old:
                each.send(NOW - age, its_fates)
            for step in life:
                await each.live(step)
            await each.settle()

    @settings(max_examples=70 * SOAK, deadline=None)
    @given(dialect=dialects, page_size=st.integers(1, 5), late=hours.map(abs), life=lives)
    async def test_without_a_date_header(self, dialect, page_size, late, life):
        """A clock that is behind at the first look loses nothing, and one that jumps later delays counts by an hour at most."""
        async with account(dialect=dialect, page_size=page_size, wrong=-late, sends_date=False) as each:
            await each.live(Step(wrong=-late))
            for step in life:
                await each.live(step)
            await each.settle()


class TestFirstLook:
    @pytest.mark.parametrize("order", ["newest", "oldest"])
    @pytest.mark.parametrize("seconds", [0, 1, 2])
    async def test_operations_created_during_it_are_tracked(self, order, seconds):
        async with account(dialect=Dialect(order=order), page_size=1) as each:
            for n in range(3):
                each.send(NOW + n, 0)
            await each.live(Step(arriving=((0, seconds, 0), (1, seconds, 0), (2, seconds, 0))))
            await each.settle()

            assert 6 == len(each.harness.poller.state.tracked)

    async def test_an_operation_created_in_the_same_second_is_counted(self):
        async with account() as each:
            await each.live(Step())
            first_look = each.harness.clock.now
            each.send(first_look, 0)
            await each.live(Step())

            assert 1 == each.harness.totals["total"]

    @pytest.mark.parametrize("fault", ["500", "429", "reset", "truncated", "401"])
    @pytest.mark.parametrize("wrong", [-3, 0, 3])
    async def test_failed_polls_are_no_first_look(self, fault, wrong):
        """Operations created between failed polls count as older than the first look, later ones in full."""
        async with account(wrong=wrong) as each:
            for _ in range(3):
                await each.live(Step(sent=((3, 0),), fault=fault))
            await each.live(Step(sent=((3, 0),)))
            assert {} == each.harness.totals

            await each.live(Step(sent=((30, 0),)))
            assert 1 == each.harness.totals["operations_created"]
            await each.settle()
