"""The simulated API as a client meets it, over real sockets."""

import asyncio
import io
import itertools
import json
import re
from email.utils import parsedate_to_datetime

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from simulator_client import DAY, OPERATIONS, START, Clock, basic, fetch, ids, pages, refusal, serving

from comms_exporter.cli import main
from comms_exporter.simulator import (
    FAULTS,
    REQUESTS,
    WORLD,
    Conditions,
    Dialect,
    Fate,
    Fault,
    Faults,
    World,
    WrongFlagError,
    from_arguments,
    make_app,
    parse_arguments,
)
from comms_exporter.simulator.faults import KINDS

LETTER = {
    "from": {"address": "us@example.com", "name": "Us"},
    "to": [{"address": "you@example.com", "name": "You"}, {"address": "them@example.com"}],
    "content": {"subject": "Hello", "html": "<p>Hello</p>"},
}


@pytest.fixture
def faults():
    return Faults(seed=1)


@pytest.fixture
async def client(world, faults):
    async with serving(make_app(world, faults)) as client:
        yield client


class TestSending:
    async def test_answers_with_the_operation_and_where_to_ask_for_it(self, client, world):
        async with client.post("/v1/Emails", json=LETTER) as response:
            assert response.status == 202
            answer = await response.json()
        operation = await fetch(client, answer["operationLocation"].removeprefix(str(client.make_url("")).rstrip("/")))
        assert operation["id"] == answer["operationId"]
        assert (operation["status"], operation["stats"]["total"], operation["stats"]["queued"]) == ("PROCESSING", 2, 2)
        assert world.tally().created == 2

    async def test_waits_for_its_schedule(self, client, clock):
        await client.post(
            "/v1/Emails", json=LETTER | {"schedule": {"sendAt": ["2025-06-15T16:00:00Z", "2025-06-15T17:00"]}}
        )
        (operation,) = (await fetch(client))["operations"]
        assert (operation["status"], operation["stats"]["scheduled"]) == ("SCHEDULED", 2)
        email = (await fetch(client, "/v1/Emails"))["emails"][0]
        assert (email["status"], email["scheduledFor"]) == ("SCHEDULED", "2025-06-15T17:00:00Z")

    async def test_a_schedule_in_the_past_is_no_schedule(self, client):
        await client.post("/v1/Emails", json=LETTER | {"schedule": {"sendAt": ["2020-01-01T00:00:00Z"]}})
        assert (await fetch(client))["operations"][0]["status"] == "PROCESSING"

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"from": None}, "'from' is required"),
            ({"from": {"address": "nobody"}}, "valid 'address'"),
            ({"from": {"address": "ü@example.com"}}, "Unicode"),
            ({"to": []}, "'to' is required"),
            ({"to": [{"address": "a@example.com"}] * 10_001}, "more than 10000 entries"),
            ({"to": [{"address": "a@example.com"}, {"address": 1}]}, "Entry 1 of 'to'"),
            ({"to": [{"address": "a@example.com", "variables": "x"}]}, "'variables' of entry 0"),
            ({"content": None}, "'content' is required"),
            ({"content": {"html": "x"}}, "'content.subject' is required"),
            ({"content": {"subject": "x"}}, "'content.html' is required"),
            ({"content": LETTER["content"] | {"text": 1}}, "'content.text' must be a string"),
            ({"content": LETTER["content"] | {"headers": []}}, None),
            ({"content": LETTER["content"] | {"headers": "x"}}, "'content.headers' must be an object"),
            ({"content": LETTER["content"] | {"headers": {"Reply-To": "x"}}}, "'Reply-To' is restricted"),
            ({"tags": {"a": 1}}, "object of strings"),
            ({"tags": {str(number): "x" for number in range(11)}}, "more than 10 entries"),
            ({"tags": {"no spaces": "x"}}, "The tag 'no spaces'"),
            ({"tags": {"a": "x" * 257}}, "The tag 'a'"),
            ({"tags": {"a": "x" * 256}}, None),
            ({"schedule": {"sendAt": "2025-06-15T16:00:00Z"}}, "array of date-time expressions"),
            ({"schedule": {"sendAt": ["soon"]}}, "array of date-time expressions"),
            ({"schedule": {"sendAt": []}}, "array of date-time expressions"),
            ({"schedule": {}}, "array of date-time expressions"),
            ({"schedule": "soon"}, "array of date-time expressions"),
            ({"ipPoolName": "x"}, "2 to 64 characters"),
            ({"ipPoolName": "marketing"}, None),
        ],
    )
    async def test_refuses_what_twilio_would(self, client, world, change, complaint):
        async with client.post("/v1/Emails", json=LETTER | change) as response:
            answer = await response.json()
        if complaint is None:
            assert response.status == 202
            return
        assert (response.status, answer["status"]) == (400, 400)
        assert complaint in answer["errors"][0]["message"]
        assert world.tally().created == 0

    async def test_names_everything_that_is_wrong_at_once(self, client):
        async with client.post("/v1/Emails", json={}) as response:
            assert len((await response.json())["errors"]) == 3

    @pytest.mark.parametrize("body", ["", "{", "[]", b"\xff"])
    async def test_refuses_what_is_not_a_json_object(self, client, body):
        async with client.post("/v1/Emails", data=body) as response:
            assert response.status == 400

    async def test_refuses_more_than_5_megabytes(self, client):
        letter = LETTER | {"content": {"subject": "x", "html": "x" * 5 * 1024**2}}
        async with client.post("/v1/Emails", data=io.BytesIO(json.dumps(letter).encode())) as response:
            assert (response.status, (await response.json())["status"]) == (413, 413)

    async def test_takes_almost_as_much(self, client):
        letter = LETTER | {"content": {"subject": "x", "html": "x" * 5_000_000}}
        async with client.post("/v1/Emails", data=io.BytesIO(json.dumps(letter).encode())) as response:
            assert response.status == 202


