"""A poll writes anew only what it has changed, and nobody who scrapes can tell."""

import asyncio
import gzip
import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import fields

import pytest
from expose.test_exposition import Account, ByTheLibrary, make, newsletter, ours, shop
from hypothesis import given
from hypothesis import strategies as st
from operations import NOW, at_once, operation, page_of
from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry

from comms_exporter.api.request_stats import RequestStats
from comms_exporter.base.slices import SIZE, batched, run_to_completion
from comms_exporter.collect.health import PollHealth, Problem, Reloads
from comms_exporter.collect.state import View
from comms_exporter.expose import segments as segments_module
from comms_exporter.expose.exposition import KEEP_SECONDS, Exposition
from comms_exporter.expose.families import operation_texts
from comms_exporter.expose.segments import CHUNK, regroup
from comms_exporter.model.histogram import Histogram


def account(*operations):
    made = Account("shop", view=View(exposed=list(operations)))
    made.health.succeeded(at=NOW, monotonic=NOW, took=1)
    return made


def many(count, **counters):
    return [operation(f"op{n:05}", total=n, **counters) for n in range(count)]


def order(page):
    """Return the ids of operations in the order of their first family."""
    return list(
        dict.fromkeys(re.findall(r'^comms_email_operation_status\{.*operation_id="([^"]+)"', page, re.MULTILINE))
    )


@pytest.fixture
def written(monkeypatch):
    """The ids of the operations that were written, one list for each segment."""
    calls = []

    def counting(name, operations):
        calls.append([each.id for each in operations])
        return operation_texts(name, operations)

    monkeypatch.setattr(segments_module, "operation_texts", counting)
    return calls


# What a poll may do to what is shown: some are new, some change, some go.
polls = st.lists(
    st.dictionaries(st.integers(0, 12), st.none() | st.integers(0, 3), max_size=13), min_size=1, max_size=8
)


@given(polls, st.lists(st.booleans(), min_size=8, max_size=8))
def test_a_page_is_what_prometheus_client_writes_whatever_was_written_before(polls, compressed):
    with pytest.MonkeyPatch.context() as patch:
        # Segments of three, so that few operations are many segments.
        patch.setattr(segments_module, "SIZE", 3)
        patch.setattr(segments_module, "batched", lambda items, size=3: batched(items, size))
        check_pages(polls, compressed)


def check_pages(polls, compressed):
    shown = {}
    made = account()
    exposition = make(lambda: [made], lambda: NOW)
    for poll, gzipped in zip(polls, compressed, strict=False):
        for number, sent in poll.items():
            name = f"op{number}"
            if sent is None:
                shown.pop(name, None)
            elif name not in shown or shown[name].stats[5] != sent:
                shown[name] = operation(name, total=3, sent=sent)
        made.view = View(exposed=list(shown.values()))
        page = page_of(exposition, gzip=gzipped)
        page = gzip.decompress(page) if gzipped else page
        registry = CollectorRegistry()
        registry.register(ByTheLibrary("shop", [shown[name] for name in order(page.decode())]))

        assert sorted(shown) == sorted(order(page.decode()))
        assert page.endswith(generate_latest(registry))


class TestSegments:
    def test_only_what_changed_is_written(self, written):
        operations = many(1000)
        made = account(*operations)
        exposition = make(lambda: [made], lambda: NOW)
        page_of(exposition)
        assert [SIZE, SIZE, SIZE, 1000 - 3 * SIZE] == [len(each) for each in written]
        written.clear()

        operations[300] = operation("op00300", total=7)
        made.view = View(exposed=operations.copy())
        page = page_of(exposition).decode()

        assert [[each.id for each in operations[SIZE : 2 * SIZE]]] == written
        assert 'operation_emails{account="shop",operation_id="op00300"} 7.0' in page

    def test_what_was_written_plain_is_not_written_again_to_be_compressed(self, written):
        made = account(*many(10))
        exposition = make(lambda: [made], lambda: NOW)
        page_of(exposition)
        page_of(exposition, gzip=True)
        page_of(exposition, openmetrics=True)

        assert 1 == len(written)

    def test_small_ones_are_joined(self):
        segments = run_to_completion(regroup("shop", [], many(10 * SIZE)))
        for keep in (0.5, 0.2, 0.05):
            left = [each for n, each in enumerate(o for s in segments for o in s.operations) if n % 100 < keep * 100]
            segments = run_to_completion(regroup("shop", segments, left))
        assert len(segments) <= 2 + 2 * len(left) // SIZE

    def test_new_ones_fill_the_last(self):
        operations = many(SIZE - 10)
        segments = run_to_completion(regroup("shop", [], operations))
        late = [operation(f"late{n}") for n in range(10)]

        segments = run_to_completion(regroup("shop", segments, [*operations, *late]))

        assert [[*operations, *late]] == [list(each.operations) for each in segments]

    def test_names_are_escaped(self):
        (page, *_) = operation_texts('a"b\\c\nd', [operation('x"y\\z')])

        assert r'{account="a\"b\\c\nd",operation_id="x\"y\\z",status="SCHEDULED"} 0.0' in page


