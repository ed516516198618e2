"""A state survives restarts; failures of the disk and damage never stop the exporter or make it count twice."""

import json
import os
import shutil
from pathlib import Path

import pytest
from operations import NOW, apply, listing, operation, restored
from store.state_files import (
    copied,
    database,
    disk_full,
    downgrade,
    loaded,
    memory,
    no_file_longer_than,
    read_by_another,
    save,
)

from comms_exporter.collect.state import AccountState
from comms_exporter.model.readings import Reading
from comms_exporter.store import rows, schema, sqlite
from comms_exporter.store.errors import StateLostError, StoreError
from comms_exporter.store.sqlite import SqliteStore

GOLDEN = Path(__file__).parents[1] / "golden"


class TestSaving:
    def test_a_new_process_continues_with_the_saved_state(self, store, state, path):
        save(store, state)
        store.close()

        states, _ = loaded(path)

        assert memory(state) == memory(states["shop"])
        assert state.tracked["b"].reading is Reading.CUMULATIVE

    def test_only_changes_are_written(self, store, state, path):
        save(store, state)
        apply(state, listing(operation("a", updated=NOW + 50, total=5, sent=5)))
        snapshot = state.snapshot()
        assert ["a"] == list(snapshot.changed)
        store.save("shop", snapshot)
        store.close()

        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_forgotten_operations_are_removed(self, store, state, path):
        save(store, state)
        apply(state, listing(sweep=True, at=NOW + 8 * 86400))
        save(store, state)
        store.close()

        with database(path) as connection:
            assert [("a",)] == connection.execute("SELECT id FROM operations").fetchall()
        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_accounts_are_saved_separately(self, store, state, path):
        save(store, state, "shop")
        other = AccountState()
        apply(other, listing(operation("a", total=7), sweep=True))
        save(store, other, "other")
        store.close()

        states, _ = loaded(path, "shop", "other", "new")

        assert memory(state) == memory(states["shop"])
        assert memory(other) == memory(states["other"])
        assert memory(AccountState()) == memory(states["new"])

    def test_the_largest_counts_can_be_saved_and_loaded(self, store, path):
        state = AccountState()
        most = dict.fromkeys(("total", "sent", "delivered", "opened", "undelivered"), 2**53)
        apply(state, listing(sweep=True, at=NOW - 60))
        apply(state, listing(*[operation(f"a{n}", **most) for n in range(2000)]))
        apply(state, listing(*[operation(f"a{n}", updated=NOW + 1) for n in range(2000)]))
        save(store, state)
        store.close()

        states, renamed_to = loaded(path)

        assert renamed_to is None
        assert memory(state) == memory(states["shop"])

    def test_the_log_shrinks_after_a_large_save(self, store, state, path):
        log = path.with_name("state.db-wal")
        apply(state, listing(*[operation(f"more {n}", total=1) for n in range(100_000)]))
        save(store, state)
        assert log.stat().st_size > sqlite._MAX_WAL_BYTES
        for n in range(3):
            apply(state, listing(operation("a", updated=NOW + 50 + n, total=5, sent=5 + n)))
            save(store, state)

        assert log.stat().st_size <= sqlite._MAX_WAL_BYTES

    def test_a_save_that_fails_half_way_changes_nothing(self, store, state, path, monkeypatch):
        save(store, state)
        before = memory(read_by_another(path))
        apply(state, listing(operation("a", updated=NOW + 50, total=5, sent=5), operation("d", total=9)))
        original = rows.operation_row
        monkeypatch.setattr(rows, "operation_row", lambda *args: disk_full() if "d" in repr(args) else original(*args))

        with pytest.raises(StoreError, match="disk is full"):
            store.save("shop", state.snapshot())

        assert before == memory(read_by_another(path))

    def test_other_processes_can_read_the_file(self, store, state, path):
        save(store, state)

        assert memory(state) == memory(read_by_another(path))


