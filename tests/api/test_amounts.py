"""However much the API sends, what it costs in memory is bounded, and the message says which bound was hit."""

import json
import tracemalloc

import pytest
from aiohttp import web
from api.test_doubts import LISTING, page, strange_house
from api.test_fuzz import SOAK
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import NOW, as_json, operation, saved_account

from comms_exporter.api import payloads as models
from comms_exporter.api.client import MAX_ERROR_BYTES, MAX_OPERATION_BYTES, MAX_PAGE_BYTES
from comms_exporter.api.payloads import MAX_JSON_VALUES, BadPayloadError, decode, read_page
from comms_exporter.base.slices import run_to_completion
from comms_exporter.model.readings import Reading
from comms_exporter.model.records import Tracked

MIB = 2**20
WEEK = 7 * 86400.0


def problem_of(home):
    problem = home.poller.health.problem
    return problem and (problem.reason, problem.message)


def endless(*, pages=None, size=100):
    """An API whose listings show operations that were never shown before, on *pages* pages or without end."""
    shown = 0

    def answer(request):
        nonlocal shown
        number = int(request.query.get("pageToken", 0)) + 1
        shown += size
        new = [operation(f"o{shown + n}", created=NOW + 60, total=1) for n in range(size)]
        return page(*new, following=None if number == pages else str(number))

    return answer


class TestOperations:
    async def test_an_endless_listing_of_new_operations_ends_at_the_bound(self):
        async with strange_house(endless(), max_tracked_operations=1000) as home:
            await home.poll()
            assert (
                "bad_payload",
                (
                    "the listing has at least 1100 new operations beside 0 tracked ones; the limit is 1000: raise "
                    "--collect.max-tracked-operations if the account has more"
                ),
            ) == problem_of(home)
            assert {} == home.poller.state.tracked

    async def test_listings_that_end_are_bounded_together(self):
        """New operations at every poll would take as much as an endless listing, only later."""
        async with strange_house(endless(pages=4), max_tracked_operations=1000) as home:
            for _ in range(4):
                await home.poll()
            assert (800, "bad_payload") == (len(home.poller.state.tracked), home.poller.health.problem.reason)

    async def test_operations_that_are_tracked_do_not_count_again(self):
        """An account that has as many as are allowed is polled as ever."""
        some = [operation(f"o{n}", total=1) for n in range(100)]
        grown = [operation(f"o{n}", total=2, updated=NOW + 1) for n in range(100)]
        answers = iter([page(*some), page(*grown, following="t"), page(*some), page(*grown, operation("one more"))])
        async with strange_house(lambda _: next(answers), max_tracked_operations=100) as home:
            await home.poll()
            await home.poll()
            assert home.poller.health.up
            await home.poll()
            assert "bad_payload" == home.poller.health.problem.reason

    async def test_an_account_that_was_larger_when_it_was_saved_may_grow_to_twice_its_size(self):
        """An upgrade or a lower setting does not stop polls that worked before."""
        saved = [operation(f"o{n}", total=1) for n in range(100)]
        answers = iter(
            [page(*saved), page(*saved, *(operation(f"n{n}", total=1) for n in range(100))), page(operation("x"))]
        )
        async with strange_house(lambda _: next(answers), max_tracked_operations=10) as home:
            tracked = [Tracked(each, Reading.UNDECIDED) for each in saved]
            run_to_completion(home.poller.state.restore(saved_account(*tracked)))
            await home.poll()
            await home.poll()
            assert (None, 200) == (problem_of(home), len(home.poller.state.tracked))
            await home.poll()
            assert "bad_payload" == home.poller.health.problem.reason

    async def test_operations_that_are_long_over_do_not_count(self):
        """An API that ignores filters may list years of them at every poll."""
        old = [operation(f"old{n}", created=NOW - 2 * WEEK, status="COMPLETED") for n in range(100)]
        answers = iter([page()])
        async with strange_house(lambda _: next(answers, page(*old)), max_tracked_operations=10) as home:
            await home.poll()
            await home.poll()
            assert (None, {}) == (problem_of(home), home.poller.state.tracked)

    async def test_malformed_ones_cost_no_more_on_many_pages_than_on_one(self):
        """Each was kept with its complaint until the listing came to its end."""

        async def peak(pages):
            def answer(request):
                number = int(request.query.get("pageToken", 0)) + 1
                following = str(number) if number < pages else None
                return {"operations": [{"id": "x" * 200}] * 2000, "pagination": {"next": following}}

            async with strange_house(answer) as home:
                tracemalloc.start()
                await home.poll()
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert 2000 * pages == home.poller.state.malformed
            return peak

        assert await peak(20) < 2 * await peak(2)


