"""Whatever the API sends, memory use is bounded, and the error names the limit that was exceeded."""

import json
import tracemalloc

import pytest
from aiohttp import web
from api.test_ambiguities import LISTING, page, scripted_harness
from api.test_fuzz import SOAK
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import NOW, as_json, operation, saved_account

from comms_exporter.api import payloads
from comms_exporter.api.client import MAX_ERROR_BYTES, MAX_OPERATION_BYTES, MAX_PAGE_BYTES
from comms_exporter.api.payloads import MAX_JSON_VALUES, BadPayloadError, decode, read_page
from comms_exporter.base.slices import run_to_completion
from comms_exporter.model.readings import Reading
from comms_exporter.model.records import Tracked

MIB = 2**20
WEEK = 7 * 86400.0


def problem_of(harness):
    problem = harness.poller.health.problem
    return problem and (problem.reason, problem.message)


def endless(*, pages=None, size=100):
    """An API whose listings have new operations only, on *pages* pages or without end."""
    listed = 0

    def answer(request):
        nonlocal listed
        number = int(request.query.get("pageToken", 0)) + 1
        listed += size
        new = [operation(f"o{listed + n}", created=NOW + 60, total=1) for n in range(size)]
        return page(*new, following=None if number == pages else str(number))

    return answer


class TestTrackedOperations:
    async def test_an_endless_listing_fails_at_the_limit(self):
        async with scripted_harness(endless(), max_tracked_operations=1000) as harness:
            await harness.poll()
            assert (
                "bad_payload",
                (
                    "the listing has at least 1100 new operations beside 0 tracked ones; the limit is 1000: raise "
                    "--collect.max-tracked-operations if the account has more"
                ),
            ) == problem_of(harness)
            assert {} == harness.poller.state.tracked

    async def test_the_limit_applies_to_all_listings_together(self):
        """New operations at every poll would take as much memory as an endless listing, only later."""
        async with scripted_harness(endless(pages=4), max_tracked_operations=1000) as harness:
            for _ in range(4):
                await harness.poll()
            assert (800, "bad_payload") == (len(harness.poller.state.tracked), harness.poller.health.problem.reason)

    async def test_updates_of_tracked_operations_do_not_count(self):
        """An account at the limit is polled as usual."""
        some = [operation(f"o{n}", total=1) for n in range(100)]
        grown = [operation(f"o{n}", total=2, updated=NOW + 1) for n in range(100)]
        answers = iter([page(*some), page(*grown, following="t"), page(*some), page(*grown, operation("one more"))])
        async with scripted_harness(lambda _: next(answers), max_tracked_operations=100) as harness:
            await harness.poll()
            await harness.poll()
            assert harness.poller.health.up
            await harness.poll()
            assert "bad_payload" == harness.poller.health.problem.reason

    async def test_an_account_that_was_saved_above_the_limit_may_double(self):
        """An upgrade or a lower limit does not stop polls that worked before."""
        saved = [operation(f"o{n}", total=1) for n in range(100)]
        answers = iter(
            [page(*saved), page(*saved, *(operation(f"n{n}", total=1) for n in range(100))), page(operation("x"))]
        )
        async with scripted_harness(lambda _: next(answers), max_tracked_operations=10) as harness:
            tracked = [Tracked(each, Reading.UNDECIDED) for each in saved]
            run_to_completion(harness.poller.state.restore(saved_account(*tracked)))
            await harness.poll()
            await harness.poll()
            assert (None, 200) == (problem_of(harness), len(harness.poller.state.tracked))
            await harness.poll()
            assert "bad_payload" == harness.poller.health.problem.reason

    async def test_expired_operations_do_not_count(self):
        """An API that ignores filters may list those of many years."""
        old = [operation(f"old{n}", created=NOW - 2 * WEEK, status="COMPLETED") for n in range(100)]
        answers = iter([page()])
        async with scripted_harness(lambda _: next(answers, page(*old)), max_tracked_operations=10) as harness:
            await harness.poll()
            await harness.poll()
            assert (None, {}) == (problem_of(harness), harness.poller.state.tracked)

    async def test_malformed_operations_take_no_memory_beyond_their_page(self):
        """Only their number and the first message outlive the page."""

        async def peak(pages):
            def answer(request):
                number = int(request.query.get("pageToken", 0)) + 1
                following = str(number) if number < pages else None
                return {"operations": [{"id": "x" * 200}] * 2000, "pagination": {"next": following}}

            async with scripted_harness(answer) as harness:
                tracemalloc.start()
                await harness.poll()
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert 2000 * pages == harness.poller.state.malformed
            return peak

        assert await peak(20) < 2 * await peak(2)


