"""Many accounts, each for itself; settings and secrets that change under a running process."""

import asyncio
import itertools
import json
import re
import signal
import sqlite3
import ssl
import subprocess
import time
from contextlib import closing
from functools import partial
from unittest.mock import Mock

import aiohttp
import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer
from process import CREDENTIALS, answer, exporter, scrape, until, unused_port

from comms_exporter import service as service_module
from comms_exporter.base.redaction import Redactor
from comms_exporter.cli import _reload_on
from comms_exporter.config import build_parser, load
from comms_exporter.service import CannotStartError
from comms_exporter.service import exporter as running
from comms_exporter.simulator import Fate, Faults, World, make_app
from comms_exporter.store.errors import StoreError
from comms_exporter.store.sqlite import SqliteStore

SENT = [Fate(sent=0, delivered=0)]
BARE = {"TWILIO_ACCOUNT_SID": "", "TWILIO_AUTH_TOKEN": ""}


def value(page, series):
    return float(re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)[1])


class Api:
    """A simulated API on a free port."""

    def __init__(self, credentials=None):
        self.world = World(clock=time.time)
        self.faults = Faults()
        self.server = TestServer(make_app(self.world, self.faults, credentials=credentials))

    async def __aenter__(self):
        await self.server.start_server()
        self.url = str(self.server.make_url("/v1"))
        return self

    async def __aexit__(self, *_):
        await self.server.close()


@pytest.fixture
async def api():
    async with Api() as api:
        yield api


class Accounts:
    """A configuration file that lists accounts."""

    def __init__(self, path):
        self.path = path
        self.flags = (f"--config.file={path}", f"--state.path={path.parent / 'state.db'}", "--collect.interval=100ms")

    def write(self, *accounts, **settings):
        listed = [{"account_sid": "ACtest", "auth_token": "canary-token-9", **account} for account in accounts]
        # JSON is YAML.
        self.path.write_text(json.dumps({"accounts": listed, **settings}))


@pytest.fixture
def accounts(tmp_path):
    return Accounts(tmp_path / "comms.yml")


async def reload(process):
    async with aiohttp.ClientSession() as session, session.post(f"{process.url}/-/reload") as response:
        return response.status, await response.text()


class TestManyAccounts:
    async def test_one_that_hangs_and_one_that_is_throttled_change_nothing_for_the_others(self, accounts, api):
        async with Api() as hanging, Api() as throttling:
            hanging.faults.add("hang")
            throttling.faults.add("429", retry_after=3600)
            accounts.write(
                {"name": "hanging", "base_url": hanging.url},
                {"name": "throttled", "base_url": throttling.url},
                *[{"name": f"good {n}"} for n in range(48)],
            )
            async with exporter(api.url, *accounts.flags, environ=BARE) as process:
                for polls in (5, 10):
                    for n in range(48):
                        await until(
                            process.url, rf'^comms_exporter_polls_total{{account="good {n}"}} ([{polls % 10}-9]|\d\d)'
                        )
                page = await scrape(process.url)

        assert all(1 == value(page, f'comms_up{{account="good {n}"}}') for n in range(48))
        assert 0 == value(page, 'comms_exporter_polls_total{account="hanging"}')
        assert 1 == value(page, 'comms_exporter_polls_total{account="throttled"}')
        assert 1 == value(page, 'comms_exporter_poll_failures_total{account="throttled",reason="rate_limited"}')
        # Of an hour, what has passed of it.
        assert 0 < value(page, 'comms_exporter_rate_limit_wait_seconds_total{account="throttled"}') < 300

    async def test_accounts_have_their_own_counts(self, accounts, api):
        async with Api() as other:
            accounts.write({"name": "shop"}, {"name": "news", "base_url": other.url})
            async with exporter(api.url, *accounts.flags, environ=BARE) as process:
                await process.until("(?s)account=shop.*account=news|account=news.*account=shop")
                api.world.send(fates=SENT * 3)
                other.world.send(fates=SENT * 5)

                await until(process.url, r'^comms_emails_sent_total{account="shop"} 3\.0$')
                await until(process.url, r'^comms_emails_sent_total{account="news"} 5\.0$')

    async def test_shards_have_every_account_once(self, accounts, api):
        names = [f"account {n}" for n in range(9)]
        accounts.write(*[{"name": name} for name in names])
        found = []
        for index in range(3):
            flags = (f"--shard.index={index}", "--shard.total=3", f"--config.file={accounts.path}", "--state.path=")
            async with exporter(api.url, *flags, environ=BARE) as process:
                page = await scrape(process.url)
            assert 1 == value(page, f'comms_exporter_shard_info{{shard_index="{index}",shard_total="3"}}')
            found += re.findall('^comms_up{account="(.*)"}', page, re.MULTILINE)
        assert names == sorted(found)

    async def test_a_shard_that_is_none_is_named(self):
        code, _, said = await answer("--shard.index=3", "--shard.total=3", environ=CREDENTIALS)

        assert (2, 1) == (code, said.count("\n"))
        assert "--shard.index" in said


