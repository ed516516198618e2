"""Where the API's documentation is silent or contradicts itself, the exporter copes with every possible behaviour."""

import asyncio
import json
from contextlib import asynccontextmanager
from email.utils import formatdate

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from harness import HOUR, INTERVAL, simulator_harness
from operations import NOW, as_json, operation, page_of
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from comms_exporter.api import paging
from comms_exporter.collect.health import Reloads
from comms_exporter.expose.exposition import Exposition
from comms_exporter.model.readings import Reading
from comms_exporter.simulator import Dialect, Fate

DAY = 24 * HOUR
SENT = Fate(sent=1, delivered=2)
QUEUED = Fate(queued=0)
LISTING = "/v1/Emails/Operations"


@asynccontextmanager
async def scripted_harness(answer, **options):
    """A harness whose API responds with *answer* of the request: a response, or a value to send as JSON."""

    async def respond(request):
        content = answer(request)
        response = content if isinstance(content, web.StreamResponse) else web.json_response(content)
        response.headers.setdefault("Date", formatdate(harness.clock(), usegmt=True))
        return response

    app = web.Application()
    app.router.add_get("/{path:.*}", respond)
    async with simulator_harness(**options) as harness, TestServer(app) as server:
        harness.poller._client._base = URL(str(server.make_url("/v1")))
        yield harness


def page(*operations, following=None):
    return {"operations": [as_json(each) for each in operations], "pagination": {"next": following, "self": "s"}}


