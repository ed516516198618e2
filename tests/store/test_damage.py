"""Damaged state files are renamed, and everything else is loaded."""

import os
import random

import pytest
from operations import apply, listing, operation
from store.damage import fuzz
from store.state_files import (
    Damage,
    copied,
    database,
    loaded,
    memory,
    no_file_longer_than,
    save,
)

from comms_exporter.collect.state import AccountState
from comms_exporter.store.errors import StateLostError, StoreError
from comms_exporter.store.sqlite import SqliteStore

SOAK = int(os.environ.get("SOAK", "1"))


class TestDamagedContent:
    @pytest.mark.parametrize(
        "content",
        [b"not a database at all", b"SQLite format 3\x00" + b"\x00" * 84, os.urandom(8192)],
        ids=["text", "header", "noise"],
    )
    def test_a_file_that_is_no_database_is_renamed(self, path, content):
        path.parent.mkdir()
        path.write_bytes(content)

        states, renamed_to = loaded(path)

        assert renamed_to.name == "state.db.corrupt-20261121T120000Z"
        assert content == renamed_to.read_bytes()
        assert memory(AccountState()) == memory(states["shop"])

    def test_a_second_damaged_file_does_not_overwrite_the_first(self, path):
        path.parent.mkdir()
        for content in (b"first" * 99, b"second" * 99):
            path.write_bytes(content)
            loaded(path)

        assert b"first" * 99 == path.with_name("state.db.corrupt-20261121T120000Z").read_bytes()
        assert b"second" * 99 == path.with_name("state.db.corrupt-20261121T120000Z-2").read_bytes()

    def test_a_damaged_page_is_noticed(self, store, state, path):
        for n in range(500):
            apply(state, listing(operation(f"more {n}", total=1)))
        save(store, state)
        store.close()
        content = bytearray(path.read_bytes())
        content[4096 * 5 : 4096 * 7] = os.urandom(8192)
        path.write_bytes(content)

        states, renamed_to = loaded(path)

        assert renamed_to is not None
        assert memory(AccountState()) == memory(states["shop"])

    def test_rows_out_of_order_are_noticed(self, store, path):
        """SQLite would not find them, so they would be counted twice."""
        state = AccountState()
        apply(state, listing(*[operation(f"number {n:04}") for n in range(100)], sweep=True))
        save(store, state)
        store.close()
        content = path.read_bytes()
        assert 1 == content.count(b"number 0050")
        path.write_bytes(content.replace(b"number 0050", b"numbes 0050"))

        assert loaded(path)[1] is not None

    def test_a_table_name_that_is_not_utf_8_is_damage(self, store, path):
        """SQLite quotes it in its error message."""
        store.close()
        content = path.read_bytes()
        assert 1 == content.count(b"tableaccountsaccounts")
        path.write_bytes(
            content.replace(b"tableaccounts", b"tableaccount\xff").replace(
                b"CREATE TABLE accounts", b"CREATE TABLX accounts"
            )
        )

        assert loaded(path)[1] is not None

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
    def test_a_file_with_impossible_content_is_renamed(self, store, state, path, change):
        save(store, state)
        store.close()
        with database(path) as connection:
            connection.execute(change)

        states, renamed_to = loaded(path)

        assert renamed_to is not None
        assert memory(AccountState()) == memory(states["shop"])

    def test_damage_that_a_save_finds_is_reported_once(self, path, state):
        reports = []
        store = SqliteStore(path, on_damage=lambda *report: reports.append(report))
        save(store, state)
        store._disconnect()
        path.write_bytes(b"noise" * 5000)
        apply(state, listing(operation("late", total=1)))
        snapshot = state.snapshot()

        for _ in range(2):
            with pytest.raises(StateLostError, match="file is not a database; the next save rewrites it completely"):
                store.save("shop", snapshot)
        store.close()

        ((renamed_to, reason),) = reports
        assert b"noise" * 5000 == renamed_to.read_bytes()
        assert "file is not a database" == reason

    @pytest.mark.parametrize("stats", ["[1]", "[1,2,3,4,5,6,7,8,9,10,1e999]", b"short"])
    def test_a_file_with_impossible_counters_is_renamed(self, store, state, path, stats):
        save(store, state)
        store.close()
        with database(path) as connection:
            connection.execute("UPDATE operations SET stats = ?", [stats])

        states, renamed_to = loaded(path)

        assert renamed_to is not None
        assert memory(AccountState()) == memory(states["shop"])

    def test_after_any_damage_the_file_is_usable_or_renamed(self, tmp_path):
        """What is loaded can be shown, updated and saved."""
        counts, neither = fuzz(random.Random(os.environ.get("SEED", "disk")), 60 * SOAK, tmp_path)

        assert [] == neither
        assert min(counts.values()) > 10


class TestEmptyFiles:
    """Only a file that never existed is created without an error message."""

    def test_a_missing_file_is_no_damage(self, path):
        assert loaded(path)[1] is None

    def test_a_file_without_accounts_is_no_damage(self, path):
        loaded(path)

        assert loaded(path)[1] is None

    @pytest.mark.parametrize("name", ["state.db", "state.db-wal"])
    @pytest.mark.parametrize("harm", ["truncated", "removed"])
    def test_an_emptied_or_removed_file_is_damage_after_a_kill(self, store, state, path, name, harm):
        save(store, state)
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

    def test_an_empty_file_is_damage(self, path):
        path.parent.mkdir()
        path.touch()

        damage = Damage()
        SqliteStore(path, on_damage=damage).close()

        assert "the file is empty" == damage.reason

    def test_a_full_disk_leaves_no_empty_file(self, path):
        with no_file_longer_than(1000), pytest.raises(StoreError):
            SqliteStore(path)

        assert ["state.db.lock"] == [each.name for each in path.parent.iterdir()]
        assert loaded(path)[1] is None
