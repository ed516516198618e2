"""What is answered over HTTP, and that it is never asked of the API."""

import asyncio
import gzip as gzipped
import re
import time

import pytest
from aiohttp.test_utils import TestClient, TestServer

from comms_exporter.config import parse_listen_address
from comms_exporter.expose.exposition import Body
from comms_exporter.expose.negotiation import accepts_gzip, negotiate
from comms_exporter.web import app as web_app
from comms_exporter.web.app import LISTING_SECONDS, make_app
from comms_exporter.web.server import listening
from comms_exporter.web.status_page.model import Account, Funnel, OperationRow, Status

BODY = b"# TYPE comms_up gauge\n" + b'comms_up{account="a"} 1.0\n' * 100


class Exporter:
    """What the web part is told by the others."""

    def __init__(self):
        self.healthy = True
        self.ready = True
        self.body = BODY
        self.asked = None
        self.accounts = []
        self.wrong = None

    async def reload(self):
        return self.wrong

    async def write(self, *, gzip, **asked):
        self.asked = asked
        page = gzipped.compress(self.body) if gzip else self.body
        return Body([page], len(page))


@pytest.fixture
def exporter():
    return Exporter()


@pytest.fixture
async def client(exporter):
    app = make_app(
        telemetry_path="/metrics",
        write=exporter.write,
        negotiate=negotiate,
        accepts_gzip=accepts_gzip,
        healthy=lambda: exporter.healthy,
        ready=lambda: exporter.ready,
        reload=exporter.reload,
        status=lambda: Status(version="1.2.3", now=9.0, telemetry_path="/metrics", accounts=exporter.accounts),
        settings=lambda: "api.timeout: 30s\n",
    )
    async with TestClient(TestServer(app), auto_decompress=False) as client:
        yield client


class TestMetrics:
    async def test_answers_in_the_format_that_is_asked_for(self, client, exporter):
        answer = await client.get(
            "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "identity"}
        )

        assert 200 == answer.status
        assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert answer.headers["Vary"] == "Accept, Accept-Encoding"
        assert {"openmetrics": True, "names": []} == exporter.asked
        assert BODY == await answer.read()

    async def test_compresses_where_it_may(self, client, exporter):
        answer = await client.get("/metrics", headers={"Accept-Encoding": "gzip"})

        assert answer.headers["Content-Encoding"] == "gzip"
        assert exporter.body == gzipped.decompress(await answer.read())

    async def test_passes_on_which_names_are_wanted(self, client, exporter):
        await client.get("/metrics?name[]=comms_up&name[]=comms_emails_sent_total")

        assert ["comms_up", "comms_emails_sent_total"] == exporter.asked["names"]

    async def test_answers_head(self, client):
        answer = await client.head("/metrics", headers={"Accept-Encoding": "identity"})

        assert (200, str(len(BODY)), b"") == (answer.status, answer.headers["Content-Length"], await answer.read())

    async def test_may_only_be_read(self, client):
        assert 405 == (await client.post("/metrics")).status


class TestProbes:
    async def test_healthy_as_long_as_the_loops_move(self, client, exporter):
        assert 200 == (await client.get("/-/healthy")).status

        exporter.healthy = False

        answer = await client.get("/-/healthy")
        assert (503, "A poll loop has stopped.\n") == (answer.status, await answer.text())

    async def test_ready_after_the_first_poll(self, client, exporter):
        exporter.ready = False
        assert 503 == (await client.get("/-/ready")).status

        exporter.ready = True
        assert 200 == (await client.get("/-/ready")).status


class TestReload:
    async def test_says_whether_the_settings_are_good(self, client, exporter):
        answer = await client.post("/-/reload")
        assert (200, "Reloaded.\n") == (answer.status, await answer.text())

        exporter.wrong = "collect.interval: no"

        answer = await client.put("/-/reload")
        assert (500, "collect.interval: no\n") == (answer.status, await answer.text())

    async def test_is_not_to_be_had_by_following_a_link(self, client):
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
    async def test_no_page_of_another_site_may_reload(self, client, exporter, headers):
        exporter.wrong = "it was not to be called"
        for method in (client.post, client.put):
            answer = await method("/-/reload", headers=headers)
            assert (403, "A page of another site may not reload.\n") == (answer.status, await answer.text())

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
    async def test_who_is_no_browser_or_comes_from_our_own_page_may_reload(self, client, headers):
        assert 200 == (await client.post("/-/reload", headers=headers)).status