class TestBodies:
    async def test_a_single_operation_has_a_smaller_limit_than_a_page(self):
        """An operation that is missing in a listing is fetched by its id."""

        def answer(request):
            if request.path != LISTING:
                return web.Response(body=b" " * (MAX_OPERATION_BYTES + 1))
            return next(listings, page())

        listings = iter([page(operation("a"))])
        async with scripted_harness(answer) as harness:
            await harness.poll()
            await harness.poll()
            assert ("bad_payload", "200 with a body of more than 256 KiB") == problem_of(harness)

    @pytest.mark.parametrize(("status", "reason"), [(400, "bad_request"), (500, "server")])
    async def test_only_the_beginning_of_an_error_is_read(self, status, reason):
        body = b"No." + b" " * MAX_ERROR_BYTES + b'"' * 2**20
        async with scripted_harness(lambda _: web.Response(status=status, body=body)) as harness:
            await harness.poll()
            assert (reason, f"{status}: No.") == problem_of(harness)

    async def test_a_page_token_must_fit_into_a_url(self):
        async with scripted_harness(lambda _: page(operation(), following="t" * 4097)) as harness:
            await harness.poll()
            assert (
                "bad_payload",
                "200 with an invalid body: the page token has 4097 characters, more than the limit of 4096",
            ) == problem_of(harness)

    @pytest.mark.parametrize("value", [b"[]", b"{}", b'{"a":{}}', b"1.5", b"null", b"[" * 50 + b"]" * 50])
    def test_values_are_counted_before_they_are_decoded(self, value, monkeypatch):
        body = b'{"operations":[' + b",".join([value] * (MAX_JSON_VALUES + 1)) + b"]}"
        monkeypatch.setattr(payloads.json, "loads", None)

        with pytest.raises(BadPayloadError, match=r"the JSON has [0-9]+ values, more than the limit of 500000"):
            read_page(body)

    def test_a_large_page_of_operations_with_unknown_fields_is_read(self):
        """Twenty times as many operations as Twilio returns, each with unknown fields."""
        more = {f"field{n}": n for n in range(3)}
        body = json.dumps({"operations": [{**as_json(operation(f"o{n}")), **more} for n in range(20_000)]}).encode()
        assert len(body) < MAX_PAGE_BYTES
        assert 20_000 == len(read_page(body).operations)

    def test_unknown_fields_of_a_page_take_no_memory(self):
        """The fast path does not count values: it skips the fields that it does not know."""
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
    def test_no_page_takes_more_than_100_mb(self, values, key, size):
        piece = ",".join(values) + ","
        head, tail = f'{{"{key}":[', "0]}"
        text = head + piece * max(0, (size - len(head) - len(tail)) // len(piece.encode())) + tail
        assert peak_of(read_page, text.encode()) < 100 * MIB

    @pytest.mark.parametrize(
        "value",
        ["9" * MAX_PAGE_BYTES, "[" * MAX_PAGE_BYTES, '{"a":' * (MAX_PAGE_BYTES // 5), '"' + "a" * MAX_PAGE_BYTES],
    )
    def test_no_single_value_takes_more_than_100_mb(self, value):
        assert peak_of(decode, value.encode()) < 100 * MIB


def peak_of(reader, body):
    """Return the peak memory of reading *body* in bytes, whether it is valid or not."""
    tracemalloc.start()
    try:
        reader(body)
    except BadPayloadError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak
