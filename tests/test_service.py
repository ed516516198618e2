"""Several accounts, independent of each other, and reloads of a running process."""

import asyncio
import itertools
import json
import re
import signal
import sqlite3
from contextlib import closing
from functools import partial
from unittest.mock import Mock

import aiohttp
import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer
from process import CREDENTIALS, exporter, run_to_end, scrape, until
from simulated_api import NO_CREDENTIALS, SENT, ConfigFile, SimulatedApi, reload, sample

from comms_exporter import wiring
from comms_exporter.base.redaction import Redactor
from comms_exporter.cli import _reload_on
from comms_exporter.config import build_parser, load
from comms_exporter.expose.exposition import Exposition
from comms_exporter.service import exporter as running
from comms_exporter.store.errors import StoreError
from comms_exporter.store.sqlite import SqliteStore
from comms_exporter.wiring import CannotStartError


@pytest.fixture
async def api():
    async with SimulatedApi() as api:
        yield api


@pytest.fixture
def config_file(tmp_path):
    return ConfigFile(tmp_path / "comms.yml")


class TestManyAccounts:
    async def test_a_hanging_and_a_throttled_account_do_not_affect_the_others(self, config_file, api):
        async with SimulatedApi() as hanging, SimulatedApi() as throttling:
            hanging.faults.add("hang")
            throttling.faults.add("429", retry_after=3600)
            config_file.write(
                {"name": "hanging", "base_url": hanging.url},
                {"name": "throttled", "base_url": throttling.url},
                *[{"name": f"good {n}"} for n in range(48)],
            )
            async with exporter(api.url, *config_file.flags, environ=NO_CREDENTIALS) as process:
                for polls in (5, 10):
                    for n in range(48):
                        await until(
                            process.url, rf'^comms_exporter_polls_total{{account="good {n}"}} ([{polls % 10}-9]|\d\d)'
                        )
                page = await scrape(process.url)

        assert all(1 == sample(page, f'comms_up{{account="good {n}"}}') for n in range(48))
        assert 0 == sample(page, 'comms_exporter_polls_total{account="hanging"}')
        assert 1 == sample(page, 'comms_exporter_polls_total{account="throttled"}')
        assert 1 == sample(page, 'comms_exporter_poll_failures_total{account="throttled",reason="rate_limited"}')
        # Of the hour, only the time that has passed.
        assert 0 < sample(page, 'comms_exporter_rate_limit_wait_seconds_total{account="throttled"}') < 300

    async def test_accounts_have_their_own_counts(self, config_file, api):
        async with SimulatedApi() as other:
            config_file.write({"name": "shop"}, {"name": "news", "base_url": other.url})
            async with exporter(api.url, *config_file.flags, environ=NO_CREDENTIALS) as process:
                await process.until("(?s)account=shop.*account=news|account=news.*account=shop")
                api.world.send(fates=SENT * 3)
                other.world.send(fates=SENT * 5)

                await until(process.url, r'^comms_emails_sent_total{account="shop"} 3\.0$')
                await until(process.url, r'^comms_emails_sent_total{account="news"} 5\.0$')

    async def test_the_page_of_an_operation_knows_its_counters_from_before_a_restart_and_through_reloads(
        self, config_file, api
    ):
        config_file.write({"name": "shop"})
        api.world.set_conditions(stalled=True)
        async with exporter(api.url, *config_file.flags, environ=NO_CREDENTIALS) as process:
            await until(process.url, r'^comms_up{account="shop"} 1')
            sent = api.world.send(fates=SENT * 3)
            await until(process.url, r'^comms_emails_created_total{account="shop"} 3\.0$')
            process.send(signal.SIGTERM)
            assert 0 == await process.ended()
        api.world.set_conditions(stalled=False)
        async with exporter(api.url, *config_file.flags, environ=NO_CREDENTIALS) as process:
            await until(process.url, r'^comms_emails_sent_total{account="shop"} 3\.0$')
            config_file.write({"name": "shop"}, collect={"interval": "200ms"})
            await reload(process)
            page = await scrape(process.url, f"/operation?account=shop&id={sent.id}")

        rows = re.findall(r"ago</time></th>((?:<td>\d+</td>)+)</tr>", page)
        assert [["3", "3"], ["0", "0"]] == [re.findall(r"<td>(\d+)</td>", cells)[:2] for cells in rows]

    async def test_each_account_belongs_to_one_shard(self, config_file, api):
        names = [f"account {n}" for n in range(9)]
        config_file.write(*[{"name": name} for name in names])
        found = []
        for index in range(3):
            flags = (f"--shard.index={index}", "--shard.total=3", f"--config.file={config_file.path}", "--state.path=")
            async with exporter(api.url, *flags, environ=NO_CREDENTIALS) as process:
                page = await scrape(process.url)
            assert 1 == sample(page, f'comms_exporter_shard_info{{shard_index="{index}",shard_total="3"}}')
            found += re.findall('^comms_up{account="(.*)"}', page, re.MULTILINE)
        assert names == sorted(found)

    async def test_an_invalid_shard_is_reported(self):
        code, _, stderr = await run_to_end("--shard.index=3", "--shard.total=3", environ=CREDENTIALS)

        assert (2, 1) == (code, stderr.count("\n"))
        assert "--shard.index" in stderr