class TestVersions:
    """State files of other versions, and of other programs."""

    def test_a_file_of_0_1_0_is_loaded(self, tmp_path):
        path = shutil.copy(GOLDEN / "0.1.0/state.db", tmp_path / "state.db")

        states, renamed_to = loaded(path)

        state = states["shop"]
        assert renamed_to is None
        assert [8, 0, 0, 5, 2, 1, 0, 0, 0, 3, 1, 0] == state.totals
        assert (NOW - 60, NOW - 60 - 7 * 86400 - 3600 + 60) == (state.first_look, state.horizon)
        assert (5, 0, 0, 3, 0, 0, 0, 0, 0, 1, 0, 0) == state.tracked["a"].marks
        assert Reading.CUMULATIVE is state.tracked["b"].reading
        assert state.tracked["c"].gone
        assert (1, 40.0) == (sum(state.durations.counts), state.durations.sum)

    def test_an_operation_with_a_time_out_of_range_is_skipped(self, store, state, path):
        """0.1.0 saved what was created at 9999-12-31T23:59:59-23:59, and then could not start."""
        save(store, state)
        store.close()
        with database(path) as connection:
            connection.execute("UPDATE operations SET created = 253402387139 WHERE id = 'a'")

        states, renamed_to = loaded(path)

        assert renamed_to is None
        assert state.totals == states["shop"].totals
        assert state.tracked.keys() - {"a"} == states["shop"].tracked.keys()

    def test_rows_of_the_first_version_are_loaded(self, store, state, path):
        """They contain counters and marks as JSON."""
        save(store, state)
        store.close()
        with database(path) as connection:
            for each in state.tracked.values():
                row = json.dumps(each.operation.stats), json.dumps(each.marks), each.operation.id
                connection.execute("UPDATE operations SET stats = ?, marks = ? WHERE id = ?", row)
            downgrade(connection, 1)

        states, renamed_to = loaded(path)

        assert renamed_to is None
        assert memory(state) == memory(states["shop"])

    # The second did not keep when an operation began, the third knew no emails.
    @pytest.mark.parametrize("version", [2, 3])
    def test_rows_of_later_versions_are_read(self, store, state, path, version):
        save(store, state)
        store.close()
        with database(path) as connection:
            downgrade(connection, version)

        states, renamed_to = loaded(path)

        assert renamed_to is None
        assert memory(state) == memory(states["shop"])

    def test_when_an_operation_began_is_kept(self, store, state, path):
        apply(state, listing(operation("d", status="SCHEDULED", created=NOW - 99, total=1, scheduled=1)))
        apply(state, listing(operation("d", created=NOW - 99, updated=NOW - 9, total=1, sent=1)))
        save(store, state)
        store.close()

        states, _ = loaded(path)

        assert NOW - 9 == states["shop"].tracked["d"].began
        assert memory(state) == memory(states["shop"])

    def test_a_file_of_an_earlier_version_is_migrated(self, store, state, path, monkeypatch):
        save(store, state)
        store.close()
        later = (*schema.MIGRATIONS, "ALTER TABLE accounts ADD COLUMN color TEXT", "CREATE TABLE more (x)")
        monkeypatch.setattr(schema, "MIGRATIONS", later)

        states, renamed_to = loaded(path)

        assert renamed_to is None
        assert memory(state) == memory(states["shop"])
        with database(path) as connection:
            assert [(len(later),)] == connection.execute("PRAGMA user_version").fetchall()
            assert [(schema.APPLICATION_ID,)] == connection.execute("PRAGMA application_id").fetchall()

    def test_a_file_of_a_later_version_is_renamed(self, store, path):
        store.close()
        with database(path) as connection:
            connection.execute("PRAGMA user_version = 99")

        assert loaded(path)[1] is not None

    def test_the_database_of_another_program_is_renamed_and_otherwise_unchanged(self, path):
        path.parent.mkdir()
        with database(path) as connection:
            connection.execute("CREATE TABLE theirs (x)")
        content = path.read_bytes()

        _, renamed_to = loaded(path)

        assert content == renamed_to.read_bytes()


