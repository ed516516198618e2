"""Accounts to expose, and the pages that they make."""

import platform
import re
from dataclasses import dataclass, field

from operations import NOW, account_with_emails, apply, email, learn, listing, operation, page_of, view
from prometheus_client.core import GaugeMetricFamily

from comms_exporter import __version__
from comms_exporter.api.request_stats import RequestStats
from comms_exporter.collect.emails.health import EmailHealth
from comms_exporter.collect.health import PollHealth, Problem, Reloads
from comms_exporter.collect.state import AccountState
from comms_exporter.collect.view import View
from comms_exporter.expose.exposition import Exposition
from comms_exporter.expose.operation_lines import OPERATION_FAMILIES, values
from comms_exporter.model.operations import STATUSES
from comms_exporter.model.providers import Providers


@dataclass
class Account:
    name: str
    state: AccountState = field(default_factory=AccountState)
    view: View = field(default_factory=View)
    health: PollHealth = field(default_factory=lambda: PollHealth(interval_seconds=30))
    request_stats: RequestStats = field(default_factory=RequestStats)
    email_health: EmailHealth = field(default_factory=EmailHealth)
    revision: object = None

    def publish(self, limit=1000, exposes="active"):
        """Publish the state as a view, as a poll does."""
        self.view = view(self.state, now=NOW, active_window=3600, limit=limit, exposes=exposes)
        return self


def shop():
    """An account with a campaign in progress, a scheduled operation, a completed one and one with an unknown status."""
    account = Account("shop")
    apply(account.state, listing(sweep=True, at=NOW - 7200))
    apply(account.state,
        listing(
            operation("comms_operation_01m1campaign", created=NOW - 600, updated=NOW - 5, total=5000, recipients=5000,
                      attempts=3100, queued=1900, sent=3080, delivered=2900, opened=410, undelivered=60, failed=20),
            operation("comms_operation_01m2scheduled", status="SCHEDULED", created=NOW - 300, total=40, recipients=40,
                      scheduled=40),
            operation("comms_operation_01m3done", status="COMPLETED", created=NOW - 90, updated=NOW - 50, total=1,
                      recipients=1, attempts=1, sent=1, delivered=1),
            operation("comms_operation_01m4new", status="PAUSED", created=NOW - 40, total=2, recipients=None,
                      attempts=None, queued=2),
            malformed=1,
            unknown={"status": 1},
        )
    )  # fmt: skip
    account.health.succeeded(at=NOW, monotonic=NOW, took=0.25)
    account.request_stats.requests.update({"200": 2})
    for seconds in (0.04, 0.21):
        account.request_stats.durations.observe(seconds)
    return account.publish()


def mailings():
    """An account whose emails of all statuses are collected."""
    state = account_with_emails(
        all_stages=True, tags=("campaign",), errors=True, max_values=2, providers=Providers({"acme": ["acme.example"]})
    )
    account = Account("mailings", state)
    apply(
        state,
        listing(
            operation("comms_operation_01m1campaign", total=9, sent=7, delivered=4, opened=1, undelivered=3, failed=2)
        ),
    )
    how = {"of": "comms_operation_01m1campaign"}
    learn(
        state,
        email("comms_email_1", status="OPENED", to="gmail.com", sender="news.example", campaign="spring", **how),
        email("comms_email_2", status="SENT", to="mail.acme.example", sender="shop.example", campaign="spring", **how),
        email("comms_email_3", status="UNDELIVERED", updated=NOW + 50, to="gmail.com", sender="news.example",
              campaign='sum"mer\\', **how),
        email("comms_email_4", status="FAILED", to="company.example", sender="fresh.example", **how),
        email("comms_email_5", status="INBOUND"),
    )  # fmt: skip
    state.emails.apply_errors("comms_operation_01m1campaign", 2, ["61001", "61001", "61003"])
    account.health.succeeded(at=NOW, monotonic=NOW, took=0.25)
    account.email_health.rounds, account.email_health.last_success = 1, NOW
    return account.publish()


def newsletter():
    """An account whose API key was revoked before the first poll."""
    account = Account('news"letter\\')
    account.health.failed(Problem("auth", "401: Authenticate"), took=0.1)
    account.request_stats.requests.update({"401": 1})
    account.request_stats.durations.observe(0.1)
    return account


def make_exposition(*accounts, now=NOW):
    """Return an exposition of *accounts* at the constant time *now*."""
    return Exposition(lambda: accounts, reloads=Reloads(last_success=NOW - 60), monotonic=lambda: now)


def page_with(*accounts, openmetrics=False, names=(), now=NOW + 10):
    return page_of(make_exposition(*accounts, now=now), openmetrics=openmetrics, names=names).decode()


def comparable(page):
    """Return *page* without the metrics of this process and the versions of the exporter and of Python."""
    page = page.replace(f'"{__version__}"', '"VERSION"').replace(f'"{platform.python_version()}"', '"3.X.Y"')
    return "".join(line for line in page.splitlines(keepends=True) if not re.match(r"(# \w+ )?(process|python)_", line))


def account_with(*operations):
    """Return an account with exposed *operations*."""
    account = Account("shop", view=View(exposed=list(operations)))
    account.health.succeeded(at=NOW, monotonic=NOW, took=1)
    return account


def many_operations(count, **counters):
    return [operation(f"op{n:05}", total=n, **counters) for n in range(count)]


class LibraryCollector:
    """The families of single operations, for prometheus_client to render."""

    def __init__(self, account, operations):
        self.account = account
        self.operations = operations

    def collect(self):
        family = GaugeMetricFamily(*OPERATION_FAMILIES[0], labels=["account", "operation_id", "status"])
        for each in self.operations:
            for status in STATUSES if each.status in STATUSES else (*STATUSES, each.status):
                family.add_metric([self.account, each.id, status], status == each.status)
        yield family
        for index, (name, text) in enumerate(OPERATION_FAMILIES[1:]):
            family = GaugeMetricFamily(name, text, labels=["account", "operation_id"])
            for each in self.operations:
                if values(each)[index] is not None:
                    family.add_metric([self.account, each.id], values(each)[index])
            yield family
