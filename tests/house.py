"""An exporter of one account and its simulated API on a real socket, with one clock for both."""

from contextlib import asynccontextmanager
from email.utils import formatdate

import aiohttp
from aiohttp.test_utils import TestServer
from operations import NOW

from comms_exporter.api.client import CommsClient
from comms_exporter.api.request_stats import RequestStats
from comms_exporter.base.redaction import Redactor
from comms_exporter.collect.health import PollHealth
from comms_exporter.collect.poller import Poller
from comms_exporter.collect.state import AccountState
from comms_exporter.collect.view import View
from comms_exporter.model.records import TOTALS
from comms_exporter.simulator import REQUESTS, Dialect, Faults, World, make_app

INTERVAL = 30.0
HOUR = 3600.0


class Clock:
    """Time that passes only where somebody waits for it; remembers the waits."""

    def __init__(self, now=NOW):
        self.now = now
        self.waits = []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds


class Log:
    """Remembers what was said, as (level, event, fields)."""

    def __init__(self):
        self.said = []

    def bind(self, **_):
        return self

    def __getattr__(self, level):
        return lambda event, **fields: self.said.append((level, event, fields))

    def heard(self, *levels):
        return [(event, fields.get("reason")) for level, event, fields in self.said if level in levels]


class Credentials:
    """A header, and the one that takes its place when it is read again."""

    def __init__(self, secret="canary", rotated=None):
        self.secret = secret
        self.rotated = rotated

    def header(self):
        return aiohttp.encode_basic_auth("ACtest", self.secret)

    def refresh(self):
        before, self.secret = self.secret, self.rotated or self.secret
        return before != self.secret


def make_client(session, clock, base_url, *, page_size=40, timeout=30, requests_per_second=1000, secrets=()):
    return CommsClient(
        session,
        base_url=base_url,
        credentials=Credentials(),
        page_size=page_size,
        timeout=timeout,
        requests_per_second=requests_per_second,
        request_stats=RequestStats(monotonic=clock),
        redactor=Redactor(secrets),
        clock=clock,
        monotonic=clock,
        sleep=clock.sleep,
        jitter=lambda: 0.5,
    )


class House:
    """What a test of the poller needs: `poll()`, and everything that it changes."""

    def __init__(self, poller, clock, world, faults, requests, log):
        self.poller = poller
        self.clock = clock
        self.world = world
        self.faults = faults
        self.log = log
        self._requests = requests

    async def poll(self, *, after=INTERVAL):
        """Let *after* seconds pass, and poll."""
        self.clock.now += after
        await self.poller.poll()

    @property
    def totals(self):
        return {name: n for name, n in zip(TOTALS, self.poller.state.totals, strict=True) if n}

    def asked(self):
        """Return what was asked since the last time, as paths below /v1/Emails/Operations."""
        paths = [served.path.removeprefix("/v1/Emails/Operations") for served in self._requests]
        self._requests.clear()
        return paths


@asynccontextmanager
async def house(*, dialect=None, reading="cumulative", rate=0, page_size=40, seconds=30, **poller):
    clock, faults, log = Clock(), Faults(), Log()
    world = World(clock=clock, reading=reading, rate=rate)
    app = make_app(world, faults, dialect=dialect or Dialect())

    async def tell_the_time(_, response):
        response.headers["Date"] = formatdate(clock(), usegmt=True)

    app.on_response_prepare.append(tell_the_time)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        client = make_client(session, clock, str(server.make_url("/v1")), page_size=page_size, timeout=seconds)
        made = Poller(
            "test",
            client=client,
            state=AccountState(),
            health=PollHealth(interval_seconds=poller.get("interval", INTERVAL)),
            view=View(),
            log=log,
            mask=lambda text: text,
            clock=clock,
            monotonic=clock,
            sleep=clock.sleep,
            **{
                "interval": INTERVAL,
                "active_window": HOUR,
                "max_operations": 1000,
                "max_tracked_operations": 100_000,
                **poller,
            },
        )
        yield House(made, clock, world, faults, app[REQUESTS], log)