class TestOperations:
    async def test_look_as_in_the_reference(self, client, world, clock):
        operation = world.send(fates=[Fate(sent=1, delivered=2, opened=600)] * 2 + [Fate(sent=1, delivered=2)])
        clock.now += 1800
        expected = {
            "id": operation.id,
            "status": "COMPLETED",
            "stats": {
                "total": 3, "recipients": 3, "attempts": 3, "scheduled": 0, "queued": 0, "sent": 3,
                "delivered": 3, "opened": 2, "undelivered": 0, "failed": 0, "canceled": 0,
            },
            "createdAt": "2025-06-15T15:06:40Z",
            "updatedAt": "2025-06-15T15:16:40Z",
        }  # fmt: skip
        assert expected == await fetch(client, f"{OPERATIONS}/{operation.id}")
        listed = await fetch(client)
        assert listed["operations"] == [expected]
        assert listed["pagination"]["next"] is None

    async def test_that_nobody_knows_are_not_found(self, client, world, clock):
        operation = world.send()
        clock.now += 7 * DAY
        for identifier in (operation.id, "comms_operation_01h9krwprkeee8fzqspvwy6nq8", "x", "%F0%9F"):
            assert await refusal(client, f"{OPERATIONS}/{identifier}") == (404, "The resource was not found.")

    async def test_may_outlive_the_retention(self, clock):
        world = World(clock=clock, retention="thin")
        operation = world.send(fates=[Fate(sent=1, delivered=2)])
        clock.now += 30 * DAY
        async with serving(make_app(world)) as client:
            answer = await fetch(client, f"{OPERATIONS}/{operation.id}")
            assert (await fetch(client))["operations"] == [answer]
            assert (await fetch(client, "/v1/Emails"))["emails"] == []
        assert (answer["status"], answer["stats"]["total"], answer["stats"]["sent"]) == ("COMPLETED", 1, 0)


