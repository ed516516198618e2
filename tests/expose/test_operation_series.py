"""A poll renders only the segments that it has changed, and a scrape always sees one whole poll."""

import asyncio
import gzip
import re
from contextlib import suppress

import pytest
from expose.pages import (
    LibraryCollector,
    account_with,
    comparable,
    make_exposition,
    many_operations,
    newsletter,
)
from hypothesis import given
from hypothesis import strategies as st
from operations import NOW, at_once, operation, page_of
from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry

from comms_exporter.base.slices import SIZE, batched
from comms_exporter.collect.health import Reloads
from comms_exporter.collect.view import View
from comms_exporter.expose import chunks, operation_series, segments
from comms_exporter.expose.exposition import KEEP_SECONDS, Exposition
from comms_exporter.expose.operation_lines import operation_lines


def ids_in_order(page):
    """Return the ids of operations in the order of their first family."""
    pattern = r'^comms_email_operation_status\{.*operation_id="([^"]+)"'
    return list(dict.fromkeys(re.findall(pattern, page, re.MULTILINE)))


@pytest.fixture
def rendered(monkeypatch):
    """The ids of the operations that were rendered, one list for each segment."""
    calls = []

    def recording(account, operations):
        calls.append([each.id for each in operations])
        return operation_lines(account, operations)

    monkeypatch.setattr(segments, "operation_lines", recording)
    return calls


# Polls as {number of an operation: emails sent, or None if it is no longer exposed}.
polls = st.lists(
    st.dictionaries(st.integers(0, 12), st.none() | st.integers(0, 3), max_size=13), min_size=1, max_size=8
)


@given(polls, st.lists(st.booleans(), min_size=8, max_size=8))
def test_every_page_is_what_prometheus_client_renders(polls, compressed):
    """Whatever was rendered before."""
    with pytest.MonkeyPatch.context() as patch:
        # With three operations in a segment, few operations make many segments.
        patch.setattr(segments, "SIZE", 3)
        patch.setattr(operation_series, "FEW", 2)
        patch.setattr(segments, "batched", lambda items, size=3: batched(items, size))
        check_pages(polls, compressed)


def check_pages(polls, compressed):
    exposed = {}
    account = account_with()
    exposition = make_exposition(account)
    for poll, gzipped in zip(polls, compressed, strict=False):
        for number, sent in poll.items():
            name = f"op{number}"
            if sent is None:
                exposed.pop(name, None)
            elif name not in exposed or exposed[name].stats[5] != sent:
                exposed[name] = operation(name, total=3, sent=sent)
        account.view = View(exposed=list(exposed.values()))
        page = page_of(exposition, gzip=gzipped)
        page = gzip.decompress(page) if gzipped else page
        ids = ids_in_order(page.decode())
        registry = CollectorRegistry()
        registry.register(LibraryCollector("shop", [exposed[name] for name in ids]))

        assert sorted(exposed) == sorted(ids)
        assert page.endswith(generate_latest(registry))


class TestRendering:
    def test_renders_only_the_segments_that_have_changed(self, rendered):
        operations = many_operations(1000)
        account = account_with(*operations)
        exposition = make_exposition(account)
        page_of(exposition)
        assert [SIZE, SIZE, SIZE, 1000 - 3 * SIZE] == [len(each) for each in rendered]
        rendered.clear()

        operations[300] = operation("op00300", total=7)
        account.view = View(exposed=operations.copy())
        page = page_of(exposition).decode()

        # The operation that has changed leaves the segment of those that have not.
        assert [[*(each.id for each in operations[SIZE : 2 * SIZE] if each.id != "op00300")], ["op00300"]] == rendered
        assert 'operation_emails{account="shop",operation_id="op00300"} 7.0' in page

    def test_compresses_the_plain_text_if_there_is_one(self, rendered):
        exposition = make_exposition(account_with(*many_operations(10)))
        page_of(exposition)
        page_of(exposition, gzip=True)
        page_of(exposition, openmetrics=True)

        assert 1 == len(rendered)

    def test_forgets_accounts_that_are_removed(self):
        accounts = [account_with(*many_operations(5)), newsletter()]
        exposition = Exposition(lambda: accounts, reloads=Reloads(last_success=NOW), monotonic=lambda: NOW)
        page_of(exposition)
        del accounts[0]
        accounts[0].view = View(exposed=[operation("late")])
        page_of(exposition)

        assert {accounts[0].name} == set(exposition._operations._exposed)


