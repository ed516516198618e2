"""The client reads listings and operations, retries what is worth it, and sends its credentials only to the API."""

import base64
import json

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from harness import Clock, Credentials, make_client
from operations import NOW, as_json, operation

from comms_exporter.api.client import MAX_PAGE_BYTES, Query
from comms_exporter.api.errors import CommsError, ConnectionLostError, ThrottledError
from comms_exporter.api.retries import RetryBudget

BASE = "https://comms.example/v1"
OPERATIONS = f"{BASE}/Emails/Operations"
FIRST_PAGE = f"{OPERATIONS}?pageSize=2"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def aiohttp_session():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def client(aiohttp_session, clock):
    return make_client(aiohttp_session, clock, BASE, page_size=2)


def page(*operations, following=None):
    return {"operations": [as_json(each) for each in operations], "pagination": {"next": following, "self": "s"}}


async def ids(client, budget=None, **query):
    pages = client.pages(Query(**query), budget or RetryBudget())
    return [each.id async for page in pages for each in page.operations]


class TestListing:
    async def test_requests_every_page_with_the_same_filters(self, aioresponses, client):
        query = "pageSize=2&startDate=2026-11-21T11:59:59Z&status=SCHEDULED"
        aioresponses.get(f"{OPERATIONS}?{query}", payload=page(operation("a"), operation("b"), following="t/+="))
        # An empty page is not always the last one.
        aioresponses.get(f"{OPERATIONS}?{query}&pageToken=t/%2B%3D", payload=page(following="u"))
        aioresponses.get(f"{OPERATIONS}?{query}&pageToken=u", payload=page(operation("c")))

        assert ["a", "b", "c"] == await ids(client, created_after=NOW, status="SCHEDULED")
        assert {"200": 3} == client.request_stats.requests

    async def test_sends_credentials_and_follows_no_redirect(self, aioresponses, client):
        aioresponses.get(FIRST_PAGE, status=302, headers={"Location": "https://elsewhere.example/"})

        with pytest.raises(CommsError, match=r"302: unexpected redirect to https://elsewhere\.example/"):
            await ids(client)

        ((call,),) = aioresponses.requests.values()
        assert call.kwargs["headers"]["Authorization"] == aiohttp.encode_basic_auth("ACtest", "canary")
        assert call.kwargs["allow_redirects"] is False

    async def test_a_repeated_token_is_an_error(self, aioresponses, client):
        aioresponses.get(FIRST_PAGE, payload=page(operation("a"), following="t"))
        aioresponses.get(f"{FIRST_PAGE}&pageToken=t", payload=page(operation("b"), following="u"))
        aioresponses.get(f"{FIRST_PAGE}&pageToken=u", payload=page(operation("c"), following="t"))

        with pytest.raises(CommsError, match="repeats a page token") as caught:
            await ids(client)
        assert caught.value.reason == "bad_payload"

    async def test_a_token_may_be_a_url_on_the_same_server(self, aioresponses, client):
        aioresponses.get(FIRST_PAGE, payload=page(operation("a"), following=f"{OPERATIONS}?page=2"))
        aioresponses.get(f"{OPERATIONS}?page=2", payload=page(operation("b")))

        assert ["a", "b"] == await ids(client)

    async def test_a_token_that_is_a_url_on_another_server_is_an_error(self, aioresponses, client):
        aioresponses.get(FIRST_PAGE, payload=page(operation("a"), following="https://evil.example/v1"))

        with pytest.raises(CommsError, match=r"on another server: https://evil\.example"):
            await ids(client)

    async def test_sets_its_clock_by_the_responses(self, aioresponses, client, clock):
        aioresponses.get(FIRST_PAGE, payload=page(), headers={"Date": "Sat, 21 Nov 2026 13:00:00 GMT"})

        await ids(client)

        assert clock.now + 3600 == client.now()


