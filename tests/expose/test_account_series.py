"""The lines of an account are rendered again if, and only if, a value has changed."""

import re
import time
from collections import Counter
from dataclasses import fields

import pytest
from expose.pages import comparable, make_exposition, newsletter, shop
from operations import NOW, apply, listing, operation, page_of

from comms_exporter.api.request_stats import RequestStats
from comms_exporter.collect.health import PollHealth, Problem, Reloads
from comms_exporter.expose import account_series
from comms_exporter.expose.account_series import AccountSeries, Table
from comms_exporter.expose.exposition import Exposition
from comms_exporter.expose.families import LIVE, PUBLISHED
from comms_exporter.expose.rendering import render
from comms_exporter.model.histogram import Histogram


@pytest.fixture
def rendered(monkeypatch):
    """The (family, account) pairs that were rendered."""
    calls = []

    def recording(family, *, openmetrics):
        calls.extend({(family.name, sample.labels["account"]) for sample in family.samples})
        return render(family, openmetrics=openmetrics)

    monkeypatch.setattr(account_series, "render", recording)
    return calls


def series(*tables):
    return AccountSeries(tables, openmetrics=False)


def text_of(series, account):
    return b"".join(series.text(account, NOW).lines).decode()


class TestAccountSeries:
    def test_renders_nothing_again_if_nothing_has_changed(self, rendered):
        account, live = shop(), series(Table(LIVE))
        text = live.text(account, NOW)
        rendered.clear()

        assert text.lines is live.text(account, NOW).lines
        assert [] == rendered

    def test_renders_only_the_changed_values_of_the_changed_account(self, rendered):
        accounts = [shop(), newsletter()]
        live = series(Table(LIVE))
        before = [live.text(account, NOW) for account in accounts]
        rendered.clear()
        accounts[0].health.polls += 1

        assert 'comms_exporter_polls_total{account="shop"} 2.0\n' in text_of(live, accounts[0])
        assert before[1].lines is live.text(accounts[1], NOW).lines
        assert [("comms_exporter_polls", "shop")] == rendered

    def test_does_not_read_the_values_of_an_unchanged_version(self):
        account = shop()
        published = series(Table(PUBLISHED, version=lambda account: account.view))
        text = text_of(published, account)
        account.view.queued += 1
        assert text == text_of(published, account)

        account.publish()
        account.view.queued = 5000
        assert 'comms_emails_queued{account="shop"} 5000.0\n' in text_of(published, account)

    def test_does_not_read_the_values_of_an_unchanged_revision(self):
        account, live = shop(), series(Table(LIVE))
        account.revision = object()
        text = text_of(live, account)
        account.health.polls += 1
        assert text == text_of(live, account)

        account.revision = object()
        assert 'comms_exporter_polls_total{account="shop"} 2.0\n' in text_of(live, account)

    def test_an_account_becomes_stale_without_a_new_revision(self):
        account, live = shop(), series(Table(LIVE))
        account.revision = object()
        texts = [b"".join(live.text(account, NOW + age).lines).decode() for age in (300, 301)]

        assert [True, False] == ['comms_exporter_operations_exposed{account="shop"} 4.0' in text for text in texts]

    def test_follows_accounts_that_are_added_removed_and_reordered(self):
        accounts = []
        exposition = Exposition(lambda: accounts, reloads=Reloads(last_success=NOW - 60), monotonic=lambda: NOW)
        for now in ([], [shop()], [shop(), newsletter()], [newsletter(), shop()], [newsletter()], []):
            accounts[:] = now
            assert comparable(page_of(make_exposition(*now)).decode()) == comparable(page_of(exposition).decode())

    def test_sees_a_change_that_leaves_the_sum_of_a_mapping_alone(self):
        account = shop()
        account.health.failures.update({"auth": 1})
        exposition = make_exposition(account)
        page_of(exposition)
        account.health.failures = Counter({"server": 1})

        page = page_of(exposition).decode()

        assert 'comms_exporter_poll_failures_total{account="shop",reason="server"} 1.0' in page
        assert 'comms_exporter_poll_failures_total{account="shop",reason="auth"} 0.0' in page

    @pytest.mark.parametrize(
        ("part", "name"),
        [
            *(("health", each.name) for each in fields(PollHealth)),
            *(("request_stats", each.name) for each in fields(RequestStats) if each.name != "monotonic"),
            ("state", "regressions"),
            ("state", "unknown"),
            ("state", "malformed"),
        ],
    )
    def test_shows_every_change(self, part, name):
        """Whatever changes, the page is that of an exposition that has nothing cached."""
        account = shop()
        exposition = make_exposition(account)
        page_of(exposition), page_of(exposition, openmetrics=True)
        changed = getattr(account, part)
        value = getattr(changed, name)
        if isinstance(value, Counter):
            value["total" if part == "state" else "auth"] += 1
        elif isinstance(value, Histogram):
            value.observe(0.1)
        elif name == "problem":
            changed.problem = Problem("auth", "401: Authenticate")
        else:
            setattr(changed, name, value + 1)

        for openmetrics in (False, True):
            uncached = page_of(make_exposition(account), openmetrics=openmetrics)
            assert comparable(uncached.decode()) == comparable(page_of(exposition, openmetrics=openmetrics).decode())

    def test_shows_every_new_view(self):
        account = shop()
        exposition = make_exposition(account)
        page_of(exposition)
        apply(account.state, listing(operation("comms_operation_01m5late", status="SCHEDULED", total=7, scheduled=7)))
        account.publish()

        assert comparable(page_of(make_exposition(account)).decode()) == comparable(page_of(exposition).decode())


def test_metrics_of_the_process_are_read_once_a_second():
    now = 1000.5
    exposition = Exposition(list, reloads=Reloads(last_success=NOW), monotonic=lambda: now)

    def cpu_seconds():
        return re.search(r"^process_cpu_seconds_total (\S+)", page_of(exposition).decode(), re.MULTILINE)[1]

    first = cpu_seconds()
    used = time.process_time()
    while time.process_time() - used < 0.02:
        pass
    assert first == cpu_seconds()
    now += 0.5
    assert first != cpu_seconds()
