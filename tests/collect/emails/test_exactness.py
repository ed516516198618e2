"""Whatever the API returns, in any order and across restarts, the counts of each label equal those of an independent model."""

import os
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from operations import NOW, apply, email, learn, listing, restored

from comms_exporter.collect.emails.state import EmailOptions
from comms_exporter.model.email_records import STAGES, email_key
from comms_exporter.store.sqlite import SqliteStore

SOAK = int(os.environ.get("SOAK", "1"))
DAY = 86400
LIVES = (
    ("SCHEDULED", "QUEUED", "SENT", "DELIVERED", "OPENED"),
    ("QUEUED", "SENT", "UNDELIVERED"),
    ("QUEUED", "FAILED"),
    ("SCHEDULED", "CANCELED"),
    ("INBOUND",),
)
# By status, the stages that an email has reached.
REACHED = {
    "SENT": {"sent"},
    "DELIVERED": {"sent", "delivered"},
    "OPENED": {"sent", "delivered", "opened"},
    "UNDELIVERED": {"sent", "undelivered"},
    "FAILED": {"failed"},
    "INBOUND": {"inbound"},
}
LOSSES = {"undelivered", "failed", "inbound"}
# Each has a first look of its own.
GROUPS = (LOSSES, {"sent", "delivered", "opened"})
PROVIDERS = {"gmail.com": "gmail", "aol.com": "yahoo", "company.example": "other"}
SENDERS = ("news.example", "shop.example")
CAMPAIGNS = ("spring", "autumn", None)


class Sent:
    """One email: every version that the API ever had of it."""

    def __init__(self, number, created, life, domain, sender, campaign):
        self.name = f"comms_email_{number}"
        self.created = created
        self.life = life
        self.labels = [("provider", PROVIDERS[domain]), ("sender_domain", sender)]
        tags = {} if campaign is None else {"campaign": campaign}
        self.labels += [("tag:campaign", campaign)] if campaign else []
        self.how = {"to": domain, "sender": sender, **tags}
        self.versions = []
        self.write(created)

    def write(self, now):
        status = self.life[len(self.versions)]
        self.versions.append(email(self.name, status=status, created=self.created, updated=now, **self.how))


class Model:
    """The stages in which each email was seen, and those in which it was before the first look."""

    def __init__(self):
        self.seen = {}
        self.earlier = {}
        self.looks = {}
        self.complete = set()

    def receive(self, sent, version, stages):
        reached = REACHED.get(version.status, set()) & stages
        for group in GROUPS:
            look = self.looks.get(min(group))
            added = (reached & group) - self.seen.setdefault(sent, set())
            before = look is None or sent.created < look
            if before and (min(group) not in self.complete or "inbound" in added or version.updated_at < look):
                self.earlier.setdefault(sent, set()).update(added)
            self.seen[sent] |= added

    def counts(self):
        counts = Counter()
        for sent, seen in self.seen.items():
            for stage in seen - self.earlier.get(sent, set()):
                counts.update({"inbound": 1} if stage == "inbound" else {(*label, stage): 1 for label in sent.labels})
        return +counts

    def copy(self):
        copy = Model()
        copy.seen = {sent: set(seen) for sent, seen in self.seen.items()}
        copy.earlier = {sent: set(seen) for sent, seen in self.earlier.items()}
        copy.looks, copy.complete = dict(self.looks), set(self.complete)
        return copy


def fail(renamed_to, reason):
    raise AssertionError(f"{renamed_to}: {reason}")


