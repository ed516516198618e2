"""The pages of the exporter: metrics, probes, reload, status page and settings."""

import asyncio
import gzip as gzipped
import re
import time
from contextlib import asynccontextmanager

import aiohttp
import bcrypt
import pytest
import structlog
from aiohttp.test_utils import TestClient, TestServer
from web.serving import disconnect_all, stall

from comms_exporter.config import parse_listen_address
from comms_exporter.expose.exposition import Body
from comms_exporter.expose.negotiation import accepts_gzip, negotiate
from comms_exporter.web.app import MAX_SCRAPES, make_app
from comms_exporter.web.server import listening
from comms_exporter.web.status_page.model import Account, Funnel, OperationDetail, OperationRow, Status
from comms_exporter.web.status_page.page import LIST_SECONDS, StatusPage
from comms_exporter.web.status_page.search import Search
from comms_exporter.web.web_config_file import WebConfigFile

BODY = b"# TYPE comms_up gauge\n" + b'comms_up{account="a"} 1.0\n' * 100


class Exporter:
    """Stands in for the rest of the exporter."""

    def __init__(self):
        self.healthy = True
        self.ready = True
        self.body = BODY
        self.requested = None
        self.writing = asyncio.Semaphore(0)
        self.resumed = asyncio.Event()
        self.resumed.set()
        self.accounts = []
        self.operations = {}
        self.reload_error = None

    def app(self, *, max_requests=40):
        return make_app(
            telemetry_path="/metrics",
            max_requests=max_requests,
            write=self.write,
            negotiate=negotiate,
            accepts_gzip=accepts_gzip,
            healthy=lambda: self.healthy,
            ready=lambda: self.ready,
            reload=self.reload,
            operation=lambda *wanted: self.operations.get(wanted),
            status=lambda: Status(version="1.2.3", now=9.0, telemetry_path="/metrics", accounts=self.accounts),
            settings=lambda: "api.timeout: 30s\n",
        )

    async def reload(self):
        return self.reload_error

    async def write(self, *, gzip, **requested):
        self.requested = requested
        self.writing.release()
        await self.resumed.wait()
        page = gzipped.compress(self.body) if gzip else self.body
        return Body([page], len(page))


@pytest.fixture
def exporter():
    return Exporter()


@pytest.fixture
async def client(exporter):
    async with TestClient(TestServer(exporter.app()), auto_decompress=False) as client:
        yield client


class TestMetrics:
    async def test_uses_the_format_that_the_client_accepts(self, client, exporter):
        answer = await client.get(
            "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "identity"}
        )

        assert 200 == answer.status
        assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert answer.headers["Vary"] == "Accept, Accept-Encoding"
        assert {"openmetrics": True, "names": []} == exporter.requested
        assert BODY == await answer.read()

    async def test_compresses_if_the_client_accepts_it(self, client, exporter):
        answer = await client.get("/metrics", headers={"Accept-Encoding": "gzip"})

        assert answer.headers["Content-Encoding"] == "gzip"
        assert exporter.body == gzipped.decompress(await answer.read())

    async def test_passes_on_the_requested_names(self, client, exporter):
        await client.get("/metrics?name[]=comms_up&name[]=comms_emails_sent_total")

        assert ["comms_up", "comms_emails_sent_total"] == exporter.requested["names"]

    async def test_answers_head_requests(self, client):
        answer = await client.head("/metrics", headers={"Accept-Encoding": "identity"})

        assert (200, str(len(BODY)), b"") == (answer.status, answer.headers["Content-Length"], await answer.read())

    async def test_rejects_other_methods(self, client):
        assert 405 == (await client.post("/metrics")).status


class TestRequestLimit:
    """A scrape counts from its request until its response is written."""

    @asynccontextmanager
    async def served(self, exporter, max_requests):
        addresses = [parse_listen_address("127.0.0.1:0")]
        async with (
            listening(exporter.app(max_requests=max_requests), addresses, shutdown_seconds=0.1) as [url],
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            yield url, session

    async def test_more_scrapes_at_a_time_are_rejected(self, exporter):
        async with self.served(exporter, 2) as (url, session):
            exporter.resumed.clear()
            accepted = [asyncio.create_task(_get(session, f"{url}/metrics", {})) for _ in range(2)]
            for _ in accepted:
                await exporter.writing.acquire()

            assert (503, "Limit of concurrent requests reached (2), try again later.\n") == await _get(
                session, f"{url}/metrics", {}
            )
            assert 200 == (await _get(session, f"{url}/-/healthy", {}))[0]

            exporter.resumed.set()
            assert [(200, BODY.decode())] * 2 == await asyncio.gather(*accepted)
            assert 200 == (await _get(session, f"{url}/metrics", {}))[0]

    async def test_a_client_that_does_not_read_counts_until_it_is_disconnected(self, exporter):
        exporter.body = bytes(25_000_000)
        async with self.served(exporter, 1) as (url, session):
            await stall(url, "/metrics")
            await exporter.writing.acquire()
            assert 503 == (await _get(session, f"{url}/metrics", {}))[0]

            await disconnect_all()
            statuses = []
            while 200 not in statuses:
                statuses.append((await _get(session, f"{url}/metrics", {"Accept-Encoding": "gzip"}))[0])

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_each_scrape_ends_once(self, exporter, method):
        """Also if it fails or has no body."""
        async with self.served(exporter, 1) as (url, session):
            for body in (BODY, None, b"", BODY):
                exporter.body = body
                async with session.request(method, f"{url}/metrics") as response:
                    assert (500 if body is None else 200) == response.status

            exporter.writing = asyncio.Semaphore(0)
            exporter.resumed.clear()
            accepted = asyncio.create_task(_get(session, f"{url}/metrics", {}))
            await exporter.writing.acquire()
            assert 503 == (await _get(session, f"{url}/metrics", {}))[0]
            exporter.resumed.set()
            assert 200 == (await accepted)[0]

    async def test_zero_disables_it(self, exporter):
        async with self.served(exporter, 0) as (url, session):
            exporter.resumed.clear()
            accepted = [asyncio.create_task(_get(session, f"{url}/metrics", {})) for _ in range(100)]
            for _ in range(MAX_SCRAPES):
                await exporter.writing.acquire()
            exporter.resumed.set()

            assert [200] * 100 == [status for status, _ in await asyncio.gather(*accepted)]


class TestProbes:
    async def test_healthy_unless_a_poll_loop_is_overdue(self, client, exporter):
        assert 200 == (await client.get("/-/healthy")).status

        exporter.healthy = False

        answer = await client.get("/-/healthy")
        assert (503, "A poll loop is overdue.\n") == (answer.status, await answer.text())

    async def test_ready_after_the_first_poll(self, client, exporter):
        exporter.ready = False
        assert 503 == (await client.get("/-/ready")).status

        exporter.ready = True
        assert 200 == (await client.get("/-/ready")).status


class TestReload:
    async def test_returns_the_error_if_a_reload_fails(self, client, exporter):
        answer = await client.post("/-/reload")
        assert (200, "Reloaded.\n") == (answer.status, await answer.text())

        exporter.reload_error = "collect.interval: no"

        answer = await client.put("/-/reload")
        assert (500, "collect.interval: no\n") == (answer.status, await answer.text())

    async def test_rejects_get_requests(self, client):
        assert 405 == (await client.get("/-/reload")).status

    @pytest.mark.parametrize(
        "headers",
        [
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": ""},
            {"Sec-Fetch-Site": "cross-site", "Origin": "http://us:10067", "Host": "us:10067"},
            {"Origin": "http://elsewhere.example"},
            {"Origin": "http://us:10068", "Host": "us:10067"},
            {"Origin": "http://us.example:10067", "Host": "us:10067"},
            {"Origin": "us:10067", "Host": "us:10067"},
            {"Origin": "null"},
            {"Origin": "http://[", "Host": "us:10067"},
        ],
    )
    async def test_rejects_pages_of_other_sites(self, client, exporter, headers):
        exporter.reload_error = "called"
        for method in (client.post, client.put):
            answer = await method("/-/reload", headers=headers)
            assert (403, "Pages of other sites may not reload the configuration.\n") == (
                answer.status,
                await answer.text(),
            )

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Sec-Fetch-Site": "none"},
            {"Sec-Fetch-Site": "same-origin", "Origin": "https://us", "Host": "127.0.0.1:10067"},
            {"Origin": "http://us:10067", "Host": "US:10067"},
            {"Origin": "https://us.example", "Host": "us.example"},
            {"Origin": "http://[::1]:10067", "Host": "[::1]:10067"},
        ],
    )
    async def test_accepts_its_own_pages_and_clients_that_are_not_browsers(self, client, headers):
        assert 200 == (await client.post("/-/reload", headers=headers)).status


class TestStatusPage:
    async def test_shows_the_version_the_accounts_and_links(self, client, exporter):
        exporter.accounts = [
            Account(name="shop", good=True, success_age_seconds=3.0),
            Account(name="news", good=False, reason="auth", message="401: no"),
        ]

        answer = await client.get("/")
        page = await answer.text()

        assert "text/html" == answer.content_type
        for text in ("comms-exporter", "1.2.3", 'href="./metrics"', 'href="./-/healthy"', 'href="./config"', "3 s ago"):
            assert text in page
        assert "401: no" in page

    async def test_escapes_text_and_allows_no_foreign_scripts(self, client, exporter):
        exporter.accounts = [Account(name="<script>alert(1)</script>", good=False, reason='"><img src=x onerror=a()>')]

        answer = await client.get("/", params={"q": '"><script>', "account": "<img>"})
        page = await answer.text()

        assert 1 == page.count("<script")
        assert "<img" not in page
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy

    async def test_links_to_its_own_icon_style_and_script(self, client):
        page = await (await client.get("/")).text()

        urls = re.findall(r'(?:href|src)="(static/[^"]+)"', page)
        answers = [await client.get(f"/{path}") for path in urls]

        assert [(200, "image/svg+xml"), (200, "text/css"), (200, "text/javascript")] == [
            (answer.status, answer.content_type) for answer in answers
        ]

    async def test_is_not_cached(self, client):
        assert "no-store" == (await client.get("/")).headers["Cache-Control"]


class TestOperationPage:
    async def test_shows_an_operation_as_the_status_page_is_shown(self, client, exporter):
        exporter.operations["shop", "<op>&"] = detail("<op>&")

        answer = await client.get("/operation", params={"account": "shop", "id": "<op>&"})
        home = await client.get("/")

        assert (200, "text/html") == (answer.status, answer.content_type)
        assert "&lt;op&gt;&amp;" in await answer.text()
        for header in ("Content-Security-Policy", "Cache-Control", "Referrer-Policy"):
            assert home.headers[header] == answer.headers[header]

    @pytest.mark.parametrize("query", ["", "?id=op", "?account=shop", "?account=other&id=op", "?account=shop&id=%ff"])
    async def test_of_an_unknown_operation_is_not_found(self, client, exporter, query):
        exporter.operations["shop", "op"] = detail("op")

        answer = await client.get(f"/operation{query}")

        assert (404, "text/plain") == (answer.status, answer.content_type)
        assert "does not know this operation" in await answer.text()


class TestOtherPages:
    async def test_include_the_settings(self, client):
        answer = await client.get("/config")

        assert ("text/plain", "api.timeout: 30s\n") == (answer.content_type, await answer.text())

    async def test_make_way_for_the_metrics(self, exporter):
        app = make_app(
            telemetry_path="/config",
            write=exporter.write,
            negotiate=negotiate,
            accepts_gzip=accepts_gzip,
            healthy=bool,
            ready=bool,
            reload=exporter.reload,
            operation=lambda *_: None,
            status=bool,
            settings=str,
        )
        async with TestClient(TestServer(app)) as client:
            assert BODY == await (await client.get("/config")).read()

    async def test_do_not_exist_elsewhere(self, client):
        assert 404 == (await client.get("/elsewhere")).status


