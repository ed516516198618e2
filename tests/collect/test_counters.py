"""Whatever the API returns, in any order and across restarts, totals equal those of an independent model."""

import os
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from operations import NOW, apply, listing, restored, saved_account, view

from comms_exporter.collect.recent import STAGES, WINDOWS
from comms_exporter.collect.schedule import MARGIN, RETENTION
from comms_exporter.collect.state import AccountState
from comms_exporter.model.operations import STATS, Operation, pack
from comms_exporter.model.records import TOTALS
from comms_exporter.store.sqlite import SqliteStore

# The stages of an email, in order.
LIVES = (
    ("scheduled", "queued", "sent", "delivered", "opened"),
    ("queued", "sent", "delivered", "opened"),
    ("queued", "sent", "undelivered"),
    ("queued", "failed"),
    ("scheduled", "canceled"),
)
HOUR = 3600.0
SOAK = int(os.environ.get("SOAK", "1"))


class Email:
    """One email and the stage it has reached."""

    def __init__(self, life):
        self.life = life
        self.stage = 0

    @property
    def been(self):
        return set(self.life[: self.stage + 1])

    @property
    def now(self):
        return self.life[self.stage]


class Sent:
    """One operation: its emails, every version that the API ever had of it, and the ground truth of each version."""

    def __init__(self, name, created, lives, exclusive):
        self.name = name
        self.created = created
        self.emails = [Email(life) for life in lives]
        self.exclusive = exclusive
        self.versions = []
        self.truths = []
        self.write(created)

    def write(self, now):
        if self.exclusive:
            counts = {name: sum(email.now == name for email in self.emails) for name in STATS[3:]}
        else:
            passed = {"scheduled", "queued"}
            counts = {
                name: sum(name in email.been and (name not in passed or email.now == name) for email in self.emails)
                for name in STATS[3:]
            }
        sent = sum("sent" in email.been for email in self.emails)
        total = len(self.emails)
        stats = {"total": total, "recipients": total, "attempts": sent, **counts}
        self.versions.append(
            Operation(self.name, self.status, self.created, float(now), pack(tuple(stats[name] for name in STATS)))
        )
        truth = {name: sum(name in email.been for email in self.emails) for name in TOTALS}
        truth |= {"total": total, "recipients": total, "attempts": sent, "operations_created": 1}
        truth |= {
            f"operations_{name}": int(any(v.status == name.upper() for v in self.versions))
            for name in ("completed", "canceled")
        }
        self.truths.append(truth)

    @property
    def status(self):
        stages = {email.now for email in self.emails}
        if stages <= {"canceled"}:
            return "CANCELED"
        if "scheduled" in stages:
            return "SCHEDULED"
        return "PROCESSING" if "queued" in stages else "COMPLETED"


class Model:
    """Counts what the exporter can know: for each operation, the latest version that it received."""

    def __init__(self):
        self.received = {}
        # The version with the latest updatedAt, even if an earlier response had more.
        self.latest = {}
        self.began = {}
        self.baseline = {}
        self.first_look_over = False

    def receive(self, sent, version, *, new):
        known = self.received.get(sent.name)
        if known is None and not new:
            self.baseline[sent.name] = version
        self.received[sent.name] = (sent, max(version, known[1] if known else version))
        self.accept(sent, version)

    def accept(self, sent, version):
        answer = sent.versions[version]
        before, at = self.latest.get(sent.name, (None, None))
        if before is not None and answer.updated < before.versions[at].updated:
            return
        self.latest[sent.name] = (sent, version)
        truth = sent.truths[version]
        if answer.status != "SCHEDULED" or truth["sent"] or truth["failed"]:
            immediate = before is None and answer.status != "SCHEDULED"
            self.began.setdefault(sent.name, answer.created if immediate else answer.updated)

    def recent(self, names, now):
        """Return what has become of the mail of *names* that began to be sent within each window."""
        return {
            window: tuple(
                sum(
                    sent.truths[version][stage]
                    for name, (sent, version) in self.latest.items()
                    if name in names and name in self.began and self.began[name] // 60 >= (now - seconds) // 60
                )
                for stage in STAGES
            )
            for window, seconds in WINDOWS.items()
        }

    def totals(self):
        totals = dict.fromkeys(TOTALS, 0)
        for sent, version in self.received.values():
            since = self.baseline.get(sent.name)
            for name in TOTALS:
                totals[name] += sent.truths[version][name] - (0 if since is None else sent.truths[since][name])
        return totals

    def copy(self):
        copy = Model()
        copy.received, copy.baseline, copy.first_look_over = (
            dict(self.received),
            dict(self.baseline),
            self.first_look_over,
        )
        copy.latest, copy.began = dict(self.latest), dict(self.began)
        return copy


def fail(renamed_to, reason):
    raise AssertionError(f"{renamed_to}: {reason}")


