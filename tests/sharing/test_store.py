"""A state in PostgreSQL survives restarts; whoever does not own an account can write nothing of it."""

import errno
import itertools
import re
import socket
import threading
import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import psycopg
import pytest
from operations import NOW, account_with_emails, apply, email, learn, listing, operation, restored
from postgres import needs_postgres
from sharing.members import Exporter, connection, rows
from store.state_files import email_memory, memory, save

from comms_exporter.collect.emails.state import EmailOptions
from comms_exporter.collect.state import AccountState
from comms_exporter.store import rows as rows_of_records
from comms_exporter.store.errors import (
    DatabaseAwayError,
    NotOwnerError,
    StateLostError,
    StoreError,
    StoreRefusedError,
)
from comms_exporter.store.postgres import connection as postgres_connection
from comms_exporter.store.postgres import schema as tables
from comms_exporter.store.postgres import store as postgres_store

pytestmark = needs_postgres

EMAILS = {"all_stages": True, "tags": ("campaign",), "errors": True}


@pytest.fixture
def exporters(server, schema):
    """Return a function that makes one more exporter of the same database."""
    made = []

    def make(*accounts, **arguments):
        made.append(Exporter(server, schema, *(accounts or ("shop",)), **arguments))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def state():
    """An account that has counted."""
    state = AccountState()
    apply(state, listing(operation("before", status="COMPLETED", created=NOW - 99), sweep=True, at=NOW - 60))
    apply(
        state,
        listing(
            operation("a", total=5, queued=2, sent=3),
            operation("b", status="COMPLETED", updated=NOW + 40, total=2, sent=2, delivered=2, opened=1),
            operation("c" * 128, status="PAUSED", total=1, recipients=None, attempts=None, queued=1),
        ),
    )
    state.mark_gone("c" * 128)
    return state


def packet(kind, content):
    """Return a message of PostgreSQL's protocol."""
    return kind + (len(content) + 4).to_bytes(4) + content


