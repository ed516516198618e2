"""What was counted outlives the process; what cannot be read is put aside, and a bad disk is told and outlived."""

import json
import os
import random
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from damage import fuzz
from operations import NOW, apply, listing, operation, restored

from comms_exporter.collect.state import AccountState
from comms_exporter.model.readings import Reading
from comms_exporter.store import rows, schema, sqlite
from comms_exporter.store.errors import StateInUseError, StateLostError, StoreError
from comms_exporter.store.sqlite import SqliteStore

SOAK = int(os.environ.get("SOAK", "1"))
GOLDEN = Path(__file__).parents[1] / "golden"
HISTORY = [
    operation("a", total=5, queued=2, sent=3),
    operation("b", status="COMPLETED", updated=NOW + 40, total=2, sent=2, delivered=2, opened=1),
    operation("c", status="PAUSED", total=1, recipients=None, attempts=None, queued=1),
]


class Damage:
    """Remembers what a store reports about a damaged file."""

    renamed_to = None
    reason = ""

    def __call__(self, renamed_to, reason):
        self.renamed_to, self.reason = renamed_to, reason


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "state.db"


@pytest.fixture
def damage():
    return Damage()


@pytest.fixture
def store(path, damage):
    store = SqliteStore(path, clock=lambda: NOW, on_damage=damage)
    yield store
    store.close()


@pytest.fixture
def state():
    """An account that has counted."""
    state = AccountState()
    apply(state, listing(operation("before", status="COMPLETED", created=NOW - 99), sweep=True, at=NOW - 60))
    apply(state, listing(*HISTORY))
    state.mark_gone("c")
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
    """Return the states of accounts as a new process finds them, and the new name of the file if it was damaged."""
    damage = Damage()
    store = SqliteStore(path, clock=lambda: NOW, on_damage=damage)
    try:
        names = names or ("shop",)
        saved = store.load(names)
    finally:
        store.close()
    return {name: restored(saved.get(name)) for name in names}, damage.renamed_to