class TestPages:
    async def test_hold_every_operation_once_newest_first(self, client, world, clock):
        sent = [world.send(at=START - number // 3).id for number in range(25)]
        clock.now += 1
        listed = await ids(client, pageSize=4)
        assert sorted(sent) == sorted(listed)
        assert listed == sorted(listed, reverse=True)

    @pytest.mark.parametrize("order", ["newest", "oldest"])
    async def test_neither_repeat_nor_miss_any_while_new_operations_arrive(self, world, clock, order):
        sent = {world.send(at=START - number).id for number in range(40)}
        listed = []
        async with serving(make_app(world, dialect=Dialect(order=order))) as client:
            async for page in pages(client, pageSize=7):
                listed += [operation["id"] for operation in page["operations"]]
                if len(listed) < 40:
                    clock.now += 1
                    world.send(2)
        assert len(listed) == len(set(listed))
        assert sent <= set(listed)
        assert (sent == set(listed)) is (order == "newest")

    async def test_can_begin_with_the_oldest(self, world):
        sent = [world.send(at=START - number).id for number in range(5)]
        async with serving(make_app(world, dialect=Dialect(order="oldest"))) as client:
            assert sent[::-1] == await ids(client, pageSize=2)

    async def test_can_be_asked_for_again(self, client, world, clock):
        for number in range(9):
            world.send(at=START - number, fates=[Fate()])
        first = await fetch(client, pageSize=4)
        clock.now += 1
        world.send()
        again = await fetch(client, pageToken=first["pagination"]["self"])
        assert first == again

    async def test_keep_their_filters_whatever_is_asked_beside_them(self, client, world):
        for number in range(9):
            world.send(at=START - number, fates=[Fate(sent=1) if number % 2 else Fate()])
        first = await fetch(client, pageSize=2, status="PROCESSING")
        rest = await fetch(client, pageToken=first["pagination"]["next"], status="CANCELED", pageSize=1000)
        assert {"PROCESSING"} == {operation["status"] for operation in first["operations"] + rest["operations"]}
        assert len(first["operations"] + rest["operations"]) == 5

    async def test_hold_50_unless_told_otherwise(self, client, world):
        for number in range(60):
            world.send(at=START - number)
        assert [50, 10] == [len(page["operations"]) async for page in pages(client)]

    async def test_tell_nothing_in_their_tokens(self, client, world):
        operations = [world.send(at=START - number) for number in range(3)]
        page = await fetch(client, pageSize=1)
        for token in page["pagination"].values():
            assert re.fullmatch(r"[A-Za-z0-9_-]{20,}", token)
            assert operations[0].id not in token

    @pytest.mark.parametrize("size", ["0", "1001", "-1", "many", "", "1.5", "٣", "1" * 5000])
    async def test_of_impossible_size_are_refused(self, client, size):
        assert await refusal(client, pageSize=size) == (400, "The parameter 'pageSize' must be between 1 and 1000.")

    @pytest.mark.parametrize("token", ["x", "eJyLVsovSC1K", "ü", "eJwDAAAAAAE", "A" * 5000])
    async def test_of_invented_tokens_are_refused(self, client, token):
        assert await refusal(client, pageToken=token) == (400, "The parameter 'pageToken' is not valid.")

    async def test_of_other_listings_are_refused(self, client, world):
        world.send(2)
        token = (await fetch(client, "/v1/Emails", pageSize=1))["pagination"]["next"]
        assert (await refusal(client, pageToken=token))[0] == 400

    async def test_come_in_the_guides_envelope_too(self, world):
        world.send(at=START - 1)
        newest = world.send()
        async with serving(make_app(world, dialect=Dialect(envelope="data"))) as client:
            page = await fetch(client, pageSize=1)
            assert [newest.id] == [operation["id"] for operation in page["data"]]
            assert page["pagination"]["pageSize"] == 1
            last = await fetch(client, pageToken=page["pagination"]["nextPageToken"])
            assert last["pagination"] == {"nextPageToken": None, "pageSize": 1}

    async def test_of_1000_hold_many_operations(self, client, world):
        for number in range(2500):
            world.send(at=START - number, fates=[Fate(sent=1)])
        assert [1000, 1000, 500] == [len(page["operations"]) async for page in pages(client, pageSize=1000)]


class TestFilters:
    @pytest.fixture
    def sent(self, world, clock):
        """Three operations, a second apart, each within its second."""
        clock.now += 10
        return [world.send(at=START + second + 0.5, fates=[Fate()]).id for second in range(3)]

    @pytest.mark.parametrize(
        ("bounds", "query", "expected"),
        [
            ("exclusive", {"startDate": "2025-06-15T15:06:40Z"}, [1, 2]),
            ("exclusive", {"startDate": "2025-06-15T15:06:40.9Z"}, [1, 2]),
            ("exclusive", {"startDate": "2025-06-15T15:06:39.9Z"}, [0, 1, 2]),
            ("exclusive", {"endDate": "2025-06-15T15:06:42Z"}, [0, 1]),
            ("exclusive", {"endDate": "2025-06-15T17:06:42+02:00"}, [0, 1]),
            ("exclusive", {"startDate": "2025-06-15T15:06:40Z", "endDate": "2025-06-15T15:06:42Z"}, [1]),
            ("exclusive", {"startDate": "2025-06-16T00:00:00Z"}, []),
            ("inclusive", {"startDate": "2025-06-15T15:06:41Z"}, [1, 2]),
            ("inclusive", {"startDate": "2025-06-15T15:06:41.1Z"}, [2]),
            ("inclusive", {"endDate": "2025-06-15T15:06:41Z"}, [0, 1]),
        ],
    )
    async def test_dates_are_compared_with_created_at_as_shown(self, world, sent, bounds, query, expected):
        async with serving(make_app(world, dialect=Dialect(bounds=bounds))) as client:
            assert [sent[place] for place in reversed(expected)] == await ids(client, pageSize=1, **query)

    async def test_status_is_exact(self, client, world, sent, clock):
        done = world.send(fates=[Fate(sent=0)]).id
        assert [done] == await ids(client, status="COMPLETED")
        assert sent[::-1] == await ids(client, status="PROCESSING")
        assert await ids(client, status="CANCELED") == []

    @pytest.mark.parametrize(
        "query", [{"status": "completed"}, {"status": "OPENED"}, {"startDate": "yesterday"}, {"endDate": ""}]
    )
    async def test_that_make_no_sense_are_refused(self, client, query):
        assert (await refusal(client, **query))[0] == 400

    async def test_that_are_misspelt_are_ignored(self, client, sent):
        assert sent[::-1] == await ids(client, start_date="2025-06-16T00:00:00Z", Status="CANCELED")

    async def test_may_all_be_ignored(self, world, sent):
        async with serving(make_app(world, dialect=Dialect(ignore_filters=True))) as client:
            assert sent[::-1] == await ids(client, status="CANCELED", startDate="2025-06-16T00:00:00Z")


class TestEmails:
    async def test_of_one_operation_are_listed_page_by_page(self, client, world, clock):
        clock.now += 10
        other = world.send(5)
        operation = world.send(23)
        listed = await ids(client, "/v1/Emails", operationId=operation.id, pageSize=5)
        assert len(listed) == len(set(listed)) == 23
        assert len(await ids(client, "/v1/Emails", pageSize=5)) == 28
        assert set(listed).isdisjoint(await ids(client, "/v1/Emails", operationId=other.id))
        assert await ids(client, "/v1/Emails", operationId="comms_operation_unknown") == []

    async def test_add_up_to_the_operations_counters(self, clock):
        world = World(clock=clock, reading="exclusive", conditions=Conditions(failed=0.2, undelivered=0.3))
        operation = world.send(200)
        clock.now += 3600
        async with serving(make_app(world)) as client:
            stats = (await fetch(client, f"{OPERATIONS}/{operation.id}"))["stats"]
            for state in ("scheduled", "queued", "sent", "delivered", "opened", "undelivered", "failed", "canceled"):
                assert stats[state] == len(await ids(client, "/v1/Emails", status=state.upper()))

    async def test_can_be_fetched_one_by_one(self, client, clock):
        await client.post("/v1/Emails", json=LETTER | {"tags": {"kind": "test"}})
        clock.now += 3600
        for listed in (await fetch(client, "/v1/Emails"))["emails"]:
            fetched = await fetch(client, f"/v1/Emails/{listed['id']}")
            assert fetched.pop("content")["subject"] == "Hello"
            assert fetched == listed
        assert listed["to"] == [{"address": "them@example.com", "name": None}]
        assert listed["from"] == {"address": "us@example.com", "name": "Us"}
        assert listed["tags"] == {"kind": "test"}
        assert listed["related"][0]["uri"].endswith(listed["related"][0]["id"])

    async def test_that_nobody_knows_are_not_found(self, client, world):
        world.send(1)
        (email,) = await ids(client, "/v1/Emails")
        for identifier in (email[:-1] + "1", "comms_email_x", "x"):
            assert (await refusal(client, f"/v1/Emails/{identifier}"))[0] == 404


class TestAuth:
    @pytest.mark.parametrize(
        "headers",
        [{}, {"Authorization": "Bearer x"}, {"Authorization": "Basic !"}, {"Authorization": "Basic OnNlY3JldA=="}],
    )
    async def test_needs_a_name_and_a_secret(self, world, headers):
        async with (
            TestClient(TestServer(make_app(world))) as client,
            client.get(OPERATIONS, headers=headers) as response,
        ):
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Basic")
            answer = await response.json()
        assert (answer["status"], answer["errors"][0]["code"], answer["errors"][0]["context"]) == (401, 20003, None)

    @pytest.mark.parametrize(
        ("account", "secret", "status"),
        [("AC1", "right", 200), ("AC1", "wrong", 401), ("AC2", "right", 401), ("AC1", "ünknown", 401)],
    )
    async def test_checks_them_when_it_knows_any(self, world, account, secret, status):
        app = make_app(world, credentials={"AC1": "right"})
        async with serving(app, basic(account, secret)) as client, client.get(OPERATIONS) as response:
            assert response.status == status


class TestErrors:
    @pytest.mark.parametrize(
        ("shape", "expected"),
        [
            ("observed", {"errors": [{"code": 20404, "context": None}], "status": 404}),
            ("documented", {"errors": [{"code": 20404, "context": "null"}]}),
            ("flat", {"code": 20404, "message": "The resource was not found.", "status": 404}),
        ],
    )
    async def test_come_in_three_shapes(self, world, shape, expected):
        app = make_app(world, dialect=Dialect(errors=shape))
        async with serving(app) as client, client.get(f"{OPERATIONS}/x") as response:
            answer = await response.json()
        for error in answer.get("errors", []):
            assert error.pop("message") == "The resource was not found."
            assert error.pop("infoUrl") == "https://www.twilio.com/docs/api/errors/20404"
        assert answer == expected

    async def test_answer_wrong_paths_and_methods_too(self, client):
        assert (await refusal(client, "/v1/emails"))[0] == 404
        async with client.delete("/v1/Emails") as response:
            assert (response.status, (await response.json())["status"]) == (405, 405)


class TestFaults:
    @pytest.mark.parametrize(("kind", "code"), [("401", 20003), ("403", 20403), ("404", 20404), ("500", 20500)])
    async def test_refuse_in_the_shape_of_errors(self, client, faults, kind, code):
        faults.add(kind)
        async with client.get(OPERATIONS) as response:
            assert (response.status, (await response.json())["errors"][0]["code"]) == (int(kind), code)
            assert "Retry-After" not in response.headers

    @pytest.mark.parametrize("kind", ["429", "503"])
    async def test_say_when_to_come_back(self, client, faults, clock, kind):
        clock.now += 0.25
        for form in ("seconds", "date", "none"):
            faults.add(kind, times=1, retry_after=7, retry_after_form=form)
        said = []
        for _ in range(3):
            async with client.get(OPERATIONS) as response:
                assert response.status == int(kind)
                said.append(response.headers.get("Retry-After"))
        assert (said[0], said[2]) == ("7", None)
        assert parsedate_to_datetime(said[1]).timestamp() == START + 8

    async def test_502_is_a_gateways_page(self, client, faults):
        faults.add("502")
        async with client.get(OPERATIONS) as response:
            assert (response.status, response.content_type) == (502, "text/html")
            assert "<html>" in await response.text()

    async def test_empty_is_an_answer_without_a_body(self, client, faults):
        faults.add("empty")
        async with client.get(OPERATIONS) as response:
            assert (response.status, await response.read()) == (200, b"")

    async def test_truncated_is_not_json(self, client, faults, world):
        world.send()
        faults.add("truncated")
        async with client.get(OPERATIONS) as response:
            body = await response.text()
        assert body.startswith('{"operations"')
        with pytest.raises(json.JSONDecodeError):
            json.loads(body)

    async def test_reset_cuts_the_connection_before_the_answer(self, client, faults):
        faults.add("reset")
        with pytest.raises(aiohttp.ClientOSError, match="reset by peer"):
            await client.get(OPERATIONS)

    async def test_reset_body_cuts_it_in_the_middle_of_the_body(self, client, faults, world):
        world.send()
        faults.add("reset-body")
        # Whether the headers get through before the reset is up to the network.
        with pytest.raises(aiohttp.ClientError):
            async with client.get(OPERATIONS) as response:
                await response.read()

    async def test_hang_holds_the_connection_until_the_client_gives_up(self, client, faults, world):
        faults.add("hang", times=1)
        with pytest.raises(TimeoutError):
            await client.get(OPERATIONS, timeout=aiohttp.ClientTimeout(total=0.05))
        assert (await fetch(client))["operations"] == []

    async def test_hang_does_not_hold_up_the_end(self, world):
        app = make_app(world, Faults([Fault(kind="hang")]))
        client = TestClient(TestServer(app), headers=basic("AC1", "secret"))
        await client.start_server()
        waiting = asyncio.ensure_future(client.get(OPERATIONS))
        while not app[REQUESTS]:  # noqa: ASYNC110 - it takes a few turns of the loop, and no time
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await client.server.close()
        with pytest.raises(aiohttp.ClientError):
            await waiting
        await client.close()

    async def test_repeat_token_leads_back_to_the_same_page(self, client, faults, world):
        for number in range(4):
            world.send(at=START - number)
        faults.add("repeat-token")
        first = await fetch(client, pageSize=2)
        second = await fetch(client, pageToken=first["pagination"]["next"])
        assert first == second
        assert first["pagination"]["next"] == first["pagination"]["self"]

    async def test_blank_token_ends_the_last_page_with_nothing_said(self, client, faults):
        faults.add("blank-token")
        assert (await fetch(client))["pagination"]["next"] == ""

    async def test_empty_page_is_not_the_last(self, client, faults, world):
        world.send()
        faults.add("empty-page", times=1)
        first = await fetch(client)
        assert first["operations"] == []
        assert len((await fetch(client, pageToken=first["pagination"]["next"]))["operations"]) == 1

    @pytest.mark.parametrize("kind", ["malformed", "unknown-field", "unknown-status", "unknown-counter"])
    async def test_spoil_one_operation_of_a_page(self, client, faults, world, kind):
        for number in range(5):
            world.send(at=START - number)
        sound = await fetch(client)
        faults.add(kind, times=1)
        spoiled = await fetch(client)
        pairs = list(zip(sound["operations"], spoiled["operations"], strict=True))
        ((before, after),) = [(before, after) for before, after in pairs if before != after]
        assert after["id"] == before["id"]
        assert sound == await fetch(client)
        assert {
            "malformed": lambda: after["stats"] == "none" and after["createdAt"] == "yesterday",
            "unknown-field": lambda: after.keys() - before.keys() == {"priority"} and "warnings" in spoiled,
            "unknown-status": lambda: after["status"] == "PAUSED",
            "unknown-counter": lambda: after["stats"].keys() - before["stats"].keys() == {"complained"},
        }[kind]()

    async def test_spoil_a_fetched_operation_too(self, client, faults, world):
        faults.add("unknown-status")
        assert (await fetch(client, f"{OPERATIONS}/{world.send().id}"))["status"] == "PAUSED"

    async def test_last_for_as_many_requests_as_told(self, client, faults):
        faults.add("500", times=2)
        faults.add("503", times=1)
        assert [500, 500, 503, 200] == [(await client.get(OPERATIONS)).status for _ in range(4)]
        assert faults.active == []

    async def test_strike_a_share_of_the_requests(self):
        statuses = []
        for _ in range(2):
            faults = Faults([Fault(kind="500", share=0.3)], seed=5)
            statuses.append([faults.draw("GET", OPERATIONS) is not None for _ in range(1000)])
        assert statuses[0] == statuses[1]
        assert 250 < sum(statuses[0]) < 350

    async def test_keep_to_their_path(self, client, faults):
        faults.add("500", path=OPERATIONS)
        assert (await client.get("/v1/Emails")).status == 200
        assert (await client.get(OPERATIONS)).status == 500

    async def test_that_spoil_operations_wait_for_some(self, client, faults, world):
        faults.add("malformed", times=1)
        operation = world.send()
        await client.get(f"{OPERATIONS}/{operation.id}/Errors")
        await client.post("/v1/Emails", json=LETTER)
        assert (await fetch(client, f"{OPERATIONS}/{operation.id}"))["stats"] == "none"

    async def test_leave_the_controls_alone(self, client, faults):
        faults.add("500")
        assert (await client.get("/simulator/tally")).status == 200

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"kind": "418"}, "unknown fault kind '418': must be one of 401, 403"),
            ({"kind": ["429"]}, "unknown fault kind"),
            ({"kind": "429", "share": 0}, "share must be more than 0"),
            ({"kind": "429", "share": True}, "share must be more than 0"),
            ({"kind": "429", "times": 0}, "times must be an integer of at least 1"),
            ({"kind": "429", "times": "3"}, "times must be an integer of at least 1"),
            ({"kind": "429", "path": "v1"}, "path must begin with /"),
            ({"kind": "429", "retry_after": -1}, "retry_after must be an integer"),
            ({"kind": "429", "retry_after_form": "years"}, "retry_after_form must be"),
        ],
    )
    async def test_that_cannot_be_are_refused(self, client, faults, options, complaint):
        with pytest.raises(ValueError, match=complaint):
            faults.add(**options)
        async with client.post("/simulator/faults", json=options) as response:
            assert response.status == 400
            assert complaint in (await response.json())["error"]
        assert faults.active == []


