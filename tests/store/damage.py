"""Damage state files at random, as a failing disk, a mistake or an attacker could."""

import json
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from operations import NOW, account_with_emails, apply, email, learn, listing, operation, page_of, restored, view
from store.state_files import downgrade

from comms_exporter.api.request_stats import RequestStats
from comms_exporter.collect.emails.health import EmailHealth
from comms_exporter.collect.emails.state import EmailOptions
from comms_exporter.collect.health import PollHealth, Reloads
from comms_exporter.collect.state import AccountState
from comms_exporter.expose.exposition import Exposition
from comms_exporter.model.operations import STATS, STATUSES, pack
from comms_exporter.model.records import TOTALS
from comms_exporter.store.errors import StateLostError
from comms_exporter.store.sqlite import SqliteStore

SUFFIXES = ("", "-wal")
COLUMNS = {
    "file": ("id", "saves"),
    "accounts": ("name", "first_look", "horizon", "seen", "totals", "durations"),
    "operations": ("account", "id", "status", "created", "updated", "stats", "reading", "marks", "gone"),
    "email_totals": ("account", "totals"),
    "email_counts": ("account", "label", "value", "counts"),
    "emails": ("account", "id", "known"),
    "email_errors": ("account", "operation", "failed", "codes"),
}
# SQL expressions, because some of these values do not exist in Python.
ODD = (
    "NULL", "0", "-1", "1", "2", "1.5", "9e999", "-9e999", "1e300", "-1e300", "253402300800.0", "-62135596801.0", "9e12",
    "9223372036854775807", "-9223372036854775808", "9007199254740993", "''", "'x'", "' '", "'1'", "'cumulative'",
    "x''", "x'00'", "x'ff'", "CAST(x'ff' AS TEXT)", "CAST(x'c3' AS TEXT)", "CAST(x'eda080' AS TEXT)", "char(0)", "char(8238)",
    "char(55296)", "zeroblob(88)", "randomblob(88)", "randomblob(87)", "zeroblob(2000000)", "CAST(zeroblob(70000) AS TEXT)",
    "replace(hex(zeroblob(40000)), '0', 'x')", "'[]'", "'{}'", "'null'", "'[1e999]'", "'{\"total\": 1}'",
    "replace(hex(zeroblob(9000)), '0', '[')", "'[' || replace(hex(zeroblob(3000)), '0', '9') || ']'",
)  # fmt: skip
# Replaces NOT NULL while a value is damaged: a failing disk respects no constraints.
LAX = "/*lax!*/"
CHANGES = (
    "DROP TABLE {table}",
    "ALTER TABLE {table} RENAME TO lost",
    "ALTER TABLE {table} ADD COLUMN more",
    "ALTER TABLE {table} RENAME COLUMN {column} TO less",
    "DELETE FROM {table}",
    "INSERT INTO file SELECT * FROM file",
    "CREATE TABLE theirs (x)",
    "CREATE INDEX theirs ON {table} ({column})",
    "CREATE VIEW theirs AS SELECT * FROM {table}",
    "CREATE TRIGGER theirs AFTER UPDATE ON file BEGIN SELECT RAISE(ABORT, 'no'); END",
    "CREATE TRIGGER theirs AFTER INSERT ON operations BEGIN DELETE FROM operations; END",
    "PRAGMA user_version = -1",
    "PRAGMA user_version = 0",
    "PRAGMA user_version = 1",
    "PRAGMA user_version = 99",
    "PRAGMA application_id = 0",
    "PRAGMA journal_mode = DELETE",
    "VACUUM",
    "ANALYZE",
)


class Originals:
    """Intact state files to damage: small and large, closed and in use, of this version and the first."""

    def __init__(self, folder):
        self.folders = []
        for name, operations, old, in_use in (
            ("small", 3, False, False),
            ("large", 400, False, False),
            ("in use", 3, False, True),
            ("large, in use", 400, False, True),
            ("first version", 40, True, False),
        ):
            into = folder / name
            into.mkdir(parents=True)
            self.folders.append(into)
            _make(folder / f"making {name}", into, operations=operations, old=old, in_use=in_use)

    def copy(self, dice, folder):
        """Copy one of them into *folder*."""
        for file in dice.choice(self.folders).iterdir():
            shutil.copy(file, folder)


