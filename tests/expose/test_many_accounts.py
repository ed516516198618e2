"""What one account costs does not depend on how many others there are."""

import asyncio
import gzip
import re

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from expose.pages import account_with, comparable, many_operations
from operations import NOW, at_once, page_of
from prometheus import Prometheus
from prometheus_client.parser import text_string_to_metric_families

from comms_exporter.collect.health import Reloads
from comms_exporter.collect.schedule import phase
from comms_exporter.collect.view import View
from comms_exporter.expose import account_series, segments
from comms_exporter.expose.blocks import BLOCK, blocks_of
from comms_exporter.expose.exposition import Exposition
from comms_exporter.expose.section import Section

COUNT = 5 * BLOCK


def accounts_with(operations, count=COUNT):
    """Return *count* accounts with so many operations each."""
    accounts = []
    for number in range(count):
        account = account_with(*many_operations(operations))
        account.name = f"account{number}"
        account.revision = object()
        accounts.append(account)
    return accounts


def exposition_of(accounts):
    return Exposition(lambda: accounts, reloads=Reloads(last_success=NOW - 60), monotonic=lambda: NOW)


def samples_of(page):
    return sorted(
        (sample.name, *sorted(sample.labels.items()), sample.value)
        for family in text_string_to_metric_families(comparable(page))
        for sample in family.samples
    )


def poll(exposition, account, operations):
    """Publish a view with *operations*, as a poll of *account* does."""
    at_once(exposition.prepare(account.name, operations))
    account.view = View(exposed=operations)
    account.health.polls += 1
    account.revision = object()


