"""Where the API's documentation is silent or at odds with itself, each doubt has an answer, and this is what it does."""

import asyncio
import json
from contextlib import asynccontextmanager
from email.utils import formatdate

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from house import HOUR, INTERVAL, house
from operations import NOW, as_json, operation, page_of
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from comms_exporter.api import client
from comms_exporter.collect.health import Reloads
from comms_exporter.expose.exposition import Exposition
from comms_exporter.model.readings import Reading
from comms_exporter.simulator import Dialect, Fate

DAY = 24 * HOUR
SENT = Fate(sent=1, delivered=2)
QUEUED = Fate(queued=0)
LISTING = "/v1/Emails/Operations"


@asynccontextmanager
async def strange_house(answer, **options):
    """A house whose API says what *answer* makes of a request: a response, or what is to be said as JSON."""

    async def respond(request):
        said = answer(request)
        response = said if isinstance(said, web.StreamResponse) else web.json_response(said)
        response.headers.setdefault("Date", formatdate(home.clock(), usegmt=True))
        return response

    app = web.Application()
    app.router.add_get("/{path:.*}", respond)
    async with house(**options) as home, TestServer(app) as server:
        home.poller._client._base = URL(str(server.make_url("/v1")))
        yield home


def page(*operations, following=None):
    return {"operations": [as_json(each) for each in operations], "pagination": {"next": following, "self": "s"}}


