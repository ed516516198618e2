"""The page that Prometheus reads: whole, exact, and in the format that was asked for."""

import gzip
import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operations import NOW, apply, listing, operation, page_of, view
from prometheus import check_metrics
from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry, GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from comms_exporter import __version__
from comms_exporter.api.request_stats import RequestStats
from comms_exporter.collect.health import PollHealth, Problem, Reloads
from comms_exporter.collect.state import AccountState, View
from comms_exporter.expose.exposition import Exposition
from comms_exporter.expose.families import OPERATION_FAMILIES, values
from comms_exporter.expose.negotiation import accepts_gzip, negotiate
from comms_exporter.model.operations import STATUSES, Operation, pack

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.txt"


@dataclass
class Account:
    name: str
    state: AccountState = field(default_factory=AccountState)
    view: View = field(default_factory=View)
    health: PollHealth = field(default_factory=lambda: PollHealth(interval_seconds=30))
    request_stats: RequestStats = field(default_factory=RequestStats)

    def look(self, limit=1000):
        self.view = view(self.state, now=NOW, active_window=3600, limit=limit)
        return self


def shop():
    """An account in the middle of its day: a campaign on its way, one scheduled, one done, one of a new kind."""
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
    return account.look()


def newsletter():
    """An account whose key was revoked before it was ever looked at."""
    account = Account('news"letter\\')
    account.health.failed(Problem("auth", "401: Authenticate"), took=0.1)
    account.request_stats.requests.update({"401": 1})
    account.request_stats.durations.observe(0.1)
    return account


def make(accounts, clock):
    return Exposition(accounts, reloads=Reloads(last_success=NOW - 60), monotonic=clock)


def write(*accounts, openmetrics=False, names=(), now=NOW + 10):
    exposition = make(lambda: accounts, lambda: now)
    return page_of(exposition, openmetrics=openmetrics, names=names).decode()


def ours(page):
    """Return *page* without what is said of this process and this Python."""
    page = page.replace(f'"{__version__}"', '"VERSION"').replace(f'"{platform.python_version()}"', '"3.X.Y"')
    return "".join(line for line in page.splitlines(keepends=True) if not re.match(r"(# \w+ )?(process|python)_", line))


class TestPage:
    def test_is_the_golden_page(self):
        """To change it on purpose: UPDATE_GOLDEN=1 make test."""
        page = ours(write(shop(), newsletter()))
        if os.environ.get("UPDATE_GOLDEN"):
            GOLDEN.write_text(page)

        assert GOLDEN.read_text() == page

    def test_says_the_same_in_openmetrics(self):
        text = {(s.name, *sorted(s.labels.items())): s.value for f in parse_text(write(shop())) for s in f.samples}
        page = write(shop(), openmetrics=True)
        open_ = {(s.name, *sorted(s.labels.items())): s.value for f in parse_openmetrics(page) for s in f.samples}
        volatile = {key for key in text if key[0].startswith(("process_", "python_"))}

        assert page.endswith("# EOF\n")
        assert text.keys() == open_.keys()
        assert {k: v for k, v in text.items() if k not in volatile} == {
            k: v for k, v in open_.items() if k not in volatile
        }

    @pytest.mark.parametrize("openmetrics", [False, True])
    def test_says_the_same_compressed(self, openmetrics):
        accounts = [shop(), newsletter()]
        exposition = make(lambda: accounts, lambda: NOW)
        for names in ((), ("comms_up", "comms_email_operation_sent")):
            page = page_of(exposition, openmetrics=openmetrics, names=names).decode()
            compressed = page_of(exposition, openmetrics=openmetrics, gzip=True, names=names)
            assert ours(page) == ours(gzip.decompress(compressed).decode())

    def test_shows_a_change_that_no_sum_shows(self):
        """Whatever a metric reads decides whether the page is written again."""
        account = shop()
        account.health.failures.update({"auth": 1})
        exposition = make(lambda: [account], lambda: NOW)
        page_of(exposition)
        account.health.failures = type(account.health.failures)({"server": 1})

        page = page_of(exposition).decode()

        assert 'comms_exporter_poll_failures_total{account="shop",reason="server"} 1.0' in page
        assert 'comms_exporter_poll_failures_total{account="shop",reason="auth"} 0.0' in page

    def test_every_family_stands_in_one_piece(self):
        """Prometheus forbids a family whose samples are scattered."""
        types = re.findall(r"^# TYPE (\S+)", write(shop(), newsletter()), re.MULTILINE)

        assert sorted(set(types)) == sorted(types)

    def test_openmetrics_names_the_operation_behind_a_failure(self):
        page = write(shop(), openmetrics=True)

        assert (
            'comms_emails_failed_total{account="shop"} 20.0 # {operation_id="comms_operation_01m1campaign"} 20.0'
            in page
        )
        assert 'operation_id="comms_operation_01m3done"} 40.0' in page

    def test_no_created_series(self):
        names = {s.name for f in parse_openmetrics(write(shop(), openmetrics=True)) for s in f.samples}

        assert not {name for name in names if name.endswith("_created")}

    @pytest.mark.parametrize("page", [write(), write(shop(), newsletter())], ids=["empty", "full"])
    def test_promtool_finds_nothing(self, prometheus_binaries, page):
        assert "" == check_metrics(prometheus_binaries, page)

    def test_can_be_asked_for_some_names(self):
        page = write(shop(), names=["comms_up", "comms_email_operation_sent"])

        assert {"comms_up", "comms_email_operation_sent"} == set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))

    def test_operations_vanish_when_five_polls_and_five_minutes_were_missed(self):
        assert "comms_email_operation_sent{" in write(shop(), now=NOW + 300)
        stale = write(shop(), now=NOW + 301)
        assert "comms_email_operation_sent{" not in stale
        assert 'comms_emails_sent_total{account="shop"} 3081.0' in stale

    def test_the_next_poll_shows(self):
        account = shop()
        exposition = make(lambda: [account], lambda: NOW)
        before = page_of(exposition).decode()

        apply(account.state, listing(operation("comms_operation_01m5late", total=7)))
        account.look()

        assert "01m5late" not in before
        assert 'operation_id="comms_operation_01m5late"} 7.0' in page_of(exposition).decode()


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
counts = st.none() | st.integers(0, 2**53)
operations = st.builds(
    Operation,
    words,
    st.sampled_from(STATUSES) | words,
    st.floats(0, 4e9),
    st.floats(0, 4e9),
    st.lists(counts, min_size=11, max_size=11).map(tuple).map(pack),
)


