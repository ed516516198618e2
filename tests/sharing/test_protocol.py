"""Whatever the order in which exporters claim, save, pause, lose and release: every save builds on the one before it."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from operations import NOW, apply, listing, operation, restored
from postgres import needs_postgres
from sharing.members import Exporter, rows

from comms_exporter.collect.state import AccountState
from comms_exporter.store.errors import NotOwnerError, StateLostError

pytestmark = needs_postgres

ACCOUNTS = ("a", "b", "c")
some_exporter = st.integers(0, 2)
some_account = st.sampled_from(ACCOUNTS)


class Protocol(RuleBasedStateMachine):
    """Three exporters count emails that were sent. Each keeps in memory what it loaded, whatever happens meanwhile."""

    server = None

    def __init__(self):
        super().__init__()
        self.schema = self.server.schema()
        self.exporters = [Exporter(self.server, self.schema, *ACCOUNTS) for _ in range(3)]
        self.memories = [{} for _ in self.exporters]
        # What was committed of each account: how many emails, and at whose save.
        self.committed = dict.fromkeys(ACCOUNTS, 0)
        self.sent = dict.fromkeys(ACCOUNTS, 0)

    def teardown(self):
        for each in self.exporters:
            each.close()

    def save(self, number, account):
        """Save as a poller does, and return whether that succeeded; whoever does not own the account stops polling it."""
        store, state = self.exporters[number].store, self.memories[number][account]
        try:
            store.save(account, state.snapshot())
        except NotOwnerError:
            del self.memories[number][account]
            return False
        except StateLostError:
            state.requeue_all()
            store.save(account, state.snapshot())
        return True

    @rule(account=some_account)
    def send(self, account):
        self.sent[account] += 1

    @rule(number=some_exporter)
    def beat(self, number):
        self.exporters[number].membership.beat()

    @rule(number=some_exporter, limit=st.integers(1, 3))
    def claim(self, number, limit):
        self.exporters[number].membership.claim(limit)

    @rule(number=some_exporter, account=some_account)
    def load(self, number, account):
        exporter = self.exporters[number]
        saved = exporter.store.load([account]).get(account)
        if exporter.claims.held(account):
            self.memories[number][account] = restored(saved) if saved else AccountState()
            # What is shown from now on is what was committed last.
            assert self.committed[account] == self.memories[number][account].totals[0]

    @rule(number=some_exporter, account=some_account)
    def poll_and_save(self, number, account):
        state = self.memories[number].get(account)
        if state is None:
            return
        if state.first_look is None:
            apply(state, listing(sweep=True, at=NOW - 60))
        sent = self.sent[account]
        apply(state, listing(operation(account, total=sent, sent=sent, updated=NOW + sent)))
        if self.save(number, account):
            assert self.committed[account] <= state.totals[0] == sent
            self.committed[account] = state.totals[0]

    @rule(number=some_exporter, account=some_account)
    def save_late(self, number, account):
        """Save something old: the process was paused between its poll and its save."""
        state = self.memories[number].get(account)
        if state is None or state.first_look is None:
            return
        if self.save(number, account):
            assert self.committed[account] == state.totals[0]

    @rule(number=some_exporter, account=some_account)
    def release(self, number, account):
        self.memories[number].pop(account, None)
        self.exporters[number].membership.release([account])

    @rule(number=some_exporter, other=some_exporter)
    def bury(self, number, other):
        """One takes another for dead, rightly or not."""
        if number != other:
            here, there = self.exporters[number].membership, self.exporters[other].membership
            for member in here.beat():
                if member.id == there.id:
                    here.bury(member)

    @rule(number=some_exporter)
    def leave(self, number):
        self.memories[number].clear()
        self.exporters[number].membership.leave()

    @invariant()
    def the_database_has_what_was_committed(self):
        for account, totals in rows(self.server, self.schema, "SELECT name, totals::json->>'total' FROM {}.accounts"):
            assert self.committed[account] == int(totals or 0)


def test_no_order_of_events_loses_a_count(server):
    Protocol.server = server
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=12 * int(os.environ.get("SOAK", "1")),
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