class TestSecrets:
    """The API and a proxy know the credentials and may repeat them anywhere: the client lets no secret through."""

    SECRET = "c4n4ry/5ecret+value"

    @pytest.fixture
    def client(self, aiohttp_session, clock):
        return make_client(aiohttp_session, clock, BASE, page_size=2, secrets=[self.SECRET])

    @pytest.mark.parametrize(
        "name",
        [
            SECRET,
            f"op_{SECRET}_1",
            SECRET.upper(),
            "c4n4ry%2F5ecret%2Bvalue",
            "c4n4ry%252F5ecret%2bvalue",
            base64.b64encode(f"ACtest:{SECRET}".encode()).decode(),
        ],
    )
    @pytest.mark.parametrize("field", ["id", "status"])
    async def test_an_operation_whose_id_or_status_contains_one_is_malformed(self, aioresponses, client, field, name):
        named = {**as_json(operation("b")), field: name}
        aioresponses.get(FIRST_PAGE, payload={"operations": [as_json(operation("a")), named, as_json(operation("c"))]})
        aioresponses.get(f"{OPERATIONS}/b", payload=named)

        (listed,) = [each async for each in client.pages(Query(), RetryBudget())]
        fetched = await client.operation("b", RetryBudget())

        assert ["a", "c"] == [each.id for each in listed.operations]
        assert ["id or status contains a secret"] == listed.malformed == fetched.malformed
        assert [] == fetched.operations

    async def test_json_escapes_do_not_hide_one(self, aioresponses, client):
        escaped = "".join(f"\\u{ord(c):04x}" for c in self.SECRET)
        body = json.dumps({"operations": [as_json(operation("here"))]}).replace("here", escaped)
        aioresponses.get(FIRST_PAGE, body=body)

        assert [] == await ids(client)

    @pytest.mark.parametrize("before", range(270, 300, 7))
    @pytest.mark.parametrize("kind", ["text", "JSON", "location"])
    async def test_a_truncated_message_contains_no_part_of_one(self, aioresponses, client, before, kind):
        message = f"{'x' * before}{self.SECRET}"
        match kind:
            case "text":
                aioresponses.get(FIRST_PAGE, status=400, body=message)
            case "JSON":
                aioresponses.get(FIRST_PAGE, status=400, payload={"message": message})
            case "location":
                aioresponses.get(FIRST_PAGE, status=302, headers={"Location": f"https://x.example/{message}"})

        with pytest.raises(CommsError) as caught:
            await ids(client)
        assert "c4n" not in str(caught.value)

    async def test_the_address_of_another_server_is_masked(self, aioresponses, aiohttp_session, clock):
        client = make_client(aiohttp_session, clock, BASE, page_size=2, secrets=["C4n4ry5ecret"])
        aioresponses.get(FIRST_PAGE, payload=page(following="https://C4n4ry5ecret.example/"))

        with pytest.raises(CommsError, match=r"on another server: https://\*\*\*\.example"):
            await ids(client)


class TestFetching:
    async def test_returns_the_operation(self, aioresponses, client):
        aioresponses.get(f"{OPERATIONS}/a%2F..%3Fb", payload=as_json(operation("a/..?b", sent=3)))

        answer = await client.operation("a/..?b", RetryBudget())

        assert [operation("a/..?b", sent=3)] == answer.operations

    async def test_an_operation_that_the_api_no_longer_has_is_none(self, aioresponses, client):
        aioresponses.get(f"{OPERATIONS}/a", status=404, payload={"errors": [{"code": 20404, "message": "gone"}]})

        assert await client.operation("a", RetryBudget()) is None

    async def test_a_malformed_operation_is_reported(self, aioresponses, client):
        aioresponses.get(f"{OPERATIONS}/a", payload={"id": "a"})

        assert ["status is a JSON null, not a string"] == (await client.operation("a", RetryBudget())).malformed


