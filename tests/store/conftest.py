import pytest
from operations import NOW, apply, listing, operation
from store.state_files import Damage

from comms_exporter.collect.state import AccountState
from comms_exporter.store.sqlite import SqliteStore


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
    history = [
        operation("a", total=5, queued=2, sent=3),
        operation("b", status="COMPLETED", updated=NOW + 40, total=2, sent=2, delivered=2, opened=1),
        operation("c", status="PAUSED", total=1, recipients=None, attempts=None, queued=1),
    ]
    apply(state, listing(*history))
    state.mark_gone("c")
    return state