class TestPreparing:
    def test_a_scrape_sees_one_whole_poll(self, written):
        """However far the next one is prepared, the page is the last one's, and it costs nothing."""
        made = account(*many(3 * SIZE))
        exposition = make(lambda: [made], lambda: NOW)
        before = ours(page_of(exposition).decode())
        page_of(exposition, gzip=True)
        following = View(exposed=many(3 * SIZE, sent=1))

        preparing = exposition.prepare("shop", following.exposed)
        pages = []
        with suppress(StopIteration):
            while True:
                preparing.send(None)
                pages.append(ours(page_of(exposition).decode()))
        assert len(pages) >= 3
        assert {before} == set(pages)
        made.view = following
        written.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(segments_module.Chunks, "add", None)
            after = page_of(exposition, gzip=True)

        assert [] == written
        assert b'operation_sent{account="shop",operation_id="op00700"} 1.0' in gzip.decompress(after)

    def test_nothing_is_written_for_nobody(self, written):
        now = 0.0
        made = account(*many(5))
        exposition = Exposition(lambda: [made], reloads=Reloads(last_success=NOW), monotonic=lambda: now)

        def poll():
            made.view = View(exposed=many(5, sent=len(written)))
            at_once(exposition.prepare("shop", made.view.exposed))

        poll()
        assert [] == written
        page_of(exposition, gzip=True)
        poll()
        assert 2 == len(written)
        now += KEEP_SECONDS + 1
        poll()
        assert 2 == len(written)

    def test_an_account_that_is_gone_is_forgotten(self):
        accounts = [account(*many(5)), newsletter()]
        exposition = make(lambda: accounts, lambda: NOW)
        page_of(exposition)
        del accounts[0]
        accounts[0].view = View(exposed=[operation("late")])
        page_of(exposition)

        assert {accounts[0].name} == set(exposition._shelves)

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
    def test_what_is_not_about_operations_is_always_new(self, part, name):
        """Whatever changes of all that is shown: the page is that of an exposition that has never written one."""
        made = shop()
        exposition = make(lambda: [made], lambda: NOW)
        page_of(exposition), page_of(exposition, openmetrics=True)
        whole = getattr(made, part)
        value = getattr(whole, name)
        if isinstance(value, Counter):
            value["total" if part == "state" else "auth"] += 1
        elif isinstance(value, Histogram):
            value.observe(0.1)
        elif name == "problem":
            whole.problem = Problem("auth", "401: Authenticate")
        else:
            setattr(whole, name, value + 1)

        for openmetrics in (False, True):
            afresh = make(lambda: [made], lambda: NOW)
            assert ours(page_of(afresh, openmetrics=openmetrics).decode()) == ours(
                page_of(exposition, openmetrics=openmetrics).decode()
            )

    def test_the_process_is_looked_at_once_a_second(self):
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

    @pytest.mark.parametrize("compressed", [False, True])
    def test_chunks_are_neither_many_nor_large(self, compressed, monkeypatch):
        monkeypatch.setattr(segments_module, "CHUNK", CHUNK // 8)
        made = account(*many(4000))
        exposition = make(lambda: [made], lambda: NOW)
        body = asyncio.run(exposition.body(openmetrics=False, gzip=compressed))
        sizes = [len(chunk) for chunk in body.chunks]

        assert body.length == sum(sizes)
        assert len(sizes) > 3
        # But for what is written for each scrape, and the last.
        assert all(CHUNK <= 8 * size < 16 * CHUNK for size in sizes[1:-2])

    @pytest.mark.parametrize("compressed", [False, True])
    def test_what_a_poll_left_alone_is_sent_as_it_was(self, compressed):
        operations = many(600)
        made = account(*operations)
        exposition = make(lambda: [made], lambda: NOW)
        before = at_once(exposition.body(openmetrics=False, gzip=compressed)).chunks[1:-1]
        at_once(exposition.prepare("shop", operations.copy()))
        made.view = View(exposed=operations.copy())
        after = at_once(exposition.body(openmetrics=True, gzip=compressed)).chunks[1:-1]

        assert list(map(id, before)) == list(map(id, after))

    @pytest.mark.parametrize("compressed", [False, True])
    def test_nothing_is_in_memory_twice(self, compressed):
        """Not even after many polls: what is written is part of what is sent."""
        made = account(*many(600))
        exposition = make(lambda: [made], lambda: NOW)
        for number in range(4):
            body = at_once(exposition.body(openmetrics=False, gzip=compressed))
            chunks = set(map(id, body.chunks))
            page_of(exposition, gzip=compressed, names=["comms_email_operation_sent"])
            ((_, segments), *_) = reversed(exposition._shelves["shop"])
            for segment in segments:
                assert {id(piece.data.obj) for piece in segment.pieces(gzip=compressed)} <= chunks
            assert 1 == len(exposition._texts[compressed])
            following = View(exposed=[*many(600, sent=number)[:300], *made.view.exposed[300:]])
            at_once(exposition.prepare("shop", following.exposed))
            made.view = following