class TestPreparing:
    def test_a_scrape_sees_one_whole_poll(self, rendered):
        """While the next view is prepared, the page shows the current one. Afterwards a scrape renders nothing."""
        account = account_with(*many_operations(3 * SIZE))
        exposition = make_exposition(account)
        before = comparable(page_of(exposition).decode())
        page_of(exposition, gzip=True)
        following = View(exposed=many_operations(3 * SIZE, sent=1))

        preparing = exposition.prepare("shop", following.exposed)
        pages = []
        with suppress(StopIteration):
            while True:
                preparing.send(None)
                pages.append(comparable(page_of(exposition).decode()))
        assert len(pages) >= 3
        assert {before} == set(pages)
        account.view = following
        rendered.clear()
        after = page_of(exposition, gzip=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks.Chunks, "add", None)
            assert after == page_of(exposition, gzip=True)

        assert [] == rendered
        assert b'operation_sent{account="shop",operation_id="op00700"} 1.0' in gzip.decompress(after)

    @pytest.mark.parametrize("count", [5, 50])
    def test_renders_only_encodings_that_were_requested_recently(self, rendered, count):
        now = 0.0
        account = account_with(*many_operations(count))
        account.health.last_success_monotonic = float("inf")
        exposition = Exposition(lambda: [account], reloads=Reloads(last_success=NOW), monotonic=lambda: now)

        def poll():
            account.view = View(exposed=many_operations(count, sent=len(rendered)))
            at_once(exposition.prepare("shop", account.view.exposed))

        poll()
        assert [] == rendered
        page_of(exposition, gzip=True)
        poll()
        assert 2 == len(rendered)
        now += KEEP_SECONDS + 1
        poll()
        assert 2 == len(rendered)

    @pytest.mark.parametrize("compressed", [False, True])
    def test_the_chunks_of_unchanged_operations_are_reused(self, compressed):
        operations = many_operations(600)
        account = account_with(*operations)
        exposition = make_exposition(account)
        before = at_once(exposition.body(openmetrics=False, gzip=compressed)).chunks
        at_once(exposition.prepare("shop", operations.copy()))
        account.view = View(exposed=operations.copy())
        after = at_once(exposition.body(openmetrics=True, gzip=compressed)).chunks

        # Before them, there are the metrics of the process and those of the account.
        assert list(map(id, before[2:-1])) == list(map(id, after[2:-1]))


class TestChunks:
    @pytest.mark.parametrize("compressed", [False, True])
    def test_are_neither_many_nor_large(self, compressed, monkeypatch):
        limit = chunks.CHUNK // 8
        monkeypatch.setattr(chunks, "CHUNK", limit)
        exposition = make_exposition(account_with(*many_operations(4000)))
        body = asyncio.run(exposition.body(openmetrics=False, gzip=compressed))
        sizes = [len(chunk) for chunk in body.chunks]

        assert body.length == sum(sizes)
        assert len(sizes) > 3
        # Each section may end with an incomplete one: the head of the page, the accounts, and the operations before the end.
        assert all(limit <= size < 2 * limit for size in sizes[2:-2])

    @pytest.mark.parametrize("compressed", [False, True])
    def test_no_text_is_in_memory_twice(self, compressed):
        """Even after many polls, the pieces of segments are views of the chunks."""
        account = account_with(*many_operations(600))
        exposition = make_exposition(account)
        series = exposition._operations
        for number in range(4):
            body = at_once(exposition.body(openmetrics=False, gzip=compressed))
            ids = set(map(id, body.chunks))
            page_of(exposition, gzip=compressed, names=["comms_email_operation_sent"])
            # Segments that are no longer shown would keep old chunks in memory.
            assert 1 == len(series._exposed["shop"])
            newest = series._exposed["shop"][-1].segments
            assert newest
            for segment in newest:
                assert {id(piece.data.obj) for piece in segment.pieces(gzip=compressed)} <= ids
            following = View(exposed=[*many_operations(600, sent=number)[:300], *account.view.exposed[300:]])
            at_once(exposition.prepare("shop", following.exposed))
            account.view = following