class Counts(RuleBasedStateMachine):
    """Weeks of an account with stale and repeated pages, crashes, and times with other settings."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "state.db")
        self.mode = "lost"
        self.store = self.opened()
        self.now = NOW
        self.sent = []
        self.model = Model()
        self.saved = Model()
        self.state = self.started()

    def teardown(self):
        self.store.close()
        self.folder.cleanup()

    def opened(self):
        return SqliteStore(self.path, emails=self.mode != "off", on_damage=fail)

    @property
    def stages(self):
        return {"off": set(), "lost": LOSSES, "all": {*STAGES, "inbound"}}[self.mode]

    def started(self):
        options = EmailOptions(all_stages=self.mode == "all", tags=("campaign",))
        state = restored(self.store.load(["shop"]).get("shop"), None if self.mode == "off" else options)
        apply(state, listing(sweep=True, at=self.now))
        return state

    @initialize(lives=st.lists(st.sampled_from(LIVES), max_size=4), mode=st.sampled_from(["lost", "all"]))
    def begin(self, lives, mode):
        for life in lives:
            self.send(life, "gmail.com", SENDERS[0], None, 0)
        self.now += 60
        self.restart(mode)

    # At Twilio

    @rule(
        life=st.sampled_from(LIVES),
        domain=st.sampled_from(sorted(PROVIDERS)),
        sender=st.sampled_from(SENDERS),
        campaign=st.sampled_from(CAMPAIGNS),
        wait=st.integers(0, 5),
    )
    def send(self, life, domain, sender, campaign, wait):
        self.now += wait
        self.sent.append(Sent(len(self.sent), self.now, life, domain, sender, campaign))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), wait=st.integers(0, 3))
    def move(self, data, wait):
        self.now += wait
        for sent in data.draw(st.lists(st.sampled_from(self.sent), max_size=4, unique_by=id)):
            if len(sent.versions) < len(sent.life):
                sent.write(self.now)

    @rule(hours=st.sampled_from([0.1, 1, 20, 100, 24 * 6.5, 24 * 8]))
    def time_passes(self, hours):
        self.now += int(hours * 3600)

    # What the API returns

    @precondition(lambda self: self.sent and self.mode != "off")
    @rule(data=st.data(), stale=st.booleans())
    def page(self, data, stale):
        """Some emails of any age, as they are or, from a replica that lags, as they were."""
        self.look()
        listed = data.draw(st.lists(st.sampled_from(self.sent), max_size=6))
        self.receive(
            [(each, data.draw(st.sampled_from(each.versions)) if stale else each.versions[-1]) for each in listed]
        )

    @precondition(lambda self: self.mode != "off")
    @rule()
    def end_of_first_look(self):
        """All emails that the API still has."""
        self.look()
        self.receive([(each, each.versions[-1]) for each in self.sent])
        self.state.emails.end_first_look()
        self.model.complete |= {min(group) for group in GROUPS if group <= self.stages}

    def look(self):
        self.state.emails.begin(self.now)
        for group in GROUPS:
            if group <= self.stages:
                self.model.looks.setdefault(min(group), self.now)

    def receive(self, pairs):
        horizon = self.state.horizon
        for sent, version in pairs:
            known = email_key(sent.name) in self.state.emails.known
            if known or sent.created // 60 * 60 >= horizon:
                self.model.receive(sent, version, self.stages)
            learn(self.state, version, at=self.now)

    # In the exporter

    @rule()
    def sweep(self):
        """Forgets what has expired."""
        apply(self.state, listing(sweep=True, at=self.now))

    @rule()
    def save(self):
        self.store.save("shop", self.state.snapshot())
        self.saved = self.model.copy()

    @rule(mode=st.sampled_from(["off", "lost", "all"]))
    def restart(self, mode):
        """An orderly restart with other settings."""
        self.save()
        self.mode = mode
        self.crash()

    @rule()
    def crash(self):
        """The exporter and the model forget what was not saved."""
        self.store.close()
        self.store = self.opened()
        self.state = self.started()
        self.model = self.saved.copy()

    @invariant()
    def counts_equal_the_model(self):
        if self.mode == "off":
            return
        emails = self.state.emails
        counts = Counter({"inbound": emails.inbound})
        for series, numbers in emails.counts.counts.items():
            counts.update({(*series, stage): number for stage, number in zip(STAGES, numbers, strict=True)})
        senders = {key: count for key, count in (+counts).items() if key[0] != "sender_domain"}
        expected = {key: count for key, count in self.model.counts().items() if key[0] != "sender_domain"}
        losses = {key: count for key, count in senders.items() if key[-1] in {"failed", "undelivered"}}

        assert {key: n for key, n in expected.items() if key[0] != "tag:campaign"} == {
            key: n for key, n in senders.items() if key[0] != "tag:campaign"
        }
        # A value is admitted with its first loss, so losses are never counted as other.
        assert {key: n for key, n in expected.items() if key[-1] in {"failed", "undelivered"}} == losses


TestCounts = Counts.TestCase
TestCounts.settings = settings(max_examples=60 * SOAK, stateful_step_count=40, deadline=None)
