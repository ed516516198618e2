"""Every answer and every silence of the API means one thing, and the right one is tried again."""

import base64
import json
import ssl
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from house import Clock, Credentials, make_client
from multidict import CIMultiDict
from operations import NOW, as_json, operation

from comms_exporter.api.client import (
    LARGEST_PAGE,
    LONGEST_WAIT,
    CommsError,
    ConnectionLostError,
    Patience,
    Query,
    ThrottledError,
    complaint,
    decipher,
    explain,
    read,
    retry_after,
)
from comms_exporter.api.payloads import read_page

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


async def ids(client, patience=None, **query):
    pages = client.pages(Query(**query), patience or Patience())
    return [each.id async for page in pages for each in page.operations]


class TestListing:
    async def test_asks_for_every_page_with_the_same_filters(self, aioresponses, client):
        asked = "pageSize=2&startDate=2026-11-21T11:59:59Z&endDate=2026-11-21T12:00:01Z&status=SCHEDULED"
        aioresponses.get(f"{OPERATIONS}?{asked}", payload=page(operation("a"), operation("b"), following="t/+="))
        # A page may be empty and yet not the last.
        aioresponses.get(f"{OPERATIONS}?{asked}&pageToken=t/%2B%3D", payload=page(following="u"))
        aioresponses.get(f"{OPERATIONS}?{asked}&pageToken=u", payload=page(operation("c")))

        assert ["a", "b", "c"] == await ids(client, created_after=NOW, created_before=NOW, status="SCHEDULED")
        assert {"200": 3} == client.request_stats.requests

    async def test_signs_requests_and_follows_no_redirect(self, aioresponses, client):
        aioresponses.get(FIRST_PAGE, status=302, headers={"Location": "https://elsewhere.example/"})

        with pytest.raises(CommsError, match=r"302 instead of an answer, redirecting to https://elsewhere\.example/"):
            await ids(client)

        ((call,),) = aioresponses.requests.values()
        assert call.kwargs["headers"]["Authorization"] == aiohttp.encode_basic_auth("ACtest", "canary")
        assert call.kwargs["allow_redirects"] is False

    async def test_a_token_that_repeats_is_an_error(self, aioresponses, client):
        aioresponses.get(FIRST_PAGE, payload=page(operation("a"), following="t"))
        aioresponses.get(f"{FIRST_PAGE}&pageToken=t", payload=page(operation("b"), following="u"))
        aioresponses.get(f"{FIRST_PAGE}&pageToken=u", payload=page(operation("c"), following="t"))

        with pytest.raises(CommsError, match="repeats a page token") as caught:
            await ids(client)
        assert caught.value.reason == "bad_payload"

    async def test_a_token_may_be_an_address_on_the_same_server(self, aioresponses, client):
        aioresponses.get(FIRST_PAGE, payload=page(operation("a"), following=f"{OPERATIONS}?page=2"))
        aioresponses.get(f"{OPERATIONS}?page=2", payload=page(operation("b")))

        assert ["a", "b"] == await ids(client)

    async def test_credentials_go_nowhere_else(self, aioresponses, client):
        aioresponses.get(FIRST_PAGE, payload=page(operation("a"), following="https://evil.example/v1"))

        with pytest.raises(CommsError, match=r"on another server: https://evil\.example"):
            await ids(client)

    async def test_learns_the_time_from_the_answers(self, aioresponses, client, clock):
        aioresponses.get(FIRST_PAGE, payload=page(), headers={"Date": "Sat, 21 Nov 2026 13:00:00 GMT"})

        await ids(client)

        assert clock.now + 3600 == client.now()


class TestSecrets:
    """What knows our secrets, the API and the proxy, may repeat them anywhere: nothing of it goes further than the client."""

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
    async def test_an_operation_that_one_names_is_malformed(self, aioresponses, client, field, name):
        named = {**as_json(operation("b")), field: name}
        aioresponses.get(FIRST_PAGE, payload={"operations": [as_json(operation("a")), named, as_json(operation("c"))]})
        aioresponses.get(f"{OPERATIONS}/b", payload=named)

        (listed,) = [each async for each in client.pages(Query(), Patience())]
        fetched = await client.operation("b", Patience())

        assert ["a", "c"] == [each.id for each in listed.operations]
        assert ["id or status holds a secret of ours"] == listed.malformed == fetched.malformed
        assert [] == fetched.operations

    async def test_an_escape_of_json_hides_none(self, aioresponses, client):
        escaped = "".join(f"\\u{ord(c):04x}" for c in self.SECRET)
        body = json.dumps({"operations": [as_json(operation("here"))]}).replace("here", escaped)
        aioresponses.get(FIRST_PAGE, body=body)

        assert [] == await ids(client)

    @pytest.mark.parametrize("before", range(270, 300, 7))
    @pytest.mark.parametrize("kind", ["text", "JSON", "location"])
    async def test_none_is_left_by_half_where_a_message_is_cut(self, aioresponses, client, before, kind):
        said = f"{'x' * before}{self.SECRET}"
        match kind:
            case "text":
                aioresponses.get(FIRST_PAGE, status=400, body=said)
            case "JSON":
                aioresponses.get(FIRST_PAGE, status=400, payload={"message": said})
            case "location":
                aioresponses.get(FIRST_PAGE, status=302, headers={"Location": f"https://x.example/{said}"})

        with pytest.raises(CommsError) as caught:
            await ids(client)
        assert "c4n" not in str(caught.value)

    async def test_none_is_in_the_address_of_another_server(self, aioresponses, aiohttp_session, clock):
        client = make_client(aiohttp_session, clock, BASE, page_size=2, secrets=["C4n4ry5ecret"])
        aioresponses.get(FIRST_PAGE, payload=page(following="https://C4n4ry5ecret.example/"))

        with pytest.raises(CommsError, match=r"on another server: https://\*\*\*\.example"):
            await ids(client)


