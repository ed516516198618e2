"""Hours of a sender, polled in moments: the pages that Prometheus would have scraped, one for each poll.

Usage: python -m bench.expose.simulated_hours OPERATIONS_PER_WEEK HISTORY_SECONDS LIMIT; see rpc.py. The poller, its client and the
simulated API are real, on a clock that moves only from poll to poll. Pages are served at /WHICH/metrics, where WHICH is a value of
--collect.operations: each request for it gets the next page.
"""

import asyncio
import sys
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import structlog
from aiohttp.test_utils import TestServer

from bench.rpc import reply, serve_blocking
from comms_exporter.api.client import CommsClient
from comms_exporter.api.request_stats import RequestStats
from comms_exporter.base.slices import run_to_completion
from comms_exporter.collect.emails.health import EmailHealth
from comms_exporter.collect.health import PollHealth, Reloads
from comms_exporter.collect.poller import Poller
from comms_exporter.collect.state import AccountState
from comms_exporter.collect.view import View
from comms_exporter.expose.exposition import Exposition
from comms_exporter.simulator import Faults, Sender, World, make_app

MODES = ("active", "troubled", "none")
INTERVAL_SECONDS = 30.0
ACTIVE_SECONDS = 3600.0
WEEK_HOURS = 168


class Clock:
    """A clock that moves only when somebody sleeps."""

    def __init__(self):
        self.now = float(int(time.time()))

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds


class Credentials:
    """Credentials that never change."""

    def header(self):
        return aiohttp.encode_basic_auth("ACbench", "not-a-secret")

    def refresh(self):
        return False


@dataclass
class Account:
    """What one exposition reads: all share the state, but expose different operations."""

    state: AccountState
    health: PollHealth
    request_stats: RequestStats
    view: View = field(default_factory=View)
    name: str = "shop"
    email_health: EmailHealth = field(default_factory=EmailHealth)
    revision: object = None


class Hours:
    """A sender of *rate* operations an hour, and what an exporter exposes of them in each mode."""

    def __init__(self, *, rate, history, limit):
        self.pages = {mode: [] for mode in MODES}
        self.exposed = {mode: [] for mode in MODES}
        self._clock = Clock()
        self._world = World(
            clock=self._clock,
            rate=rate,
            sender=Sender(daily_wave=0.0, scheduled=0.0),
            history_seconds=history,
            seed="hours",
        )
        self._limit = limit
        self._state = AccountState()
        self._poller = None

    async def start(self):
        """Serve the API, and build the poller."""
        app = make_app(self._world, Faults())
        app.on_response_prepare.append(self._set_date)
        server = TestServer(app)
        await server.start_server()
        client = CommsClient(
            aiohttp.ClientSession(),
            base_url=str(server.make_url("/v1")),
            credentials=Credentials(),
            page_size=1000,
            timeout=60,
            requests_per_second=1_000_000,
            request_stats=RequestStats(monotonic=self._clock),
            clock=self._clock,
            monotonic=self._clock,
            sleep=self._clock.sleep,
        )
        self._poller = Poller(
            "shop",
            client=client,
            state=self._state,
            health=PollHealth(interval_seconds=INTERVAL_SECONDS),
            view=View(),
            interval=INTERVAL_SECONDS,
            active_window=ACTIVE_SECONDS,
            max_operations=self._limit,
            max_tracked_operations=10_000_000,
            log=structlog.get_logger(),
            mask=str,
            clock=self._clock,
            monotonic=self._clock,
            sleep=self._clock.sleep,
        )
        self._accounts = {mode: Account(self._state, self._poller.health, self._poller.request_stats) for mode in MODES}
        self._expositions = {
            mode: Exposition(lambda account=account: [account], reloads=Reloads(self._clock()), monotonic=self._clock)
            for mode, account in self._accounts.items()
        }

    async def _set_date(self, _, response):
        response.headers["Date"] = formatdate(self._clock(), usegmt=True)

    async def simulate(self, polls):
        """Poll so many times, and write the page of each mode after each."""
        for _ in range(polls):
            self._clock.now += INTERVAL_SECONDS
            await self._poller.poll()
            if self._poller.health.problem is not None:
                raise RuntimeError(self._poller.health.problem.message)
            for mode in MODES:
                account = self._accounts[mode]
                account.view = run_to_completion(
                    self._state.view(now=self._clock(), active_window=ACTIVE_SECONDS, limit=self._limit, exposes=mode)
                )
                body = await self._expositions[mode].body(openmetrics=False, gzip=True)
                self.pages[mode].append(b"".join(body.chunks))
                self.exposed[mode].append(len(account.view.exposed))


def serve_pages(pages, served):
    """Serve the next of *pages* to each request for a mode, the last one again at the end; *served* counts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            mode = self.path.split("/")[1]
            page = pages[mode][min(served[mode], len(pages[mode]) - 1)]
            served[mode] += 1
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def main(operations_per_week, history, limit):
    """Answer calls from the benchmark."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    hours = Hours(rate=operations_per_week / WEEK_HOURS, history=history, limit=limit)
    served = dict.fromkeys(MODES, 0)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(hours.start())
    reply(serve_pages(hours.pages, served))
    serve_blocking(
        {
            "simulate": lambda polls: loop.run_until_complete(hours.simulate(polls)),
            "exposed": lambda: hours.exposed,
            "served": lambda: served,
        }
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
