"""`comms-exporter state` moves accounts between state files and a database, and their totals go on exactly."""

import hashlib
import shutil
import signal
from pathlib import Path

import postgres
import process
import psycopg
import pytest
from operations import NOW, account_with_emails, apply, email, learn, listing, operation, restored
from sharing.fleet import Fleet
from sharing.members import Exporter
from sharing.world import World
from store.state_files import database as opened
from store.state_files import email_memory, memory

from comms_exporter.collect.emails.state import EmailOptions
from comms_exporter.store.errors import StoreError
from comms_exporter.store.postgres import connection, schema, transfer
from comms_exporter.store.postgres.claims import Claims
from comms_exporter.store.postgres.membership import Membership
from comms_exporter.store.sqlite import SqliteStore

GOLDEN = Path(__file__).parents[1] / "golden/0.1.0/state.db"
OPTIONS = EmailOptions(all_stages=True, tags=("campaign",), errors=True)
pytestmark = postgres.needs_postgres


@pytest.fixture(scope="module")
def server():
    with postgres.running() as server:
        yield server


@pytest.fixture
def database(server):
    """The flags of a schema that nobody else uses."""
    return f"--state.url={server.url}", f"--state.schema={server.schema()}"


def account(emails_of=()):
    """Return the state of an account that has counted."""
    state = account_with_emails(all_stages=True, tags=("campaign",), errors=True)
    apply(state, listing(operation("a", total=5, sent=3, failed=1), operation("b", total=2, recipients=None)))
    state.mark_gone("b")
    for each in emails_of:
        learn(state, email(each, status="FAILED", of="a", sender="news.example", campaign="spring"))
        state.emails.apply_errors("a", 1, ["61001"])
    return state


def write(path, **accounts):
    store = SqliteStore(path, emails=True)
    for name, state in accounts.items():
        store.save(name, state.snapshot())
    store.close()


def content(path):
    """Return everything in a state file."""
    copy = path.with_name("copied.db")
    shutil.copyfile(path, copy)
    store = SqliteStore(copy, emails=True)
    try:
        states = {name: restored(saved, OPTIONS) for name, saved in store.load(store.names()).items()}
        return {name: (memory(each), email_memory(each.emails)) for name, each in states.items()}
    finally:
        store.close()


def fingerprint(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def rows(server, database):
    """Return what the tables of accounts contain."""
    name = database[1].partition("=")[2]
    with psycopg.connect(server.url) as session:
        return {
            table: sorted(session.execute(f"SELECT t::text FROM {name}.{table} t").fetchall())
            for table in ("accounts", "operations", "email_totals", "email_counts", "emails", "email_errors")
        }


async def state(*arguments, code=0):
    """Run the command and return its lines."""
    returned, stdout, stderr = await process.run_to_end("state", *map(str, arguments))

    assert code == returned, stdout + stderr
    return (stdout + stderr).splitlines()


class TestRoundTrip:
    async def test_everything_of_every_account_arrives(self, tmp_path, database):
        """Emails included; the file that is imported does not change."""
        (tmp_path / "old").mkdir()
        old, new = tmp_path / "old" / "state.db", tmp_path / "new.db"
        write(old, shop=account(["x", "y"]), letter=account())
        before = fingerprint(old.parent)

        assert ["imported 2 accounts with 4 operations"] == await state("import", old, *database)
        assert ["exported 2 accounts with 4 operations"] == await state("export", new, *database)
        assert before == fingerprint(old.parent)
        assert ["new.db", "old"] == sorted(path.name for path in tmp_path.iterdir())
        assert content(old) == content(new)
        assert {"shop", "letter"} == content(new).keys()

    async def test_a_file_of_0_1_0_is_imported(self, tmp_path, database):
        shutil.copy(GOLDEN, tmp_path / "state.db")

        (line,) = await state("import", tmp_path / "state.db", *database)

        assert line.startswith("imported 1 account with ")
        assert GOLDEN.read_bytes() == (tmp_path / "state.db").read_bytes()
        await state("export", tmp_path / "new.db", *database)
        assert content(tmp_path / "state.db") == content(tmp_path / "new.db")

    async def test_changes_in_the_log_are_imported(self, tmp_path, database):
        """After a crash, the latest saves are only there."""
        store = SqliteStore(tmp_path / "state.db", emails=True)
        store.save("shop", account().snapshot())
        (tmp_path / "crashed").mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"state.db{suffix}", tmp_path / "crashed" / f"state.db{suffix}")
        store.close()

        assert ["imported 1 account with 2 operations"] == await state(
            "import", tmp_path / "crashed" / "state.db", *database
        )