def _make(making, into, *, operations, old, in_use):
    making.mkdir()
    store = SqliteStore(making / "state.db")
    for name in ("shop", "news"):
        state = AccountState() if old else account_with_emails(tags=("campaign",))
        apply(state, listing(operation("before", status="COMPLETED", created=NOW - 99), sweep=True, at=NOW - 60))
        for turn in range(3):
            apply(
                state,
                listing(
                    *[
                        operation(
                            f"{name} {n} ü" if n % 7 == 0 else f"{name} {n}",
                            status=STATUSES[(n + turn) % 4],
                            updated=NOW + n,
                            total=n + 5,
                            sent=n + turn if n % 5 else n + 3 - turn,
                            **({"opened": None} if n % 3 == 0 else {}),
                        )
                        for n in range(operations)
                    ]
                ),
            )
            state.mark_gone(f"{name} 1")
            if not old:
                learn(
                    state, *[email(f"{name} {n}", status="FAILED", campaign=f"{n}") for n in range(operations + turn)]
                )
                state.emails.apply_errors(f"{name} 1", 3, ["61001", "61002"])
            store.save(name, state.snapshot())
        if old:
            for each in state.tracked.values():
                row = json.dumps(each.operation.stats), json.dumps(each.marks), name, each.operation.id
                store._connection.execute(
                    "UPDATE operations SET stats = ?, marks = ? WHERE (account, id) = (?, ?)", row
                )
    if old:
        downgrade(store._connection, 1)
    if not in_use:
        store.close()
    for suffix in SUFFIXES:
        with suppress(FileNotFoundError):
            shutil.copy(making / f"state.db{suffix}", into)
    store.close()


def damage(dice, folder):
    """Damage the state file in *folder* once or twice; return what was done."""
    done = []
    for _ in range(dice.choice((1, 1, 2))):
        kind = dice.choice(
            (_flip, _flip, _flip_header, _truncate, _zero, _swap, _remove, _value, _value, _value, _change)
        )
        done.append(f"{kind.__name__[1:]} {kind(dice, folder)}")
    return "; ".join(done)


def _file(dice, folder):
    files = [folder / f"state.db{suffix}" for suffix in SUFFIXES]
    return dice.choice([file for file in files if file.exists()] or [folder / "state.db"])


def _edit(file, change):
    content = bytearray(file.read_bytes() if file.exists() else b"")
    change(content)
    file.write_bytes(content)


def _flip(dice, folder):
    file, times = _file(dice, folder), dice.choice((1, 1, 3, 30))

    def change(content):
        for _ in range(times if content else 0):
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)

    _edit(file, change)
    return f"{file.name} {times}"


def _flip_header(dice, folder):
    file, at, value = _file(dice, folder), dice.randrange(200), dice.randrange(256)

    def change(content):
        if at < len(content):
            content[at] = value

    _edit(file, change)
    return f"{file.name} {at} {value}"