class TestLandingPage:
    async def test_says_what_this_is_and_where_to_look(self, client, exporter):
        exporter.accounts = [
            Account(name="shop", good=True, success_age_seconds=3.0),
            Account(name="news", good=False, reason="auth", message="401: no"),
        ]

        answer = await client.get("/")
        page = await answer.text()

        assert "text/html" == answer.content_type
        for said in ("comms-exporter", "1.2.3", 'href="./metrics"', 'href="./-/healthy"', 'href="./config"', "3 s ago"):
            assert said in page
        assert "401: no" in page

    async def test_escapes_everything_and_runs_nothing_of_others(self, client, exporter):
        exporter.accounts = [Account(name="<script>alert(1)</script>", good=False, reason='"><img src=x onerror=a()>')]

        answer = await client.get("/", params={"q": '"><script>', "account": "<img>"})
        page = await answer.text()

        assert 1 == page.count("<script")
        assert "<img" not in page
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy

    async def test_finds_what_it_needs_beside_itself(self, client):
        page = await (await client.get("/")).text()

        wanted = re.findall(r'(?:href|src)="(static/[^"]+)"', page)
        answers = [await client.get(f"/{path}") for path in wanted]

        assert [(200, "image/svg+xml"), (200, "text/css"), (200, "text/javascript")] == [
            (answer.status, answer.content_type) for answer in answers
        ]

    async def test_is_never_kept(self, client):
        assert "no-store" == (await client.get("/")).headers["Cache-Control"]

    async def test_shows_the_settings(self, client):
        answer = await client.get("/config")

        assert ("text/plain", "api.timeout: 30s\n") == (answer.content_type, await answer.text())

    async def test_makes_way_for_the_metrics(self, exporter):
        app = make_app(
            telemetry_path="/config",
            write=exporter.write,
            negotiate=negotiate,
            accepts_gzip=accepts_gzip,
            healthy=bool,
            ready=bool,
            reload=exporter.reload,
            status=bool,
            settings=str,
        )
        async with TestClient(TestServer(app)) as client:
            assert BODY == await (await client.get("/config")).read()

    async def test_is_only_there(self, client):
        assert 404 == (await client.get("/elsewhere")).status


def funnel():
    return Funnel(total=1, sent=1, delivered=1, opened=1, failed=0, undelivered=0, canceled=0)


class Crowd:
    """An exporter with many operations, which counts how often they are collected and which answers were begun."""

    def __init__(self):
        self.begun = []
        self.collected = 0

    async def write(self, **_):
        self.begun.append("scrape")
        return Body([BODY], len(BODY))

    def status(self):
        self.begun.append("view")
        return Status(version="1", now=9.0, telemetry_path="/metrics", operations=self.operations())

    def operations(self):
        self.collected += 1
        for number in range(2000):
            yield OperationRow("shop", f"op{number}", "PROCESSING", False, 1.0, 2.0, 0, funnel)

    def healthy(self):
        self.begun.append("probe")
        return True


@pytest.fixture
async def crowd():
    """A crowd's exporter on the server that it really has."""
    crowd = Crowd()
    app = make_app(
        telemetry_path="/metrics",
        write=crowd.write,
        negotiate=negotiate,
        accepts_gzip=accepts_gzip,
        healthy=crowd.healthy,
        ready=bool,
        reload=None,
        status=crowd.status,
        settings=str,
    )
    async with listening(app, [parse_listen_address("127.0.0.1:0")], shutdown_seconds=0.1) as [url]:
        crowd.port = int(url.rpartition(":")[2])
        yield crowd


async def ask(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


class TestPlaces:
    async def test_of_scrapes_and_probes_are_their_own(self, crowd):
        """250 who look, each for something else, are still waiting when those who came after them have been answered."""
        views = [asyncio.create_task(ask(crowd.port, f"/?q=op{number}")) for number in range(250)]
        while len(crowd.begun) == 0:  # noqa: ASYNC110
            await asyncio.sleep(0)

        assert 200 == await ask(crowd.port, "/metrics")
        assert 200 == await ask(crowd.port, "/-/healthy")
        begun = crowd.begun.copy()

        assert {"scrape", "probe"} < set(begun)
        assert begun.count("view") < 100
        assert [200] * 250 == await asyncio.gather(*views)

    async def test_are_enough_for_many_who_look_at_what_was_collected_once(self, crowd):
        began = time.monotonic()
        assert [200] * 250 == await asyncio.gather(*[ask(crowd.port, f"/?q=op{n % 9}") for n in range(250)])

        assert 250 == crowd.begun.count("view")
        assert crowd.collected <= 1 + (time.monotonic() - began) / LISTING_SECONDS

    async def test_show_what_is_new_after_a_while(self, crowd, monkeypatch):
        monkeypatch.setattr(web_app, "LISTING_SECONDS", 0.01)
        while crowd.collected < 3:
            assert 200 == await ask(crowd.port, "/")
