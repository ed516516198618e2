"""Whatever time the API sends, computing with it and showing it never raises."""

import json
from datetime import timedelta, timezone

import pytest
from aiohttp import web
from api.test_ambiguities import page, samples, scripted_harness
from api.test_fuzz import SOAK
from hypothesis import example, given, settings
from hypothesis import strategies as st
from operations import NOW, operation, saved_account

from comms_exporter.api.error_classification import parse_retry_after
from comms_exporter.api.payloads import BadPayloadError, read_page
from comms_exporter.base.slices import run_to_completion
from comms_exporter.base.times import EARLIEST, LATEST, as_utc, is_representable, iso, rfc3339
from comms_exporter.model.readings import Reading
from comms_exporter.model.records import Tracked
from comms_exporter.status import operation_rows
from comms_exporter.web.status_page.model import Status
from comms_exporter.web.status_page.render import render_page
from comms_exporter.web.status_page.search import OperationList, Search

AFTER_THE_YEAR_9999 = "9999-12-31T23:59:59-23:59"
BEFORE_THE_YEAR_1 = "0001-01-01T00:00:00+23:59"
FIRST = "0001-01-01T00:00:00Z"
LAST = "9999-12-31T23:59:59Z"

offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.sampled_from([AFTER_THE_YEAR_9999, BEFORE_THE_YEAR_1, FIRST, LAST]) | st.builds(
    lambda moment, offset: moment.replace(tzinfo=offset).isoformat(), st.datetimes(), offsets
)
http_dates = st.one_of(
    st.sampled_from(
        [
            *["Fri, 31 Dec 9999 23:59:59 -2359", "Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 GMT"],
            *["Mon, 01 Jan 0001 00:00:00 GMT", "1 Jan 99999 00:00:00", "Thu, 01 Jan 1970 00:00:00 +999999999", ",", ""],
        ]
    ),
    st.builds(
        lambda moment, zone: f"{moment:%a, %d %b %Y %H:%M:%S} {zone:+05d}", st.datetimes(), st.integers(-99999, 99999)
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
)


def with_times(name, created, updated, **counters):
    return {**page(operation(name, **counters))["operations"][0], "createdAt": created, "updatedAt": updated}


def listing(*operations):
    return {"operations": operations, "pagination": {"next": None}}


def status_page_of(harness):
    now = harness.clock.now
    result = run_to_completion(OperationList(list(operation_rows(harness.poller)), now).search(Search()))
    return run_to_completion(render_page(Status(version="0", now=now, telemetry_path="/metrics"), result))


class TestOperations:
    @pytest.mark.parametrize("text", [AFTER_THE_YEAR_9999, BEFORE_THE_YEAR_1])
    @pytest.mark.parametrize("field", ["createdAt", "updatedAt"])
    @pytest.mark.parametrize("status", ["PROCESSING", "PAUSED"])
    def test_a_time_outside_the_years_1_to_9999_is_malformed(self, text, field, status):
        """In documented pages and in all others."""
        good = page(operation("good"))["operations"][0]
        bad = {**page(operation("bad", status=status))["operations"][0], field: text}

        read = read_page(json.dumps(listing(good, bad)).encode())

        assert [f"{field} is outside the years 1 to 9999"] == read.malformed
        assert ["good"] == [each.id for each in read.operations]

    @pytest.mark.parametrize("text", [FIRST, LAST, AFTER_THE_YEAR_9999, BEFORE_THE_YEAR_1])
    async def test_missing_unfinished_operations_are_listed_again(self, text):
        """The listing starts at the oldest of them."""
        answers = iter([listing(*(with_times(name, text, text) for name in "abc"))])
        async with scripted_harness(lambda _: next(answers, listing())) as harness:
            for _ in range(3):
                await harness.poll()
            assert harness.poller.health.up
            status_page_of(harness)

    async def test_a_saved_state_may_contain_such_times(self):
        """Version 0.1.0 saved them: its state files must still load, and their operations must still show."""
        async with scripted_harness(lambda _: listing()) as harness:
            saved = saved_account(
                _tracked("a", created=LATEST + 86340.0),
                _tracked("b", created=EARLIEST - 86340.0),
                _tracked("c", created=float("inf")),
            )
            run_to_completion(harness.poller.state.restore(saved))
            await harness.poll()
            assert harness.poller.health.up
            assert "0001-01-01T00:00:00+00:00" in status_page_of(harness)

    @settings(max_examples=60 * SOAK, deadline=None)
    @given(st.lists(st.tuples(times, times), min_size=1, max_size=4), st.lists(http_dates, min_size=3, max_size=3))
    @example([(AFTER_THE_YEAR_9999, AFTER_THE_YEAR_9999)] * 3, ["Fri, 31 Dec 9999 23:59:59 -2359"] * 3)
    async def test_no_combination_of_times_breaks_a_poll_or_a_page(self, pairs, dates):
        """Three polls, each with its own Date header."""
        bodies = iter([listing(*(with_times(f"o{n}", *pair) for n, pair in enumerate(pairs)))])
        headers = iter(dates)

        def answer(_):
            return web.json_response(next(bodies, listing()), headers={"Date": next(headers, "")})

        async with scripted_harness(answer) as harness:
            for _ in range(3):
                await harness.poll()
                samples(harness)
                status_page_of(harness)
            assert 3 == harness.poller.health.polls


def _tracked(name, **times):

    return Tracked(operation(name, **times), Reading.UNDECIDED)


class TestHeaders:
    async def test_a_date_outside_the_years_1_to_9999_is_ignored(self):
        date = "Fri, 31 Dec 9999 23:59:59 -2359"
        async with scripted_harness(lambda _: web.json_response(listing(), headers={"Date": date})) as harness:
            await harness.poll()
            await harness.poll()
            assert (True, harness.clock.now) == (harness.poller.health.up, harness.poller._client.now())

    @settings(max_examples=300 * SOAK)
    @given(http_dates)
    def test_any_retry_after_is_a_wait_of_up_to_an_hour_or_none(self, value):
        wait = parse_retry_after(value, now=NOW)
        assert wait is None or 0 <= wait <= 3600


class TestFormatting:
    @given(st.floats())
    def test_any_number_can_be_formatted(self, moment):
        assert len("2026-11-21T12:00:00Z") == len(rfc3339(moment))
        assert len("2026-11-21T12:00:00+00:00") == len(iso(moment))
        assert is_representable(as_utc(moment).timestamp())

    @pytest.mark.parametrize(
        ("moment", "text"),
        [
            (NOW, "2026-11-21T12:00:00Z"),
            (-1.0, "1970-01-01T00:00:00Z"),
            (LATEST, "9999-12-31T23:59:59Z"),
            (LATEST + 1, "9999-12-31T23:59:59Z"),
            (float("inf"), "9999-12-31T23:59:59Z"),
            (float("nan"), "1970-01-01T00:00:00Z"),
        ],
    )
    def test_a_time_out_of_range_becomes_the_nearest_representable_one(self, moment, text):
        assert text == rfc3339(moment)


@given(st.binary(max_size=30) | st.text(max_size=30).map(str.encode))
def test_any_text_is_a_representable_time_or_malformed(text):
    body = b'{"operations": [{"id": "a", "status": "PROCESSING", "stats": {}, "createdAt": "%b", "updatedAt": "%b"}]}'
    try:
        read = read_page(body % (text, text))
    except BadPayloadError:
        return
    assert all(is_representable(each.created) and is_representable(each.updated) for each in read.operations)