class TestBodies:
    async def test_one_operation_needs_no_page(self):
        """An operation that a listing no longer shows is asked for by its id."""

        def answer(request):
            if request.path != LISTING:
                return web.Response(body=b" " * (MAX_OPERATION_BYTES + 1))
            return next(listings, page())

        listings = iter([page(operation("a"))])
        async with strange_house(answer) as home:
            await home.poll()
            await home.poll()
            assert ("bad_payload", "200 with a body of more than 256 KiB") == problem_of(home)

    @pytest.mark.parametrize(("status", "reason"), [(400, "bad_request"), (500, "server")])
    async def test_of_an_error_the_beginning_is_read(self, status, reason):
        body = b"No." + b" " * MAX_ERROR_BYTES + b'"' * 2**20
        async with strange_house(lambda _: web.Response(status=status, body=body)) as home:
            await home.poll()
            assert (reason, f"{status}: No.") == problem_of(home)

    async def test_a_page_token_becomes_part_of_an_address(self):
        async with strange_house(lambda _: page(operation(), following="t" * 4097)) as home:
            await home.poll()
            assert (
                "bad_payload",
                "200 with an invalid body: the page token has 4097 characters, more than the limit of 4096",
            ) == problem_of(home)

    @pytest.mark.parametrize("value", [b"[]", b"{}", b'{"a":{}}', b"1.5", b"null", b"[" * 50 + b"]" * 50])
    def test_values_are_counted_before_they_are_decoded(self, value, monkeypatch):
        body = b'{"operations":[' + b",".join([value] * (MAX_JSON_VALUES + 1)) + b"]}"
        monkeypatch.setattr(models.json, "loads", None)

        with pytest.raises(BadPayloadError, match=r"the JSON has [0-9]+ values, more than the limit of 500000"):
            read_page(body)

    def test_a_large_page_of_operations_with_unknown_fields_is_read(self):
        """Twenty times as many as Twilio returns, each with as much again that we do not know."""
        more = {f"field{n}": n for n in range(3)}
        body = json.dumps({"operations": [{**as_json(operation(f"o{n}")), **more} for n in range(20_000)]}).encode()
        assert len(body) < MAX_PAGE_BYTES
        assert 20_000 == len(read_page(body).operations)

    def test_nothing_is_kept_of_what_stands_beside_the_operations(self):
        """The quick reader counts no values: what it does not expect, it does not decode."""
        rest = b"[" + b",".join([b"{}"] * 400_000) + b"]"
        body = b'{"operations":[],"pagination":{"next":null,"x":%b},"meta":{"x":%b},"x":%b}' % (rest, rest, rest)
        assert peak_of(read_page, body) < MIB

    @settings(max_examples=15 * SOAK, deadline=None)
    @given(
        st.lists(
            st.sampled_from(
                ["[]", "{}", '{"a":[]}', "1", "-1.5e9", "9" * 30, '""', '"\U0001f600"', "null", "[[[[]]]]", '{"a":1,"b":{}}']
            ),
            min_size=1,
            max_size=4,
        ),
        st.sampled_from(["operations", "data", "pagination", "meta", "x"]),
        st.integers(1, MAX_PAGE_BYTES),
    )  # fmt: skip
    def test_no_body_takes_more_than_100_mb(self, values, key, size):
        piece = ",".join(values) + ","
        head, tail = f'{{"{key}":[', "0]}"
        text = head + piece * max(0, (size - len(head) - len(tail)) // len(piece.encode())) + tail
        assert peak_of(read_page, text.encode()) < 100 * MIB

    @pytest.mark.parametrize(
        "value",
        ["9" * MAX_PAGE_BYTES, "[" * MAX_PAGE_BYTES, '{"a":' * (MAX_PAGE_BYTES // 5), '"' + "a" * MAX_PAGE_BYTES],
    )
    def test_neither_does_one_value(self, value):
        assert peak_of(decode, value.encode()) < 100 * MIB


def peak_of(reader, body):
    """Return the bytes that it takes to read *body*, whatever comes of it."""
    tracemalloc.start()
    try:
        reader(body)
    except BadPayloadError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak
