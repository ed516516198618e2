"""The client lists emails within the limits of a page, whatever their size, and drops what nobody asked for."""

import asyncio
import json
import logging
import traceback
import tracemalloc
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from harness import Clock, RecordingLog, make_client
from operations import NOW, rfc3339

from comms_exporter.api.client import MAX_PAGE_BYTES
from comms_exporter.api.email_payloads import DeliveryError
from comms_exporter.api.emails import EmailFilter, EmailsClient
from comms_exporter.api.errors import CommsError
from comms_exporter.api.paging import PageSize
from comms_exporter.api.retries import RetryBudget


def entry(name, *, operation="o", status="FAILED", created=NOW, tags=None, to="jane@example.com", content=None):
    return {
        "id": name,
        "status": status,
        "to": [{"address": to, "name": "Jane"}],
        "from": {"address": "news@shop.example"},
        "related": [{"name": "OPERATION", "id": operation}] if operation else [],
        "tags": tags or {},
        "createdAt": rfc3339(created),
        "updatedAt": rfc3339(created),
        **({} if content is None else {"content": {"html": content}}),
    }


class Api:
    """An API whose listing has *entries*; it respects the page size, and no other filter."""

    def __init__(self, entries=(), **responses):
        self.entries = list(entries)
        self.responses = responses
        self.requests = []
        self.log = RecordingLog()

    async def answer(self, request):
        self.requests.append(request.path_qs)
        response = self.responses.get(request.path.rpartition("/")[2])
        if response is not None:
            return response()
        first, size = int(request.query.get("pageToken", "0")), int(request.query["pageSize"])
        listed, following = self.entries[first : first + size], first + size
        token = str(following) if following < len(self.entries) else None
        return web.json_response({"emails": listed, "pagination": {"next": token}})

    @property
    def page_sizes(self):
        return [int(path.partition("pageSize=")[2].partition("&")[0]) for path in self.requests]


