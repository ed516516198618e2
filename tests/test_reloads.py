"""After any history of reloads, exactly the accounts of the last valid settings are polled."""

import asyncio
import itertools
import json
import os
import random
import time
from contextlib import asynccontextmanager
from functools import partial

import pytest
import structlog
from aiohttp.test_utils import TestServer

from comms_exporter.base.redaction import Redactor
from comms_exporter.collect.poller import Poller
from comms_exporter.collect.shards import is_in_shard
from comms_exporter.collect.supervisor import PollLoopEndedError
from comms_exporter.config import build_parser, load
from comms_exporter.service import exporter
from comms_exporter.simulator import World, make_app
from comms_exporter.store.errors import StoreError

SOAK = int(os.environ.get("SOAK", "1"))
NAMES = [f"a{n}" for n in range(6)]
STEPS = 40


@pytest.fixture
async def api():
    async with TestServer(make_app(World(clock=time.time))) as server:
        yield server


@pytest.fixture
def polled_twice(monkeypatch):
    """Return the accounts that two pollers polled at the same time."""
    running, twice = {}, []
    run = Poller.run

    async def run_alone(self, **timing):
        if id(self.state) in running:
            twice.append(self.name)
        running[id(self.state)] = self
        try:
            await run(self, **timing)
        finally:
            del running[id(self.state)]

    monkeypatch.setattr(Poller, "run", run_alone)
    return twice


class Files:
    """The files of an exporter; calls in *during* run once, after it has loaded its settings and before it applies them."""

    def __init__(self, folder, api):
        self._folder = folder
        self._api = api
        self.accounts = dict.fromkeys(NAMES[:4], "127.0.0.1")
        self.other = {}
        self.during = []
        for name in NAMES:
            self.secret(name).write_text("canary-token")
        self.write()

    def secret(self, name):
        return self._folder / f"{name}.token"

    def write(self):
        listed = [
            {
                "name": name,
                "account_sid": "ACtest",
                "auth_token_file": str(self.secret(name)),
                "base_url": f"http://{host}:{self._api.port}/v1",
            }
            for name, host in self.accounts.items()
        ]
        content = {"accounts": listed, "collect.interval": "30ms", "state.path": "state.db", **self.other}
        (self._folder / "comms.yml").write_text(json.dumps(content))

    def load(self):
        flags = [f"--config.file={self._folder / 'comms.yml'}", "--web.listen-address=127.0.0.1:0"]
        settings = load(flags, {}, parser=build_parser())
        while self.during:
            self.during.pop()()
        return settings

    @asynccontextmanager
    async def exporter(self):
        log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[])
        async with exporter(self.load(), load=self.load, log=log, redactor=Redactor([])) as (service, _):
            yield service


async def all_are_polled(service):
    """Wait until every account of the settings in effect was polled again."""
    settings = service.settings
    names = {
        account.name
        for account in settings.accounts
        if is_in_shard(account.name, index=settings.shard_index, total=settings.shard_total)
    }
    before = {poller.name: poller.health.polls for poller in service.supervisor.pollers}
    assert names == before.keys()
    dead = names
    for _ in range(500):
        dead = {poller.name for poller in service.supervisor.pollers if poller.health.polls == before[poller.name]}
        if not dead:
            break
        await asyncio.sleep(0.02)
    assert set() == dead
    tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("poll ")]
    assert sorted(f"poll {name}" for name in names) == sorted(task.get_name() for task in tasks)


def names_of(service):
    return [poller.name for poller in service.supervisor.pollers]