class TestRequestLog:
    async def test_tells_what_was_asked_and_answered(self, client, faults, world, clock):
        await fetch(client, pageSize=3)
        clock.now += 5
        faults.add("reset", times=1)
        with pytest.raises(aiohttp.ClientError):
            await client.post("/v1/Emails", json=LETTER)
        await client.get("/v1/Emails/x")
        await client.get("/simulator/tally")
        assert [
            ("GET", f"{OPERATIONS}?pageSize=3", 200),
            ("POST", "/v1/Emails", None),
            ("GET", "/v1/Emails/x", 404),
        ] == [(served.method, served.path, served.code) for served in client.app[REQUESTS]]
        assert [0, 5, 5] == [served.time - START for served in client.app[REQUESTS]]
        assert client.app[REQUESTS][0].account == "AC1"
        async with client.get("/simulator/requests") as response:
            assert (await response.json())["requests"][0] == {
                "time": START, "method": "GET", "path": f"{OPERATIONS}?pageSize=3", "account": "AC1", "code": 200,
            }  # fmt: skip

    async def test_is_bounded(self, world):
        async with serving(make_app(world, log_size=3)) as client:
            for number in range(5):
                await client.get(f"/v1/Emails/{number}")
            assert ["/v1/Emails/2", "/v1/Emails/3", "/v1/Emails/4"] == [served.path for served in client.app[REQUESTS]]
            await client.delete("/simulator/requests")
            assert len(client.app[REQUESTS]) == 0