class TestReload:
    async def test_accounts_are_added_removed_and_return_without_losing_a_count(self, config_file, api):
        config_file.write({"name": "shop"}, {"name": "news"})
        async with exporter(api.url, *config_file.flags, environ=NO_CREDENTIALS) as process:
            await until(process.url, r'^comms_up{account="news"} 1')
            await until(process.url, r'^comms_up{account="shop"} 1')
            api.world.send(fates=SENT * 3)
            for name in ("shop", "news"):
                await until(process.url, rf'^comms_emails_sent_total{{account="{name}"}} 3\.0$')

            config_file.write({"name": "shop"})
            assert (200, "Reloaded.\n") == await reload(process)
            assert 'account="news"' not in await scrape(process.url)
            api.world.send(fates=SENT * 4)
            await until(process.url, r'^comms_emails_sent_total{account="shop"} 7\.0$')

            config_file.write({"name": "shop"}, {"name": "news"}, {"name": "new"})
            process.send(signal.SIGHUP)
            page = await until(process.url, '^comms_emails_sent_total{account="news"}')
            assert sample(page, 'comms_emails_sent_total{account="news"}') in {3, 7}
            await until(process.url, r'^comms_emails_sent_total{account="news"} 7\.0$')
            await until(process.url, r'^comms_up{account="new"} 1')
            assert 0 == sample(await scrape(process.url), 'comms_emails_sent_total{account="new"}')

    async def test_an_account_with_a_new_key_and_interval_keeps_counting(self, config_file, api):
        config_file.write({"name": "shop"})
        async with exporter(api.url, *config_file.flags[:2], environ=NO_CREDENTIALS) as process:
            await until(process.url, r'^comms_up{account="shop"} 1')
            polls = sample(await scrape(process.url), 'comms_exporter_polls_total{account="shop"}')
            api.world.send(fates=SENT * 3)

            config_file.write({"name": "shop", "auth_token": "rotated-canary"}, collect={"interval": "100ms"})
            await reload(process)

            page = await until(process.url, r'^comms_emails_sent_total{account="shop"} 3\.0$')
            assert 0.1 == sample(page, 'comms_exporter_poll_interval_seconds{account="shop"}')
            assert polls < sample(page, 'comms_exporter_polls_total{account="shop"}')

    async def test_an_invalid_file_keeps_the_current_settings_and_returns_the_error(self, config_file, api):
        config_file.write({"name": "shop"})
        async with exporter(api.url, *config_file.flags, environ=NO_CREDENTIALS) as process:
            await until(process.url, r'^comms_up{account="shop"} 1')
            assert 1 == sample(await scrape(process.url), "comms_exporter_config_last_reload_successful")
            config_file.path.write_text("accounts: [{name: shop, auth_tokken: canary-xyz}]")

            status, text = await reload(process)

            assert 500 == status
            assert "auth_tokken" in text
            assert "canary-xyz" not in text + process.stderr
            page = await scrape(process.url)
            assert 0 == sample(page, "comms_exporter_config_last_reload_successful")
            assert 1 == sample(page, 'comms_up{account="shop"}')
            await process.until("reload failed")

            config_file.write({"name": "shop"})
            assert 200 == (await reload(process))[0]
            assert 1 == sample(await scrape(process.url), "comms_exporter_config_last_reload_successful")

    async def test_a_throttled_account_keeps_backing_off(self, config_file, api):
        api.faults.add("429", retry_after=3600)
        config_file.write({"name": "shop"})
        async with exporter(api.url, *config_file.flags, environ=NO_CREDENTIALS) as process:
            await until(process.url, "^comms_exporter_polls_total.* 1")

            config_file.write({"name": "shop", "auth_token": "another-canary"}, api={"page_size": 7})
            await reload(process)

            page = await scrape(process.url)
            assert 1 == sample(page, 'comms_exporter_polls_total{account="shop"}')
            assert 0.2 == sample(page, 'comms_exporter_poll_interval_seconds{account="shop"}')

    async def test_changed_settings_that_need_a_restart_are_logged(self, config_file, api):
        config_file.write({"name": "shop"})
        async with exporter(api.url, *config_file.flags, environ=NO_CREDENTIALS) as process:
            config_file.write({"name": "shop"}, log={"level": "debug"})
            await reload(process)
            await process.until("changed settings take effect after a restart.*log_level")