def samples(harness):
    """Return the samples of a scrape as {name: [(labels, value)]}."""
    page = Exposition(lambda: [harness.poller], reloads=Reloads(last_success=NOW), monotonic=harness.clock)
    found = {}
    for family in text_string_to_metric_families(page_of(page).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


async def times_of_polls(harness, polls):
    """Run the loop for *polls* polls, and return when each began, in seconds since the first."""
    began = []
    original = harness.poller.poll

    async def poll():
        if len(began) == polls:
            raise asyncio.CancelledError
        began.append(harness.clock.now)
        await original()

    harness.poller.poll = poll
    with pytest.raises(asyncio.CancelledError):
        await harness.poller.run()
    return [each - began[0] for each in began]


class TestCumulativeAndExclusiveCounters:
    """Does an opened email still count as delivered? Twilio's samples disagree; each operation's counters decide."""

    @pytest.mark.parametrize("reading", ["cumulative", "exclusive"])
    async def test_the_same_emails_give_the_same_totals_under_both_readings(self, reading):
        async with simulator_harness(reading=reading) as harness:
            await harness.poll()
            harness.world.send(fates=[Fate(sent=40, delivered=70, opened=100), Fate(sent=40, undelivered=130), SENT])
            for _ in range(6):
                await harness.poll()

            (shown,) = samples(harness)["comms_emails_delivered_total"]
            assert 2 == shown[1]
            assert {
                "total": 3, "recipients": 3, "attempts": 3, "sent": 3, "delivered": 2, "opened": 1, "undelivered": 1,
                "operations_created": 1, "operations_completed": 1,
            } == harness.totals  # fmt: skip
            assert {Reading(reading): 1} == harness.poller.view.by_reading

    async def test_counters_that_fit_both_readings_are_undecided(self):
        async with simulator_harness() as harness:
            harness.world.send(fates=[QUEUED])
            await harness.poll()

            shown = {labels["reading"]: n for labels, n in samples(harness)["comms_exporter_operations_by_reading"]}
            assert {"cumulative": 0, "exclusive": 0, "undecided": 1} == shown

    async def test_a_forced_reading_overrides_the_counters(self):
        async with simulator_harness(reading="exclusive") as harness:
            harness.poller.state.forced_reading = Reading.CUMULATIVE
            await harness.poll()
            harness.world.send(fates=[Fate(sent=0, delivered=0, opened=0)])
            await harness.poll()

            assert 1 == harness.totals["opened"]
            assert "delivered" not in harness.totals
            assert {Reading.CUMULATIVE: 1} == harness.poller.view.by_reading


class TestMissingAndUnknownCounters:
    """The guide shows nine of the reference's eleven counters. A missing one is absent, not 0; an unknown one is no error."""

    async def test_a_missing_counter_is_absent(self):
        async with simulator_harness() as harness:
            harness.world.omit = frozenset({"recipients", "attempts"})
            await harness.poll()
            harness.world.send(fates=[SENT])
            await harness.poll()

            shown = samples(harness)
            assert 1 == len(shown["comms_email_operation_sent"])
            assert "comms_email_operation_recipients" not in shown
            assert "comms_email_operation_attempts" not in shown
            assert (1, None) == (harness.totals["sent"], harness.totals.get("recipients"))

    async def test_an_intermittent_counter_neither_falls_nor_counts_twice(self):
        async with simulator_harness() as harness:
            await harness.poll()
            harness.world.send(fates=[Fate(sent=1, delivered=100)])
            await harness.poll()
            harness.world.omit = frozenset({"sent", "recipients"})
            await harness.poll()
            harness.world.omit = frozenset()
            await harness.poll(after=100)

            assert (1, 1, 1) == tuple(harness.totals[name] for name in ("sent", "recipients", "delivered"))
            assert {} == harness.poller.state.regressions

    async def test_an_unknown_counter_is_counted_and_changes_nothing_else(self):
        async with simulator_harness() as harness:
            await harness.poll()
            harness.world.send(fates=[SENT])
            harness.faults.add("unknown-counter", times=1)
            await harness.poll()

            assert (1, {"stats": 1}) == (harness.totals["sent"], harness.poller.state.unknown)


class TestChangesAfterCompleted:
    """COMPLETED means processed, not delivered: later deliveries, opens and bounces count."""

    async def test_completed_is_not_delivered(self):
        async with simulator_harness() as harness:
            await harness.poll()
            harness.world.send(fates=[Fate(sent=1, delivered=45)])
            await harness.poll(after=10)
            assert (1, None) == (harness.totals["operations_completed"], harness.totals.get("delivered"))

            await harness.poll(after=60)
            assert 1 == harness.totals["delivered"]

    @pytest.mark.parametrize("hours", [0.5, 5, 30, 24 * 6.8])
    async def test_late_opens_and_bounces_count(self, hours):
        async with simulator_harness() as harness:
            await harness.poll()
            late = hours * HOUR
            harness.world.send(fates=[Fate(sent=1, delivered=2, opened=late), Fate(sent=1, undelivered=late)])
            await harness.poll()
            assert ("opened" in harness.totals, "undelivered" in harness.totals) == (False, False)

            await harness.poll(after=late)
            await harness.poll(after=HOUR)

            assert (1, 1) == (harness.totals["opened"], harness.totals["undelivered"])
            assert 1 == harness.totals["operations_completed"]


class TestListingFormats:
    """The reference, the guide and sibling products name the parts of a page differently; all names are read."""

    @pytest.mark.parametrize("items", ["operations", "data", "emailOperations", "keyed"])
    @pytest.mark.parametrize(
        "following", ["pagination.next", "pagination.nextPageToken", "meta.nextToken", "nextPageToken"]
    )
    async def test_operations_and_the_next_page_are_found_under_every_name(self, items, following):
        def answer(request):
            second = "pageToken" in request.query
            content = {items: [as_json(operation("b" if second else "a"))], "pagination": {"self": "s"}}
            if items == "keyed":
                content |= {"meta": {"key": "keyed"}, "links": []}
            *holder, name = following.split(".")
            inner = content.setdefault(holder[0], {}) if holder else content
            inner[name] = None if second else "second"
            return content

        async with scripted_harness(answer) as harness:
            await harness.poll()

            assert {"a", "b"} == harness.poller.state.tracked.keys()
            assert harness.poller.health.up

    async def test_the_next_page_may_be_a_url(self):
        def answer(request):
            second = "cursor" in request.query
            return page(
                operation("b" if second else "a"), following=None if second else str(request.url % {"cursor": "c"})
            )

        async with scripted_harness(answer) as harness:
            await harness.poll()

            assert {"a", "b"} == harness.poller.state.tracked.keys()

    async def test_a_url_on_another_server_gets_no_credentials(self):
        requests = []

        async def receive(request):
            requests.append(request)
            return web.json_response(page())

        elsewhere = web.Application()
        elsewhere.router.add_get("/{path:.*}", receive)
        async with TestServer(elsewhere) as other:
            address = str(other.make_url(LISTING))
            async with scripted_harness(lambda _: page(operation(), following=address)) as harness:
                await harness.poll()

                assert "bad_payload" == harness.poller.health.problem.reason
        assert [] == requests


class TestIgnoredFilters:
    """The API ignores unknown parameters silently. Operations that it should have filtered out change no total."""

    @pytest.mark.parametrize("order", ["newest", "oldest"])
    async def test_ignored_filters_change_nothing(self, order):
        totals = []
        for ignored in (False, True):
            async with simulator_harness(dialect=Dialect(ignore_filters=ignored, order=order), page_size=7) as harness:
                for n in range(20):
                    harness.world.send(at=NOW - n * HOUR, fates=[Fate(sent=1, delivered=2, opened=n * HOUR + 100)])
                await harness.poll()
                harness.world.send(fates=[SENT] * 3)
                for _ in range(12):
                    await harness.poll()
                totals.append(harness.totals)

        assert totals[0] == totals[1]
        assert (3, 20) == (totals[0]["total"], totals[0]["opened"])

    async def test_an_ignored_filter_is_logged_once(self):
        async with simulator_harness(dialect=Dialect(ignore_filters=True)) as harness:
            harness.world.send(at=NOW - 2 * HOUR, fates=[SENT])
            for _ in range(4):
                await harness.poll()

            ((_, message, fields),) = [entry for entry in harness.log.entries if entry[0] == "warning"]
            assert ("startDate", True) == (fields["filter"], "ignores a filter" in message)

    async def test_a_filter_that_works_is_not_logged(self):
        async with simulator_harness(page_size=3) as harness:
            for n in range(20):
                harness.world.send(at=NOW - n * HOUR, fates=[Fate(queued=0, sent=3 * HOUR)])
            for _ in range(12):
                await harness.poll(after=600)

            assert [] == harness.log.events("warning")


class TestPageTokens:
    """Tokens are opaque and sent back unchanged. A blank one ends the listing; a repeated one or too many are errors."""

    async def test_they_are_sent_back_unchanged_with_the_same_filters(self):
        token = "a/b+c==&x=%20#ü ~"
        seen = []

        def answer(request):
            seen.append(dict(request.query))
            return page(operation(str(len(seen))), following=token if len(seen) == 1 else None)

        async with scripted_harness(answer) as harness:
            await harness.poll()

        assert [seen[0], {**seen[0], "pageToken": token}] == seen
        assert {"pageSize", "startDate"} == seen[0].keys()

    @pytest.mark.parametrize("end", [None, "", "  "])
    async def test_a_blank_token_ends_the_listing(self, end):
        async with scripted_harness(lambda _: page(operation(), following=end)) as harness:
            await harness.poll()

            assert (True, {"200": 1}) == (harness.poller.health.up, harness.poller.request_stats.requests)

    async def test_an_empty_page_does_not_end_the_listing(self):
        pages = {None: page(following="b"), "b": page(operation("a"), following="c"), "c": page(operation("b"))}
        async with scripted_harness(lambda request: pages[request.query.get("pageToken")]) as harness:
            await harness.poll()

            assert {"a", "b"} == harness.poller.state.tracked.keys()

    async def test_a_repeated_token_is_an_error(self):
        async with scripted_harness(lambda _: page(operation(), following="again")) as harness:
            await harness.poll()

            assert "bad_payload" == harness.poller.health.problem.reason
            assert {"200": 2} == harness.poller.request_stats.requests
            assert {} == harness.poller.state.tracked

    async def test_an_endless_listing_is_an_error(self, monkeypatch):
        monkeypatch.setattr(paging, "MAX_PAGES", 5)

        def answer(request):
            return page(operation(), following=str(int(request.query.get("pageToken", "0")) + 1))

        async with scripted_harness(answer) as harness:
            await harness.poll()

            assert "the listing has more than 5 pages" == harness.poller.health.problem.message
            assert {"200": 5} == harness.poller.request_stats.requests


class TestOrderOfOperations:
    """The order is not documented, and an operation may appear on two pages: its latest version counts, once."""

    @pytest.mark.parametrize("order", ["newest", "oldest"])
    async def test_totals_do_not_depend_on_the_order(self, order):
        async with simulator_harness(dialect=Dialect(order=order), page_size=3) as harness:
            await harness.poll()
            for n in range(10):
                harness.world.send(at=harness.clock.now + 1 + n // 3, fates=[SENT])
            await harness.poll()

            assert {"operations_created": 10, "delivered": 10} == {
                name: harness.totals[name] for name in ("operations_created", "delivered")
            }

    @pytest.mark.parametrize("swapped", [False, True])
    async def test_an_operation_on_two_pages_counts_once(self, swapped):
        versions = [
            operation("a", created=NOW + 40, total=1),
            operation("a", created=NOW + 40, updated=NOW + 41, total=1, sent=1),
        ]
        first, second = versions[::-1] if swapped else versions

        def answer(request):
            if harness.clock.now < NOW + INTERVAL + 1:
                return page()
            return page(second) if "pageToken" in request.query else page(first, following="t")

        async with scripted_harness(answer) as harness:
            await harness.poll()
            await harness.poll()

            assert {"total": 1, "sent": 1, "operations_created": 1} == harness.totals
            assert versions[1] == harness.poller.view.exposed[0]


class TestInclusiveAndExclusiveBounds:
    """It is not documented whether startDate is inclusive; the client asks for a second more."""

    @pytest.mark.parametrize("bounds", ["inclusive", "exclusive"])
    @pytest.mark.parametrize("fraction", [0.0, 0.3, 0.999])
    async def test_an_operation_on_the_bound_is_found(self, bounds, fraction):
        async with simulator_harness(dialect=Dialect(bounds=bounds)) as harness:
            harness.clock.now += fraction
            await harness.poll()
            harness.world.send(at=harness.clock.now + 50, fates=[SENT])
            harness.poller._schedule.next_sweep = harness.poller._schedule.next_day = float("inf")

            await harness.poll(after=HOUR + 50)

            assert 1 == harness.totals["operations_created"]


class TestRetriesAfterServerErrors:
    """One page says never to retry a 500, another says always. The next poll does, at the normal interval."""

    async def test_the_next_poll_retries(self):
        async with simulator_harness() as harness:
            harness.world.send(fates=[SENT])
            harness.faults.add("500", times=1)

            await harness.poll()
            assert ({"500": 1}, []) == (harness.poller.request_stats.requests, harness.clock.waits)

            await harness.poll()
            assert ({"500": 1, "200": 1}, True) == (harness.poller.request_stats.requests, harness.poller.health.up)
            assert INTERVAL == harness.poller.health.interval_seconds


class TestRetryAfter:
    """The format is not documented: seconds and dates work, up to an hour; without a valid one the interval doubles."""

    @pytest.mark.parametrize("kind", ["429", "503"])
    @pytest.mark.parametrize(
        ("form", "asked", "waited"),
        [("seconds", 100, 100), ("date", 100, 100), ("none", 100, 60), ("seconds", 0, 60), ("seconds", 9999, 3600)],
    )
    async def test_the_next_poll_waits_for_it(self, kind, form, asked, waited):
        async with simulator_harness() as harness:
            harness.faults.add(kind, times=1, retry_after=asked, retry_after_form=form)

            assert [0, waited, waited + 30] == await times_of_polls(harness, 3)

    @pytest.mark.parametrize("nonsense", ["soon", "-5", "1e3", "Sat, 99 Nov 2026 12:00:00 GMT"])
    async def test_an_invalid_one_is_ignored(self, nonsense):
        throttled = web.Response(status=429, headers={"Retry-After": nonsense})
        answers = iter([throttled, page(), page()])
        async with scripted_harness(lambda _: next(answers)) as harness:
            assert [0, 60, 90] == await times_of_polls(harness, 3)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 502])
    async def test_it_only_counts_with_429_and_503(self, status):
        answers = iter([web.Response(status=status, headers={"Retry-After": "500"}), page()])
        async with scripted_harness(lambda _: next(answers)) as harness:
            assert [0, 30] == await times_of_polls(harness, 2)