class Counters(RuleBasedStateMachine):
    """Weeks of an account with stale and repeated responses, crashes, and long pauses of the exporter."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = SqliteStore(Path(self.folder.name, "state.db"), on_damage=fail)
        self.now = NOW
        self.sent = []
        self.state = AccountState()
        self.model = Model()
        self.last_totals = dict.fromkeys(TOTALS, 0)
        self.saved = Model()

    def teardown(self):
        self.store.close()
        self.folder.cleanup()

    # At Twilio

    @initialize(count=st.integers(0, 3), lives=st.lists(st.sampled_from(LIVES), min_size=1, max_size=3))
    def begin(self, count, lives):
        for _ in range(count):
            self.send(lives, True, 0)

    @rule(
        lives=st.lists(st.sampled_from(LIVES), min_size=1, max_size=4),
        exclusive=st.booleans(),
        wait=st.integers(0, 5),
    )
    def send(self, lives, exclusive, wait):
        self.now += wait
        self.sent.append(Sent(f"operation {len(self.sent)}", self.now, lives, exclusive))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), wait=st.integers(0, 3))
    def move(self, data, wait):
        self.now += wait
        sent = data.draw(st.sampled_from(self.sent))
        emails = [email for email in sent.emails if email.stage < len(email.life) - 1]
        for email in data.draw(st.lists(st.sampled_from(emails), max_size=3, unique_by=id)) if emails else []:
            email.stage += 1
        sent.write(self.now)

    @rule(hours=st.sampled_from([0.1, 0.3, 1, 4, 20, 60, 100, 24 * 6.5, 24 * 8]))
    def time_passes(self, hours):
        self.now += int(hours * 3600)

    # What the API returns

    @rule(data=st.data())
    def sweep(self, data):
        """Everything that Twilio still keeps, in any order."""
        kept = [sent for sent in self.sent if sent.created > self.now - RETENTION]
        self.respond(data.draw(st.permutations(kept)), sweep=True)

    @precondition(lambda self: self.model.first_look_over)
    @rule(data=st.data())
    def window(self, data):
        """Some operations of any age: of a window or a status, or ones that Twilio should have forgotten."""
        if self.sent:
            self.respond(data.draw(st.lists(st.sampled_from(self.sent), max_size=4, unique_by=id)), sweep=False)

    @precondition(lambda self: self.model.first_look_over)
    @rule(data=st.data())
    def stale(self, data):
        """An older version, from a replica that lags."""
        if self.sent:
            sent = data.draw(st.sampled_from(self.sent))
            self.respond([sent], sweep=False, version=data.draw(st.integers(0, len(sent.versions) - 1)))

    def respond(self, listed, *, sweep, version=-1):
        picked = [(sent, version % len(sent.versions)) for sent in listed]
        tracked = set(self.state.tracked)
        apply(self.state, listing(*[sent.versions[index] for sent, index in picked], sweep=sweep, at=self.now))
        horizon = self.state.horizon
        for sent, index in picked:
            expired = sent.created < horizon and sent.name not in tracked
            if expired and (self.model.first_look_over or not sent.versions[index].unfinished):
                continue  # forgotten: it has been counted
            new = self.model.first_look_over and sent.created >= self.state.first_look
            self.model.receive(sent, index, new=new)
        self.model.first_look_over = True
        if sweep:
            kept = [each.operation for each in self.state.tracked.values() if not each.operation.unfinished]
            assert all(each.created >= self.now - RETENTION - MARGIN for each in kept)

    # In the exporter

    @precondition(lambda self: self.model.first_look_over)
    @rule()
    def save(self):
        self.store.save("shop", self.state.snapshot())
        self.saved = self.model.copy()

    @rule()
    def crash(self):
        """The exporter and the model forget what was not saved."""
        self.store.close()
        self.store = SqliteStore(Path(self.folder.name, "state.db"), on_damage=fail)
        self.state = restored(self.store.load(["shop"]).get("shop"))
        self.model = self.saved.copy()
        self.last_totals = self.model.totals()

    @invariant()
    def totals_equal_the_model(self):
        assert self.model.totals() == dict(zip(TOTALS, self.state.totals, strict=True))

    @invariant()
    def the_view_equals_one_of_a_restored_state(self):
        afresh = restored(saved_account(*self.state.tracked.values()))
        views = [view(state, now=self.now, active_window=HOUR, limit=3) for state in (self.state, afresh)]
        assert sorted(each.id for each in views[0].exposed) == sorted(each.id for each in views[1].exposed)
        for name in (
            "hidden",
            "queued",
            "scheduled",
            "by_status",
            "by_reading",
            "oldest_unfinished",
            "oldest_processing",
            "recent",
        ):
            assert getattr(views[0], name) == getattr(views[1], name), name

    @rule(hours=st.sampled_from([0.5, 5, 100]))
    def the_clock_was_ahead(self, hours):
        """A view of the future leaves no trace in the next one."""
        view(self.state, now=self.now + hours * 3600, active_window=HOUR, limit=3)

    @invariant()
    def recent_mail_is_what_became_of_it(self):
        recent = view(self.state, now=self.now, active_window=HOUR, limit=3).recent
        assert self.model.recent(self.state.tracked, self.now) == recent

    @invariant()
    def totals_never_decrease(self):
        totals = dict(zip(TOTALS, self.state.totals, strict=True))
        assert all(totals[name] >= self.last_totals[name] for name in TOTALS)
        self.last_totals = totals


TestCounters = Counters.TestCase
TestCounters.settings = settings(max_examples=60 * SOAK, stateful_step_count=40, deadline=None)