class History:
    """A random history: each step changes a file, or reloads."""

    def __init__(self, files, service, rng):
        self._files = files
        self._service = service
        self._random = rng
        self._load_states = service._store.load
        self.reloads = 0
        self.succeeded = 0

    async def step(self):
        step = self._random.choice([
            self._remove_secret, self._remove_secret, self._write_secret, self._write_secret,
            self._restore_secrets, self._restore_secrets, self._restore_secrets, self._add_account,
            self._remove_account, self._change_account, self._change_setting, self._change_setting,
            self._break_file, self._repair_file,
            self._reload, self._reload, self._reload, self._reload_while_secrets_are_removed,
            self._reload_while_secrets_are_removed, self._reload_concurrently,
            self._cancel_reload, self._reload_while_the_state_is_locked,
        ])  # fmt: skip
        await step()

    async def _remove_secret(self):
        secret = self._files.secret(self._random.choice(NAMES))
        if self._random.random() < 0.5:
            secret.unlink(missing_ok=True)
        else:
            secret.write_text("")

    async def _write_secret(self):
        self._files.secret(self._random.choice(NAMES)).write_text(f"canary-token-{self._random.random()}")

    async def _restore_secrets(self):
        for name in NAMES:
            self._files.secret(name).write_text("canary-token")

    async def _add_account(self):
        self._files.accounts.setdefault(self._random.choice(NAMES), "127.0.0.1")
        self._files.write()

    async def _remove_account(self):
        if len(self._files.accounts) > 1:
            del self._files.accounts[self._random.choice(list(self._files.accounts))]
        self._files.write()

    async def _change_account(self):
        name = self._random.choice(list(self._files.accounts))
        self._files.accounts[name] = self._random.choice(["127.0.0.1", "localhost"])
        self._files.write()

    async def _change_setting(self):
        self._files.other = self._random.choice([
            {"api.page-size": self._random.randint(1, 1000)},
            {"collect.interval": f"{self._random.randint(20, 60)}ms"},
            {"collect.stats-reading": self._random.choice(["auto", "cumulative", "exclusive"])},
            {"shard.total": 2, "shard.index": self._random.randint(0, 1)},
        ])  # fmt: skip
        self._files.write()

    async def _break_file(self):
        self._files.other = {"collect.intervall": "30ms"}
        self._files.write()

    async def _repair_file(self):
        self._files.other = {}
        self._files.write()

    async def _reload(self, *, predictable=True):
        before = self._service.settings
        can_succeed = "collect.intervall" not in self._files.other and all(
            secret.exists() and secret.read_text() for secret in map(self._files.secret, self._files.accounts)
        )
        error = await self._service.reload()
        assert not predictable or can_succeed == (error is None)
        self.reloads += 1
        self.succeeded += error is None
        assert self._service.reloads.successful == (error is None)
        assert (self._service.settings is before) == (error is not None)

    async def _reload_while_secrets_are_removed(self):
        """As in a rotation: after the settings are loaded, a file is missing for a moment."""
        await self._restore_secrets()
        self._files.other = {"api.page-size": self._random.randint(1, 1000)}
        self._files.write()
        self._files.during = [
            partial(self._files.secret(name).unlink, missing_ok=True)
            for name in self._files.accounts
            if self._random.random() < 0.5
        ]
        await self._reload(predictable=False)
        self._files.during.clear()

    async def _reload_concurrently(self):
        results = await asyncio.gather(*[self._service.reload() for _ in range(3)])
        self.reloads += 3
        self.succeeded += results.count(None)

    async def _cancel_reload(self):
        reload = asyncio.create_task(self._service.reload())
        self.reloads += 1
        for _ in range(self._random.randint(0, 60)):
            await asyncio.sleep(0 if self._random.random() < 0.9 else 0.001)
        reload.cancel()
        await asyncio.wait({reload})

    async def _reload_while_the_state_is_locked(self):
        async def locked(*_):
            raise StoreError("state.db: database is locked")

        self._service._store.load = locked
        await self._reload(predictable=False)
        self._service._store.load = self._load_states