class TestReload:
    async def test_accounts_come_go_and_return_without_losing_a_count(self, accounts, api):
        accounts.write({"name": "shop"}, {"name": "news"})
        async with exporter(api.url, *accounts.flags, environ=BARE) as process:
            await until(process.url, r'^comms_up{account="news"} 1')
            await until(process.url, r'^comms_up{account="shop"} 1')
            api.world.send(fates=SENT * 3)
            for name in ("shop", "news"):
                await until(process.url, rf'^comms_emails_sent_total{{account="{name}"}} 3\.0$')

            accounts.write({"name": "shop"})
            assert (200, "Reloaded.\n") == await reload(process)
            assert 'account="news"' not in await scrape(process.url)
            api.world.send(fates=SENT * 4)
            await until(process.url, r'^comms_emails_sent_total{account="shop"} 7\.0$')

            accounts.write({"name": "shop"}, {"name": "news"}, {"name": "new"})
            process.send(signal.SIGHUP)
            page = await until(process.url, '^comms_emails_sent_total{account="news"}')
            assert value(page, 'comms_emails_sent_total{account="news"}') in {3, 7}
            await until(process.url, r'^comms_emails_sent_total{account="news"} 7\.0$')
            await until(process.url, r'^comms_up{account="new"} 1')
            assert 0 == value(await scrape(process.url), 'comms_emails_sent_total{account="new"}')

    async def test_an_account_gets_another_key_and_interval_and_counts_on(self, accounts, api):
        accounts.write({"name": "shop"})
        async with exporter(api.url, *accounts.flags[:2], environ=BARE) as process:
            await until(process.url, r'^comms_up{account="shop"} 1')
            polls = value(await scrape(process.url), 'comms_exporter_polls_total{account="shop"}')
            api.world.send(fates=SENT * 3)

            accounts.write({"name": "shop", "auth_token": "rotated-canary"}, collect={"interval": "100ms"})
            await reload(process)

            page = await until(process.url, r'^comms_emails_sent_total{account="shop"} 3\.0$')
            assert 0.1 == value(page, 'comms_exporter_poll_interval_seconds{account="shop"}')
            assert polls < value(page, 'comms_exporter_polls_total{account="shop"}')

    async def test_a_bad_file_keeps_the_old_settings_and_says_why(self, accounts, api):
        accounts.write({"name": "shop"})
        async with exporter(api.url, *accounts.flags, environ=BARE) as process:
            await until(process.url, r'^comms_up{account="shop"} 1')
            assert 1 == value(await scrape(process.url), "comms_exporter_config_last_reload_successful")
            accounts.path.write_text("accounts: [{name: shop, auth_tokken: canary-xyz}]")

            status, text = await reload(process)

            assert 500 == status
            assert "auth_tokken" in text
            assert "canary-xyz" not in text + process.said
            page = await scrape(process.url)
            assert 0 == value(page, "comms_exporter_config_last_reload_successful")
            assert 1 == value(page, 'comms_up{account="shop"}')
            await process.until("reload failed")

            accounts.write({"name": "shop"})
            assert 200 == (await reload(process))[0]
            assert 1 == value(await scrape(process.url), "comms_exporter_config_last_reload_successful")

    async def test_a_throttled_account_still_waits(self, accounts, api):
        api.faults.add("429", retry_after=3600)
        accounts.write({"name": "shop"})
        async with exporter(api.url, *accounts.flags, environ=BARE) as process:
            await until(process.url, "^comms_exporter_polls_total.* 1")

            accounts.write({"name": "shop", "auth_token": "another-canary"}, api={"page_size": 7})
            await reload(process)

            page = await scrape(process.url)
            assert 1 == value(page, 'comms_exporter_polls_total{account="shop"}')
            assert 0.2 == value(page, 'comms_exporter_poll_interval_seconds{account="shop"}')

    async def test_what_needs_a_restart_is_said(self, accounts, api):
        accounts.write({"name": "shop"})
        async with exporter(api.url, *accounts.flags, environ=BARE) as process:
            accounts.write({"name": "shop"}, log={"level": "debug"})
            await reload(process)
            await process.until("some settings need a restart.*log_level")


