"""No hostile or broken response stops polling, gives away a secret, or costs more than a failed poll."""

import time
import tracemalloc

import pytest
from aiohttp import web
from api.test_ambiguities import LISTING, page, scripted_harness, times_of_polls
from api.test_fuzz import Wire, mail, say, socket_harness, text_of
from harness import HOUR, INTERVAL, simulator_harness
from operations import NOW, operation

DAY = 24 * HOUR


class TestTokensThatAreUrls:
    @pytest.mark.parametrize("token", ["http://", "https://[::1", "http://h:999999/", "http:///x", "https://%zz"])
    async def test_an_invalid_url_is_a_bad_payload(self, token):
        """The poll fails, and the loop goes on."""
        async with scripted_harness(lambda _: page(operation(), following=token)) as harness:
            await harness.poll()
            assert "bad_payload" == harness.poller.health.problem.reason

    async def test_a_url_with_credentials_does_not_end_the_loop(self):
        """aiohttp raises a ValueError for credentials in both the URL and a header."""

        def answer(request):
            if "cursor" in request.query:
                return page(operation("b"))
            return page(operation("a"), following=str(request.url.with_user("u").with_password("p") % {"cursor": "c"}))

        async with scripted_harness(answer) as harness:
            await harness.poll()
            assert harness.poller.health.up or "bad_payload" == harness.poller.health.problem.reason


class TestDateHeader:
    @pytest.mark.parametrize("odd", ["Fri, 31 Dec 9999 23:59:59 GMT", "Tue, 01 Dec 2026 12:00:00 GMT"])
    @pytest.mark.parametrize("place", [1, 2, 3])
    async def test_one_that_is_far_ahead_does_not_stop_counting(self, odd, place):
        """It must not move the horizon there: every new operation would be taken for a forgotten one."""
        requests = 0

        def answer(_):
            nonlocal requests
            requests += 1
            sent = [
                operation(f"o{n}", created=NOW + n * INTERVAL + 1, status="COMPLETED", total=1)
                for n in range(1, requests)
            ]
            return web.json_response(page(*sent), headers={"Date": odd} if requests == place else {})

        async with scripted_harness(answer) as harness:
            for _ in range(6):
                await harness.poll()
            await harness.poll(after=HOUR)

            assert 5 <= harness.totals.get("total", 0)
            assert harness.poller.state.horizon < harness.clock.now

    async def test_one_without_a_zone_is_utc(self, monkeypatch):
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        try:
            answer = lambda _: web.json_response(page(), headers={"Date": "Sat, 21 Nov 2026 12:00:30"})  # noqa: E731
            async with scripted_harness(answer) as harness:
                await harness.poll()
                assert harness.clock.now == harness.poller._client.now()
        finally:
            monkeypatch.undo()
            time.tzset()


class TestPageTokensInMessages:
    async def test_an_invalid_http_response_does_not_show_the_token(self):
        wire = Wire()
        async with socket_harness(wire.serve) as harness:
            wire.answers = [say(text_of(*mail("a"), following="AC0123token").encode()), b"HTTP/1.1 two hundred\r\n\r\n"]
            await harness.poll()
            assert "AC0123" not in harness.poller.health.problem.message

    async def test_a_redirect_does_not_show_the_token(self):
        def answer(request):
            if "pageToken" not in request.query:
                return page(operation(), following="AC0123token")
            return web.Response(status=302, headers={"Location": f"https://sso.example/?back={request.path_qs}"})

        async with scripted_harness(answer) as harness:
            await harness.poll()
            assert "AC0123" not in harness.poller.health.problem.message


@pytest.mark.parametrize("name", [".", ".."])
async def test_an_id_stays_one_segment_of_the_path(name):
    requested = []

    def answer(request):
        requested.append(request.path)
        return page(operation(name, created=NOW - 2 * HOUR)) if len(requested) == 1 else page()

    async with scripted_harness(answer) as harness:
        await harness.poll()
        await harness.poll()
    assert f"{LISTING}/" not in requested
    assert "/v1/Emails/" not in requested


class TestRetries:
    async def test_three_attempts_are_three_requests(self):
        """aiohttp must not retry by itself, uncounted and past the rate limiter."""
        async with simulator_harness() as harness:
            harness.faults.add("reset")
            await harness.poll()
            assert 3 == len(harness.requested_paths()) == sum(harness.poller.request_stats.requests.values())

    async def test_a_body_that_cannot_be_decompressed_is_not_retried(self):
        wire = Wire()
        async with socket_harness(wire.serve) as harness:
            wire.answers = [say(b"this is no gzip", headers=[("Content-Encoding", "gzip")])]
            await harness.poll()
            assert ("bad_payload", 1) == (harness.poller.health.problem.reason, wire.requests)

    async def test_a_429_with_a_large_body_is_throttling(self):
        first = web.Response(status=429, headers={"Retry-After": "100"}, body=b" " * 17 * 2**20)
        answers = iter([first, page(), page()])
        async with scripted_harness(lambda _: next(answers)) as harness:
            assert [0, 100, 130] == await times_of_polls(harness, 3)


async def test_messages_can_be_encoded():
    """A lone surrogate in an error message would break the status page."""
    async with scripted_harness(lambda _: web.Response(status=400, body=b'{"message":"a\\ud800b"}')) as harness:
        await harness.poll()
        assert harness.poller.health.problem.message.encode()


class TestLargeListings:
    async def test_a_page_with_far_too_many_entries_is_rejected(self):
        """16 MB of {} would be 5.5 million entries: 0.9 GB, and 24 seconds without any other task."""
        body = b'{"operations":[' + b",".join([b"{}"] * 200_000) + b"]}"
        async with scripted_harness(lambda _: web.Response(body=body)) as harness:
            await harness.poll()
            assert "bad_payload" == harness.poller.health.problem.reason

    async def test_pages_with_the_same_operations_take_no_more_memory_than_one(self):
        """If all their versions were kept, 20,000 full pages would take 15 GB."""

        async def peak(pages):
            def answer(request):
                number = int(request.query.get("pageToken", 0)) + 1
                return page(
                    *(operation(f"o{n}", total=10**6 + number) for n in range(100)),
                    following=str(number) if number < pages else None,
                )

            async with scripted_harness(answer) as harness:
                tracemalloc.start()
                await harness.poll()
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert harness.poller.health.up
            return peak

        assert await peak(150) < 3 * await peak(10)


async def test_an_updated_at_from_the_future_does_not_freeze_an_operation():
    """Otherwise, COMPLETED would be counted but never shown, and the operation fetched until it expires."""
    requests = 0

    def answer(request):
        nonlocal requests
        requests += 1
        if requests == 2:
            return page(operation("a", created=NOW + 60, updated=NOW + 10**9))
        return page(operation("a", created=NOW + 60, updated=NOW + 61, status="COMPLETED")) if requests > 2 else page()

    async with scripted_harness(answer) as harness:
        for _ in range(4):
            await harness.poll()
        assert {"COMPLETED": 1} == harness.poller.view.by_status
