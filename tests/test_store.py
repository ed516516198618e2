"""What was counted outlives the process; what cannot be read is put aside, and a bad disk is told and outlived."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import contextmanager

import pytest
from operations import NOW, apply, listing, operation

from comms_exporter import store as store_module
from comms_exporter.state import AccountState
from comms_exporter.stats import Reading
from comms_exporter.store import APPLICATION_ID, StateInUseError, StateLostError, Store, StoreError

HISTORY = [
    operation("a", total=5, queued=2, sent=3),
    operation("b", status="COMPLETED", updated=NOW + 40, total=2, sent=2, delivered=2, opened=1),
    operation("c", status="PAUSED", total=1, recipients=None, attempts=None, queued=1),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "state.db"


@pytest.fixture
def store(path):
    store = Store(path, clock=lambda: NOW)
    yield store
    store.close()


@pytest.fixture
def state():
    """An account that has counted."""
    state = AccountState()
    apply(state, listing(operation("before", status="COMPLETED", created=NOW - 99), sweep=True, at=NOW - 60))
    apply(state, listing(*HISTORY))
    state.lost("c")
    return state


@contextmanager
def database(path):
    connection = sqlite3.connect(path)
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def saved(store, state, name="shop"):
    store.save(name, state.snapshot())


def loaded(path, *names):
    """Return the states of accounts as a new process finds them, and where the old file went if it was bad."""
    store = Store(path, clock=lambda: NOW)
    try:
        states = {name: AccountState() for name in names or ("shop",)}
        store.load(states)
    finally:
        store.close()
    return states, store.put_aside


def memory(state):
    """Return all of *state* that matters."""
    durations = state.durations
    return (
        state.tracked,
        state.totals,
        state.first_look,
        state.horizon,
        state.seen,
        (durations.bounds, durations.counts, durations.sum),
    )


class TestSaving:
    def test_a_new_process_finds_what_the_old_one_knew(self, store, state, path):
        saved(store, state)
        store.close()

        states, _ = loaded(path)

        assert memory(state) == memory(states["shop"])
        assert state.tracked["b"].reading is Reading.CUMULATIVE

    def test_only_what_changed_is_written(self, store, state, path):
        saved(store, state)
        apply(state, listing(operation("a", updated=NOW + 50, total=5, sent=5)))
        snapshot = state.snapshot()
        assert ["a"] == list(snapshot.changed)
        store.save("shop", snapshot)
        store.close()

        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_a_large_save_does_not_keep_the_disk(self, store, state, path):
        log = path.with_name("state.db-wal")
        apply(state, listing(*[operation(f"more {n}", total=1) for n in range(100_000)]))
        saved(store, state)
        assert log.stat().st_size > store_module._LARGEST_LOG
        for n in range(3):
            apply(state, listing(operation("a", updated=NOW + 50 + n, total=5, sent=5 + n)))
            saved(store, state)

        assert log.stat().st_size <= store_module._LARGEST_LOG

    def test_what_is_forgotten_is_removed(self, store, state, path):
        saved(store, state)
        apply(state, listing(sweep=True, at=NOW + 8 * 86400))
        saved(store, state)
        store.close()

        with database(path) as connection:
            assert [("a",)] == connection.execute("SELECT id FROM operations").fetchall()
        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_accounts_are_kept_apart(self, store, state, path):
        saved(store, state, "shop")
        other = AccountState()
        apply(other, listing(operation("a", total=7), sweep=True))
        saved(store, other, "other")
        store.close()

        states, _ = loaded(path, "shop", "other", "new")

        assert memory(state) == memory(states["shop"])
        assert memory(other) == memory(states["other"])
        assert memory(AccountState()) == memory(states["new"])

    def test_before_the_first_look_there_is_nothing_to_save(self):
        assert AccountState().snapshot() is None

    def test_a_snapshot_is_not_changed_by_what_comes_later(self, state):
        snapshot = state.snapshot()
        before = repr(snapshot)

        apply(state, listing(operation("a", updated=NOW + 50, total=5, sent=5, delivered=5), sweep=True, at=NOW + 99))

        assert before == repr(snapshot)

    def test_a_reading_that_is_forced_stays_forced(self, store, state, path):
        saved(store, state)
        states = {"shop": AccountState(forced_reading=Reading.EXCLUSIVE)}

        store.load(states)

        assert states["shop"].forced_reading is Reading.EXCLUSIVE

    def test_all_or_nothing(self, store, state, path, monkeypatch):
        """A save that fails half-way has not happened."""
        saved(store, state)
        before = memory(loaded_beside(path))
        apply(state, listing(operation("a", updated=NOW + 50, total=5, sent=5), operation("d", total=9)))
        original = store_module._row
        monkeypatch.setattr(store_module, "_row", lambda *args: fail() if "d" in repr(args) else original(*args))

        with pytest.raises(StoreError, match="disk is full"):
            store.save("shop", state.snapshot())

        assert before == memory(loaded_beside(path))


def fail():
    raise sqlite3.OperationalError("database or disk is full")


def loaded_beside(path):
    """Return what another reader of the file sees."""
    with database(path) as connection:
        return store_module._load(connection, "shop", AccountState())


class TestOpening:
    def test_a_second_process_is_refused(self, store, path):
        script = "import sys, pathlib; from comms_exporter.store import Store; Store(pathlib.Path(sys.argv[1]))"
        run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)

        assert 1 == run.returncode
        assert f"StateInUseError: {path} is in use by another process" in run.stderr
        with pytest.raises(StateInUseError):
            Store(path)

    def test_others_may_read_it_meanwhile(self, store, state, path):
        saved(store, state)

        assert memory(state) == memory(loaded_beside(path))

    @pytest.mark.parametrize(
        "content",
        [b"not a database at all", b"SQLite format 3\x00" + b"\x00" * 84, os.urandom(8192)],
        ids=["text", "header", "noise"],
    )
    def test_a_corrupt_file_is_put_aside(self, path, content):
        path.parent.mkdir()
        path.write_bytes(content)

        states, aside = loaded(path)

        assert aside.name == "state.db.corrupt-20261121T120000Z"
        assert content == aside.read_bytes()
        assert memory(AccountState()) == memory(states["shop"])

    def test_a_second_one_does_not_overwrite_the_first(self, path):
        path.parent.mkdir()
        for content in (b"first" * 99, b"second" * 99):
            path.write_bytes(content)
            loaded(path)

        assert b"first" * 99 == path.with_name("state.db.corrupt-20261121T120000Z").read_bytes()
        assert b"second" * 99 == path.with_name("state.db.corrupt-20261121T120000Z-2").read_bytes()

    def test_a_damaged_page_is_noticed(self, store, state, path):
        for n in range(500):
            apply(state, listing(operation(f"more {n}", total=1)))
        saved(store, state)
        store.close()
        content = bytearray(path.read_bytes())
        content[4096 * 5 : 4096 * 7] = os.urandom(8192)
        path.write_bytes(content)

        states, aside = loaded(path)

        assert aside is not None
        assert memory(AccountState()) == memory(states["shop"])

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE operations SET marks = '[1, 2]'",
            "UPDATE operations SET stats = 'x'",
            "UPDATE operations SET reading = 'sideways'",
            "UPDATE accounts SET totals = '[]'",
            'UPDATE accounts SET durations = \'{"bounds": [], "counts": [], "sum": 0}\'',
            "DROP TABLE operations",
            "DROP TABLE file",
            "DELETE FROM file",
        ],
    )
    def test_content_that_makes_no_sense_is_put_aside(self, store, state, path, change):
        saved(store, state)
        store.close()
        with database(path) as connection:
            connection.execute(change)

        states, aside = loaded(path)

        assert aside is not None
        assert memory(AccountState()) == memory(states["shop"])

    def test_the_database_of_another_program_is_put_aside_unharmed(self, path):
        path.parent.mkdir()
        with database(path) as connection:
            connection.execute("CREATE TABLE theirs (x)")
        content = path.read_bytes()

        _, aside = loaded(path)

        assert content == aside.read_bytes()

    def test_so_is_one_of_a_later_version(self, store, path):
        store.close()
        with database(path) as connection:
            connection.execute("PRAGMA user_version = 99")

        assert loaded(path)[1] is not None

    def test_rows_of_the_first_version_are_read(self, store, state, path):
        """It wrote counters and marks as JSON."""
        saved(store, state)
        store.close()
        with database(path) as connection:
            for each in state.tracked.values():
                row = json.dumps(each.operation.stats), json.dumps(each.marks), each.operation.id
                connection.execute("UPDATE operations SET stats = ?, marks = ? WHERE id = ?", row)
            connection.execute("PRAGMA user_version = 1")

        states, aside = loaded(path)

        assert aside is None
        assert memory(state) == memory(states["shop"])

    @pytest.mark.parametrize("stats", ["[1]", "[1,2,3,4,5,6,7,8,9,10,1e999]", b"short"])
    def test_counters_that_are_none_cost_the_file_not_the_process(self, store, state, path, stats):
        saved(store, state)
        store.close()
        with database(path) as connection:
            connection.execute("UPDATE operations SET stats = ?", [stats])

        states, aside = loaded(path)

        assert aside is not None
        assert memory(AccountState()) == memory(states["shop"])

    def test_one_of_an_earlier_version_is_brought_forward(self, store, state, path, monkeypatch):
        saved(store, state)
        store.close()
        later = (*store_module.MIGRATIONS, "ALTER TABLE accounts ADD COLUMN color TEXT", "CREATE TABLE more (x)")
        monkeypatch.setattr(store_module, "MIGRATIONS", later)

        states, aside = loaded(path)

        assert aside is None
        assert memory(state) == memory(states["shop"])
        with database(path) as connection:
            assert [(len(later),)] == connection.execute("PRAGMA user_version").fetchall()
            assert [(APPLICATION_ID,)] == connection.execute("PRAGMA application_id").fetchall()

    @pytest.mark.parametrize("name", ["", "file/state.db"])
    def test_a_place_where_no_file_can_be_is_said(self, tmp_path, name):
        (tmp_path / "file").touch()

        with pytest.raises(StoreError, match=str(tmp_path)):
            Store(tmp_path / name)


class TestTrouble:
    def test_a_file_that_somebody_else_locks_is_not_put_aside(self, store, state, path):
        saved(store, state)
        store.close()
        with database(path) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")

            with pytest.raises(StoreError, match="locked"):
                Store(path, patience=0)

        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_a_file_that_was_removed_is_written_anew(self, store, state, path):
        saved(store, state)
        for file in path.parent.iterdir():
            file.unlink()

        with pytest.raises(StateLostError, match="removed or replaced"):
            store.save("shop", state.snapshot())
        state.save_everything()
        saved(store, state)
        store.close()

        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_an_older_copy_that_was_put_in_its_place_is_written_anew(self, store, state, path):
        """Its marks are older than the totals: together they would count twice."""
        saved(store, state)
        store._disconnect()
        older = path.read_bytes()
        apply(state, listing(operation("a", updated=NOW + 50, total=5, sent=5)))
        saved(store, state)
        store._disconnect()
        path.write_bytes(older)

        with pytest.raises(StateLostError):
            store.save("shop", state.snapshot())
        state.save_everything()
        saved(store, state)
        store.close()

        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_a_disk_that_is_full_is_outlived(self, store, state, path):
        saved(store, state)
        store._connection.execute("PRAGMA max_page_count = 1")
        apply(state, listing(*[operation(f"more {n}", total=1) for n in range(999)]))

        snapshot = state.snapshot()
        with pytest.raises(StoreError, match="full"):
            store.save("shop", snapshot)
        state.not_saved(snapshot)
        # The next connection has no such limit.
        saved(store, state)
        store.close()

        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_every_account_is_told_of_a_file_that_was_replaced(self, store, state, path):
        """Not only the one that saves first: what the file lacks of the others would count again after a restart."""
        other = AccountState()
        apply(other, listing(sweep=True, at=NOW - 60))
        apply(other, listing(operation("x", total=500, sent=500), operation("y", total=3)))
        saved(store, state, "shop")
        saved(store, other, "other")
        for file in path.parent.glob("state.db*"):
            if not file.name.endswith(".lock"):
                file.unlink()
        for name, each in (("shop", state), ("other", other)):
            apply(each, listing(operation("late", total=1)))
            snapshot = each.snapshot()
            for _ in range(2):  # whoever did not hear it the first time, because it was cancelled, hears it again
                with pytest.raises(StateLostError):
                    store.save(name, snapshot)
            each.not_saved(snapshot)
            each.save_everything()
            saved(store, each, name)
        store.close()

        states, _ = loaded(path, "shop", "other")
        assert memory(state) == memory(states["shop"])
        assert memory(other) == memory(states["other"])

    def test_accounts_that_run_are_told_when_loading_another_puts_the_file_aside(self, store, state, path):
        saved(store, state)
        with database(path) as connection:
            connection.execute("INSERT INTO accounts VALUES ('broken', 1, 1, 1, 'noise', '{}')")

        store.load({"broken": AccountState()})
        apply(state, listing(operation("late", total=1)))

        assert store.put_aside is not None
        with pytest.raises(StateLostError):
            store.save("shop", state.snapshot())

    def test_a_file_that_was_locked_can_be_loaded_from_again(self, store, state, path):
        saved(store, state)
        # As a save that failed leaves it.
        store._disconnect()
        store._patience = 0.01
        with database(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="locked"):
                store.load({"shop": AccountState()})
        states = {"shop": AccountState()}
        store.load(states)

        assert memory(state) == memory(states["shop"])

    def test_a_file_that_turns_to_noise_is_put_aside_and_written_anew(self, store, state, path):
        saved(store, state)
        store._disconnect()
        path.write_bytes(b"noise" * 5000)

        with pytest.raises(StateLostError):
            store.save("shop", state.snapshot())
        state.save_everything()
        saved(store, state)
        store.close()

        assert memory(state) == memory(loaded(path)[0]["shop"])