class TestFetching:
    async def test_returns_the_operation(self, aioresponses, client):
        aioresponses.get(f"{OPERATIONS}/a%2F..%3Fb", payload=as_json(operation("a/..?b", sent=3)))

        answer = await client.operation("a/..?b", Patience())

        assert [operation("a/..?b", sent=3)] == answer.operations

    async def test_what_the_api_no_longer_knows_is_none(self, aioresponses, client):
        aioresponses.get(f"{OPERATIONS}/a", status=404, payload={"errors": [{"code": 20404, "message": "gone"}]})

        assert await client.operation("a", Patience()) is None

    async def test_a_malformed_one_is_said_so(self, aioresponses, client):
        aioresponses.get(f"{OPERATIONS}/a", payload={"id": "a"})

        assert ["status is a JSON null, not a string"] == (await client.operation("a", Patience())).malformed


class TestTryingAgain:
    @pytest.mark.parametrize(
        "silence",
        [
            aiohttp.ServerDisconnectedError(),
            aiohttp.ClientConnectionError("refused"),
            aiohttp.ClientPayloadError("cut"),
            TimeoutError(),
            ConnectionResetError(),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_a_lost_connection_is_tried_again_a_little_later(self, aioresponses, client, clock, silence):
        aioresponses.get(FIRST_PAGE, exception=silence)
        aioresponses.get(FIRST_PAGE, exception=silence)
        aioresponses.get(FIRST_PAGE, payload=page(operation("a")))

        assert ["a"] == await ids(client)
        assert [0.25, 0.5] == clock.waits
        assert ({"error": 2, "200": 1}, 2) == (client.request_stats.requests, client.request_stats.retries)

    async def test_three_tries_are_all_that_one_poll_has(self, aioresponses, client):
        aioresponses.get(FIRST_PAGE, exception=TimeoutError(), repeat=True)
        patience = Patience()

        with pytest.raises(ConnectionLostError, match="no answer within 30 s") as caught:
            await ids(client, patience)
        assert caught.value.reason == "timeout"
        with pytest.raises(ConnectionLostError):
            await ids(client, patience)

        assert {"error": 4} == client.request_stats.requests

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 502])
    async def test_a_refusal_is_final(self, aioresponses, client, clock, status):
        aioresponses.get(FIRST_PAGE, status=status, repeat=True)

        with pytest.raises(CommsError):
            await ids(client)

        assert ({str(status): 1}, []) == (client.request_stats.requests, clock.waits)

    async def test_credentials_that_were_rotated_heal_at_once(self, aioresponses, client):
        client._credentials = Credentials("old", rotated="new")
        aioresponses.get(FIRST_PAGE, status=401)
        aioresponses.get(FIRST_PAGE, payload=page(operation("a")))

        assert ["a"] == await ids(client)

        headers = [
            call.kwargs["headers"]["Authorization"] for calls in aioresponses.requests.values() for call in calls
        ]
        assert [aiohttp.encode_basic_auth("ACtest", secret) for secret in ("old", "new")] == headers

    @pytest.mark.parametrize("status", [429, 503])
    async def test_a_throttled_listing_that_has_not_begun_gives_up_at_once(self, aioresponses, client, clock, status):
        """Nothing is lost, and everybody can see why at once."""
        aioresponses.get(FIRST_PAGE, status=status, headers={"Retry-After": "7"})

        with pytest.raises(ThrottledError) as caught:
            await ids(client)

        assert (7.0, []) == (caught.value.retry_after, clock.waits)

    async def test_one_under_way_waits_as_long_as_it_is_told(self, aioresponses, client, clock):
        second = f"{FIRST_PAGE}&pageToken=t"
        aioresponses.get(FIRST_PAGE, payload=page(operation("a"), following="t"))
        aioresponses.get(second, status=429, headers={"Retry-After": "7"})
        aioresponses.get(second, payload=page(operation("b")))

        assert ["a", "b"] == await ids(client)
        assert ([7.0], 7.0) == (clock.waits, client.request_stats.waited_seconds)

    async def test_but_not_for_minutes(self, aioresponses, client, clock):
        aioresponses.get(FIRST_PAGE, payload=page(operation("a"), following="t"))
        aioresponses.get(f"{FIRST_PAGE}&pageToken=t", status=429, headers={"Retry-After": "61"})

        with pytest.raises(ThrottledError):
            await ids(client)
        assert [] == clock.waits