class TestHistories:
    @pytest.mark.parametrize("seed", range(5 * SOAK))
    async def test_the_accounts_of_the_last_valid_settings_are_polled(self, seed, tmp_path, api, polled_twice):
        files = Files(tmp_path, api)
        async with files.exporter() as service:
            history = History(files, service, random.Random(seed))
            for _ in range(4):
                for _ in range(STEPS // 4):
                    await history.step()
                await all_are_polled(service)
            await history._restore_secrets()
            await history._repair_file()
            await history._reload()
            await all_are_polled(service)
        assert history.succeeded > 0
        assert [] == polled_twice
        print(f"seed {seed}: {history.reloads} reloads, {history.succeeded} of them successful, every account polled")  # noqa: T201


class TestReload:
    async def test_fails_if_a_secret_file_disappears_meanwhile_and_stops_no_poller(self, tmp_path, api, polled_twice):
        files = Files(tmp_path, api)
        async with files.exporter() as service:
            await all_are_polled(service)
            before = service.supervisor.pollers
            files.other = {"collect.interval": "50ms"}
            files.write()
            # By then, the pollers of three accounts could have been built.
            files.during = [files.secret("a3").unlink]

            assert "account a3: cannot read" in await service.reload()
            assert before == service.supervisor.pollers
            assert [0.03] * 4 == [poller.health.interval_seconds for poller in service.supervisor.pollers]
            await all_are_polled(service)

            files.secret("a3").write_text("canary-token")
            assert await service.reload() is None
            assert [0.05] * 4 == [poller.health.interval_seconds for poller in service.supervisor.pollers]
            await all_are_polled(service)

    async def test_adds_and_removes_accounts_by_their_files(self, tmp_path, api):
        """A file that is wrong changes nothing."""
        files = Files(tmp_path, api)
        folder = tmp_path / "accounts.d"
        folder.mkdir()
        files.other = {"accounts_dir": "accounts.d"}
        files.write()
        account = f"{{account_sid: ACtest, auth_token: t, base_url: 'http://127.0.0.1:{api.port}/v1'}}"
        async with files.exporter() as service:
            await all_are_polled(service)
            listed = service.supervisor.pollers
            for name in ("shop", "blog"):
                (folder / f"{name}.yml").write_text(account)
            assert await service.reload() is None
            assert [*listed, "blog", "shop"] == [*service.supervisor.pollers[:4], *names_of(service)[4:]]
            await all_are_polled(service)

            (folder / "blog.yml").unlink()
            (folder / "shop.yaml").write_text(account)
            assert 'shop.yml: name: "shop" is already the name of' in await service.reload()
            assert ["blog", "shop"] == names_of(service)[4:]

            (folder / "shop.yaml").unlink()
            assert await service.reload() is None
            assert [*listed, "shop"] == [*service.supervisor.pollers[:4], *names_of(service)[4:]]
            await all_are_polled(service)

    async def test_replaces_a_poll_loop_that_has_stopped(self, tmp_path, api):
        files = Files(tmp_path, api)
        async with files.exporter() as service:
            task = next(task for task in asyncio.all_tasks() if task.get_name() == "poll a2")
            task.cancel()
            await asyncio.wait({task})

            assert await service.reload() is None
            await all_are_polled(service)

    async def test_takes_effect_even_if_cancelled_while_old_pollers_stop(self, tmp_path, api, monkeypatch):
        """Stopped pollers cannot be restarted."""
        stopping, may_stop = asyncio.Event(), asyncio.Event()
        run = Poller.run

        async def run_and_stop_slowly(self, **timing):
            try:
                await run(self, **timing)
            finally:
                stopping.set()
                await may_stop.wait()

        monkeypatch.setattr(Poller, "run", run_and_stop_slowly)
        files = Files(tmp_path, api)
        async with files.exporter() as service:
            await all_are_polled(service)
            del files.accounts["a0"]
            files.other = {"api.page-size": 7}
            files.write()
            reload = asyncio.create_task(service.reload())
            await stopping.wait()
            for _ in range(3):
                reload.cancel()
                await asyncio.sleep(0)
            may_stop.set()
            await asyncio.wait({reload})

            assert reload.cancelled()
            assert NAMES[1:4] == [poller.name for poller in service.supervisor.pollers]
            assert 7 == service.settings.api_page_size
            await all_are_polled(service)

    async def test_the_exposed_shard_is_the_current_one(self, tmp_path, api):
        files = Files(tmp_path, api)
        async with files.exporter() as service:
            for index, total in itertools.chain([(0, 1)], [(n, 3) for n in range(3)]):
                files.other = {"shard.index": index, "shard.total": total}
                files.write()
                assert await service.reload() is None

                page = b"".join((await service.exposition.body(openmetrics=False)).chunks).decode()
                expected = f'comms_exporter_shard_info{{shard_index="{index}",shard_total="{total}"}} 1.0'
                assert [expected] == [
                    line for line in page.splitlines() if line.startswith("comms_exporter_shard_info{")
                ]


class TestPollLoop:
    @pytest.mark.parametrize("how", ["returns", "awaits something that was cancelled"])
    async def test_one_that_ends_by_itself_ends_the_exporter(self, how, tmp_path, api, monkeypatch):
        async def run(_, **timing):
            if how != "returns":
                raise asyncio.CancelledError

        files = Files(tmp_path, api)
        monkeypatch.setattr(Poller, "run", run)
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.timeout(10), files.exporter():
                await asyncio.Event().wait()

        assert {PollLoopEndedError} == {type(each) for each in caught.value.exceptions}
        assert "the poll loop of the account a0 has ended by itself" in str(caught.value.exceptions[0])