class TestRefusals:
    async def test_an_account_with_a_state_is_not_touched(self, tmp_path, server, database):
        """The others are imported."""
        first, second = tmp_path / "first.db", tmp_path / "second.db"
        write(first, shop=account(["x"]))
        other = account(["y"])
        apply(other, listing(operation("c", total=100), at=NOW + 60))
        write(second, letter=account(), shop=other)
        await state("import", first, *database)
        before = rows(server, database)

        assert {
            "comms-exporter: account shop: not imported: it already has a state in the database",
            "imported 1 of 2 accounts with 2 operations",
        } == set(await state("import", second, *database, code=1))
        after = rows(server, database)
        assert all(set(before[table]) <= set(after[table]) for table in before)
        await state("export", tmp_path / "new.db", *database)
        assert content(first)["shop"] == content(tmp_path / "new.db")["shop"]

    async def test_an_account_whose_owner_runs_is_not_touched(self, tmp_path, server, database):
        """One whose owner has died is imported: nobody else may be there to bury it."""
        write(tmp_path / "state.db", shop=account(), letter=account())
        name = database[1].partition("=")[2]

        def member(account):
            joined = Membership(
                connection.Connection(server.url, schema=name, name="test", prepare=schema.migrate),
                Claims(),
                name=f"owner of {account}",
            )
            joined.register([account])
            joined.beat()
            assert 1 == joined.claim(1)
            return joined

        living, dead = member("shop"), member("letter")
        waits = []

        def pass_time(seconds):
            waits.append(seconds)
            living.beat()

        database_connection = connection.Connection(server.url, schema=name, name="test", prepare=schema.migrate)
        transferred = list(
            transfer.import_file(
                tmp_path / "state.db", database_connection, dead_after=18.0, on_wait=waits.append, sleep=pass_time
            )
        )
        for each in (living, dead, database_connection):
            each.close()

        assert [18.0, 18.0] == waits
        assert {"letter": "", "shop": "the exporter owner of shop runs and owns it: stop it first"} == {
            each.account: each.problem for each in transferred
        }

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    async def test_an_import_that_is_stopped_reports_no_success_and_leaves_no_copy(
        self, tmp_path, server, database, number
    ):
        (tmp_path / "copies").mkdir()
        write(tmp_path / "state.db", shop=account())
        owner = Exporter(server, database[1].partition("=")[2], "shop")
        owner.own()
        owner.close()
        environ = {"TMPDIR": str(tmp_path / "copies")}
        async with process.run("state", "import", f"{tmp_path}/state.db", *database, environ=environ) as importing:
            await importing.until("some accounts have an owner")
            importing.send(number)

            assert 130 == await importing.ended(10)
        assert [] == list((tmp_path / "copies").iterdir())

    async def test_a_file_in_use_is_not_imported(self, tmp_path, database):
        """Its exporter would go on counting into it."""
        store = SqliteStore(tmp_path / "state.db")
        try:
            (line,) = await state("import", tmp_path / "state.db", *database, code=1)
        finally:
            store.close()

        assert (
            f"comms-exporter: {tmp_path}/state.db is in use by another process; each process needs its own state file"
            == line
        )

    async def test_a_damaged_file_stays_where_it_is(self, tmp_path, database):
        write(tmp_path / "state.db", shop=account())
        (tmp_path / "state.db").write_bytes((tmp_path / "state.db").read_bytes()[:8192])
        before = fingerprint(tmp_path)

        (line,) = await state("import", tmp_path / "state.db", *database, code=1)

        assert line.startswith(f"comms-exporter: {tmp_path}/state.db: is damaged, or not a state file: ")
        assert before == fingerprint(tmp_path)

    async def test_a_damaged_row_is_an_error(self, tmp_path, database):
        write(tmp_path / "state.db", shop=account())
        with opened(tmp_path / "state.db") as file:
            file.execute("UPDATE operations SET marks = 'x'")

        lines = await state("import", tmp_path / "state.db", *database, code=1)

        assert lines[0].startswith(f"comms-exporter: {tmp_path}/state.db: ")

    async def test_an_existing_file_is_not_overwritten(self, tmp_path, database):
        write(tmp_path / "state.db", shop=account())
        await state("import", tmp_path / "state.db", *database)
        (tmp_path / "notes.txt").write_text("mine")

        assert [f"comms-exporter: {tmp_path}/notes.txt: the file exists; choose a new name"] == await state(
            "export", tmp_path / "notes.txt", *database, code=1
        )
        assert "mine" == (tmp_path / "notes.txt").read_text()

    async def test_an_export_creates_no_schema(self, tmp_path, server, database):
        name = database[1].partition("=")[2]

        (line,) = await state("export", tmp_path / "new.db", *database, code=1)

        assert f"comms-exporter: --state.schema: there are no tables of the exporter in {name}" == line
        assert [] == list(tmp_path.iterdir())
        with psycopg.connect(server.url) as session:
            assert [] == session.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [name]).fetchall()

    async def test_a_database_that_is_away_leaves_no_file(self, tmp_path):
        url = f"--state.url=postgresql://comms@127.0.0.1:{process.unused_port()}/postgres"
        write(tmp_path / "state.db", shop=account())

        for action, file in (("import", "state.db"), ("export", "new.db")):
            (line,) = await state(action, tmp_path / file, url, code=1)
            assert line.startswith("comms-exporter: PostgreSQL at 127.0.0.1: "), line
        assert {"state.db", "state.db.lock"} == {path.name for path in tmp_path.iterdir()}

    @pytest.mark.parametrize(
        ("arguments", "code", "line"),
        [
            pytest.param(
                ["import", "state.db"],
                2,
                "--state.url: is required: set it to the PostgreSQL database of the exporters",
                id="no database",
            ),
            pytest.param(
                ["import", "/nowhere/state.db", "--state.url=postgresql://127.0.0.1:1/x"],
                1,
                "/nowhere/state.db: no such file or directory",
                id="no file",
            ),
            *(
                pytest.param(
                    arguments, 2, "needs what to do and a file: `state import FILE` or `state export FILE`", id=text
                )
                for text, arguments in {
                    "nothing": [],
                    "no name": ["export"],
                    "unknown action": ["inport", "state.db"],
                }.items()
            ),
        ],
    )
    async def test_mistakes_are_explained(self, arguments, code, line):
        assert [f"comms-exporter: {line}"] == await state(*arguments, code=code)