class TestDecipher:
    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (204, "bad_payload"),
            (301, "bad_payload"),
            (400, "bad_request"),
            (401, "auth"),
            (403, "forbidden"),
            (404, "not_found"),
            (408, "timeout"),
            (409, "bad_request"),
            (429, "rate_limited"),
            (500, "server"),
            (502, "server"),
            (503, "server"),
            (599, "server"),
        ],
    )
    def test_every_status_has_its_reason(self, status, reason):
        with pytest.raises(CommsError) as caught:
            decipher(status, {}, b"", now=NOW)
        assert reason == caught.value.reason

    def test_a_good_status_with_a_bad_body_is_a_bad_payload(self):
        with pytest.raises(CommsError, match="200, but not JSON") as caught:
            read(read_page, b"<html>")
        assert caught.value.reason == "bad_payload"

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (
                b'{"errors":[{"code":20404,"message":"Not here.","infoUrl":"u","context":"null"}]}',
                "Not here. (code 20404)",
            ),
            (b'{"errors":[{"code":400,"context":null,"message":"No."}],"status":400}', "No. (code 400)"),
            (b'{"errors":[{"code":1,"message":"One."},{"message":"Two."}]}', "One. (code 1); Two."),
            (b'{"code":20003,"message":"Authenticate","more_info":"u","status":401}', "Authenticate (code 20003)"),
            (
                b'{"type":"t","title":"Bad","status":400,"code":7,"detail":"Worse than that"}',
                "Worse than that (code 7)",
            ),
            (b'{"errors":"what"}', '{"errors":"what"}'),
            (b"[1]", "[1]"),
            (b"<!doctype html><p>Bad gateway", "an HTML page"),
            (b"plain\n words", "plain words"),
            (b"\xff\xfe", "\ufffd\ufffd"),
            (b"", "no explanation"),
            (b"[" * 100_000, "[" * 299 + "…"),
        ],
    )
    def test_the_message_is_found_in_every_shape(self, body, said):
        assert said == complaint(body)

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            (None, None),
            ("", None),
            ("soon", None),
            ("-5", None),
            ("1.5", None),
            ("0", 0.0),
            (" 7 ", 7.0),
            ("9" * 5000, LONGEST_WAIT),
            ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
            ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
            ("Sun, 21 Nov 2027 12:00:00 GMT", LONGEST_WAIT),
        ],
    )
    def test_retry_after_is_read_in_both_forms_and_clamped(self, value, seconds):
        assert seconds == retry_after(value, now=NOW)

    @pytest.mark.parametrize(
        ("error", "kind", "reason"),
        [
            (TimeoutError(), ConnectionLostError, "timeout"),
            (aiohttp.ServerTimeoutError(), ConnectionLostError, "timeout"),
            (aiohttp.ClientOSError(111, "refused"), ConnectionLostError, "connection"),
            (aiohttp.ServerDisconnectedError(), ConnectionLostError, "connection"),
            (ssl.SSLError("bad"), CommsError, "tls"),
            (aiohttp.ClientConnectorCertificateError(Mock(), ssl.CertificateError("old")), CommsError, "tls"),
            (
                aiohttp.ClientResponseError(Mock(), (), message="Bad status line", headers=CIMultiDict()),
                CommsError,
                "bad_payload",
            ),
        ],
    )
    def test_every_failure_of_the_network_has_its_reason(self, error, kind, reason):
        explained = explain(error, 30)

        assert (kind, reason) == (type(explained), explained.reason)
        assert str(explained)


async def test_a_body_without_end_is_refused(aiohttp_session, clock):
    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(LARGEST_PAGE // 2**20 + 1):
            await response.write(b" " * 2**20)
        return response

    app = web.Application()
    app.router.add_get("/v1/Emails/Operations", endless)
    async with TestServer(app) as server:
        client = make_client(aiohttp_session, clock, str(server.make_url("/v1")), page_size=2)

        with pytest.raises(CommsError, match="200 with a body of more than 8192 KiB"):
            await ids(client)