@contextmanager
def answering(*packets):
    """Give the URL of a server that answers a login with *packets*, and then nothing any more."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    with client:
                        client.settimeout(20)
                        client.recv(4096)
                        client.sendall(b"".join(packets))
                        while client.recv(4096):
                            pass

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"postgresql://comms@127.0.0.1:{listening.getsockname()[1]}/x?sslmode=disable&gssencmode=disable"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def taken_over(exporter, other):
    """Let *other* take over from *exporter*, which is paused."""
    (member,) = [each for each in other.membership.beat() if each.id == exporter.membership.id]
    assert other.membership.bury(member)
    return other.own()


class TestSaving:
    def test_another_exporter_continues_with_the_saved_state(self, exporters, state):
        exporter, other = exporters(), exporters()
        assert {} == exporter.own()
        save(exporter.store, state)
        exporter.membership.leave()

        assert memory(state) == memory(restored(other.own()["shop"]))

    def test_a_database_without_an_encoding_works(self, server, schema, state):
        """As of a cluster that was created without a locale: PostgreSQL then says nothing about the bytes that it sends."""
        with psycopg.connect(server.url, autocommit=True) as session:
            session.execute(f"CREATE DATABASE {schema} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        plain = SimpleNamespace(url=server.url.replace("/postgres", f"/{schema}"))
        exporter, other = Exporter(plain, schema, "shop"), Exporter(plain, schema, "shop")
        try:
            exporter.own()
            save(exporter.store, state)
            exporter.membership.leave()

            assert memory(state) == memory(restored(other.own()["shop"]))
        finally:
            exporter.close()
            other.close()

    def test_a_libpq_that_reads_only_single_rows_is_enough(self, exporters, state, monkeypatch):
        """As before version 17."""
        stream = psycopg.Cursor.stream
        monkeypatch.setattr(psycopg.capabilities, "has_stream_chunked", lambda: False)
        monkeypatch.setattr(psycopg.Cursor, "stream", lambda self, *args, size: stream(self, *args, size={1: 1}[size]))
        exporter, other = exporters(), exporters()
        exporter.own()
        save(exporter.store, state)

        assert memory(state) == memory(restored(taken_over(exporter, other)["shop"]))

    def test_a_database_that_lacks_characters_is_refused(self, server, schema):
        """One account with such a name would keep all others from being registered."""
        with psycopg.connect(server.url, autocommit=True) as session:
            session.execute(f"CREATE DATABASE {schema} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")

        with pytest.raises(StoreRefusedError, match="LATIN1"):
            Exporter(SimpleNamespace(url=server.url.replace("/postgres", f"/{schema}")), schema, "shop", "商店")

    def test_only_changes_are_written_and_forgotten_operations_are_removed(self, exporters, state, server, schema):
        exporter, other = exporters(), exporters()
        exporter.own()
        save(exporter.store, state)
        apply(state, listing(operation("a", updated=NOW + 50, total=5, sent=5)))
        snapshot = state.snapshot()
        assert ["a"] == list(snapshot.changed)
        exporter.store.save("shop", snapshot)
        apply(state, listing(sweep=True, at=NOW + 8 * 86400))
        save(exporter.store, state)

        assert [("a",)] == rows(server, schema, "SELECT id FROM {}.operations")
        assert memory(state) == memory(restored(taken_over(exporter, other)["shop"]))

    def test_emails_are_saved_with_their_account(self, exporters):
        state = account_with_emails(**EMAILS)
        apply(state, listing(operation("a", total=3, failed=1)))
        learn(
            state,
            email("x", status="FAILED", of="a", sender="news.example", campaign="spring"),
            email("z" * 128, status="OPENED", created=NOW - 99),
        )
        state.emails.apply_errors("a", 1, ["61001", "x" * 64])
        exporter, other = exporters(emails=True), exporters(emails=True)
        exporter.own()
        save(exporter.store, state)
        apply(state, listing(sweep=True, at=NOW + 8 * 86400))
        save(exporter.store, state)

        again = restored(taken_over(exporter, other)["shop"], EmailOptions(**EMAILS))

        assert memory(state) == memory(again)
        assert email_memory(state.emails) == email_memory(again.emails)

    def test_more_changes_than_one_statement_takes_are_saved(self, exporters):
        state = AccountState()
        apply(state, listing(sweep=True, at=NOW - 60))
        apply(state, listing(*[operation(f"a{n}", total=2**53) for n in range(11_000)]))
        exporter, other = exporters(), exporters()
        exporter.own()
        save(exporter.store, state)

        assert memory(state) == memory(restored(taken_over(exporter, other)["shop"]))

    def test_a_save_that_fails_half_way_changes_nothing(self, exporters, state, monkeypatch):
        exporter, other = exporters(), exporters()
        exporter.own()
        save(exporter.store, state)
        before = memory(state)
        apply(state, listing(operation("a", updated=NOW + 50, total=5, sent=5)))
        snapshot = state.snapshot()
        original = rows_of_records.operation_row
        monkeypatch.setattr(
            rows_of_records, "operation_row", lambda *args: (*original(*args)[:2], None, *original(*args)[3:])
        )

        with pytest.raises(StoreError):
            exporter.store.save("shop", snapshot)
        monkeypatch.undo()

        assert before != memory(state)
        assert before[1] == list(taken_over(exporter, other)["shop"].totals)


class TestOwnership:
    def test_an_account_has_one_owner(self, exporters):
        first, second = exporters("a", "b", "c"), exporters("a", "b", "c")

        first.membership.claim(2)
        second.membership.claim(3)

        assert {"a", "b"} == set(first.claims.all())
        assert {"c"} == set(second.claims.all())

    def test_nothing_can_be_saved_without_owning_the_account(self, exporters, state):
        exporter = exporters()

        with pytest.raises(NotOwnerError):
            exporter.store.save("shop", state.snapshot())

    def test_nothing_can_be_saved_before_the_account_was_loaded(self, exporters, state):
        exporter = exporters()
        exporter.membership.claim(1)

        with pytest.raises(NotOwnerError):
            exporter.store.save("shop", state.snapshot())

    def test_a_paused_exporter_cannot_save_after_another_took_over(self, exporters, state):
        paused, other = exporters(), exporters()
        paused.own()
        save(paused.store, state)
        taken_over(paused, other)
        apply(state, listing(operation("a", updated=NOW + 50, total=5, sent=5)))

        with pytest.raises(NotOwnerError):
            save(paused.store, state)

        assert paused.claims.get("shop") is None
        assert 1 == paused.claims.losses

    def test_without_the_fence_a_paused_exporter_overwrites_what_others_counted(self, exporters, state, monkeypatch):
        """So the test above this one cannot pass by chance."""
        monkeypatch.setattr(postgres_store, "_FENCE", "id = %s AND (%s::uuid, %s::bigint) IS NOT NULL")
        paused, other = exporters(), exporters()
        paused.own()
        save(paused.store, state)
        again = restored(taken_over(paused, other)["shop"])
        apply(again, listing(operation("a", updated=NOW + 50, total=5, sent=5)))
        save(other.store, again)

        with pytest.raises(StateLostError):
            save(paused.store, state)
        state.requeue_all()
        save(paused.store, state)

        other.membership.beat()
        assert sum(state.totals) == sum(other.store.load(["shop"])["shop"].totals) < sum(again.totals)

    def test_a_paused_exporter_cannot_save_even_if_it_owns_the_account_again(self, exporters, state):
        paused, other = exporters(), exporters()
        paused.own()
        save(paused.store, state)
        taken_over(paused, other)
        other.membership.leave()
        paused.membership.beat()
        paused.membership.claim(1)
        assert paused.claims.get("shop") is not None

        with pytest.raises(NotOwnerError):
            save(paused.store, state)

    def test_a_save_and_a_takeover_at_the_same_time_wait_for_each_other(self, exporters, state, server, schema):
        saving, other = exporters(), exporters()
        saving.own()
        save(saving.store, state)
        locked, finish = threading.Event(), threading.Event()

        def hold(transaction):
            transaction.execute("UPDATE {}.accounts SET saves = saves")
            locked.set()
            finish.wait(10)

        blocker = connection(server, schema)
        thread = threading.Thread(target=blocker.run, args=[hold])
        thread.start()
        locked.wait(10)
        (member,) = [each for each in other.membership.beat() if each.id == saving.membership.id]
        with pytest.raises(StoreError, match="lock timeout"):
            other.membership.bury(member)
        finish.set()
        thread.join()
        blocker.close()

        assert other.membership.bury(member)

    def test_the_dead_cannot_claim(self, exporters):
        dead, other = exporters(), exporters()
        (member,) = [each for each in other.membership.beat() if each.id == dead.membership.id]
        other.membership.bury(member)

        assert 0 == dead.membership.claim(1)
        assert 1 == other.membership.claim(1)

    def test_whoever_is_buried_while_claiming_leaves_nothing_owned(self, server, schema, exporters):
        """Whatever isolation the database has by default: the burial has to see what was claimed while it waited."""
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {schema} LOGIN SUPERUSER")
            admin.execute(f"ALTER ROLE {schema} SET default_transaction_isolation = 'repeatable read'")
        strict = SimpleNamespace(url=server.url.replace("comms@", f"{schema}@"))
        dead, other = Exporter(strict, schema, "shop"), Exporter(strict, schema, "shop")
        (member,) = [each for each in other.membership.beat() if each.id == dead.membership.id]
        claiming = threading.Event()
        run = dead.connections[0].run

        def claim_slowly(work):
            def slow(transaction):
                claimed = work(transaction)
                claiming.set()
                give_up_at = time.monotonic() + 2
                while not rows(server, schema, "SELECT 1 FROM pg_locks WHERE NOT granted"):
                    assert time.monotonic() < give_up_at
                return claimed

            return run(slow)

        dead.connections[0].run = claim_slowly
        claim = threading.Thread(target=dead.membership.claim, args=[1])
        claim.start()
        claiming.wait(10)
        assert other.membership.bury(member)
        claim.join()

        assert [(None,)] == rows(server, schema, "SELECT owner FROM {}.accounts")
        dead.close()
        other.close()

    def test_a_member_with_another_beat_is_not_buried(self, exporters):
        living, other = exporters(), exporters()
        living.own()
        (member,) = [each for each in other.membership.beat() if each.id == living.membership.id]
        living.membership.beat()

        assert not other.membership.bury(member)
        assert {"shop"} == set(living.claims.all())

    def test_who_was_buried_joins_anew_and_owns_nothing(self, exporters):
        buried, other = exporters(), exporters()
        buried.own()
        before = buried.membership.id
        taken_over(buried, other)

        members = buried.membership.beat()

        assert buried.membership.id != before
        assert {buried.membership.id, other.membership.id} == {each.id for each in members}
        assert {} == buried.claims.all()

    def test_a_released_account_is_free_at_once(self, exporters, state):
        exporter, other = exporters(), exporters()
        exporter.own()
        save(exporter.store, state)

        exporter.membership.release(["shop"])

        assert exporter.claims.get("shop") is None
        assert memory(state) == memory(restored(other.own()["shop"]))

    def test_accounts_that_were_removed_from_the_settings_are_given_up(self, exporters):
        exporter, other = exporters("a", "b"), exporters("a", "b")
        exporter.own()

        exporter.membership.register(["b"])
        exporter.membership.beat()

        assert {"b"} == set(exporter.claims.all())
        assert (1, 0) == (exporter.claims.losses, exporter.claims.taken)
        assert 1 == other.membership.claim(5)

    def test_an_account_that_cannot_be_read_is_not_polled(self, exporters, state, server, schema):
        reports = []
        exporter, other = exporters(), exporters(on_unreadable=lambda *report: reports.append(report))
        exporter.own()
        save(exporter.store, state)
        rows(server, schema, "UPDATE {}.accounts SET totals = '[]' RETURNING true")

        assert {} == taken_over(exporter, other)

        assert ["shop"] == [name for name, _ in reports]
        other.membership.beat()
        assert {} == other.claims.all()

    @pytest.mark.parametrize("damaged", ["operation 0", "operation 6999"])
    def test_an_account_with_one_damaged_operation_delays_no_other(self, exporters, server, schema, damaged):
        """Whether the database has sent all rows by then, or not."""
        reports = []
        exporter = exporters("shop", "letter", on_unreadable=lambda *report: reports.append(report))
        exporter.own()
        state = AccountState()
        apply(state, listing(sweep=True, at=NOW - 60))
        apply(state, listing(*[operation(f"operation {n}", total=1) for n in range(7000)]))
        save(exporter.store, state)
        rows(server, schema, f"UPDATE {{}}.operations SET marks = 'x' WHERE id = '{damaged}' RETURNING true")

        assert {} == exporter.store.load(["shop", "letter"])

        assert ["shop"] == [name for name, _ in reports]
        assert exporter.claims.held("letter") is not None

    def test_an_account_that_the_database_fails_to_read_delays_no_other(
        self, exporters, state, server, schema, monkeypatch
    ):
        """As with a damaged page, or a statement timeout that is too short for the largest account. It is tried again later."""
        reports = []
        exporter = exporters("a", "b", on_unreadable=lambda *report: reports.append(report))
        exporter.membership.claim(1)
        exporter.store.load(["a"])
        save(exporter.store, state, "a")
        exporter.membership.claim(1)
        rows(server, schema, "ALTER TABLE {}.operations RENAME TO damaged")
        now = [1000.0]
        monkeypatch.setattr(postgres_store.time, "monotonic", lambda: now[0])

        for _ in range(2):
            assert {} == exporter.store.load(["a", "b"])
            assert (None, True) == (exporter.claims.held("a"), exporter.claims.held("b") is not None)
        rows(server, schema, "ALTER TABLE {}.damaged RENAME TO operations")
        assert {} == exporter.store.load(["a"])
        now[0] += postgres_store._RETRY_SECONDS

        assert memory(state) == memory(restored(exporter.store.load(["a"])["a"]))
        ((name, problem),) = reports
        assert "a" == name
        assert 'operations" does not exist' in problem


class TestFailures:
    def test_a_restored_backup_is_rewritten_completely(self, exporters, state, server, schema):
        exporter, other = exporters(), exporters()
        exporter.own()
        save(exporter.store, state)
        rows(server, schema, "UPDATE {}.accounts SET saves = 0, totals = '[]' RETURNING true")
        rows(server, schema, "DELETE FROM {}.operations RETURNING true")
        apply(state, listing(operation("a", updated=NOW + 50, total=5, sent=5)))

        with pytest.raises(StateLostError):
            save(exporter.store, state)
        state.requeue_all()
        save(exporter.store, state)

        assert memory(state) == memory(restored(taken_over(exporter, other)["shop"]))

    def test_without_emails_a_complete_save_leaves_those_in_the_database(self, exporters, server, schema):
        """An exporter that collects emails may own the account again."""
        state = account_with_emails(**EMAILS)
        apply(state, listing(operation("a", total=3, failed=1)))
        learn(state, email("x", status="FAILED", of="a"))
        exporter, other = exporters(emails=True), exporters()
        exporter.own()
        save(exporter.store, state)
        again = restored(taken_over(exporter, other)["shop"])
        rows(server, schema, "UPDATE {}.accounts SET saves = 0 RETURNING true")

        apply(again, listing(operation("a", updated=NOW + 50, total=4, failed=1)))
        with pytest.raises(StateLostError):
            save(other.store, again)
        again.requeue_all()
        save(other.store, again)

        assert [(1,)] == rows(server, schema, "SELECT count(*) FROM {}.emails")

    def test_a_session_that_the_server_ended_is_replaced(self, exporters, state, server, schema):
        exporter = exporters()
        exporter.own()
        save(exporter.store, state)
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        rows(server, schema, f"{end} AND application_name = 'test'")

        exporter.membership.beat()
        snapshot = state.snapshot()
        with pytest.raises(DatabaseAwayError):
            exporter.store.save("shop", snapshot)
        exporter.store.save("shop", snapshot)

    def test_a_session_with_a_server_that_accepts_no_writes_any_more_is_replaced(self, exporters):
        """A pooler may have moved it, or somebody has set default_transaction_read_only."""
        exporter = exporters()
        exporter.own()
        exporter.connections[0]._session.execute("SET default_transaction_read_only = on")

        assert 1 == len(exporter.membership.beat())
        assert {"shop"} == set(exporter.claims.all())

    def test_a_save_whose_answer_was_lost_is_repeated(self, exporters, state, monkeypatch):
        exporter, other = exporters(), exporters()
        exporter.own()
        save(exporter.store, state)
        apply(state, listing(operation("a", updated=NOW + 50, total=5, sent=5)))
        snapshot = state.snapshot()
        original = exporter.connections[1].run

        def committed_without_answer(work):
            original(work)
            raise DatabaseAwayError("the connection broke after the COMMIT")

        monkeypatch.setattr(exporter.connections[1], "run", committed_without_answer)
        with pytest.raises(DatabaseAwayError):
            exporter.store.save("shop", snapshot)
        monkeypatch.undo()
        state.requeue(snapshot)
        save(exporter.store, state)

        assert memory(state) == memory(restored(taken_over(exporter, other)["shop"]))

    def test_a_call_can_be_interrupted(self, server, schema):
        database = connection(server, schema)
        database.run(lambda transaction: None)
        threading.Timer(0.2, database.interrupt).start()
        began = time.monotonic()

        with pytest.raises(DatabaseAwayError):
            database.run(lambda transaction: transaction.execute("SELECT pg_sleep(60)"))

        assert time.monotonic() - began < 30
        assert [(1,)] == database.run(lambda transaction: transaction.execute("SELECT 1"))
        database.close()

    @pytest.mark.parametrize(("patience", "pauses"), [(5.0, [0.5, 1, 2, 4, 5]), (1.0, [0.5, 1, 1, 1, 1])])
    def test_after_failing_to_connect_others_need_not_wait(
        self, server, schema, unused_tcp_port, monkeypatch, patience, pauses
    ):
        """Nor do they wait so long that other exporters, which connect earlier, take this one for dead."""
        database = connection(server, schema, patience=patience)
        database._parameters["port"] = unused_tcp_port
        attempts, now = [], [1000.0]
        connect = psycopg.connect
        monkeypatch.setattr(psycopg, "connect", lambda **parameters: attempts.append(now[0]) or connect(**parameters))
        monkeypatch.setattr(postgres_connection.time, "monotonic", lambda: now[0])

        for _ in range(200):
            with pytest.raises(DatabaseAwayError, match="onnection refused"):
                database.run(lambda _: None)
            now[0] += 0.1

        assert pauses == [round(b - a, 1) for a, b in itertools.pairwise(attempts)][:5]

    def test_a_pooler_without_a_database_is_not_waited_for(self, schema, monkeypatch):
        """As pgbouncer does: the login succeeds, and the first statement waits for minutes."""
        monkeypatch.setattr(postgres_connection, "_ANSWER_SECONDS", 0.2)

        welcome = [
            packet(b"R", bytes(4)),
            packet(b"S", b"server_version\x0015.0\0"),
            packet(b"S", b"in_hot_standby\0off\0"),
            packet(b"S", b"default_transaction_read_only\0off\0"),
            packet(b"Z", b"I"),
        ]
        with answering(*welcome) as url:
            database = connection(SimpleNamespace(url=url), schema)
            began = time.monotonic()
            with pytest.raises(DatabaseAwayError):
                database.check()
            assert time.monotonic() - began < 5

    @pytest.mark.parametrize(
        "message",
        [
            "server login has been failing, cached error: connect failed (server_login_retry)",
            "server login has been failing, try again later (server_login_retry)",
            "no more connections allowed (max_client_conn)",
            "the database system is starting up",
        ],
    )
    def test_what_passes_by_itself_is_waited_for(self, schema, message):
        error = packet(b"E", b"SFATAL\0C08P01\0M" + message.encode() + b"\0\0")
        with answering(error) as url, pytest.raises(DatabaseAwayError, match=re.escape(message)):
            connection(SimpleNamespace(url=url), schema).check()

    def test_a_process_without_a_free_descriptor_waits_for_one(self, server, schema, monkeypatch):
        """Psycopg needs one of its own while it connects."""

        def fail(**_):
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(psycopg, "connect", fail)

        with pytest.raises(DatabaseAwayError, match="Too many open files"):
            connection(server, schema).run(lambda _: None)

    def test_a_wrong_password_is_refused_without_showing_it(self, server, schema):
        database = connection(server, schema)
        database._parameters |= {"user": "nobody-1", "password": "canary-password"}

        with pytest.raises(StoreRefusedError, match='role "nobody-1" does not exist') as raised:
            database.run(lambda _: None)

        assert "canary" not in str(raised.value)

    def test_a_url_that_cannot_be_parsed_is_not_shown(self, schema):
        with pytest.raises(StoreError) as raised:
            connection(type("Server", (), {"url": "postgresql://h/db?canary=1"}), schema)

        assert "canary" not in str(raised.value)
        assert raised.value.__cause__ is None


def test_the_environment_of_libpq_counts_and_the_url_first(monkeypatch, schema):
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")

    def parameters(url):
        return connection(type("Server", (), {"url": url}), schema)._parameters

    assert "connect_timeout" not in parameters("postgresql://host/db")
    assert "9" == parameters("postgresql://host/db?connect_timeout=9")["connect_timeout"]
    assert "read-write" == parameters("postgresql://host/db")["target_session_attrs"]
    monkeypatch.delenv("PGCONNECT_TIMEOUT")
    assert "3" == parameters("postgresql://host/db")["connect_timeout"]


class TestSchema:
    def test_several_exporters_create_it_at_the_same_time(self, server, schema):
        problems = []

        def connect():
            database = connection(server, schema)
            try:
                database.run(lambda _: None)
            except StoreError as error:
                problems.append(error)
            database.close()

        threads = [threading.Thread(target=connect) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

        assert [] == problems
        assert [(len(tables.MIGRATIONS),)] == rows(server, schema, "SELECT version FROM {}.schema_version")

    def test_that_of_a_newer_version_is_refused(self, server, schema):
        rows(server, schema, "SELECT 1")
        rows(server, schema, "UPDATE {}.schema_version SET version = 99 RETURNING true")

        with pytest.raises(StoreRefusedError, match="newer version"):
            rows(server, schema, "SELECT 1")

    @pytest.mark.parametrize("change", ["DELETE FROM {}.schema_version", "INSERT INTO {}.schema_version VALUES (1)"])
    def test_one_that_was_restored_in_part_is_not_used(self, server, schema, change):
        """As while a backup is being restored, or after it was restored over tables that were there."""
        rows(server, schema, f"{change} RETURNING true")

        with pytest.raises(StoreError, match="restored"):
            rows(server, schema, "SELECT 1")

    def test_a_role_needs_nothing_but_the_schema(self, server, schema):
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {schema} LOGIN")
            admin.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {schema}")
        database = connection(server, schema)
        database._parameters["user"] = schema

        assert [] == database.run(lambda transaction: transaction.execute("SELECT * FROM {}.accounts"))
        database.close()

    def test_a_role_that_may_not_create_it_is_told_so(self, server, schema):
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {schema} LOGIN")
        database = connection(server, schema)
        database._parameters["user"] = schema

        with pytest.raises(StoreRefusedError, match="permission denied"):
            database.run(lambda _: None)

    def test_installations_with_other_schemas_do_not_meet(self, server, schema, exporters, state):
        here, there = exporters(), Exporter(server, server.schema(), "shop")
        here.own()
        save(here.store, state)

        assert {} == there.own()
        assert 1 == len(there.membership.beat())
        there.close()

    def test_a_standby_is_refused(self, server, schema):
        database = connection(server, schema)
        database._parameters["options"] = "-c default_transaction_read_only=on"

        with pytest.raises(StoreError, match="read-only"):
            database.run(lambda _: None)