class TestControls:
    async def test_tell_the_truth(self, client, world, clock):
        world.send(3)
        clock.now += 1
        world.send(4)
        for query, created in (({}, 7), ({"since": START}, 4), ({"since": "2025-06-15T15:06:40Z"}, 4)):
            assert (await fetch(client, "/simulator/tally", **query))["created"] == created

    async def test_add_and_clear_faults(self, client, faults):
        async with client.post("/simulator/faults", json={"kind": "429", "times": 3, "retry_after": 7}) as response:
            assert (await response.json())["faults"][0]["times"] == 3
        assert faults.active == [Fault(kind="429", times=3, retry_after=7)]
        async with client.delete("/simulator/faults") as response:
            assert await response.json() == {"faults": []}
        assert (await client.get(OPERATIONS)).status == 200

    async def test_change_and_reset_conditions(self, client, world):
        async with client.post("/simulator/conditions", json={"failed": 0.5, "stalled": True}) as response:
            assert (await response.json())["failed"] == 0.5
        assert world.conditions == Conditions(failed=0.5, stalled=True)
        await client.delete("/simulator/conditions")
        assert world.conditions == Conditions()
        assert (await fetch(client, "/simulator/conditions"))["failed"] == Conditions().failed

    async def test_freeze_and_thaw(self, client, clock):
        async with client.post("/simulator/freeze") as response:
            assert await response.json() == {"now": START, "frozen": True}
        clock.now += 5
        async with client.post("/simulator/thaw") as response:
            assert await response.json() == {"now": START + 5, "frozen": False}

    @pytest.mark.parametrize(
        ("method", "path", "body", "complaint"),
        [
            ("POST", "faults", "{", "the body is not JSON"),
            ("POST", "faults", "[]", "the body is not a JSON object"),
            ("POST", "faults", "{}", "kind is required"),
            ("POST", "faults", '{"kinds": 1}', "unknown option 'kinds': must be one of kind, times, share, path"),
            ("POST", "conditions", '{"failed": 2}', "failed must be between 0 and 1, not 2"),
            ("POST", "conditions", '{"fail": 0}', "unknown option 'fail': must be one of failed, undelivered"),
            ("GET", "tally?since=monday", None, "since must be epoch seconds or an ISO 8601 date-time, not 'monday'"),
        ],
    )
    async def test_say_clearly_what_is_wrong(self, client, method, path, body, complaint):
        async with client.request(method, f"/simulator/{path}", data=body) as response:
            assert response.status == 400
            assert (await response.json())["error"].startswith(complaint)

    async def test_know_no_other_paths(self, client):
        async with client.get("/simulator/nothing") as response:
            assert (response.status, await response.json()) == (404, {"error": "Not Found"})

    async def test_the_front_page_says_what_this_is(self, client):
        async with client.get("/") as response:
            assert response.content_type == "text/plain"
            text = await response.text()
        assert "simulator" in text.splitlines()[0]
        assert all(kind in text for kind in KINDS)