@asynccontextmanager
async def emails_client(api, *, secrets=()):
    app = web.Application()
    app.router.add_get("/{path:.*}", api.answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        api.url = str(server.make_url("/v1"))
        client = make_client(session, Clock(), api.url, page_size=1000, secrets=secrets)
        yield EmailsClient(client, log=api.log)


async def listed(emails, **wanted):
    return [page async for page in emails.list_emails(EmailFilter(**wanted), RetryBudget())]


def ids(pages):
    return [each.id for page in pages for each in page.emails]


class TestFilter:
    def test_is_sent_as_the_api_names_it(self):
        wanted = EmailFilter(
            operation_id="o",
            status="FAILED",
            created_after=NOW + 0.5,
            created_before=NOW,
            tags=(("a", "1"), ("b", "2")),
        )

        assert {
            "operationId": "o",
            "status": "FAILED",
            "startDate": "2026-11-21T11:59:59Z",
            "endDate": "2026-11-21T12:00:02Z",
            "tags": "a:1;b:2;",
        } == wanted.parameters()

    @pytest.mark.parametrize(
        "wanted",
        [
            {"operation_id": "o"},
            {"status": "FAILED"},
            {"created_after": NOW},
            {"created_before": NOW},
            {"tags": (("a", "1"),)},
        ],
    )
    async def test_entries_that_the_server_should_have_left_out_are_dropped_and_counted(self, wanted):
        other = {
            "operation_id": {"operation": "other"},
            "status": {"status": "SENT"},
            "created_after": {"created": NOW - 60},
            "created_before": {"created": NOW + 60},
            "tags": {"tags": {"a": "2"}},
        }
        (name,) = wanted
        api = Api([entry("right", tags={"a": "1"}), entry("wrong", **({"tags": {"a": "1"}} | other[name]))])
        async with emails_client(api) as emails:
            (page,) = await listed(emails, **wanted)

        assert (["right"], 1) == (ids([page]), page.mismatched)

    async def test_what_an_entry_does_not_say_excludes_nothing(self):
        async with emails_client(Api([entry("a", operation=None) | {"createdAt": None}])) as emails:
            assert ["a"] == ids(await listed(emails, operation_id="o", created_after=NOW, created_before=NOW))


class TestPageSize:
    async def test_small_emails_are_listed_in_large_pages(self):
        api = Api(entry(str(n)) for n in range(2500))
        async with emails_client(api) as emails:
            assert [str(n) for n in range(2500)] == ids(await listed(emails))
            first = api.page_sizes
            api.requests.clear()
            await listed(emails)

        # The first page only tells how large the entries are.
        assert [50, 1000, 1000, 1000] == first
        assert [1000, 1000, 1000] == api.page_sizes

    async def test_a_listing_of_one_page_takes_one_request(self):
        api = Api(entry(str(n)) for n in range(50))
        async with emails_client(api) as emails:
            await listed(emails)

        assert [50] == api.page_sizes

    async def test_large_emails_are_listed_in_small_pages(self):
        api = Api(entry(str(n), content="x" * 50_000) for n in range(100))
        async with emails_client(api) as emails:
            assert [str(n) for n in range(100)] == ids(await listed(emails))
            api.requests.clear()
            await listed(emails)

        assert {20} == set(api.page_sizes)

    async def test_a_page_that_is_too_large_is_asked_for_again_in_a_smaller_size(self):
        small = [entry(str(n)) for n in range(2000)]
        large = [entry(str(n), content="x" * (MAX_PAGE_BYTES // 200)) for n in range(2000, 2200)]
        api = Api([*small, *large])
        async with emails_client(api) as emails:
            assert [str(n) for n in range(2200)] == ids(await listed(emails))

        assert [50, 1000, 1000, 1000, 125, 125] == api.page_sizes[:6]

    async def test_a_smaller_size_replaces_that_in_the_url_of_the_next_page(self):
        async def answer(request):
            api.requests.append(request.path_qs)
            if "pageToken" not in request.query:
                following = f"{api.url}/Emails?pageSize=50&pageToken=t"
                return web.json_response({"emails": [large], "pagination": {"next": following}})
            listed = [large] * (int(request.query["pageSize"]) * 2 // 3)
            return web.json_response({"emails": listed})

        large = entry("a", content="x" * 400_000)
        api = Api()
        api.answer = answer
        async with emails_client(api) as emails:
            assert [1, 4] == [len(page.emails) for page in await listed(emails)]

        assert [50, 50, 6] == api.page_sizes

    async def test_a_single_email_that_is_too_large_is_an_error(self):
        async with emails_client(Api([entry("a", content="x" * MAX_PAGE_BYTES)])) as emails:
            with pytest.raises(CommsError, match="a body of more than 8192 KiB") as caught:
                await listed(emails)

        assert "bad_payload" == caught.value.reason

    async def test_a_page_of_50_mb_does_not_fill_the_memory(self):
        """A server that ignores the page size sends 1,000 emails with 50 kB of content each."""
        piece = json.dumps(entry("a", content="x" * 50_000)).encode() + b","

        async def answer(request):
            api.requests.append(request.path_qs)
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b'{"emails": [')
            for _ in range(1000):
                await response.write(piece)
            return response

        api = Api()
        api.answer = answer
        async with emails_client(api) as emails:
            tracemalloc.start()
            try:
                with pytest.raises(CommsError, match="a body of more than 8192 KiB"):
                    await listed(emails)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()

        # The client gives up after a few attempts, each cut off at the limit.
        assert [50, 6, 1] == api.page_sizes
        assert peak < 2 * MAX_PAGE_BYTES

    async def test_too_many_values_are_too_large_as_well(self):
        tags = {f"k{n}": "v" for n in range(30_000)}
        api = Api(entry(str(n), tags=tags) for n in range(40))
        async with emails_client(api) as emails:
            assert 40 == len(ids(await listed(emails)))

    def test_recovers_from_a_page_that_was_too_large(self):
        page_size = PageSize(1000)
        page_size.learn(size=50_000, entries=100)
        sizes = [page_size.size]
        assert 125 == page_size.shrink(1000)
        for _ in range(4):
            sizes.append(page_size.size)
            page_size.listed()

        assert [1000, 125, 250, 500, 1000] == sizes

    def test_cannot_be_less_than_one(self):
        page_size = PageSize(1000)
        page_size.learn(size=10**9, entries=1)

        assert (1, 1) == (page_size.size, page_size.shrink(7))


class TestRequests:
    async def test_a_body_is_passed_on_before_its_page(self):
        api, bodies = Api([entry("a")]), []
        async with emails_client(api) as emails:
            async for _ in emails.list_emails(EmailFilter(), RetryBudget(), on_body=bodies.append):
                assert ["a"] == [each["id"] for each in json.loads(bodies[0])["emails"]]

        assert 1 == len(bodies)

    async def test_an_unknown_operation_has_no_emails(self):
        async with emails_client(Api(Emails=lambda: web.Response(status=404))) as emails:
            assert [] == await listed(emails, operation_id="o")
            with pytest.raises(CommsError):
                await listed(emails)

    async def test_a_single_email(self):
        api = Api(a=lambda: web.json_response(entry("a", content="x")), b=lambda: web.Response(status=404))
        async with emails_client(api) as emails:
            page = await emails.get_email("a", RetryBudget())
            assert ["a"] == ids([page])
            assert await emails.get_email("b", RetryBudget()) is None

    @pytest.mark.parametrize("hostile", ["", ".", ".."])
    async def test_an_id_cannot_change_the_path(self, hostile):
        async with emails_client(Api()) as emails:
            with pytest.raises(ValueError, match="cannot be used in a URL"):
                await emails.list_receipts(hostile, RetryBudget())

    async def test_an_id_stays_one_segment(self):
        api = Api(Errors=lambda: web.json_response([]))
        async with emails_client(api) as emails:
            await emails.list_errors("../a?b/c", RetryBudget())

        assert ["/v1/Emails/Operations/..%2Fa%3Fb%2Fc/Errors"] == api.requests

    async def test_an_email_with_a_secret_is_malformed(self):
        secret = "canary-secret"
        api = Api([entry("a"), entry(secret), entry("b", operation=secret), entry("c", tags={"a": secret})])
        async with emails_client(api, secrets=[secret]) as emails:
            (page,) = await listed(emails)

        assert (["a"], ["an email contains a secret"] * 3) == (ids([page]), page.malformed)


class TestDetails:
    @pytest.mark.parametrize("status", [404, 405])
    async def test_what_is_not_offered_is_logged_once(self, status):
        api = Api(Errors=lambda: web.Response(status=status), Receipts=lambda: web.Response(status=status))
        async with emails_client(api) as emails:
            for _ in range(4):
                assert await emails.list_errors("o", RetryBudget()) is None
                assert await emails.list_receipts("e", RetryBudget()) is None
            assert emails.offers_receipts() is False

        event = "the API does not offer these details"
        assert [("info", event, {"path": "/Errors"}), ("info", event, {"path": "/Receipts"})] == api.log.entries

    async def test_what_one_email_lacks_is_offered_if_others_have_it(self):
        statuses = iter([404, 404, 200, 404, 404, 404, 404])
        api = Api(Receipts=lambda: web.json_response([], status=next(statuses)))
        async with emails_client(api) as emails:
            assert emails.offers_receipts() is None
            assert [None, None, []] == [await emails.list_receipts("e", RetryBudget()) for _ in range(3)]
            assert [None] * 4 == [await emails.list_receipts("e", RetryBudget()) for _ in range(4)]
            assert emails.offers_receipts() is True

        assert [] == api.log.entries

    async def test_other_failures_are_errors(self):
        async with emails_client(Api(Errors=lambda: web.Response(status=400))) as emails:
            with pytest.raises(CommsError):
                await emails.list_errors("o", RetryBudget())

    async def test_the_next_page_may_be_a_url(self):
        api = Api()

        def errors():
            (path, *others) = reversed(api.requests)
            following = None if others else f"{api.url}/Emails/Operations/o/Errors?pageSize=7&page=2"
            return web.json_response({"errors": [{"code": path, "message": ""}], "pagination": {"next": following}})

        api.responses["Errors"] = errors
        async with emails_client(api) as emails:
            first, second = await emails.list_errors("o", RetryBudget())

        assert "/v1/Emails/Operations/o/Errors" == first.code
        assert "/v1/Emails/Operations/o/Errors?pageSize=7&page=2" == second.code

    async def test_follows_pages_up_to_a_limit(self):
        tokens = iter(range(1000))
        api = Api(
            Errors=lambda: web.json_response(
                {"errors": [{"code": 1, "message": "m"}], "pagination": {"next": f"t{next(tokens)}"}}
            )
        )
        async with emails_client(api) as emails:
            assert [DeliveryError("1", "m")] * 20 == await emails.list_errors("o", RetryBudget())


CANARIES = ("canary-local", "Canary Name", "canary subject", "canary body")


async def test_nothing_personal_leaves_the_reader(caplog):
    """No record, log line, error or traceback has an address, a name, a subject or content."""
    local, name, subject, body = CANARIES
    personal = {
        "to": [{"address": f"{local}@example.com", "name": name}],
        "from": {"address": f"{local}@shop.example", "name": name},
        "content": {"subject": subject, "html": body},
        "tags": {"recipient": f"{local}@example.com"},
    }
    whole = json.dumps({"emails": [entry("a") | personal]})
    failure = json.dumps({"code": 20400, "message": f"cannot reach {local}@example.com"})
    bodies = [
        (200, whole),
        (200, whole[:-1]),  # truncated
        (200, whole.replace('"a"', r'"\ud800"')),
        (200, whole.replace("FAILED", "\x00")),
        (200, json.dumps([entry("a") | personal])),
        (200, json.dumps({"a": [personal], "b": [personal]})),
        (200, json.dumps({"emails": [personal, {"id": 7} | personal]})),
        (400, failure),
        (500, failure),
        (404, failure),
    ]
    caplog.set_level(logging.DEBUG)
    seen = []
    for status, text in bodies:
        api = Api(Emails=lambda status=status, text=text: web.Response(status=status, text=text))
        async with emails_client(api) as emails:
            try:
                seen += map(repr, await listed(emails))
            except CommsError as error:
                seen += [repr(error), *traceback.format_exception(error)]
        seen.append(repr(api.log.entries))
    errors = Api(Errors=lambda: web.json_response([{"code": 1, "message": f"no such user: {local}@example.com"}]))
    async with emails_client(errors) as emails:
        seen.append(repr(await emails.list_errors("o", RetryBudget())))
    await asyncio.sleep(0)
    # The response of the test's own server is not ours.
    seen += [record.getMessage() for record in caplog.records if not record.name.startswith("aiohttp")]

    assert len(bodies) < len(seen)
    assert "example.com" in "".join(seen)
    assert [] == [(canary, text) for canary in CANARIES for text in seen if canary in text]
