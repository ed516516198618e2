"""A poller and a simulated API on a real socket, which share one clock that only moves when told to."""

from contextlib import asynccontextmanager
from email.utils import formatdate

import aiohttp
from aiohttp.test_utils import TestServer
from operations import NOW, restored

from comms_exporter.api.client import CommsClient
from comms_exporter.api.emails import EmailsClient
from comms_exporter.api.request_stats import RequestStats
from comms_exporter.base.redaction import Redactor
from comms_exporter.collect.health import PollHealth
from comms_exporter.collect.poller import EmailCollection, Poller
from comms_exporter.collect.view import View
from comms_exporter.model.records import TOTALS
from comms_exporter.simulator import REQUESTS, Dialect, Faults, World, make_app

INTERVAL = 30.0
HOUR = 3600.0


class Clock:
    """A clock that moves only when somebody sleeps; records the sleeps in `waits`."""

    def __init__(self, now=NOW):
        self.now = now
        self.waits = []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds


class RecordingLog:
    """Records log calls in `entries`, as (level, event, fields)."""

    def __init__(self):
        self.entries = []

    def bind(self, **_):
        return self

    def __getattr__(self, level):
        return lambda event, **fields: self.entries.append((level, event, fields))

    def events(self, *levels):
        """Return the events at any of *levels*, with their reasons."""
        return [(event, fields.get("reason")) for level, event, fields in self.entries if level in levels]


class Credentials:
    """Credentials that a refresh replaces by *rotated* ones."""

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


class Harness:
    """A poller with everything around it that a test reads or changes."""

    def __init__(self, make_poller, *, clock, world, faults, log, requests):
        self._make_poller = make_poller
        self.poller = make_poller(None)
        self.clock = clock
        self.world = world
        self.faults = faults
        self.log = log
        self._requests = requests

    async def poll(self, *, after=INTERVAL):
        """Poll *after* that many seconds."""
        self.clock.now += after
        await self.poller.poll()

    async def poll_and_collect(self, *, after=INTERVAL):
        """Poll *after* that many seconds, then collect emails."""
        await self.poll(after=after)
        await self.poller.collect_emails(60.0)

    def restart(self, saved):
        """Replace the poller by that of a new process that finds the account *saved*."""
        self.poller = self._make_poller(saved)

    @property
    def totals(self):
        return {name: n for name, n in zip(TOTALS, self.poller.state.totals, strict=True) if n}

    def requested_paths(self):
        """Return the requests since the last call, as paths below /v1/Emails/Operations."""
        paths = [served.path.removeprefix("/v1/Emails/Operations") for served in self._requests]
        self._requests.clear()
        return paths


@asynccontextmanager
async def simulator_harness(
    *,
    dialect=None,
    reading="cumulative",
    rate=0,
    page_size=40,
    request_timeout=30,
    emails=None,
    emails_interval=300.0,
    log_losses=False,
    **options,
):
    """Give a harness whose API is the simulator; *options* are those of the poller.

    *emails* are the EmailOptions of an account whose emails are collected.
    """
    clock, faults, log = Clock(), Faults(), RecordingLog()
    world = World(clock=clock, reading=reading, rate=rate)
    app = make_app(world, faults, dialect=dialect or Dialect())

    async def set_date(_, response):
        response.headers["Date"] = formatdate(clock(), usegmt=True)

    app.on_response_prepare.append(set_date)
    options = {
        "interval": INTERVAL,
        "active_window": HOUR,
        "max_operations": 1000,
        "max_tracked_operations": 100_000,
        **options,
    }
    async with TestServer(app) as server, aiohttp.ClientSession() as session:

        def make_poller(saved):
            client = make_client(
                session, clock, str(server.make_url("/v1")), page_size=page_size, timeout=request_timeout
            )
            state = restored(saved, emails)
            return Poller(
                "test",
                client=client,
                state=state,
                health=PollHealth(interval_seconds=options["interval"]),
                view=View(),
                log=log,
                mask=lambda text: text,
                emails=emails
                and EmailCollection(
                    client=EmailsClient(client, log=log),
                    state=state.emails,
                    interval=emails_interval,
                    log_losses=log_losses,
                ),
                clock=clock,
                monotonic=clock,
                sleep=clock.sleep,
                **options,
            )

        yield Harness(make_poller, clock=clock, world=world, faults=faults, log=log, requests=app[REQUESTS])
