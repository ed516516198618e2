"""Emails are saved in the transaction of their account, and are left alone while none are collected."""

import pytest
from operations import NOW, account_with_emails, apply, email, learn, listing, operation, restored
from store.state_files import Damage, copied, database, email_memory, memory, save

from comms_exporter.collect.emails.state import EmailOptions
from comms_exporter.store.errors import StateLostError
from comms_exporter.store.sqlite import SqliteStore

OPTIONS = {"all_stages": True, "tags": ("campaign",), "errors": True}


@pytest.fixture
def store(path):
    store = SqliteStore(path, emails=True)
    yield store
    store.close()


@pytest.fixture
def state():
    """An account that has counted emails."""
    state = account_with_emails(**OPTIONS)
    apply(state, listing(operation("a", total=3, failed=1)))
    learn(
        state,
        email("x", status="FAILED", of="a", sender="news.example", campaign="spring"),
        email("y", status="UNDELIVERED", updated=NOW + 30, to="", campaign="other"),
        email("z" * 128, status="OPENED", created=NOW - 99),
        email("reply", status="INBOUND"),
    )
    state.emails.apply_errors("a", 1, ["61001", "61001", "x" * 64])
    return state


def reloaded(path, *, emails=True):
    """Return the state of a new process, and the new name of the file if it was damaged."""
    damage = Damage()
    store = SqliteStore(path, emails=emails, on_damage=damage, clock=lambda: NOW)
    try:
        saved = store.load(["shop"]).get("shop")
    finally:
        store.close()
    return restored(saved, EmailOptions(**OPTIONS) if emails else None), damage.renamed_to


def test_a_new_process_continues_with_the_saved_emails(store, state, path):
    save(store, state)
    store.close()

    again, renamed_to = reloaded(path)

    assert renamed_to is None
    assert memory(state) == memory(again)
    assert email_memory(state.emails) == email_memory(again.emails)


def test_only_changes_are_written(store, state, path):
    save(store, state)
    learn(state, email("new", status="FAILED"))
    snapshot = state.snapshot()
    assert (1, 2, 0) == (len(snapshot.emails.known), len(snapshot.emails.counts), len(snapshot.emails.errors))
    store.save("shop", snapshot)

    assert email_memory(state.emails) == email_memory(reloaded(copied(path))[0].emails)


def test_what_was_not_saved_is_saved_the_next_time(store, state, path):
    save(store, state)
    learn(state, email("new", status="FAILED"))
    state.emails.apply_errors("b", 1, ["61002"])
    snapshot = state.snapshot()
    learn(state, email("newer", status="FAILED"))
    state.requeue(snapshot)
    save(store, state)

    assert email_memory(state.emails) == email_memory(reloaded(copied(path))[0].emails)


def test_forgotten_emails_are_removed(store, state, path):
    save(store, state)
    apply(state, listing(operation("a", status="COMPLETED", updated=NOW + 1, total=3, failed=1)))
    apply(state, listing(sweep=True, at=NOW + 8 * 86400))
    save(store, state)
    store.close()

    with database(path) as connection:
        assert [(0,), (0,)] == [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("emails", "email_errors")
        ]
    assert email_memory(state.emails) == email_memory(reloaded(path)[0].emails)


def test_a_removed_file_is_rewritten(store, state, path):
    save(store, state)
    for file in path.parent.iterdir():
        file.unlink()
    learn(state, email("new", status="FAILED"))

    snapshot = state.snapshot()
    with pytest.raises(StateLostError):
        store.save("shop", snapshot)
    state.requeue(snapshot)
    with pytest.raises(StateLostError):
        save(store, state)
    state.requeue_all()
    save(store, state)
    store.close()

    assert email_memory(state.emails) == email_memory(reloaded(path)[0].emails)


def test_no_address_and_no_id_is_saved(store, state, path):
    learn(state, email("comms_email_canary", status="FAILED"))
    save(store, state)
    store.close()

    assert b"comms_email_canary" not in path.read_bytes()


def test_emails_outlive_a_time_in_which_none_were_collected(store, state, path):
    """Meanwhile operations are counted, and the emails that were known are not counted again."""
    save(store, state)
    store.close()
    off = SqliteStore(path)
    without = restored(off.load(["shop"])["shop"])
    apply(without, listing(operation("b", total=2, failed=1), sweep=True, at=NOW + 60))
    save(off, without)
    off.close()

    again, renamed_to = reloaded(path)

    assert renamed_to is None
    assert email_memory(state.emails) == email_memory(again.emails)
    before = dict(again.emails.counts.counts)
    learn(again, email("x", status="FAILED", of="a", sender="news.example", campaign="spring"))
    assert before == again.emails.counts.counts


def test_emails_that_expired_in_the_meantime_are_forgotten(store, state, path):
    save(store, state)
    store.close()
    off = SqliteStore(path)
    without = restored(off.load(["shop"])["shop"])
    apply(without, listing(sweep=True, at=NOW + 8 * 86400))
    save(off, without)
    off.close()

    again, _ = reloaded(path)
    before = dict(again.emails.counts.counts)
    apply(again, listing(sweep=True, at=NOW + 8 * 86400 + 60))
    learn(again, email("x", status="FAILED"), at=NOW + 8 * 86400 + 60)

    assert {} == again.emails.known
    assert before == again.emails.counts.counts


DAMAGE = [
    "UPDATE email_totals SET totals = '{}'",
    "UPDATE email_totals SET totals = replace(totals, '\"at\": ', '\"at\": 1e999')",
    "UPDATE email_totals SET totals = replace(totals, 'inbound\": 1', 'inbound\": -1')",
    "UPDATE email_totals SET totals = replace(totals, 'sum', 'sun')",
    "UPDATE email_totals SET account = 'shoq'",
    "DELETE FROM email_totals",
    "UPDATE email_counts SET label = 'colour' WHERE label = 'provider'",
    "UPDATE email_counts SET value = '' WHERE value = 'news.example'",
    "UPDATE email_counts SET value = char(8238) WHERE value = 'news.example'",
    "UPDATE email_counts SET counts = '[1]' WHERE label = 'provider'",
    "UPDATE email_counts SET counts = '[1, 2, 3, 4, 5]' WHERE label = 'code'",
    "UPDATE email_counts SET counts = '[1, 2, 3, 4, -5]' WHERE label = 'provider'",
    "UPDATE email_counts SET counts = x'00'",
    "UPDATE emails SET id = x'00' WHERE id = (SELECT min(id) FROM emails)",
    "UPDATE emails SET id = 'x' WHERE id = (SELECT min(id) FROM emails)",
    "UPDATE emails SET known = 'x'",
    "UPDATE emails SET known = -1",
    "UPDATE emails SET known = 0",
    "UPDATE emails SET known = 9223372036854775807",
    "UPDATE emails SET known = known | 255",
    "UPDATE email_errors SET failed = -1",
    "UPDATE email_errors SET codes = '[]'",
    "UPDATE email_errors SET codes = replace(codes, '61001', char(8238))",
    "UPDATE email_errors SET operation = x'41'",
    "DROP TABLE emails",
]


@pytest.mark.parametrize("change", DAMAGE)
def test_a_file_with_impossible_emails_is_renamed(store, state, path, change):
    save(store, state)
    store.close()
    with database(path) as connection:
        connection.execute(change)
        assert connection.total_changes or "DROP" in change

    again, renamed_to = reloaded(path)

    assert renamed_to is not None
    assert ({}, {}) == (again.tracked, again.emails.known)