def samples(home):
    """Return what a scrape shows now, as {name: [(labels, value)]}."""
    page = Exposition(lambda: [home.poller], reloads=Reloads(last_success=NOW), monotonic=home.clock)
    found = {}
    for family in text_string_to_metric_families(page_of(page).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


async def times_of_polls(home, polls):
    """Let the loop run for *polls* polls; return when each began, in seconds since the first."""
    began = []
    original = home.poller.poll

    async def poll():
        if len(began) == polls:
            raise asyncio.CancelledError
        began.append(home.clock.now)
        await original()

    home.poller.poll = poll
    with pytest.raises(asyncio.CancelledError):
        await home.poller.run()
    return [each - began[0] for each in began]


class TestWhetherAnEmailThatWasOpenedStillCountsAsDelivered:
    """Samples read both ways; each operation's own counters decide, and the same history gives the same totals."""

    @pytest.mark.parametrize("reading", ["cumulative", "exclusive"])
    async def test_the_same_mail_gives_the_same_totals(self, reading):
        async with house(reading=reading) as home:
            await home.poll()
            home.world.send(fates=[Fate(sent=40, delivered=70, opened=100), Fate(sent=40, undelivered=130), SENT])
            for _ in range(6):
                await home.poll()

            (shown,) = samples(home)["comms_emails_delivered_total"]
            assert 2 == shown[1]
            assert {
                "total": 3, "recipients": 3, "attempts": 3, "sent": 3, "delivered": 2, "opened": 1, "undelivered": 1,
                "operations_created": 1, "operations_completed": 1,
            } == home.totals  # fmt: skip
            assert {Reading(reading): 1} == home.poller.view.by_reading

    async def test_what_cannot_be_told_is_called_undecided(self):
        async with house() as home:
            home.world.send(fates=[QUEUED])
            await home.poll()

            shown = {labels["reading"]: n for labels, n in samples(home)["comms_exporter_operations_by_reading"]}
            assert {"cumulative": 0, "exclusive": 0, "undecided": 1} == shown

    async def test_who_knows_better_is_believed(self):
        async with house(reading="exclusive") as home:
            home.poller.state.forced_reading = Reading.CUMULATIVE
            await home.poll()
            home.world.send(fates=[Fate(sent=0, delivered=0, opened=0)])
            await home.poll()

            assert 1 == home.totals["opened"]
            assert "delivered" not in home.totals
            assert {Reading.CUMULATIVE: 1} == home.poller.view.by_reading


class TestWhichCountersAnAnswerHas:
    """The guide shows nine of the reference's eleven; one that is missing is absent and not 0, a new one is no error."""

    async def test_a_missing_counter_is_absent(self):
        async with house() as home:
            home.world.omit = frozenset({"recipients", "attempts"})
            await home.poll()
            home.world.send(fates=[SENT])
            await home.poll()

            shown = samples(home)
            assert 1 == len(shown["comms_email_operation_sent"])
            assert "comms_email_operation_recipients" not in shown
            assert "comms_email_operation_attempts" not in shown
            assert (1, None) == (home.totals["sent"], home.totals.get("recipients"))

    async def test_one_that_comes_and_goes_neither_falls_nor_counts_twice(self):
        async with house() as home:
            await home.poll()
            home.world.send(fates=[Fate(sent=1, delivered=100)])
            await home.poll()
            home.world.omit = frozenset({"sent", "recipients"})
            await home.poll()
            home.world.omit = frozenset()
            await home.poll(after=100)

            assert (1, 1, 1) == tuple(home.totals[name] for name in ("sent", "recipients", "delivered"))
            assert {} == home.poller.state.regressions

    async def test_a_new_counter_is_noticed_and_costs_nothing(self):
        async with house() as home:
            await home.poll()
            home.world.send(fates=[SENT])
            home.faults.add("unknown-counter", times=1)
            await home.poll()

            assert (1, {"stats": 1}) == (home.totals["sent"], home.poller.state.unknown)


class TestWhatHappensAfterCompleted:
    """COMPLETED means processed, not delivered; what comes later counts, however late."""

    async def test_completed_is_not_delivered(self):
        async with house() as home:
            await home.poll()
            home.world.send(fates=[Fate(sent=1, delivered=45)])
            await home.poll(after=10)
            assert (1, None) == (home.totals["operations_completed"], home.totals.get("delivered"))

            await home.poll(after=60)
            assert 1 == home.totals["delivered"]

    @pytest.mark.parametrize("hours", [0.5, 5, 30, 24 * 6.8])
    async def test_late_opens_and_bounces_count(self, hours):
        async with house() as home:
            await home.poll()
            late = hours * HOUR
            home.world.send(fates=[Fate(sent=1, delivered=2, opened=late), Fate(sent=1, undelivered=late)])
            await home.poll()
            assert ("opened" in home.totals, "undelivered" in home.totals) == (False, False)

            await home.poll(after=late)
            await home.poll(after=HOUR)

            assert (1, 1) == (home.totals["opened"], home.totals["undelivered"])
            assert 1 == home.totals["operations_completed"]


class TestWhatThePartsOfAListingAreCalled:
    """Envelopes differ between the reference, the guide and sister products; all of them are read."""

    @pytest.mark.parametrize("items", ["operations", "data", "emailOperations", "keyed"])
    @pytest.mark.parametrize(
        "following", ["pagination.next", "pagination.nextPageToken", "meta.nextToken", "nextPageToken"]
    )
    async def test_operations_and_the_next_page_are_found(self, items, following):
        def answer(request):
            second = "pageToken" in request.query
            said = {items: [as_json(operation("b" if second else "a"))], "pagination": {"self": "s"}}
            if items == "keyed":
                said |= {"meta": {"key": "keyed"}, "links": []}
            *holder, name = following.split(".")
            inner = said.setdefault(holder[0], {}) if holder else said
            inner[name] = None if second else "second"
            return said

        async with strange_house(answer) as home:
            await home.poll()

            assert {"a", "b"} == home.poller.state.tracked.keys()
            assert home.poller.health.up

    async def test_the_next_page_may_be_an_address(self):
        def answer(request):
            second = "cursor" in request.query
            return page(
                operation("b" if second else "a"), following=None if second else str(request.url % {"cursor": "c"})
            )

        async with strange_house(answer) as home:
            await home.poll()

            assert {"a", "b"} == home.poller.state.tracked.keys()

    async def test_an_address_elsewhere_gets_no_credentials(self):
        visitors = []

        async def receive(request):
            visitors.append(request)
            return web.json_response(page())

        elsewhere = web.Application()
        elsewhere.router.add_get("/{path:.*}", receive)
        async with TestServer(elsewhere) as other:
            address = str(other.make_url(LISTING))
            async with strange_house(lambda _: page(operation(), following=address)) as home:
                await home.poll()

                assert "bad_payload" == home.poller.health.problem.reason
        assert [] == visitors


class TestWhetherFiltersAreHeeded:
    """Unknown parameters are ignored without a word; what comes unasked changes no count, and is told once."""

    @pytest.mark.parametrize("order", ["newest", "oldest"])
    async def test_ignored_filters_change_nothing(self, order):
        totals = []
        for ignored in (False, True):
            async with house(dialect=Dialect(ignore_filters=ignored, order=order), page_size=7) as home:
                for n in range(20):
                    home.world.send(at=NOW - n * HOUR, fates=[Fate(sent=1, delivered=2, opened=n * HOUR + 100)])
                await home.poll()
                home.world.send(fates=[SENT] * 3)
                for _ in range(12):
                    await home.poll()
                totals.append(home.totals)

        assert totals[0] == totals[1]
        assert (3, 20) == (totals[0]["total"], totals[0]["opened"])

    async def test_a_filter_that_is_ignored_is_told_once(self):
        async with house(dialect=Dialect(ignore_filters=True)) as home:
            home.world.send(at=NOW - 2 * HOUR, fates=[SENT])
            for _ in range(4):
                await home.poll()

            ((_, said, fields),) = [said for said in home.log.said if said[0] == "warning"]
            assert ("startDate", True) == (fields["filter"], "ignores a filter" in said)

    async def test_one_that_is_heeded_is_not_suspected(self):
        async with house(page_size=3) as home:
            for n in range(20):
                home.world.send(at=NOW - n * HOUR, fates=[Fate(queued=0, sent=3 * HOUR)])
            for _ in range(12):
                await home.poll(after=600)

            assert [] == home.log.heard("warning")


class TestWhatPageTokensAre:
    """Opaque: sent back as they came, with the same filters; blank ends, a known one or too many are errors."""

    async def test_they_come_back_as_they_were(self):
        token = "a/b+c==&x=%20#ü ~"
        seen = []

        def answer(request):
            seen.append(dict(request.query))
            return page(operation(str(len(seen))), following=token if len(seen) == 1 else None)

        async with strange_house(answer) as home:
            await home.poll()

        assert [seen[0], {**seen[0], "pageToken": token}] == seen
        assert {"pageSize", "startDate"} == seen[0].keys()

    @pytest.mark.parametrize("end", [None, "", "  "])
    async def test_blank_ends(self, end):
        async with strange_house(lambda _: page(operation(), following=end)) as home:
            await home.poll()

            assert (True, {"200": 1}) == (home.poller.health.up, home.poller.request_stats.requests)

    async def test_an_empty_or_short_page_does_not_end(self):
        pages = {None: page(following="b"), "b": page(operation("a"), following="c"), "c": page(operation("b"))}
        async with strange_house(lambda request: pages[request.query.get("pageToken")]) as home:
            await home.poll()

            assert {"a", "b"} == home.poller.state.tracked.keys()

    async def test_one_that_repeats_is_an_error_and_not_a_loop(self):
        async with strange_house(lambda _: page(operation(), following="again")) as home:
            await home.poll()

            assert "bad_payload" == home.poller.health.problem.reason
            assert {"200": 2} == home.poller.request_stats.requests
            assert {} == home.poller.state.tracked

    async def test_pages_without_end_are_an_error(self, monkeypatch):
        monkeypatch.setattr(client, "MAX_PAGES", 5)

        def answer(request):
            return page(operation(), following=str(int(request.query.get("pageToken", "0")) + 1))

        async with strange_house(answer) as home:
            await home.poll()

            assert "the listing has more than 5 pages" == home.poller.health.problem.message
            assert {"200": 5} == home.poller.request_stats.requests


class TestInWhichOrderOperationsCome:
    """Nobody says; any order will do, and one that comes on two pages is one, as it was last."""

    @pytest.mark.parametrize("order", ["newest", "oldest"])
    async def test_any_order_will_do(self, order):
        async with house(dialect=Dialect(order=order), page_size=3) as home:
            await home.poll()
            for n in range(10):
                home.world.send(at=home.clock.now + 1 + n // 3, fates=[SENT])
            await home.poll()

            assert {"operations_created": 10, "delivered": 10} == {
                name: home.totals[name] for name in ("operations_created", "delivered")
            }

    @pytest.mark.parametrize("swapped", [False, True])
    async def test_what_comes_twice_is_one(self, swapped):
        versions = [
            operation("a", created=NOW + 40, total=1),
            operation("a", created=NOW + 40, updated=NOW + 41, total=1, sent=1),
        ]
        first, second = versions[::-1] if swapped else versions

        def answer(request):
            if home.clock.now < NOW + INTERVAL + 1:
                return page()
            return page(second) if "pageToken" in request.query else page(first, following="t")

        async with strange_house(answer) as home:
            await home.poll()
            await home.poll()

            assert {"total": 1, "sent": 1, "operations_created": 1} == home.totals
            assert versions[1] == home.poller.view.exposed[0]


class TestWhetherBoundsAreInclusive:
    """Nobody says; a second more on the wire makes it not matter."""

    @pytest.mark.parametrize("bounds", ["inclusive", "exclusive"])
    @pytest.mark.parametrize("fraction", [0.0, 0.3, 0.999])
    async def test_an_operation_on_the_very_bound_is_found(self, bounds, fraction):
        async with house(dialect=Dialect(bounds=bounds)) as home:
            home.clock.now += fraction
            await home.poll()
            home.world.send(at=home.clock.now + 50, fates=[SENT])
            home.poller._plan.sweep = home.poller._plan.day = float("inf")

            await home.poll(after=HOUR + 50)

            assert 1 == home.totals["operations_created"]


class TestWhetherToAskAgainAfterA500:
    """One page says never, another says always: not within a poll, and at the next one as ever."""

    async def test_the_next_poll_asks_again(self):
        async with house() as home:
            home.world.send(fates=[SENT])
            home.faults.add("500", times=1)

            await home.poll()
            assert ({"500": 1}, []) == (home.poller.request_stats.requests, home.clock.waits)

            await home.poll()
            assert ({"500": 1, "200": 1}, True) == (home.poller.request_stats.requests, home.poller.health.up)
            assert INTERVAL == home.poller.health.interval_seconds


class TestWhatRetryAfterLooksLike:
    """Its format is not said: seconds and dates are obeyed, an hour is the most, and without one the interval doubles."""

    @pytest.mark.parametrize("kind", ["429", "503"])
    @pytest.mark.parametrize(
        ("form", "asked", "waited"),
        [("seconds", 100, 100), ("date", 100, 100), ("none", 100, 60), ("seconds", 0, 60), ("seconds", 9999, 3600)],
    )
    async def test_it_is_obeyed(self, kind, form, asked, waited):
        async with house() as home:
            home.faults.add(kind, times=1, retry_after=asked, retry_after_form=form)

            assert [0, waited, waited + 30] == await times_of_polls(home, 3)

    @pytest.mark.parametrize("nonsense", ["soon", "-5", "1e3", "Sat, 99 Nov 2026 12:00:00 GMT"])
    async def test_nonsense_is_none(self, nonsense):
        throttled = web.Response(status=429, headers={"Retry-After": nonsense})
        answers = iter([throttled, page(), page()])
        async with strange_house(lambda _: next(answers)) as home:
            assert [0, 60, 90] == await times_of_polls(home, 3)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 502])
    async def test_it_matters_with_429_and_503_alone(self, status):
        answers = iter([web.Response(status=status, headers={"Retry-After": "500"}), page()])
        async with strange_house(lambda _: next(answers)) as home:
            assert [0, 30] == await times_of_polls(home, 2)