class TestRetries:
    @pytest.mark.parametrize(
        "error",
        [
            aiohttp.ServerDisconnectedError(),
            aiohttp.ClientConnectionError("refused"),
            aiohttp.ClientPayloadError("cut"),
            TimeoutError(),
            ConnectionResetError(),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_a_lost_connection_is_retried_with_backoff(self, aioresponses, client, clock, error):
        aioresponses.get(FIRST_PAGE, exception=error)
        aioresponses.get(FIRST_PAGE, exception=error)
        aioresponses.get(FIRST_PAGE, payload=page(operation("a")))

        assert ["a"] == await ids(client)
        assert [0.25, 0.5] == clock.waits
        assert ({"error": 2, "200": 1}, 2) == (client.request_stats.requests, client.request_stats.retries)

    async def test_one_poll_has_two_retries_for_all_its_requests(self, aioresponses, client):
        aioresponses.get(FIRST_PAGE, exception=TimeoutError(), repeat=True)
        budget = RetryBudget()

        with pytest.raises(ConnectionLostError, match="no response within 30 s") as caught:
            await ids(client, budget)
        assert caught.value.reason == "timeout"
        with pytest.raises(ConnectionLostError):
            await ids(client, budget)

        assert {"error": 4} == client.request_stats.requests

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 502])
    async def test_other_errors_are_not_retried(self, aioresponses, client, clock, status):
        aioresponses.get(FIRST_PAGE, status=status, repeat=True)

        with pytest.raises(CommsError):
            await ids(client)

        assert ({str(status): 1}, []) == (client.request_stats.requests, clock.waits)

    async def test_rotated_credentials_are_reloaded_and_used_at_once(self, aioresponses, client):
        client._credentials = Credentials("old", rotated="new")
        aioresponses.get(FIRST_PAGE, status=401)
        aioresponses.get(FIRST_PAGE, payload=page(operation("a")))

        assert ["a"] == await ids(client)

        headers = [
            call.kwargs["headers"]["Authorization"] for calls in aioresponses.requests.values() for call in calls
        ]
        assert [aiohttp.encode_basic_auth("ACtest", secret) for secret in ("old", "new")] == headers

    @pytest.mark.parametrize("status", [429, 503])
    async def test_the_first_page_is_not_retried_when_throttled(self, aioresponses, client, clock, status):
        """Nothing is lost, and the health of the account shows the reason at once."""
        aioresponses.get(FIRST_PAGE, status=status, headers={"Retry-After": "7"})

        with pytest.raises(ThrottledError) as caught:
            await ids(client)

        assert (7.0, []) == (caught.value.retry_after, clock.waits)

    async def test_a_later_page_is_retried_after_the_time_that_the_api_asks_for(self, aioresponses, client, clock):
        second = f"{FIRST_PAGE}&pageToken=t"
        aioresponses.get(FIRST_PAGE, payload=page(operation("a"), following="t"))
        aioresponses.get(second, status=429, headers={"Retry-After": "7"})
        aioresponses.get(second, payload=page(operation("b")))

        assert ["a", "b"] == await ids(client)
        assert ([7.0], 7.0) == (clock.waits, client.request_stats.waited_seconds)

    async def test_a_later_page_is_not_retried_after_minutes(self, aioresponses, client, clock):
        aioresponses.get(FIRST_PAGE, payload=page(operation("a"), following="t"))
        aioresponses.get(f"{FIRST_PAGE}&pageToken=t", status=429, headers={"Retry-After": "61"})

        with pytest.raises(ThrottledError):
            await ids(client)
        assert [] == clock.waits


class TestBodies:
    async def test_a_200_that_is_no_page_is_a_bad_payload(self, aioresponses, client):
        aioresponses.get(FIRST_PAGE, body="<html>")

        with pytest.raises(CommsError, match="200 with an invalid body: invalid JSON") as caught:
            await ids(client)
        assert caught.value.reason == "bad_payload"

    async def test_an_endless_body_is_a_bad_payload(self, aiohttp_session, clock):
        async def endless(request):
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(MAX_PAGE_BYTES // 2**20 + 1):
                await response.write(b" " * 2**20)
            return response

        app = web.Application()
        app.router.add_get("/v1/Emails/Operations", endless)
        async with TestServer(app) as server:
            client = make_client(aiohttp_session, clock, str(server.make_url("/v1")), page_size=2)

            with pytest.raises(CommsError, match="200 with a body of more than 8192 KiB"):
                await ids(client)
