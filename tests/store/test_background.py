"""The store in its thread: the last save of a process that stops."""

import asyncio
import threading

import pytest
import structlog
from operations import NOW, apply, listing, operation

from comms_exporter.collect.state import AccountState
from comms_exporter.store import background, sqlite
from comms_exporter.store.background import BackgroundStore
from comms_exporter.store.errors import StateInUseError, StateLostError, StoreError
from comms_exporter.store.sqlite import SqliteStore

LOG = structlog.wrap_logger(structlog.ReturnLogger(), processors=[])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.db"


@pytest.fixture
async def store(path):
    store = BackgroundStore(lambda deadline: SqliteStore(path, deadline=deadline), log=LOG)
    await store.open()
    return store


@pytest.fixture
def state():
    state = AccountState()
    apply(state, listing(sweep=True, at=NOW - 60))
    apply(state, listing(operation("a", total=5, sent=3)))
    return state


def saved_totals(path):
    store = SqliteStore(path)
    saved = store.load(["shop"])
    store.close()
    return list(saved["shop"].totals)


class TestLoading:
    async def test_accounts_that_were_saved_are_loaded(self, store, state):
        await store.saver("shop")(state.snapshot())

        saved = await store.load(["shop", "new"])

        assert {"shop": state.tracked} == {name: account.tracked for name, account in saved.items()}
        store.close({})

    async def test_without_a_store_nothing_is_loaded_or_saved(self, state):
        store = BackgroundStore(None, log=LOG)
        await store.open()

        assert {} == await store.load(["shop"])
        assert store.saver("shop") is None
        store.close({"shop": state})


class TestClosing:
    async def test_what_is_not_saved_yet_is_saved_at_the_end(self, store, state, path):
        await store.saver("shop")(state.snapshot())
        apply(state, listing(operation("b", total=2)))
        store.close({"shop": state})

        assert state.totals == saved_totals(path)

    async def test_everything_is_saved_again_if_the_file_is_lost(self, store, state, path):
        await store.saver("shop")(state.snapshot())
        for file in path.parent.iterdir():
            file.unlink()
        apply(state, listing(operation("b", total=2)))
        store.close({"shop": state})

        assert state.totals == saved_totals(path)

    async def test_a_save_that_takes_too_long_is_interrupted(self, store, state, path, monkeypatch):
        monkeypatch.setattr(background, "CLOSING_SECONDS", 0.2)
        begun = threading.Event()

        def endless(connection, *_):
            begun.set()
            connection.execute(
                "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
            ).fetchone()

        await store.saver("shop")(state.snapshot())
        monkeypatch.setattr(sqlite, "_save", endless)
        saving = asyncio.create_task(store.saver("shop")(state.snapshot()))
        await asyncio.to_thread(begun.wait)
        store.close({})

        with pytest.raises(StoreError, match="interrupted"):
            await saving
        assert state.totals == saved_totals(path)


class MemoryStore:
    """A store without a database, which loses everything when told to."""

    def __init__(self):
        self.saves = []
        self.lost = False
        self.closed = False

    def load(self, names):
        return {}

    def save(self, account, snapshot):
        if self.lost and not snapshot.is_complete:
            raise StateLostError("lost")
        self.saves.append((account, list(snapshot.changed)))

    def interrupt(self):
        pass

    def close(self):
        self.closed = True


class TestOtherStores:
    """A store needs nothing but the methods of the protocol."""

    async def test_changes_are_saved_and_everything_if_it_was_lost(self, state):
        memory = MemoryStore()
        store = BackgroundStore(lambda _: memory, log=LOG)
        await store.open()
        await store.saver("shop")(state.snapshot())
        apply(state, listing(operation("b", total=2)))
        await store.saver("shop")(state.snapshot())
        memory.lost = True
        apply(state, listing(operation("c", total=2)))

        store.close({"shop": state})

        assert [("shop", ["a"]), ("shop", ["b"]), ("shop", ["c", "a", "b"])] == memory.saves
        assert memory.closed

    async def test_the_reason_why_one_cannot_be_opened_is_raised(self):
        def refuse(_):
            raise StateInUseError("in use")

        store = BackgroundStore(refuse, log=LOG)
        with pytest.raises(StateInUseError):
            await store.open()
        store.close({})
