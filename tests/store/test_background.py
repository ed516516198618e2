"""The store in its thread: the last save of a process that stops, and damage in the log."""

import asyncio
import threading
from unittest.mock import Mock

import pytest
import structlog
from operations import NOW, apply, listing, operation

from comms_exporter.collect.state import AccountState
from comms_exporter.store import background as background_module
from comms_exporter.store import sqlite as store_module
from comms_exporter.store.background import BackgroundStore
from comms_exporter.store.sqlite import StateLostError, Store, StoreError


class TestBackgroundStore:
    @pytest.fixture
    async def store(self, tmp_path):
        store = BackgroundStore(tmp_path / "state.db", structlog.wrap_logger(structlog.ReturnLogger(), processors=[]))
        await store.open()
        return store

    @pytest.fixture
    def state(self):
        state = AccountState()
        apply(state, listing(sweep=True, at=NOW - 60))
        apply(state, listing(operation("a", total=5, sent=3)))
        return state

    def saved(self, tmp_path):
        store = Store(tmp_path / "state.db")
        states = {"shop": AccountState()}
        store.load(states)
        store.close()
        return states["shop"].totals

    async def test_what_is_not_saved_yet_is_saved_at_the_end(self, store, state, tmp_path):
        snapshot = state.snapshot()
        await store.saver("shop")(snapshot)
        apply(state, listing(operation("b", total=2)))
        store.close({"shop": state})

        assert state.totals == self.saved(tmp_path)

    async def test_also_if_the_file_is_lost(self, store, state, tmp_path):
        await store.saver("shop")(state.snapshot())
        for file in tmp_path.iterdir():
            file.unlink()
        apply(state, listing(operation("b", total=2)))
        store.close({"shop": state})

        assert state.totals == self.saved(tmp_path)

    async def test_what_takes_too_long_is_broken_off(self, store, state, tmp_path, monkeypatch):
        monkeypatch.setattr(background_module, "CLOSING_SECONDS", 0.2)
        before = state.totals.copy()
        await store.saver("shop")(state.snapshot())
        begun = threading.Event()

        def endless(*_):
            begun.set()
            store._store._connection.execute(
                "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
            ).fetchone()

        monkeypatch.setattr(store_module, "_save", endless)
        saving = asyncio.create_task(store.saver("shop")(state.snapshot()))
        await asyncio.to_thread(begun.wait)
        store.close({})

        with pytest.raises(StoreError, match="interrupted"):
            await saving
        assert before == self.saved(tmp_path)

    async def test_damage_that_a_save_finds_is_told_once(self, state, tmp_path):
        log = Mock()
        store = BackgroundStore(tmp_path / "state.db", log)
        await store.open()
        save = store.saver("shop")
        await save(state.snapshot())
        store._store._disconnect()
        (tmp_path / "state.db").write_bytes(b"noise" * 5000)
        for _ in range(2):
            with pytest.raises(StateLostError):
                await save(state.snapshot())
        store.close({})

        (call,) = log.error.call_args_list
        assert "state file is damaged: renamed it and saving everything again" == call.args[0]
        assert call.kwargs["renamed_to"].startswith(str(tmp_path / "state.db.corrupt-"))