class TestReloadInProcess:
    """In this process, so that tests control every moment of a reload."""

    @pytest.fixture
    async def silent_api(self):
        """An API that does not respond in time."""

        async def wait(_):
            await asyncio.sleep(60)

        app = web.Application()
        app.router.add_get("/v1/Emails/Operations", wait)
        async with TestServer(app, handler_cancellation=True) as server:
            yield str(server.make_url("/v1"))

    @pytest.fixture
    def start(self, tmp_path, silent_api):
        """Return a function that starts an exporter of four accounts; each reload changes their interval."""
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
    async def test_a_stop_during_a_reload_stops_all_poll_loops(self, start, turns):
        async with asyncio.timeout(20):
            async with start() as (service, _):
                await asyncio.sleep(0)
                loading = asyncio.Event()
                load_states = service._store.load

                async def load_and_signal(*arguments):
                    states = await load_states(*arguments)
                    loading.set()
                    return states

                service._store.load = load_and_signal
                reload = asyncio.create_task(service.reload())
                await loading.wait()
                for _ in range(turns):
                    await asyncio.sleep(0)
            await reload

        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("poll ")]

    async def test_no_account_is_missing_from_a_page_during_reloads(self, start):
        async with start() as (service, (url,)), aiohttp.ClientSession() as session:
            pages = []

            async def scrape_repeatedly():
                while True:
                    async with session.get(f"{url}/metrics") as response:
                        pages.append((await response.text()).count("\ncomms_up{"))

            scraping = asyncio.create_task(scrape_repeatedly())
            while len(pages) < 20:
                assert await service.reload() is None
            scraping.cancel()

        assert {4} == set(pages)

    async def test_a_reload_fails_while_the_state_is_unreadable_and_the_next_one_succeeds(self, start):
        async with start() as (service, _):

            async def unreadable(*_):
                raise StoreError("state.db: database is locked")

            load_states, service._store.load = service._store.load, unreadable
            assert "state.db: database is locked" == await service.reload()
            assert not service.reloads.successful

            service._store.load = load_states
            assert await service.reload() is None
            assert service.reloads.successful

    async def test_a_start_with_a_locked_state_fails_with_one_line(self, start, tmp_path, monkeypatch):
        async with start():
            pass
        monkeypatch.setattr(wiring, "SqliteStore", partial(SqliteStore, lock_timeout=0.01))
        with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(CannotStartError, match=r"state\.db: database is locked"):
                async with start():
                    pass

    async def test_a_crashed_reload_is_logged_and_the_next_one_runs(self):
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


class TestRequestLimit:
    async def test_scrapes_beyond_the_limit_are_rejected(self, monkeypatch):
        writing, resumed = asyncio.Event(), asyncio.Event()
        body = Exposition.body

        async def slow_body(*arguments, **options):
            writing.set()
            await resumed.wait()
            return await body(*arguments, **options)

        monkeypatch.setattr(Exposition, "body", slow_body)
        flags = [
            "--api.base-url=http://127.0.0.1:1",
            "--web.listen-address=127.0.0.1:0",
            "--web.max-requests=1",
            "--state.path=",
        ]
        settings = load(flags, CREDENTIALS, parser=build_parser())
        log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[])
        service = running(settings, load=Mock(), log=log, redactor=Redactor([]))
        async with service as (_, (url,)), aiohttp.ClientSession() as session:
            first = asyncio.create_task(session.get(f"{url}/metrics"))
            await writing.wait()
            async with session.get(f"{url}/metrics") as second:
                assert 503 == second.status
            resumed.set()
            async with await first as answer:
                assert 200 == answer.status