class TestErrorFormats:
    """Five formats are documented or observed; the message in each is reported with the status."""

    @pytest.mark.parametrize("shape", ["observed", "documented", "flat"])
    async def test_the_formats_of_twilio(self, shape):
        async with simulator_harness(dialect=Dialect(errors=shape)) as harness:
            harness.faults.add("403")
            await harness.poll()

            expected = "403: The account is not authorized to perform this action. (code 20403)"
            assert expected == harness.poller.health.problem.message

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b'{"type":"t","title":"No","status":403,"code":7,"detail":"Not you"}', "Not you (code 7)"),
            (b'{"code":20403,"message":"No","more_info":"u","status":403}', "No (code 20403)"),
            (b'{"errors":[{"message":"One"},{"message":"Two"}]}', "One; Two"),
            (b"<html>Forbidden</html>", "an HTML page"),
            (b"Forbidden", "Forbidden"),
            (b"", "empty body"),
            ('{"message":"No"}'.encode("utf-16"), "No"),
            (b'{"errors":[[[', '{"errors":[[['),
            (b'{"errors":[null,7,"x"]}', '{"errors":[null,7,"x"]}'),
        ],
    )
    async def test_the_formats_of_proxies_and_other_products(self, body, message):
        async with scripted_harness(lambda _: web.Response(status=403, body=body)) as harness:
            await harness.poll()

            assert ("forbidden", f"403: {message}") == (
                harness.poller.health.problem.reason,
                harness.poller.health.problem.message,
            )