class TestFailures:
    """The disk, other processes and people change or block the file while the exporter runs."""

    def test_a_locked_file_is_not_taken_for_a_damaged_one(self, store, state, path):
        save(store, state)
        store.close()
        with database(path) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")

            with pytest.raises(StoreError, match="locked"):
                SqliteStore(path, lock_timeout=0)

        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_a_load_succeeds_after_the_lock_is_released(self, store, state, path):
        save(store, state)
        # As after a failed save.
        store._disconnect()
        store._lock_timeout = 0.01
        with database(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="locked"):
                store.load(["shop"])

        assert memory(state) == memory(restored(store.load(["shop"])["shop"]))

    def test_saves_succeed_again_after_the_disk_was_full(self, store, state, path):
        save(store, state)
        store._connection.execute("PRAGMA max_page_count = 1")
        apply(state, listing(*[operation(f"more {n}", total=1) for n in range(999)]))

        snapshot = state.snapshot()
        with pytest.raises(StoreError, match="full"):
            store.save("shop", snapshot)
        state.requeue(snapshot)
        # The next connection has no such limit.
        save(store, state)
        store.close()

        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_a_save_that_fails_at_its_end_is_not_taken_for_a_lost_file(self, store, state, path):
        save(store, state)
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

    def test_a_removed_file_is_rewritten(self, store, state, path):
        save(store, state)
        for file in path.parent.iterdir():
            file.unlink()

        with pytest.raises(StateLostError, match="removed or replaced"):
            store.save("shop", state.snapshot())
        state.requeue_all()
        save(store, state)
        store.close()

        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_nothing_is_lost_if_the_log_is_removed(self, store, state, path):
        save(store, state)
        path.with_name("state.db-wal").unlink()
        apply(state, listing(operation("late", total=1)))

        save(store, state)
        assert path.with_name("state.db-wal").stat().st_size > 0
        killed = copied(path)
        assert memory(state) == memory(loaded(killed)[0]["shop"])

    def test_a_file_that_was_replaced_by_an_older_copy_is_rewritten(self, store, state, path):
        """The marks in the copy are older than the totals in memory: together they would count twice."""
        save(store, state)
        store._disconnect()
        older = path.read_bytes()
        apply(state, listing(operation("a", updated=NOW + 50, total=5, sent=5)))
        save(store, state)
        store._disconnect()
        path.write_bytes(older)

        with pytest.raises(StateLostError):
            store.save("shop", state.snapshot())
        state.requeue_all()
        save(store, state)
        store.close()

        assert memory(state) == memory(loaded(path)[0]["shop"])

    @pytest.mark.parametrize("pages", [0, 1, 5])
    @pytest.mark.parametrize("large", [False, True])
    def test_a_truncated_file_is_rewritten(self, store, state, path, pages, large):
        apply(state, listing(*[operation(f"more {n}", total=1) for n in range(9999 if large else 9)]))
        save(store, state)
        os.truncate(path, pages * 4096)
        apply(state, listing(operation("late", total=1)))

        try:
            save(store, state)
        except StateLostError:
            state.requeue_all()
            save(store, state)
        killed = copied(path)
        assert memory(state) == memory(loaded(killed)[0]["shop"])

    def test_a_file_that_turns_to_noise_is_renamed_and_rewritten(self, store, state, path):
        save(store, state)
        store._disconnect()
        path.write_bytes(b"noise" * 5000)

        with pytest.raises(StateLostError):
            store.save("shop", state.snapshot())
        state.requeue_all()
        save(store, state)
        store.close()

        assert memory(state) == memory(loaded(path)[0]["shop"])

    def test_every_account_has_to_save_everything_after_the_file_was_replaced(self, store, state, path):
        """Not only the first one that saves: what the file lacks of the others would be counted again after a restart."""
        other = AccountState()
        apply(other, listing(sweep=True, at=NOW - 60))
        apply(other, listing(operation("x", total=500, sent=500), operation("y", total=3)))
        save(store, state, "shop")
        save(store, other, "other")
        for file in path.parent.glob("state.db*"):
            if not file.name.endswith(".lock"):
                file.unlink()
        for name, each in (("shop", state), ("other", other)):
            apply(each, listing(operation("late", total=1)))
            snapshot = each.snapshot()
            for _ in range(2):  # again, in case that a cancelled save was the first to notice
                with pytest.raises(StateLostError):
                    store.save(name, snapshot)
            each.requeue(snapshot)
            each.requeue_all()
            save(store, each, name)
        store.close()

        states, _ = loaded(path, "shop", "other")
        assert memory(state) == memory(states["shop"])
        assert memory(other) == memory(states["other"])

    def test_running_accounts_have_to_save_everything_after_loading_another_one_finds_damage(
        self, store, state, path, damage
    ):
        save(store, state)
        with database(path) as connection:
            connection.execute("INSERT INTO accounts VALUES ('broken', 1, 1, 1, 'noise', '{}')")

        assert {} == store.load(["broken"])
        apply(state, listing(operation("late", total=1)))

        assert damage.renamed_to is not None
        with pytest.raises(StateLostError):
            store.save("shop", state.snapshot())

    def test_a_save_fails_if_the_damaged_file_cannot_be_renamed(self, store, state, path, monkeypatch):
        save(store, state)
        # Make the next save read the file.
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
        save(store, state)
        store.close()

        assert memory(state) == memory(loaded(path)[0]["shop"])