def parse(*flags):
    return parse_arguments(flags)


class TestArguments:
    def test_default_to_a_week_of_an_ordinary_sender(self):
        args = parse()
        app = from_arguments(args, clock=Clock())
        assert isinstance(app, web.Application)
        assert args.listen_address == "127.0.0.1:10068"
        assert 1000 < app[WORLD].tally().operations_created < 3000
        assert app[FAULTS].active == []

    async def test_decide_everything_else(self, tmp_path):
        credentials = tmp_path / "credentials"
        credentials.write_text("AC1:secret\nAC2:other:one\n")
        args = parse(
            "--seed=7", "--speed=60", "--reading=exclusive", "--rate=0", "--no-history", "--omit=recipients",
            "--omit=attempts", "--retention=thin", "--envelope=data", "--errors=flat", "--order=oldest",
            "--bounds=inclusive", "--ignore-filters", "--fault=429:0.5", "--fault=hang", f"--credentials.file={credentials}",
            "--email-to=object", "--email-link=operationId", "--email-content", "--no-details",
        )  # fmt: skip
        app = from_arguments(args, clock=Clock())
        world = app[WORLD]
        assert (world.speed, world.reading, world.retention) == (60, "exclusive", "thin")
        assert app[FAULTS].active == [Fault(kind="429", share=0.5), Fault(kind="hang")]
        app[FAULTS].clear()
        world.send()
        async with serving(app) as client:
            (operation,) = (await fetch(client, status="CANCELED"))["data"]
            assert {"recipients", "attempts"}.isdisjoint(operation["stats"])
            (email,) = (await fetch(client, "/v1/Emails"))["data"]
            assert (email["operationId"], email["to"].keys()) == (operation["id"], {"address", "name"})
            assert "content" in email
            assert (await client.get(f"{OPERATIONS}/{operation['id']}/Errors")).status == 404
            async with client.get(OPERATIONS, headers=basic("AC2", "other")) as response:
                assert (await response.json())["code"] == 20003

    @pytest.mark.parametrize("hour", range(0, 24, 6))
    def test_may_ask_for_the_demos_sender_who_is_busy_at_every_hour(self, hour):
        clock = Clock(START + 3600 * hour)
        world = from_arguments(parse("--demo"), clock=clock)[WORLD]
        before = world.tally()
        clock.now += 60
        assert world.tally().sent > before.sent + 20
        assert world.tally().failed > before.failed

    @pytest.mark.parametrize(
        ("flags", "complaint"),
        [
            (["--speed=0"], "--speed: must be more than 0, not 0"),
            (["--speed=fast"], "--speed: must be a number of at least 0, not fast"),
            (["--rate=-1"], "--rate: must be a number of at least 0, not -1"),
            (["--rate=inf"], "--rate: must be a number of at least 0, not inf"),
            (["--fault=418"], "--fault: unknown fault kind '418': must be one of 401,"),
            (["--fault=429:2"], "--fault: share must be more than 0 and at most 1, not 2.0"),
            (["--fault=429:often"], "--fault: share must be a number, not 'often'"),
            (["--demo", "--speed=2"], "--speed: cannot be combined with --demo"),
            (["--demo", "--no-history"], "--no-history: cannot be combined with --demo"),
            (["--reading=both"], "--reading: invalid choice: 'both'"),
            (["--omit=colour"], "--omit: invalid choice: 'colour'"),
            (["--credentials.file=/nowhere"], "--credentials.file: cannot read /nowhere: "),
            (["--credentials.file=/dev/null"], "--credentials.file: /dev/null must contain USER:SECRET lines"),
            (["--speed"], "--speed: needs a value; see --help"),
            (["--no-history=1"], "--no-history: takes no value; see --help"),
            (["--nonsense=canary"], "--nonsense: unknown flag; see --help"),
            (["--spee=60"], "--spee: unknown flag; see --help"),
            (["canary"], "unexpected argument; see --help"),
        ],
    )
    def test_that_are_wrong_are_told_in_one_line(self, flags, complaint):
        with pytest.raises(WrongFlagError) as caught:
            parse(*flags)
        assert str(caught.value).startswith(complaint)
        assert "canary" not in str(caught.value)

    @pytest.mark.parametrize("flag", ["--nonsense", "--speed=fa\nst", "--web.listen-address=nowhere"])
    def test_that_are_wrong_end_the_program(self, capsys, flag):
        """As all wrong settings do: one line on stderr, and exit code 2."""
        assert 2 == main(["simulator", flag])
        printed, said = capsys.readouterr()
        assert ("", 1) == (printed, said.count("\n"))
        assert said.startswith(f"comms-exporter: {flag.partition('=')[0]}: ")

    async def test_the_same_ones_make_the_same_simulator(self):
        answers = []
        for _ in range(2):
            async with serving(from_arguments(parse("--seed=3"), clock=Clock())) as client:
                answers.append([page["operations"] async for page in pages(client, pageSize=1000)])
        assert answers[0] == answers[1]
        assert len(list(itertools.chain(*answers[0]))) > 1000