class TestPage:
    @pytest.mark.parametrize("operations", [0, 3, 40])
    def test_has_the_samples_of_every_account(self, operations):
        """Whether they share segments or not."""
        accounts = accounts_with(operations, 3 * BLOCK)
        page = page_of(exposition_of(accounts)).decode()
        alone = {sample for each in accounts for sample in samples_of(page_of(exposition_of([each])).decode())}

        assert sorted(alone) == samples_of(page)

    def test_of_a_block_has_the_accounts_in_their_order(self):
        accounts = accounts_with(1, BLOCK)
        page = page_of(exposition_of(accounts)).decode()

        for family in ("comms_up", "comms_email_operation_sent"):
            lines = [line for line in page.splitlines() if line.startswith(f"{family}{{")]
            assert [f'account="{account.name}"' in line for account, line in zip(accounts, lines, strict=True)]

    def test_is_the_same_after_any_poll_as_if_it_was_rendered_anew(self):
        accounts = accounts_with(3)
        exposition = exposition_of(accounts)
        page_of(exposition, gzip=True)
        for number in range(5):
            for account in accounts[number :: 7 + number]:
                poll(exposition, account, many_operations(3 * number * 5, sent=number))
            page = gzip.decompress(page_of(exposition, gzip=True)).decode()

            assert comparable(page_of(exposition_of(accounts)).decode()) == comparable(page)

    async def test_means_the_same_to_a_real_prometheus_in_any_order(self, prometheus_binaries, tmp_path):
        """The order of many accounts on the page is not that of the settings, and nobody can depend on it."""
        accounts = accounts_with(1, 4 * BLOCK)
        pages = [comparable(page_of(exposition_of(each)).decode()) for each in (accounts, accounts[::-1])]
        names = [re.findall(r'^comms_up\{account="(\w+)"', page, re.MULTILINE) for page in pages]
        assert [account.name for account in accounts] != names[0]
        assert names[0] != names[1]

        async def serve(page):
            async def get(_):
                return web.Response(text=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

            app = web.Application()
            app.router.add_get("/metrics", get)
            return TestServer(app)

        async with await serve(pages[0]) as first, await serve(pages[1]) as second:
            targets = [f"127.0.0.1:{server.port}" for server in (first, second)]
            async with Prometheus(prometheus_binaries, tmp_path, targets=targets) as prometheus:
                await prometheus.until("up == 1", lambda found: len(found) == 2)
                one, other = (
                    f'label_replace({{__name__=~"comms_.+",instance="{target}"}}, "name", "$1", "__name__", "(.+)")'
                    for target in targets
                )
                same = await prometheus.query(f"count({one} == ignoring(instance) {other})")

        assert [float(len(samples_of(pages[0])))] == [value for _, value in same]


class TestCost:
    def test_a_poll_renders_its_own_account_and_the_next_scrape_joins_its_block(self, monkeypatch):
        accounts = accounts_with(3)
        exposition = exposition_of(accounts)
        page_of(exposition, gzip=True)
        rendered, joined = [], []
        lines, operation_lines = segments.AccountsSegment._lines, segments.operation_lines
        monkeypatch.setattr(
            segments, "operation_lines", lambda name, each: rendered.append(name) or operation_lines(name, each)
        )
        monkeypatch.setattr(
            segments.AccountsSegment, "_lines", lambda self: joined.append(len(self.accounts)) or lines(self)
        )

        poll(exposition, accounts[7], many_operations(3, sent=5))
        assert ["account7"] == rendered
        assert [] == joined
        page = gzip.decompress(page_of(exposition, gzip=True)).decode()

        assert ["account7"] == rendered
        # Of one block, one segment with its accounts and one with their operations.
        assert 2 == len(joined)
        assert max(joined) < 2 * BLOCK
        assert 'comms_exporter_polls_total{account="account7"} 2.0' in page
        assert 'comms_email_operation_sent{account="account7",operation_id="op00000"} 5.0' in page

    def test_values_are_read_only_of_accounts_with_a_new_revision(self, monkeypatch):
        accounts = accounts_with(3)
        exposition = exposition_of(accounts)
        page_of(exposition)
        poll(exposition, accounts[7], many_operations(3, sent=5))
        read = []
        health = type(accounts[0].health)
        monkeypatch.setattr(health, "up", property(lambda _: read.append(1) or True))
        page_of(exposition)

        assert [1] == read

    def test_what_a_poll_changed_is_rendered_after_it_in_the_formats_that_are_requested(self, monkeypatch):
        accounts = accounts_with(3)
        exposition = exposition_of(accounts)
        page_of(exposition, openmetrics=True)
        poll(exposition, accounts[7], many_operations(3, sent=5))
        formats = []
        render = account_series.render
        monkeypatch.setattr(
            account_series,
            "render",
            lambda family, *, openmetrics: formats.append(openmetrics) or render(family, openmetrics=openmetrics),
        )
        exposition.refresh(accounts[7])
        assert {True} == set(formats)
        formats.clear()
        page_of(exposition, openmetrics=True)

        assert [] == formats

    async def test_scrapers_share_the_page(self, monkeypatch):
        """Between two polls, it is joined once, even for concurrent scrapes."""
        accounts = accounts_with(3)
        exposition = exposition_of(accounts)
        joined = []
        join = Section._join

        def recording(self, *arguments, **options):
            joined.append(self)
            return join(self, *arguments, **options)

        monkeypatch.setattr(Section, "_join", recording)
        for _ in range(2):
            joined.clear()
            bodies = await asyncio.gather(*[exposition.body(openmetrics=False, gzip=True) for _ in range(5)])
            assert 2 == len(joined)
            assert 1 == len({tuple(map(id, body.chunks[1:-1])) for body in bodies})
            poll(exposition, accounts[0], many_operations(3, sent=len(joined)))
            assert 2 == len(joined)


class TestBlocks:
    def test_have_the_accounts_that_are_polled_at_about_the_same_time(self):
        names = [f"account{number}" for number in range(1000)]
        blocks = blocks_of(names)

        assert sorted(names) == sorted(name for block in blocks for name in block)
        assert all(max(map(phase, block)) - min(map(phase, block)) <= 1 / 32 for block in blocks)

    def test_few_accounts_are_one_block(self):
        names = [f"account{number}" for number in range(BLOCK)]

        assert [names] == blocks_of(names)

    def test_another_account_changes_one_block(self):
        names = [f"account{number}" for number in range(1000)]

        assert 1 == sum(block not in blocks_of(names) for block in blocks_of([*names, "late"]))