class TestWhatAnErrorSays:
    """Five shapes are published or seen; each one's message is passed on, and none hides the status."""

    @pytest.mark.parametrize("shape", ["observed", "documented", "flat"])
    async def test_the_shapes_of_twilio(self, shape):
        async with house(dialect=Dialect(errors=shape)) as home:
            home.faults.add("403")
            await home.poll()

            expected = "403: The account is not authorized to perform this action. (code 20403)"
            assert expected == home.poller.health.problem.message

    @pytest.mark.parametrize(
        ("body", "said"),
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
    async def test_the_shapes_of_others(self, body, said):
        async with strange_house(lambda _: web.Response(status=403, body=body)) as home:
            await home.poll()

            assert ("forbidden", f"403: {said}") == (
                home.poller.health.problem.reason,
                home.poller.health.problem.message,
            )


class TestWhatBecomesOfOperationsAfterSevenDays:
    """A 404 or a thinner answer: either way it is no longer shown or no longer grows, and no total falls."""

    @pytest.mark.parametrize("retention", ["gone", "thin"])
    async def test_no_total_falls(self, retention):
        async with house() as home:
            home.world.retention = retention
            await home.poll()
            home.world.send(fates=[SENT] * 2)
            home.world.send(fates=[SENT, QUEUED])
            await home.poll()
            before = home.totals

            for _ in range(9):
                await home.poll(after=DAY)

            assert before == home.totals
            assert home.poller.health.up
            assert {"gone": [], "thin": ["PROCESSING"]}[retention] == [
                each.operation.status for each in home.poller.state.tracked.values()
            ]

    async def test_one_that_is_not_found_is_shown_again_when_it_is(self):
        """A 404 may be a replica that lags; the next listing knows."""
        async with house() as home:
            await home.poll()
            old = home.world.send(fates=[Fate(queued=0, sent=3 * HOUR)])
            await home.poll()
            await home.poll(after=HOUR)
            home.faults.add("404", path=f"{LISTING}/{old.id}", times=1)
            await home.poll()
            assert [] == home.poller.view.exposed
            assert home.poller.health.up

            for _ in range(10):
                await home.poll()
            assert [old.id] == [each.id for each in home.poller.view.exposed]

            await home.poll(after=3 * HOUR)
            assert (1, 1) == (home.totals["sent"], home.totals["operations_completed"])


class TestWhatIdsLookLike:
    """A published sample does not fit the published pattern: any text will do, and stays one segment of the path."""

    @pytest.mark.parametrize("name", ["comms_operation_01h9ksxq9v7b2m4r5t6y7z8a9", "a/b?c#d%2e", "ünï cödé", '"\\'])
    async def test_any_text_will_do(self, name):
        asked = []

        def answer(request):
            asked.append(request.raw_path)
            return page(operation(name, created=NOW - 2 * HOUR)) if len(asked) == 1 else page()

        async with strange_house(answer) as home:
            await home.poll()
            shown = [labels["operation_id"] for labels, _ in samples(home)["comms_email_operation_emails"]]
            await home.poll()

        assert [name] == shown
        assert 1 == asked[-1].removeprefix(LISTING).count("/")
        assert name == URL(asked[-1], encoded=True).name


class TestHowAStatusIsSpelt:
    """Prose says it in lower case and more may come: letter case does not matter, and the unknown is unfinished."""

    async def test_letter_case_does_not_matter(self):
        async with strange_house(lambda _: page(operation(created=NOW + INTERVAL, status="completed"))) as home:
            home.poller.state.first_look = NOW
            await home.poll()

            assert ({"COMPLETED": 1}, 1) == (home.poller.view.by_status, home.totals["operations_completed"])

    async def test_the_unknown_is_unfinished_and_shown_as_it_is(self):
        asked = []

        def answer(request):
            asked.append(request.path)
            odd = operation("a", created=NOW - 2 * HOUR, status="PAUSED")
            return as_json(odd) if request.path != LISTING else page(odd) if len(asked) == 1 else page()

        async with strange_house(answer) as home:
            for _ in range(3):
                await home.poll()

            assert [LISTING, LISTING, f"{LISTING}/a", LISTING, f"{LISTING}/a"] == asked
            shown = {labels["status"]: n for labels, n in samples(home)["comms_email_operation_status"]}
            assert {"SCHEDULED": 0, "PROCESSING": 0, "COMPLETED": 0, "CANCELED": 0, "PAUSED": 1} == shown
            assert 3 == home.poller.state.unknown["status"]


class TestHowRefusalsAreTold:
    """401 and 403 are not in the tables of these pages: each has its own reason, is said once, and is not insisted on."""

    @pytest.mark.parametrize(("kind", "reason"), [("401", "auth"), ("403", "forbidden")])
    async def test_each_has_its_reason(self, kind, reason):
        async with house() as home:
            home.faults.add(kind)
            for _ in range(5):
                await home.poll()

            assert ({reason: 5}, {kind: 5}) == (home.poller.health.failures, home.poller.request_stats.requests)
            assert [("poll failed", reason)] == home.log.heard("error")
            assert [0.0] == [value for _, value in samples(home)["comms_up"]]


class TestHowTimesAreWritten:
    """Samples end in Z and have whole seconds; RFC 3339 allows more, and all of it is read."""

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
        said = json.loads(json.dumps(page(operation())))
        said["operations"][0] |= {"createdAt": text, "updatedAt": text}
        async with strange_house(lambda _: said) as home:
            await home.poll()

            (shown,) = home.poller.view.exposed
            assert (pytest.approx(moment, abs=1e-6), 0) == (shown.created, home.poller.state.malformed)


class TestWhatTokensGiveAway:
    """A token may hold the account's identifier: none is ever logged or shown."""

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
    async def test_none_is_logged_or_shown(self, ending):
        def answer(request):
            return ending() if "pageToken" in request.query else page(operation(), following="AC0123token")

        async with strange_house(answer) as home:
            await home.poll()

            assert not home.poller.health.up
            assert "AC0123" not in home.poller.health.problem.message
            assert "AC0123" not in str(home.log.said)