def test_an_export_shows_one_moment(tmp_path, server, database, monkeypatch):
    """What exporters save meanwhile is not in it, whichever account it is."""
    name = database[1].partition("=")[2]
    write(tmp_path / "state.db", first=account(), second=account())
    shared = connection.Connection(server.url, schema=name, name="test", prepare=schema.migrate)
    list(transfer.import_file(tmp_path / "state.db", shared, dead_after=0, on_wait=lambda _: None))

    class Interrupted(SqliteStore):
        def save(self, account, snapshot):
            super().save(account, snapshot)
            with psycopg.connect(server.url) as session:
                session.execute(f"DELETE FROM {name}.operations")
                session.execute(f"UPDATE {name}.accounts SET first_look = NULL")

    monkeypatch.setattr(transfer, "SqliteStore", Interrupted)
    exported = transfer.export_file(tmp_path / "new.db", shared)
    shared.close()

    assert [("first", 2, ""), ("second", 2, "")] == [(each.account, each.operations, each.problem) for each in exported]
    assert content(tmp_path / "state.db") == content(tmp_path / "new.db")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("accounts SET totals = 'none' WHERE name = 'first'", id="totals"),
        pytest.param("operations SET marks = 'x' WHERE account = 1", id="operation"),
    ],
)
def test_an_unreadable_account_is_left_out_of_an_export(tmp_path, server, database, damage):
    name = database[1].partition("=")[2]
    write(tmp_path / "state.db", first=account(), second=account())
    shared = connection.Connection(server.url, schema=name, name="test", prepare=schema.migrate)
    list(transfer.import_file(tmp_path / "state.db", shared, dead_after=0, on_wait=lambda _: None))
    with psycopg.connect(server.url) as session:
        session.execute(f"UPDATE {name}.{damage}")

    first, second = transfer.export_file(tmp_path / "new.db", shared)
    shared.close()

    assert first.problem.startswith("its state in the database is unreadable: ")
    assert "" == second.problem
    assert ["second"] == [*content(tmp_path / "new.db")]