class TestSecretsFromFiles:
    async def test_a_rotated_token_heals_without_a_restart(self, tmp_path):
        """As systemd's LoadCredential and Kubernetes put it there: a file whose content changes."""
        token = tmp_path / "token"
        token.write_text("first-canary\n")
        credentials = {"ACtest": "first-canary"}
        environ = {"TWILIO_AUTH_TOKEN": "", "TWILIO_AUTH_TOKEN_FILE": str(token)}
        async with Api(credentials) as api, exporter(api.url, "--collect.interval=100ms", environ=environ) as process:
            await until(process.url, "^comms_up.* 1")

            credentials["ACtest"] = "second-canary"
            await until(process.url, "^comms_up.* 0")
            await until(process.url, '^comms_exporter_poll_failures_total.*reason="auth"} [1-9]')
            token.write_text("second-canary\n")

            await until(process.url, "^comms_up.* 1")
            assert "canary" not in process.said

    async def test_a_file_that_is_gone_for_a_while_changes_nothing(self, tmp_path):
        token = tmp_path / "token"
        token.write_text("first-canary\n")
        environ = {"TWILIO_AUTH_TOKEN": "", "TWILIO_AUTH_TOKEN_FILE": str(token)}
        async with Api() as api, exporter(api.url, "--collect.interval=100ms", environ=environ) as process:
            await until(process.url, "^comms_up.* 1")
            token.unlink()
            polls = process.said.count("msg=polled")
            await process.until(f"(?s)(msg=polled.*){{{polls + 3}}}")

            assert 1 == value(await scrape(process.url), 'comms_up{account="ACtest"}')
            assert 1 == process.said.count("credentials cannot be read again")


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that only who is told trusts."""
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


class TestOnTheWay:
    async def test_a_certificate_is_only_trusted_from_the_given_authority(self, certificate):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        server = TestServer(make_app(World(clock=time.time)), scheme="https")
        await server.start_server(ssl=context)
        try:
            url = str(server.make_url("/v1"))
            async with exporter(url, "--collect.interval=100ms") as process:
                await until(process.url, '^comms_exporter_poll_failures_total.*reason="tls"} [1-9]')
            async with exporter(url, "--collect.interval=100ms", f"--api.ca-file={certificate[0]}") as process:
                await until(process.url, "^comms_up.* 1")
        finally:
            await server.close()

    async def test_a_bad_authority_is_named(self, tmp_path):
        (tmp_path / "ca.pem").write_text("nothing")
        code, _, said = await answer(f"--api.ca-file={tmp_path}/ca.pem", "--state.path=", environ=CREDENTIALS)

        assert 2 == code
        assert f"--api.ca-file: {tmp_path}/ca.pem" in said

    async def test_a_proxy_of_the_environment_is_used(self, api):
        """It sees the whole address, and the API never sees us."""
        asked = []

        async def forward(request):
            asked.append((str(request.url), request.headers.get("Proxy-Authorization")))
            return web.json_response({"operations": [], "pagination": {"next": None}})

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        async with TestServer(app) as proxy:
            environ = {"http_proxy": f"http://me:proxy-canary@127.0.0.1:{proxy.port}"}
            async with exporter("http://comms.example/v1", "--collect.interval=100ms", environ=environ) as process:
                await until(process.url, "^comms_up.* 1")
                assert "proxy-canary" not in process.said

        address, authorization = asked[0]
        assert address.startswith("http://comms.example/v1/Emails/Operations?")
        assert aiohttp.encode_basic_auth("me", "proxy-canary") == authorization

    async def test_a_proxy_that_repeats_its_password_is_not_repeated(self):
        """Neither as the URL spells it, nor as it was sent, nor without Base64."""
        sent = []

        async def refuse(request):
            sent.append(request.headers["Proxy-Authorization"])
            password = aiohttp.BasicAuth.decode(sent[-1]).password
            message = f"{'x' * 230} {sent[-1]} {password} p%40ss%2Fw0rd-c4n4ry p%40ss/w0rd-c4n4ry"
            return web.json_response({"message": message}, status=407)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", refuse)
        async with TestServer(app) as proxy:
            environ = {"http_proxy": f"http://me:p%40ss%2Fw0rd-c4n4ry@127.0.0.1:{proxy.port}"}
            base_url = "http://comms.example/v1"
            async with exporter(base_url, "--collect.interval=100ms", environ=environ) as process:
                await until(process.url, r"^comms_exporter_polls_total.* [2-9]")
                seen = [process.said, *[await scrape(process.url, path) for path in ("/", "/metrics")]]
            seen += (await answer("check", f"--api.base-url={base_url}", environ={**CREDENTIALS, **environ}))[1:]

        assert "407: xxx" in seen[0]
        assert "Basic bW" in seen[0]  # the user, who is no secret
        assert {aiohttp.encode_basic_auth("me", "p@ss/w0rd-c4n4ry")} == set(sent)
        assert [] == [text for text in seen if re.search("w0rd|c4n|MHJkL|WM0bjR|p%40", text)]


class TestCheck:
    async def test_says_that_all_is_well_and_what_it_will_cost(self, api):
        api.world.send(fates=SENT)
        code, printed, said = await answer("check", f"--api.base-url={api.url}", environ=CREDENTIALS)

        assert (0, "") == (code, said)
        assert printed.startswith("account ACtest\n")
        assert 9 == printed.count("  ok    ")
        assert f"settings     good; asks {api.url} every 30 s" in printed
        assert re.search(r"requests +about 2,8\d\d a day, for 1 operations a week", printed)

    @pytest.mark.parametrize(
        ("kind", "step", "advice"),
        [
            ("401", "credentials", "compare account SID and token"),
            ("403", "permission", "may not read operations"),
            ("404", "page", "--api.base-url should end in /v1"),
            ("429", "page", "throttled"),
            ("500", "page", "Twilio's"),
            ("502", "page", "Twilio's"),
            ("truncated", "page", "no answer of this API"),
            ("reset", "connection", "proxies and firewalls"),
        ],
    )
    async def test_says_what_is_wrong_and_what_to_do(self, api, kind, step, advice):
        api.faults.add(kind)
        flags = (f"--api.base-url={api.url}", "--json", "--api.timeout=2s")
        code, printed, _ = await answer("check", *flags, environ=CREDENTIALS)

        (report,) = json.loads(printed)
        (failed,) = [each for each in report["steps"] if not each["good"]]
        assert (1, False, step) == (code, report["good"], failed["name"])
        assert advice in failed["advice"]
        assert CREDENTIALS["TWILIO_AUTH_TOKEN"] not in printed

    @pytest.mark.parametrize("flags", [(), ("--json",)], ids=["text", "json"])
    async def test_leaves_the_terminal_alone(self, flags):
        """What the API says is shown, and neither moves the cursor nor turns the text around."""
        hostile = "\x1b]0;owned\x07\x1b[2J\0\x7f\x9b31m\u202emoc.elpmaxe\u2066\u200b"

        async def refuse(_):
            return web.json_response({"message": f"no: {hostile}"}, status=401)

        app = web.Application()
        app.router.add_get("/v1/Emails/Operations", refuse)
        async with TestServer(app) as server:
            base_url = f"--api.base-url={server.make_url('/v1')}"
            code, printed, said = await answer("check", base_url, *flags, environ=CREDENTIALS)

        assert (1, True) == (code, "moc.elpmaxe" in printed)
        assert "" == "".join(c for c in printed + said if c != "\n" and not c.isprintable())
        if flags:
            (report,) = json.loads(printed)
            (failed,) = [each for each in report["steps"] if not each["good"]]
            assert f"401: no: {hostile}" == failed["found"]

    async def test_can_be_read_where_ascii_is_all_there_is(self):
        """What the terminal cannot show is escaped, rather than the end of the command."""

        async def refuse(_):
            return web.json_response({"message": "très " * 100}, status=401)

        app = web.Application()
        app.router.add_get("/v1/Emails/Operations", refuse)
        async with TestServer(app) as server:
            environ = {**CREDENTIALS, "PYTHONIOENCODING": "ascii"}
            code, printed, said = await answer("check", f"--api.base-url={server.make_url('/v1')}", environ=environ)

        assert (1, "") == (code, said)
        assert r"401: tr\xe8s tr\xe8s" in printed

    async def test_names_a_host_that_does_not_exist(self):
        code, printed, _ = await answer("check", "--api.base-url=http://no-such-host.invalid/v1", environ=CREDENTIALS)

        assert 1 == code
        assert re.search("FAIL +name +no-such-host.invalid", printed)

    async def test_notices_a_wrong_clock(self):
        async def page(_):
            headers = {"Date": "Sat, 21 Nov 2020 12:00:00 GMT"}
            return web.json_response({"operations": [], "pagination": {"next": None}}, headers=headers)

        app = web.Application()
        app.router.add_get("/v1/Emails/Operations", page)
        async with TestServer(app) as server:
            flag = f"--api.base-url={server.make_url('/v1')}"
            code, printed, _ = await answer("check", flag, environ=CREDENTIALS)

        assert 1 == code
        assert re.search(r"FAIL +clock +\d+ s ahead of the API's", printed)

    async def test_looks_at_every_account(self, accounts, api):
        accounts.write({"name": "good"}, {"name": "bad", "base_url": f"http://127.0.0.1:{unused_port()}/v1"})
        flags = (f"--config.file={accounts.path}", f"--api.base-url={api.url}", "--json")
        code, printed, _ = await answer("check", *flags)

        assert (1, [True, False]) == (code, [report["good"] for report in json.loads(printed)])


class TestReloadUnderWay:
    """In this process, so that every moment of a reload can be met."""

    @pytest.fixture
    async def silent_api(self):
        """An API that takes its time."""

        async def wait(_):
            await asyncio.sleep(60)

        app = web.Application()
        app.router.add_get("/v1/Emails/Operations", wait)
        async with TestServer(app, handler_cancellation=True) as server:
            yield str(server.make_url("/v1"))

    @pytest.fixture
    def start(self, tmp_path, silent_api):
        """Return what starts an exporter of four accounts, whose interval is another at each reload."""
        intervals = itertools.count(10)

        def read():
            listed = [
                {"name": f"a{n}", "account_sid": "ACtest", "auth_token": "canary", "base_url": silent_api}
                for n in range(4)
            ]
            file = tmp_path / "accounts.yml"
            file.write_text(json.dumps({"accounts": listed, "collect": {"interval": f"{next(intervals)}s"}}))
            flags = [f"--config.file={file}", f"--state.path={tmp_path}/state.db", "--web.listen-address=127.0.0.1:0"]
            return load(flags, {}, parser=build_parser())

        log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[])
        return lambda: running(read(), load=read, log=log, redactor=Redactor([]))

    @pytest.mark.parametrize("turns", range(8))
    async def test_being_told_to_stop_in_the_middle_stops_everything(self, start, turns):
        async with asyncio.timeout(20):
            async with start() as (service, _):
                await asyncio.sleep(0)
                loading = asyncio.Event()
                load_states = service._store.load

                async def load_and_tell(*arguments):
                    states = await load_states(*arguments)
                    loading.set()
                    return states

                service._store.load = load_and_tell
                reload = asyncio.create_task(service.reload())
                await loading.wait()
                for _ in range(turns):
                    await asyncio.sleep(0)
            await reload

        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("poll ")]

    async def test_no_account_is_ever_missing_on_the_page(self, start):
        async with start() as (service, (url,)), aiohttp.ClientSession() as session:
            pages = []

            async def look():
                while True:
                    async with session.get(f"{url}/metrics") as response:
                        pages.append((await response.text()).count("\ncomms_up{"))

            looking = asyncio.create_task(look())
            while len(pages) < 20:
                assert await service.reload() is None
            looking.cancel()

        assert {4} == set(pages)

    async def test_a_state_that_cannot_be_read_now_fails_the_reload_and_not_the_next_one(self, start):
        async with start() as (service, _):

            async def unreadable(*_):
                raise StoreError("state.db: database is locked")

            load_states, service._store.load = service._store.load, unreadable
            assert "state.db: database is locked" == await service.reload()
            assert not service.reloads.successful

            service._store.load = load_states
            assert await service.reload() is None
            assert service.reloads.successful

    async def test_a_state_that_is_locked_at_the_start_is_said_in_one_line(self, start, tmp_path, monkeypatch):
        async with start():
            pass
        monkeypatch.setattr(service_module, "SqliteStore", partial(SqliteStore, lock_timeout=0.01))
        with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as somebody:
            somebody.execute("BEGIN IMMEDIATE")
            with pytest.raises(CannotStartError, match=r"state\.db: database is locked"):
                async with start():
                    pass

    async def test_a_reload_that_crashes_is_logged_and_not_the_last(self):
        hangup = asyncio.Event()
        reloads = asyncio.Queue()

        class Crashing:
            async def reload(self):
                reloads.put_nowait("begun")
                raise ZeroDivisionError

        log = Mock()
        task = asyncio.create_task(_reload_on(hangup, Crashing(), log))
        async with asyncio.timeout(10):
            for _ in range(2):
                hangup.set()
                await reloads.get()
        task.cancel()
        await asyncio.wait({task})

        assert log.exception.called
        assert task.cancelled()
