"""The page that Prometheus reads is complete, exact, and the same in every format."""

import gzip
import os
import re
from pathlib import Path

import pytest
from expose.pages import Account, comparable, mailings, make_exposition, newsletter, page_with, shop
from operations import NOW, account_with_emails, apply, listing, operation, page_of
from prometheus import check_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from comms_exporter.collect.health import Reloads
from comms_exporter.collect.sharing import Shares
from comms_exporter.expose.email_families import EMAIL_DELIVERIES, EMAIL_ERRORS, EMAIL_LOSSES
from comms_exporter.expose.exposition import Exposition

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.txt"


EMAIL_FAMILIES = (*EMAIL_LOSSES, *EMAIL_DELIVERIES, *EMAIL_ERRORS)


def families_of(page, metrics):
    """Yield the lines of *metrics* in *page*."""
    names = "|".join(metric.name for metric in metrics)
    for line in page.splitlines(keepends=True):
        if re.match(rf"(# \w+ )?({names})(_total|_bucket|_sum|_count)?[ {{]", line):
            yield line


class TestPage:
    def test_is_the_golden_page(self):
        """UPDATE_GOLDEN=1 make test updates it."""
        page = comparable(page_with(shop(), newsletter()))
        if os.environ.get("UPDATE_GOLDEN"):
            GOLDEN.write_text(page)

        assert GOLDEN.read_text() == page

    @pytest.mark.parametrize("openmetrics", [False, True])
    def test_has_the_golden_lines_of_emails(self, openmetrics):
        """UPDATE_GOLDEN=1 make test updates them."""
        page = "".join(families_of(page_with(mailings(), openmetrics=openmetrics), EMAIL_FAMILIES))
        golden = GOLDEN.with_name(f"emails.{'openmetrics.' if openmetrics else ''}txt")
        if os.environ.get("UPDATE_GOLDEN"):
            golden.write_text(page)

        assert golden.read_text() == page

    def test_has_the_golden_lines_of_shared_accounts(self):
        """UPDATE_GOLDEN=1 make test updates them."""
        shares = Shares(own=2, other=5, nobody=1, members=3)
        exposition = Exposition(list, reloads=Reloads(NOW), shares=lambda: shares, monotonic=lambda: NOW)
        lines = page_of(exposition).decode().splitlines(keepends=True)
        page = "".join(line for line in lines if re.search(r"\bcomms_exporter_(accounts|members)\b", line))
        golden = GOLDEN.with_name("shared.txt")
        if os.environ.get("UPDATE_GOLDEN"):
            golden.write_text(page)

        assert golden.read_text() == page

    def test_has_no_families_of_emails_that_are_not_collected(self):
        """Those of an account whose losses are collected have no sent emails."""
        losses = Account("lost", account_with_emails()).publish()
        names = [[*families_of(page_with(*accounts), EMAIL_FAMILIES)] for accounts in ((shop(),), (shop(), losses))]

        assert [] == names[0]
        assert len(EMAIL_LOSSES) == sum(text.startswith("# HELP") for text in names[1])

    def test_families_of_emails_come_and_go_with_the_accounts(self):
        accounts = [shop()]
        exposition = make_exposition(*accounts)
        before = comparable(page_of(exposition).decode())
        exposition = Exposition(lambda: accounts, reloads=Reloads(last_success=NOW - 60), monotonic=lambda: NOW)
        for _ in range(2):
            assert before == comparable(page_of(exposition).decode())
            accounts.append(mailings())
            assert "comms_emails_failed_by_sender_total" in page_of(exposition).decode()
            accounts.pop()

    def test_can_be_restricted_to_families_of_emails(self):
        name = "comms_emails_failed_by_provider_total"
        page = page_with(mailings(), names=[name])

        assert {name} == {re.match(r"\w+", line)[0] for line in page.splitlines() if not line.startswith("#")}

    def test_has_the_same_samples_in_openmetrics(self):
        text = {(s.name, *sorted(s.labels.items())): s.value for f in parse_text(page_with(shop())) for s in f.samples}
        page = page_with(shop(), openmetrics=True)
        open_ = {(s.name, *sorted(s.labels.items())): s.value for f in parse_openmetrics(page) for s in f.samples}
        volatile = {key for key in text if key[0].startswith(("process_", "python_"))}

        assert page.endswith("# EOF\n")
        assert text.keys() == open_.keys()
        assert {k: v for k, v in text.items() if k not in volatile} == {
            k: v for k, v in open_.items() if k not in volatile
        }

    @pytest.mark.parametrize("openmetrics", [False, True])
    def test_has_the_same_text_compressed(self, openmetrics):
        accounts = [shop(), newsletter()]
        exposition = make_exposition(*accounts)
        for names in ((), ("comms_up", "comms_email_operation_sent")):
            page = page_of(exposition, openmetrics=openmetrics, names=names).decode()
            compressed = page_of(exposition, openmetrics=openmetrics, gzip=True, names=names)
            assert comparable(page) == comparable(gzip.decompress(compressed).decode())

    def test_has_every_family_once(self):
        """Prometheus rejects a family whose samples are in several places."""
        types = re.findall(r"^# TYPE (\S+)", page_with(shop(), newsletter()), re.MULTILINE)

        assert sorted(set(types)) == sorted(types)

    def test_openmetrics_has_an_exemplar_with_the_operation_that_failed(self):
        page = page_with(shop(), openmetrics=True)

        assert (
            'comms_emails_failed_total{account="shop"} 20.0 # {operation_id="comms_operation_01m1campaign"} 20.0'
            in page
        )
        assert 'operation_id="comms_operation_01m3done"} 40.0' in page

    def test_has_no_created_series(self):
        names = {s.name for f in parse_openmetrics(page_with(shop(), openmetrics=True)) for s in f.samples}

        assert not {name for name in names if name.endswith("_created")}

    @pytest.mark.parametrize(
        "page", [page_with(), page_with(shop(), newsletter()), page_with(mailings())], ids=["empty", "full", "emails"]
    )
    def test_passes_promtool_check(self, prometheus_binaries, page):
        assert "" == check_metrics(prometheus_binaries, page)

    def test_can_be_restricted_to_some_names(self):
        page = page_with(shop(), names=["comms_up", "comms_email_operation_sent"])

        assert {"comms_up", "comms_email_operation_sent"} == set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))

    def test_hides_operations_after_five_minutes_and_five_polls_without_success(self):
        assert "comms_email_operation_sent{" in page_with(shop(), now=NOW + 300)
        stale = page_with(shop(), now=NOW + 301)
        assert "comms_email_operation_sent{" not in stale
        assert 'comms_emails_sent_total{account="shop"} 3081.0' in stale

    @pytest.mark.parametrize(
        ("exposes", "exposed"),
        [
            ("none", set()),
            ("troubled", {"comms_operation_01m1campaign", "comms_operation_01m2scheduled", "comms_operation_01m4new"}),
        ],
    )
    def test_differs_only_in_the_series_of_operations_that_are_exposed(self, exposes, exposed):
        everything, account = comparable(page_with(shop())), shop()
        page = comparable(page_with(account.publish(exposes=exposes)))

        kept = [
            line.replace('exposed{account="shop"} 4.0', f'exposed{{account="shop"}} {len(exposed)}.0')
            for line in everything.splitlines()
            if not (match := re.search('operation_id="(.*?)"', line)) or match[1] in exposed
        ]
        assert kept == page.splitlines()

    def test_shows_the_next_poll(self):
        account = shop()
        exposition = make_exposition(account)
        before = page_of(exposition).decode()

        apply(account.state, listing(operation("comms_operation_01m5late", total=7)))
        account.publish()

        assert "01m5late" not in before
        assert 'operation_id="comms_operation_01m5late"} 7.0' in page_of(exposition).decode()