def test_a_disk_error_leaves_no_file(tmp_path, server, database, monkeypatch):
    name = database[1].partition("=")[2]
    write(tmp_path / "state.db", shop=account())
    shared = connection.Connection(server.url, schema=name, name="test", prepare=schema.migrate)
    list(transfer.import_file(tmp_path / "state.db", shared, dead_after=0, on_wait=lambda _: None))

    class Full(SqliteStore):
        def save(self, account, snapshot):
            super().save(account, snapshot)
            raise StoreError(f"{self.path}: database or disk is full")

    monkeypatch.setattr(transfer, "SqliteStore", Full)
    with pytest.raises(StoreError, match=f"^{tmp_path}/new.db: database or disk is full$"):
        transfer.export_file(tmp_path / "new.db", shared)
    shared.close()

    assert {"state.db", "state.db.lock"} == {path.name for path in tmp_path.iterdir()}


class TestTotalsContinue:
    """Real exporters, whose totals are compared with what the API was made to say."""

    ACCOUNTS = ("shop", "letter", "idle")

    def happen(self, world):
        for name in self.ACCOUNTS[:2]:
            world.send(name, 50)
            for _ in range(3):
                world.progress(name)

    async def test_from_a_file_to_a_database_and_back(self, tmp_path, server, database):
        """The exporters with the database run while it is exported."""
        async with World(1) as world:
            name = database[1].partition("=")[2]
            fleet = Fleet(
                tmp_path, world=world, database=server.url, schema=name, accounts=self.ACCOUNTS, interval="1s"
            )
            shared = fleet._flags
            alone = [flag for flag in shared if not flag.startswith("--state.")]
            async with fleet:
                fleet._flags = (*alone, f"--state.path={tmp_path}/old.db")
                await fleet.start("alone")
                await fleet.settle(20, lambda shown: set(self.ACCOUNTS) == shown["alone"])
                await fleet.settle(20, lambda _: world.requests.keys() >= set(self.ACCOUNTS))
                self.happen(world)
                await fleet.settle(20, lambda _: [] == fleet.differences())
                await fleet.stop("alone")
                self.happen(world)

                await state("import", tmp_path / "old.db", *database)
                fleet._flags = shared
                await fleet.start("a")
                await fleet.start("b")
                await fleet.settle(30, lambda _: [] == fleet.differences())
                self.happen(world)
                await fleet.settle(20, lambda _: [] == fleet.differences())
                await state("export", tmp_path / "new.db", *database)
                self.happen(world)
                for each in ("a", "b"):
                    assert 0 == await fleet.stop(each)

                fleet._flags = (*alone, f"--state.path={tmp_path}/new.db")
                await fleet.start("alone")
                await fleet.settle(20, lambda _: [] == fleet.differences())

            assert [] == fleet.fallen