class TestOperationsAfterSevenDays:
    """After a week, an operation may be gone or have fewer fields: no total falls."""

    @pytest.mark.parametrize("retention", ["gone", "thin"])
    async def test_no_total_falls(self, retention):
        async with simulator_harness() as harness:
            harness.world.retention = retention
            await harness.poll()
            harness.world.send(fates=[SENT] * 2)
            harness.world.send(fates=[SENT, QUEUED])
            await harness.poll()
            before = harness.totals

            for _ in range(9):
                await harness.poll(after=DAY)

            assert before == harness.totals
            assert harness.poller.health.up
            assert {"gone": [], "thin": ["PROCESSING"]}[retention] == [
                each.operation.status for each in harness.poller.state.tracked.values()
            ]

    async def test_an_operation_that_is_found_again_is_exposed_again(self):
        """A 404 may come from a lagging replica; the next listing has the operation."""
        async with simulator_harness() as harness:
            await harness.poll()
            old = harness.world.send(fates=[Fate(queued=0, sent=3 * HOUR)])
            await harness.poll()
            await harness.poll(after=HOUR)
            harness.faults.add("404", path=f"{LISTING}/{old.id}", times=1)
            await harness.poll()
            assert [] == harness.poller.view.exposed
            assert harness.poller.health.up

            for _ in range(10):
                await harness.poll()
            assert [old.id] == [each.id for each in harness.poller.view.exposed]

            await harness.poll(after=3 * HOUR)
            assert (1, 1) == (harness.totals["sent"], harness.totals["operations_completed"])