class TestAuthentication:
    @pytest.mark.parametrize("path", ["/", "/operation", "/operation?account=shop&id=known", "/config", "/metrics"])
    async def test_every_page_needs_the_password(self, exporter, tmp_path, path):
        exporter.operations["shop", "known"] = detail("known")
        config = tmp_path / "web.yml"
        hashed = bcrypt.hashpw(b"canary", bcrypt.gensalt(4)).decode()
        config.write_text(f"basic_auth_users:\n  alice: {hashed}\n")
        web_config = WebConfigFile(config, log=structlog.get_logger())
        async with (
            listening(
                exporter.app(), [parse_listen_address("127.0.0.1:0")], web_config=web_config, shutdown_seconds=0.1
            ) as [url],
            aiohttp.ClientSession() as session,
        ):
            answers = [
                await _get(session, f"{url}{path}", headers)
                for headers in (
                    {},
                    {"Authorization": aiohttp.encode_basic_auth("alice", "wrong")},
                    {"Authorization": aiohttp.encode_basic_auth("alice", "canary")},
                )
            ]

        expected = 404 if path == "/operation" else 200
        assert [401, 401, expected] == [status for status, _ in answers]
        # A refusal says nothing about operations.
        assert not any("known" in body or "operation" in body for _, body in answers[:2])


async def _get(session, url, headers):
    async with session.get(url, headers=headers) as response:
        return response.status, await response.text()


def detail(operation_id):
    return OperationDetail(
        version="1.2.3", now=9.0, account="shop", id=operation_id, status="PROCESSING", finished=False, created=1.0,
        began=1.0, updated=2.0, gone=False, funnel=funnel(), history=[],
    )  # fmt: skip


def funnel():
    return Funnel(total=1, sent=1, delivered=1, opened=1, failed=0, undelivered=0, canceled=0)


class Crowd:
    """An exporter with many operations, which counts how often they are listed and records the requests it serves."""

    def __init__(self):
        self.served = []
        self.listed = 0

    async def write(self, **_):
        self.served.append("scrape")
        return Body([BODY], len(BODY))

    def status(self):
        self.served.append("view")
        return Status(version="1", now=9.0, telemetry_path="/metrics", operations=self.operations())

    def operations(self):
        self.listed += 1
        for number in range(2000):
            yield OperationRow("shop", f"op{number}", "PROCESSING", False, 1.0, 2.0, 0, funnel)

    def healthy(self):
        self.served.append("probe")
        return True


@pytest.fixture
async def crowd():
    """An exporter with many operations, on the real server."""
    crowd = Crowd()
    app = make_app(
        telemetry_path="/metrics",
        write=crowd.write,
        negotiate=negotiate,
        accepts_gzip=accepts_gzip,
        healthy=crowd.healthy,
        ready=bool,
        reload=None,
        operation=lambda *_: None,
        status=crowd.status,
        settings=str,
    )
    async with listening(app, [parse_listen_address("127.0.0.1:0")], shutdown_seconds=0.1) as [url]:
        crowd.port = int(url.rpartition(":")[2])
        yield crowd


async def get_status(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


class TestViewers:
    async def test_do_not_delay_scrapes_and_probes(self, crowd):
        """While 250 viewers wait for their searches, a later scrape and a later probe are served."""
        views = [asyncio.create_task(get_status(crowd.port, f"/?q=op{number}")) for number in range(250)]
        while len(crowd.served) == 0:  # noqa: ASYNC110
            await asyncio.sleep(0)

        assert 200 == await get_status(crowd.port, "/metrics")
        assert 200 == await get_status(crowd.port, "/-/healthy")
        served = crowd.served.copy()

        assert {"scrape", "probe"} < set(served)
        assert served.count("view") < 100
        assert [200] * 250 == await asyncio.gather(*views)

    async def test_share_one_list_of_operations(self, crowd):
        began = time.monotonic()
        assert [200] * 250 == await asyncio.gather(*[get_status(crowd.port, f"/?q=op{n % 9}") for n in range(250)])

        assert 250 == crowd.served.count("view")
        assert crowd.listed <= 1 + (time.monotonic() - began) / LIST_SECONDS

    async def test_see_new_operations_after_a_while(self):
        crowd = Crowd()
        page = StatusPage(crowd.status, list_seconds=0.01)
        while crowd.listed < 3:
            assert "PROCESSING".lower() in await page.render(Search())
            await asyncio.sleep(0)