def memory(state):
    """Return all of *state* that matters."""
    durations = state.durations
    return (
        state.tracked,
        state.totals,
        state.first_look,
        state.horizon,
        state.last_full_listing,
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
        assert log.stat().st_size > sqlite._MAX_WAL_BYTES
        for n in range(3):
            apply(state, listing(operation("a", updated=NOW + 50 + n, total=5, sent=5 + n)))
            saved(store, state)

        assert log.stat().st_size <= sqlite._MAX_WAL_BYTES

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

    def test_all_or_nothing(self, store, state, path, monkeypatch):
        """A save that fails half-way has not happened."""
        saved(store, state)
        before = memory(loaded_beside(path))
        apply(state, listing(operation("a", updated=NOW + 50, total=5, sent=5), operation("d", total=9)))
        original = rows.operation_row
        monkeypatch.setattr(rows, "operation_row", lambda *args: fail() if "d" in repr(args) else original(*args))

        with pytest.raises(StoreError, match="disk is full"):
            store.save("shop", state.snapshot())

        assert before == memory(loaded_beside(path))


def fail():
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise error


def loaded_beside(path):
    """Return what another reader of the file sees."""
    with database(path) as connection:
        return restored(sqlite._load(connection, "shop"))


def opened_by_another_process(path):
    """Return what it complains about."""
    script = "import sys, pathlib; from comms_exporter.store.sqlite import SqliteStore; SqliteStore(pathlib.Path(sys.argv[1])).close()"
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    return run.stderr


class TestOpening:
    def test_a_second_process_is_refused(self, store, path):
        assert f"StateInUseError: {path} is in use by another process" in opened_by_another_process(path)
        with pytest.raises(StateInUseError):
            SqliteStore(path)

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
            "UPDATE operations SET id = CAST(x'ff' AS TEXT) WHERE id = 'a'",
            "UPDATE operations SET id = x'41' WHERE id = 'a'",
            "UPDATE operations SET id = char(8238) WHERE id = 'a'",
            "UPDATE operations SET status = x'41'",
            "UPDATE operations SET status = ''",
            "UPDATE operations SET status = CAST(zeroblob(70000) AS TEXT)",
            "UPDATE operations SET created = 9e999",
            "UPDATE operations SET updated = 'yesterday'",
            "UPDATE operations SET created = 1e15",
            "UPDATE operations SET reading = CAST(x'c3' AS TEXT)",
            "UPDATE operations SET gone = 2",
            "UPDATE operations SET stats = zeroblob(87)",
            "UPDATE operations SET stats = randomblob(88)",
            "UPDATE operations SET marks = '[1,1,1,1,1,1,1,1,1,1,1,true]'",
            "UPDATE operations SET marks = '[1,1,1,1,1,1,1,1,1,1,1,-1]'",
            "UPDATE operations SET marks = replace(hex(zeroblob(9000)), '0', '[')",
            "UPDATE accounts SET name = x'41'",
            "UPDATE accounts SET name = 'shoq'",
            "UPDATE accounts SET seen = -9e999",
            "UPDATE accounts SET horizon = x'00'",
            "UPDATE accounts SET totals = replace(totals, 'sent', 'send')",
            "UPDATE accounts SET totals = replace(totals, ': ', ': -')",
            "UPDATE accounts SET totals = replace(totals, ': ', ': 1' || hex(zeroblob(3000)))",
            "UPDATE accounts SET totals = replace(totals, ': ', ': 0.5')",
            "UPDATE accounts SET durations = replace(durations, '[5, 15', '[15, 5')",
            "UPDATE accounts SET durations = replace(durations, '[5, ', '[')",
            "UPDATE accounts SET durations = replace(durations, '[0', '[-1')",
            "UPDATE accounts SET durations = replace(durations, 'sum', 'sun')",
            "UPDATE accounts SET durations = replace(durations, '40.0', '1e999')",
            "UPDATE file SET saves = 9223372036854775807",
            "UPDATE file SET id = 'x'",
            "INSERT INTO file SELECT * FROM file",
            "CREATE TABLE theirs (x)",
            "CREATE TRIGGER theirs AFTER INSERT ON operations BEGIN DELETE FROM operations; END",
            "PRAGMA user_version = -1",
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

    def test_a_damaged_name_that_is_no_text_is_put_aside(self, store, path):
        """SQLite quotes it."""
        store.close()
        content = path.read_bytes()
        assert 1 == content.count(b"tableaccountsaccounts")
        path.write_bytes(
            content.replace(b"tableaccounts", b"tableaccount\xff").replace(
                b"CREATE TABLE accounts", b"CREATE TABLX accounts"
            )
        )

        assert loaded(path)[1] is not None

    def test_rows_that_are_out_of_order_are_noticed(self, store, path):
        """They would not be found again, and so counted twice."""
        state = AccountState()
        apply(state, listing(*[operation(f"number {n:04}") for n in range(100)], sweep=True))
        saved(store, state)
        store.close()
        content = path.read_bytes()
        assert 1 == content.count(b"number 0050")
        path.write_bytes(content.replace(b"number 0050", b"numbes 0050"))

        assert loaded(path)[1] is not None

    def test_a_file_of_0_1_0_is_loaded(self, tmp_path):
        path = shutil.copy(GOLDEN / "state-0.1.0.db", tmp_path / "state.db")

        states, aside = loaded(path)

        state = states["shop"]
        assert aside is None
        assert [8, 0, 0, 5, 2, 1, 0, 0, 0, 3, 1, 0] == state.totals
        assert (NOW - 60, NOW - 60 - 7 * 86400 - 3600 + 60) == (state.first_look, state.horizon)
        assert (5, 0, 0, 3, 0, 0, 0, 0, 0, 1, 0, 0) == state.tracked["a"].marks
        assert Reading.CUMULATIVE is state.tracked["b"].reading
        assert state.tracked["c"].gone
        assert (1, 40.0) == (sum(state.durations.counts), state.durations.sum)

    def test_an_operation_of_a_time_that_is_no_longer_taken_is_left_out(self, store, state, path):
        """0.1.0 kept what was created at 9999-12-31T23:59:59-23:59, and then could not start."""
        saved(store, state)
        store.close()
        with database(path) as connection:
            connection.execute("UPDATE operations SET created = 253402387139 WHERE id = 'a'")

        states, aside = loaded(path)

        assert aside is None
        assert state.totals == states["shop"].totals
        assert state.tracked.keys() - {"a"} == states["shop"].tracked.keys()

    def test_the_largest_counts_are_loaded_again(self, store, path):
        state = AccountState()
        most = dict.fromkeys(("total", "sent", "delivered", "opened", "undelivered"), 2**53)
        apply(state, listing(sweep=True, at=NOW - 60))
        apply(state, listing(*[operation(f"a{n}", **most) for n in range(2000)]))
        apply(state, listing(*[operation(f"a{n}", updated=NOW + 1) for n in range(2000)]))
        saved(store, state)
        store.close()

        states, aside = loaded(path)

        assert aside is None
        assert memory(state) == memory(states["shop"])

    def test_no_damage_is_neither_loaded_nor_put_aside(self, tmp_path):
        """What is loaded can be shown, counted on and saved."""
        counts, neither = fuzz(random.Random(os.environ.get("SEED", "disk")), 60 * SOAK, tmp_path)

        assert [] == neither
        assert min(counts.values()) > 10

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
        later = (*schema.MIGRATIONS, "ALTER TABLE accounts ADD COLUMN color TEXT", "CREATE TABLE more (x)")
        monkeypatch.setattr(schema, "MIGRATIONS", later)

        states, aside = loaded(path)

        assert aside is None
        assert memory(state) == memory(states["shop"])
        with database(path) as connection:
            assert [(len(later),)] == connection.execute("PRAGMA user_version").fetchall()
            assert [(schema.APPLICATION_ID,)] == connection.execute("PRAGMA application_id").fetchall()

    @pytest.mark.parametrize("name", ["", "file/state.db"])
    def test_a_place_where_no_file_can_be_is_said(self, tmp_path, name):
        (tmp_path / "file").touch()

        with pytest.raises(StoreError, match=str(tmp_path)):
            SqliteStore(tmp_path / name)


class TestTrouble:
    def test_a_file_that_somebody_else_locks_is_not_put_aside(self, store, state, path):
        saved(store, state)
        store.close()
        with database(path) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")

            with pytest.raises(StoreError, match="locked"):
                SqliteStore(path, lock_timeout=0)

        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_a_file_that_was_removed_is_written_anew(self, store, state, path):
        saved(store, state)
        for file in path.parent.iterdir():
            file.unlink()

        with pytest.raises(StateLostError, match="removed or replaced"):
            store.save("shop", state.snapshot())
        state.requeue_all()
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
        state.requeue_all()
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
        state.requeue(snapshot)
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
            each.requeue(snapshot)
            each.requeue_all()
            saved(store, each, name)
        store.close()

        states, _ = loaded(path, "shop", "other")
        assert memory(state) == memory(states["shop"])
        assert memory(other) == memory(states["other"])

    def test_accounts_that_run_are_told_when_loading_another_finds_damage(self, store, state, path, damage):
        saved(store, state)
        with database(path) as connection:
            connection.execute("INSERT INTO accounts VALUES ('broken', 1, 1, 1, 'noise', '{}')")

        assert {} == store.load(["broken"])
        apply(state, listing(operation("late", total=1)))

        assert damage.renamed_to is not None
        with pytest.raises(StateLostError):
            store.save("shop", state.snapshot())

    def test_a_file_that_was_locked_can_be_loaded_from_again(self, store, state, path):
        saved(store, state)
        # As a save that failed leaves it.
        store._disconnect()
        store._lock_timeout = 0.01
        with database(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="locked"):
                store.load(["shop"])

        assert memory(state) == memory(restored(store.load(["shop"])["shop"]))

    def test_damage_where_nothing_can_be_renamed_is_a_save_that_failed(self, store, state, path, monkeypatch):
        saved(store, state)
        # So that the next save reads the file again.
        store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        store._connection.execute("PRAGMA shrink_memory")
        path.write_bytes(b"noise" * 5000)
        apply(state, listing(operation("late", total=1)))

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", refuse)
            for _ in range(2):
                snapshot = state.snapshot()
                with pytest.raises(StoreError, match="Permission denied"):
                    store.save("shop", snapshot)
                state.requeue(snapshot)
        with pytest.raises(StateLostError):
            store.save("shop", state.snapshot())
        state.requeue_all()
        saved(store, state)
        store.close()

        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_a_save_that_fails_at_its_very_end_is_not_taken_for_a_lost_file(self, store, state, path):
        saved(store, state)
        apply(state, listing(operation("late", total=1)))
        snapshot = state.snapshot()
        full = path.with_name("state.db-wal").stat().st_size + 1
        with no_file_longer_than(full), pytest.raises(StoreError, match="I/O") as failure:
            store.save("shop", snapshot)
        assert StoreError is failure.type
        state.requeue(snapshot)
        apply(state, listing(operation("later", total=1)))
        snapshot = state.snapshot()

        assert ["late", "later"] == list(snapshot.changed)
        store.save("shop", snapshot)
        store.close()
        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_a_log_that_was_removed_costs_nothing(self, store, state, path):
        saved(store, state)
        path.with_name("state.db-wal").unlink()
        apply(state, listing(operation("late", total=1)))

        saved(store, state)
        assert path.with_name("state.db-wal").stat().st_size > 0
        killed = copied(path)
        assert memory(state) == memory(loaded(killed)[0]["shop"])

    @pytest.mark.parametrize("pages", [0, 1, 5])
    @pytest.mark.parametrize("large", [False, True])
    def test_a_file_that_was_truncated_is_written_anew(self, store, state, path, pages, large):
        apply(state, listing(*[operation(f"more {n}", total=1) for n in range(9999 if large else 9)]))
        saved(store, state)
        os.truncate(path, pages * 4096)
        apply(state, listing(operation("late", total=1)))

        try:
            saved(store, state)
        except StateLostError:
            state.requeue_all()
            saved(store, state)
        killed = copied(path)
        assert memory(state) == memory(loaded(killed)[0]["shop"])

    def test_a_file_that_turns_to_noise_is_put_aside_and_written_anew(self, store, state, path):
        saved(store, state)
        store._disconnect()
        path.write_bytes(b"noise" * 5000)

        with pytest.raises(StateLostError):
            store.save("shop", state.snapshot())
        state.requeue_all()
        saved(store, state)
        store.close()

        assert memory(state) == memory(loaded(path)[0]["shop"])


@contextmanager
def no_file_longer_than(size):
    """As on a full disk, no file grows beyond *size* bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def copied(path):
    """Return the path of a copy of the state as kill -9 would leave it."""
    copy = path.parent / "copy" / path.name
    copy.parent.mkdir()
    for file in (path, path.with_name(f"{path.name}-wal")):
        if file.exists():
            shutil.copy(file, copy.parent)
    return copy


class TestEmptiness:
    """Only a state that was never there begins without a word."""

    def test_where_there_was_none(self, path):
        assert loaded(path)[1] is None

    def test_a_state_of_no_account(self, path):
        loaded(path)

        assert loaded(path)[1] is None

    @pytest.mark.parametrize("name", ["state.db", "state.db-wal"])
    @pytest.mark.parametrize("harm", ["truncated", "removed"])
    def test_after_a_kill(self, store, state, path, name, harm):
        saved(store, state)
        killed = copied(path)
        harmed = killed.with_name(name)
        if harm == "truncated":
            os.truncate(harmed, 0)
        else:
            harmed.unlink()

        damage = Damage()
        SqliteStore(killed, on_damage=damage).close()

        assert damage.renamed_to is not None
        assert damage.reason

    def test_an_empty_file(self, path):
        path.parent.mkdir()
        path.touch()

        damage = Damage()
        SqliteStore(path, on_damage=damage).close()

        assert "the file is empty" == damage.reason

    def test_a_disk_that_is_full_from_the_start_leaves_nothing_that_looks_emptied(self, path):
        with no_file_longer_than(1000), pytest.raises(StoreError):
            SqliteStore(path)

        assert ["state.db.lock"] == [each.name for each in path.parent.iterdir()]
        assert loaded(path)[1] is None


class TestStrangers:
    """Somebody else can read, plant or mix up nothing."""

    @pytest.fixture(params=[0o000, 0o022])
    def umask(self, request):
        before = os.umask(request.param)
        yield
        os.umask(before)

    @pytest.mark.usefixtures("umask")
    def test_what_is_made_is_ours_alone(self, state, tmp_path):
        path = tmp_path / "new" / "deep" / "state.db"
        store = SqliteStore(path)
        saved(store, state)

        made = [path.parent.parent, path.parent, *path.parent.iterdir()]
        assert {"state.db", "state.db-wal", "state.db-shm", "state.db.lock"} == {each.name for each in made[2:]}
        for each in made:
            assert stat.S_IMODE(each.stat().st_mode) == (0o700 if each.is_dir() else 0o600), each
        store.close()

    @pytest.mark.parametrize(("before", "after"), [(0o644, 0o600), (0o666, 0o600), (0o640, 0o640), (0o600, 0o600)])
    def test_what_everybody_could_read_is_taken_back(self, store, state, path, before, after):
        saved(store, state)
        store.close()
        path.chmod(before)
        loaded(path)

        assert after == stat.S_IMODE(path.stat().st_mode)

    @pytest.mark.parametrize("suffix", ["", ".lock", "-wal", "-shm"])
    def test_nothing_is_made_through_a_link(self, tmp_path, suffix):
        planted, target = tmp_path / f"state.db{suffix}", tmp_path / "target"
        planted.symlink_to(target)

        with pytest.raises(StoreError, match=f"{planted} is a symbolic link"):
            SqliteStore(tmp_path / "state.db")
        assert not target.exists()

    def test_a_file_of_somebody_else_is_not_touched_through_a_link(self, tmp_path):
        target, path = tmp_path / "target", tmp_path / "state.db"
        target.write_text("precious")
        path.symlink_to(target)

        _, aside = loaded(path)

        assert "precious" == target.read_text()
        assert aside.is_symlink()
        assert not path.is_symlink()

    def test_what_is_no_file_is_left_alone(self, tmp_path):
        os.mkfifo(tmp_path / "state.db")

        with pytest.raises(StoreError, match="not a regular file"):
            SqliteStore(tmp_path / "state.db")

    @pytest.mark.parametrize("way", ["symlink_to", "hardlink_to"])
    def test_a_second_process_is_refused_by_any_name(self, store, path, tmp_path, way):
        other = tmp_path / "other.db"
        getattr(other, way)(path)

        assert f"StateInUseError: {other} is in use by another process" in opened_by_another_process(other)

    def test_a_second_process_is_refused_when_the_lock_file_is_gone(self, store, state, path):
        # A save that failed begins with a new connection; the file is locked all the same.
        store._disconnect()
        saved(store, state)
        path.with_name("state.db.lock").unlink()

        assert "StateInUseError" in opened_by_another_process(path)
        saved(store, state)

    def test_one_that_was_put_in_its_place_is_locked_too(self, store, state, path, tmp_path):
        SqliteStore(tmp_path / "new.db").close()
        (tmp_path / "new.db").rename(path)
        saved(store, state)
        path.with_name("state.db.lock").unlink()

        assert "StateInUseError" in opened_by_another_process(path)

    def test_the_next_process_gets_it(self, store, path):
        store.close()

        assert opened_by_another_process(path) == ""