class TestIds:
    """A published sample does not match the published pattern: any text is a valid id, and one segment of a URL."""

    @pytest.mark.parametrize("name", ["comms_operation_01h9ksxq9v7b2m4r5t6y7z8a9", "a/b?c#d%2e", "ünï cödé", '"\\'])
    async def test_any_text_is_an_id(self, name):
        asked = []

        def answer(request):
            asked.append(request.raw_path)
            return page(operation(name, created=NOW - 2 * HOUR)) if len(asked) == 1 else page()

        async with scripted_harness(answer) as harness:
            await harness.poll()
            shown = [labels["operation_id"] for labels, _ in samples(harness)["comms_email_operation_emails"]]
            await harness.poll()

        assert [name] == shown
        assert 1 == asked[-1].removeprefix(LISTING).count("/")
        assert name == URL(asked[-1], encoded=True).name


class TestStatuses:
    """The guides write statuses in lower case, and Twilio may add some: an unknown one counts as unfinished."""

    async def test_case_does_not_matter(self):
        async with scripted_harness(lambda _: page(operation(created=NOW + INTERVAL, status="completed"))) as harness:
            harness.poller.state.first_look = NOW
            await harness.poll()

            assert ({"COMPLETED": 1}, 1) == (harness.poller.view.by_status, harness.totals["operations_completed"])

    async def test_an_unknown_status_is_exposed_and_its_operation_stays_tracked(self):
        asked = []

        def answer(request):
            asked.append(request.path)
            odd = operation("a", created=NOW - 2 * HOUR, status="PAUSED")
            return as_json(odd) if request.path != LISTING else page(odd) if len(asked) == 1 else page()

        async with scripted_harness(answer) as harness:
            for _ in range(3):
                await harness.poll()

            assert [LISTING, LISTING, f"{LISTING}/a", LISTING, f"{LISTING}/a"] == asked
            shown = {labels["status"]: n for labels, n in samples(harness)["comms_email_operation_status"]}
            assert {"SCHEDULED": 0, "PROCESSING": 0, "COMPLETED": 0, "CANCELED": 0, "PAUSED": 1} == shown
            assert 3 == harness.poller.state.unknown["status"]