class ByTheLibrary:
    """The families of single operations as prometheus_client would write them."""

    def __init__(self, name, shown):
        self.name = name
        self.shown = shown

    def collect(self):
        family = GaugeMetricFamily(*OPERATION_FAMILIES[0], labels=["account", "operation_id", "status"])
        for each in self.shown:
            for status in STATUSES if each.status in STATUSES else (*STATUSES, each.status):
                family.add_metric([self.name, each.id, status], status == each.status)
        yield family
        for index, (name, text) in enumerate(OPERATION_FAMILIES[1:]):
            family = GaugeMetricFamily(name, text, labels=["account", "operation_id"])
            for each in self.shown:
                if values(each)[index] is not None:
                    family.add_metric([self.name, each.id], values(each)[index])
            yield family


@given(words, st.lists(operations, max_size=4, unique_by=lambda each: each.id))
def test_operations_are_written_as_prometheus_client_writes_them(name, shown):
    account = Account(name, view=View(exposed=shown))
    account.health.succeeded(at=NOW, monotonic=NOW, took=1)
    registry = CollectorRegistry()
    registry.register(ByTheLibrary(name, shown))

    page = page_of(make(lambda: [account], lambda: NOW))

    assert page.endswith(generate_latest(registry))


TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class TestNegotiation:
    @pytest.mark.parametrize(
        ("accept", "content_type"),
        [
            pytest.param("", TEXT, id="nothing"),
            pytest.param(
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
                "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OPEN,
                id="Prometheus 2.42",
            ),
            pytest.param(
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
                "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
                "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                f"{OPEN}; escaping=allow-utf-8",
                id="Prometheus 3",
            ),
            pytest.param(
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3",
                f"{OPEN}; escaping=allow-utf-8",
                id="Prometheus 3 with native histograms",
            ),
            pytest.param("text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT, id="VictoriaMetrics"),
            pytest.param("text/html,application/xhtml+xml,*/*;q=0.8", TEXT, id="a browser"),
            ("*/*", TEXT),
            ("application/openmetrics-text", OPEN),
            ("application/openmetrics-text;version=1.0.0;q=0", TEXT),
            ("application/openmetrics-text;version=1.0.0;q=0.1,text/plain;q=0.9", TEXT),
            ("text/plain;q=0.1,application/openmetrics-text;version=1.0.0;q=0.9", OPEN),
            ("application/openmetrics-text;version=0.0.1", TEXT),
            ("application/openmetrics-text;version=2.0.0", TEXT),
            ("application/openmetrics-text;version=9.9.9 evil", TEXT),
            ("application/openmetrics-text;version=1.0.0x", TEXT),
            ("application/openmetrics-text;version=1.0.0;escaping=evil", OPEN),
            ("application/openmetrics-text;version=1.0.0;q=2", TEXT),
            ("application/openmetrics-text;version=1.0.0;q=nan", TEXT),
            (
                "text/plain;version=1.0.0;escaping=underscores",
                "text/plain; version=1.0.0; charset=utf-8; escaping=underscores",
            ),
            ('APPLICATION/OpenMetrics-Text; Version="1.0.0" ; Q=0.5', OPEN),
        ],
    )
    def test_gives_what_is_preferred(self, accept, content_type):
        assert content_type == negotiate(accept).content_type

    @given(st.text())
    def test_no_header_can_break_it(self, header):
        assert negotiate(header).content_type.startswith(("text/plain; version=", "application/openmetrics-text; "))
        assert accepts_gzip(header) in {True, False}

    @pytest.mark.parametrize(
        ("accept_encoding", "accepted"),
        [
            ("", False),
            ("gzip", True),
            ("gzip, deflate, br", True),
            ("br", False),
            ("gzip;q=0", False),
            ("gzip;q=0, *", False),
            ("*", True),
            ("*;q=0", False),
            ("identity, GZIP;q=0.1", True),
            ("gzip;q=x", False),
        ],
    )
    def test_gzip_only_where_it_is_allowed(self, accept_encoding, accepted):
        assert accepted == accepts_gzip(accept_encoding)