def _truncate(dice, folder):
    file = _file(dice, folder)
    size = file.stat().st_size if file.exists() else 0
    length = dice.choice((0, dice.randrange(size + 1), dice.randrange(size + 1) // 4096 * 4096))
    _edit(file, lambda content: content.__delitem__(slice(length, None)))
    return f"{file.name} to {length}"


def _zero(dice, folder):
    file = _file(dice, folder)

    def change(content):
        page = dice.randrange(len(content) // 4096 + 1) * 4096
        content[page : page + 4096] = bytes(len(content[page : page + 4096]))

    _edit(file, change)
    return file.name


def _swap(dice, folder):
    file = _file(dice, folder)

    def change(content):
        one, other = (dice.randrange(len(content) // 4096 + 1) * 4096 for _ in range(2))
        content[one : one + 4096], content[other : other + 4096] = (
            content[other : other + 4096],
            content[one : one + 4096],
        )

    _edit(file, change)
    return file.name


def _remove(dice, folder):
    file = _file(dice, folder)
    file.unlink(missing_ok=True)
    return file.name


def _value(dice, folder):
    table = dice.choice((*COLUMNS, "operations", "accounts"))
    column, value = dice.choice(COLUMNS[table]), _odd_value(dice, table)
    where = "" if dice.random() < 0.3 else f" WHERE rowid = {dice.randrange(3)}" if table == "file" else ""
    if table != "file" and dice.random() < 0.7:
        where = f" WHERE {COLUMNS[table][0]} = '{dice.choice(('shop', 'news'))}'"
    return _sql(folder, f"UPDATE OR REPLACE {table} SET {column} = {value}{where}")


def _odd_value(dice, table):
    if dice.random() < 0.8:
        return dice.choice(ODD)
    counts = [dice.choice((0, 1, -1, -2, 2**53, 2**53 + 1, 2**62)) for _ in STATS]
    if table == "operations":
        return f"x'{pack(tuple(counts)).hex()}'"
    totals = dict.fromkeys(
        TOTALS, dice.choice((0, 5, -1, 2**53, 2**63, 2**64, 2**93, 2**94, 10**400, 0.5, True, "1", None))
    )
    bounds = dice.choice(([], [1], [1, 1], [2, 1], [1, 1e308], [None], ["1"]))
    durations = {"bounds": bounds, "counts": counts[: len(bounds) + dice.choice((0, 1, 1, 1))]}
    durations["sum"] = dice.choice((0, 1.5, -1, 1e308, float("nan"), float("inf")))
    return "'" + json.dumps(dice.choice((totals, durations))) + "'"


def _change(dice, folder):
    table = dice.choice(tuple(COLUMNS))
    return _sql(folder, dice.choice(CHANGES).format(table=table, column=dice.choice(COLUMNS[table])))


def _sql(folder, statement):
    path = folder / "state.db"
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(f"UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '{LAX}')")
            connection.execute("PRAGMA schema_version = 4711")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(statement)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(f"UPDATE sqlite_master SET sql = replace(sql, '{LAX}', 'NOT NULL')")
    except (
        sqlite3.Error,
        UnicodeDecodeError,
    ) as error:  # the latter if an error message quotes bytes that are not UTF-8
        return f"{statement} ({error})"
    return statement


def use(path, *, emails=False):
    """Use the state file at *path* as a running exporter does; return whether it was loaded or renamed.

    Any error that the exporter does not handle is raised.
    """
    names = ("shop", "news")
    damage = []
    wanted = EmailOptions() if emails else None
    options = {
        "emails": emails,
        "clock": lambda: NOW,
        "lock_timeout": 0,
        "on_damage": lambda *found: damage.append(found),
    }
    store = SqliteStore(path, **options)
    try:
        saved = store.load(names)
        states = {name: restored(saved.get(name), wanted) for name in names}
        renamed = bool(damage)
        _show(states)
        for name, state in states.items():
            apply(state, listing(operation("new", total=3), operation(f"{name} 2", updated=NOW + 999), sweep=True))
            apply(state, listing(sweep=True, at=NOW + 999))
            if emails:
                state.emails.begin(NOW)
                learn(state, email("new", status="FAILED"), email(f"{name} 2", status="FAILED"))
            try:
                store.save(name, state.snapshot())
            except StateLostError:
                renamed = True
                state.requeue_all()
                store.save(name, state.snapshot())
        _show(states)
    finally:
        store.close()
    damage.clear()
    store = SqliteStore(path, **options)
    again = store.load(names)
    store.close()
    assert renamed or not damage
    for name, state in states.items():
        if not damage and not renamed:
            assert (tuple(state.totals), state.tracked) == (again[name].totals, again[name].tracked), name
            if emails:
                kept = again[name].emails
                assert (state.emails.known, state.emails.counts.counts) == (kept.known, kept.counts), name
    if renamed:
        assert list(path.parent.glob("state.db.corrupt-*"))
    return "renamed" if renamed else "loaded"


class _Shown:
    def __init__(self, name, state):
        self.name, self.state = name, state
        self.view = view(state, now=NOW, active_window=1e12, limit=10**6)
        self.email_health = EmailHealth()
        self.revision = None
        self.health, self.request_stats = PollHealth(interval_seconds=60, last_success_monotonic=NOW), RequestStats()


def _show(states):
    accounts = [_Shown(name, state) for name, state in states.items()]
    exposition = Exposition(lambda: accounts, reloads=Reloads(last_success=NOW), monotonic=lambda: NOW)
    for openmetrics in (False, True):
        page = page_of(exposition, openmetrics=openmetrics).decode()
        # All of them are recent enough to be exposed.
        shown = sum(not tracked.gone for state in states.values() for tracked in state.tracked.values())
        assert page.count("comms_email_operation_updated_timestamp_seconds{") == shown


def fuzz(dice, times, folder: Path):
    """Damage *times* state files; return how many were loaded and renamed, and what happened to any other."""
    originals = Originals(folder)
    counts, neither = {"loaded": 0, "renamed": 0}, []
    for number in range(times):
        into = folder / str(number)
        into.mkdir()
        originals.copy(dice, into)
        done = damage(dice, into)
        try:
            counts[use(into / "state.db", emails=dice.random() < 0.7)] += 1
        except Exception as error:  # noqa: BLE001 - finding any is the purpose
            neither.append(f"{number}: {done}: {type(error).__name__}: {error}")
        shutil.rmtree(into)
    return counts, neither