class TestRejectedCredentials:
    """The documentation of these endpoints lists neither 401 nor 403. Each has its own reason and is logged once."""

    @pytest.mark.parametrize(("kind", "reason"), [("401", "auth"), ("403", "forbidden")])
    async def test_each_has_its_reason(self, kind, reason):
        async with simulator_harness() as harness:
            harness.faults.add(kind)
            for _ in range(5):
                await harness.poll()

            assert ({reason: 5}, {kind: 5}) == (harness.poller.health.failures, harness.poller.request_stats.requests)
            assert [("poll failed", reason)] == harness.log.events("error")
            assert [0.0] == [value for _, value in samples(harness)["comms_up"]]


class TestTimeFormats:
    """Twilio's samples end in Z and have whole seconds; everything else that RFC 3339 allows is read too."""

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2026-11-21T12:00:00Z", NOW),
            ("2026-11-21t12:00:00z", NOW),
            ("2026-11-21T12:00:00.5Z", NOW + 0.5),
            ("2026-11-21T12:00:00.123456789Z", NOW + 0.123456),
            ("2026-11-21T14:00:00+02:00", NOW),
            ("2026-11-21T06:30:00.25-05:30", NOW + 0.25),
            ("2026-11-21 12:00:00Z", NOW),
            ("2026-11-21T12:00:00", NOW),
        ],
    )
    async def test_fractions_and_offsets(self, text, moment):
        content = json.loads(json.dumps(page(operation())))
        content["operations"][0] |= {"createdAt": text, "updatedAt": text}
        async with scripted_harness(lambda _: content) as harness:
            await harness.poll()

            (shown,) = harness.poller.view.exposed
            assert (pytest.approx(moment, abs=1e-6), 0) == (shown.created, harness.poller.state.malformed)


class TestTokensAreConfidential:
    """A token may contain the account's identifier, so none is logged or exposed."""

    @pytest.mark.parametrize(
        "ending",
        [
            lambda: web.Response(status=500),
            lambda: web.Response(status=400),
            lambda: web.Response(status=302, headers={"Location": "/elsewhere"}),
            lambda: web.Response(body=b"{"),
            lambda: web.Response(headers={"Content-Encoding": "gzip"}, body=b"no gzip"),
            lambda: web.Response(status=429, headers={"Retry-After": "500"}),
            lambda: page(following="AC0123token"),
            lambda: page(following="https://elsewhere.example/?pageToken=AC0123token"),
            lambda: {"operations": 7, "pagination": {"next": "AC0123token"}},
        ],
        ids=["500", "400", "302", "no JSON", "no gzip", "429", "repeated", "elsewhere", "no list"],
    )
    async def test_no_error_contains_one(self, ending):
        def answer(request):
            return ending() if "pageToken" in request.query else page(operation(), following="AC0123token")

        async with scripted_harness(answer) as harness:
            await harness.poll()

            assert not harness.poller.health.up
            assert "AC0123" not in harness.poller.health.problem.message
            assert "AC0123" not in str(harness.log.entries)
