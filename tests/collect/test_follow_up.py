"""What a listing leaves out is noticed, and followed with as few requests as possible for as long as it may change."""

from itertools import pairwise

import pytest
from harness import HOUR, simulator_harness
from operations import NOW, apply, listing, operation, restored, saved_account, view

from comms_exporter.base.slices import run_to_completion
from comms_exporter.collect.follow_up import cheapest_reach, left_out
from comms_exporter.collect.schedule import DAY, RETENTION
from comms_exporter.collect.state import AccountState
from comms_exporter.simulator import Fate

SENT = Fate(sent=1, delivered=2)
AT = NOW + 3 * HOUR


def hour(hours):
    """Return the hour that began *hours* ago."""
    return NOW // HOUR - hours


class TestCheapestReach:
    def reach(self, *wanted, listed=()):
        return cheapest_reach([NOW - each for each in wanted], dict(listed), page_size=100)

    def test_one_operation_needs_no_listing(self):
        assert self.reach(5 * HOUR, listed={hour(5): 1}) is None

    def test_two_on_one_page_are_listed(self):
        assert NOW - 5 * HOUR == self.reach(5 * HOUR, 4 * HOUR, listed={hour(5): 60, hour(4): 39})

    def test_two_on_more_than_one_page_are_not(self):
        assert self.reach(5 * HOUR, 4 * HOUR, listed={hour(5): 60, hour(4): 40}) is None

    def test_one_that_is_much_older_is_left_to_a_request_of_its_own(self):
        """A listing back to it would have ten pages."""
        assert NOW - 2 * HOUR == self.reach(
            DAY, 2 * HOUR, HOUR, HOUR, listed={hour(24): 1, hour(10): 1000, hour(2): 2, hour(1): 2}
        )


@pytest.fixture
def state():
    """An account whose first look found nothing."""
    state = AccountState()
    apply(state, listing(sweep=True, at=NOW - 60))
    return state


def left(state, *, at, ids=(), hours=1):
    """Return what a listing *at* that time leaves out, which has *ids* and reaches *hours* back."""
    return run_to_completion(left_out(listing(at=at, ids=set(ids), created_after=at - hours * HOUR), state))


def to_follow(state, **how):
    return set(left(state, **how).to_follow)


class TestInDelivery:
    def complete(self, state, *, at, **counts):
        """Let the operation *a* complete, hours after it was created; *counts* of its 10 emails went further."""
        apply(state, listing(operation(total=10, queued=10)))
        apply(state, listing(operation(status="COMPLETED", updated=at, **{"total": 10, "sent": 10, **counts}), at=at))

    def test_an_operation_that_completed_is_followed_for_another_hour(self, state):
        self.complete(state, at=AT, delivered=6)

        assert {"a"} == to_follow(state, at=AT + 30) == to_follow(state, at=AT + HOUR - 1)
        assert set() == to_follow(state, at=AT + HOUR + 1)

    def test_every_progress_starts_the_hour_again(self, state):
        self.complete(state, at=AT, delivered=6)
        later = operation(status="COMPLETED", updated=AT + 2000, total=10, sent=10, delivered=7)
        apply(state, listing(later, at=AT + 2000))

        assert {"a"} == to_follow(state, at=AT + 2000 + HOUR - 1)

    def test_opens_are_no_progress(self, state):
        """They come for days."""
        self.complete(state, at=AT, delivered=6)
        later = operation(status="COMPLETED", updated=AT + 2000, total=10, sent=10, delivered=6, opened=5)
        apply(state, listing(later, at=AT + 2000))

        assert set() == to_follow(state, at=AT + HOUR + 1)

    @pytest.mark.parametrize(
        "counts",
        [
            {"delivered": 10},
            {"delivered": 6, "undelivered": 4},
            {"sent": 7, "delivered": 7, "failed": 3},
            {"sent": 6, "delivered": 6, "canceled": 4},
        ],
    )
    def test_nothing_is_followed_that_cannot_change(self, state, counts):
        self.complete(state, at=AT, **counts)

        assert set() == to_follow(state, at=AT + 30)

    def test_what_the_listing_has_is_not_followed(self, state):
        self.complete(state, at=AT, delivered=6)

        assert set() == to_follow(state, at=AT + 30, ids={"a"})

    def test_what_the_listing_should_have_is_not_followed(self, state):
        """An API that returns empty lists is not asked for every operation of the last hours."""
        self.complete(state, at=AT, delivered=6)

        assert set() == to_follow(state, at=AT + 30, hours=24)

    def test_what_is_gone_or_forgotten_is_not_followed(self, state):
        self.complete(state, at=AT, delivered=6)
        state.mark_gone("a")
        assert set() == to_follow(state, at=AT + 30)

        apply(state, listing(sweep=True, at=NOW + RETENTION + 2 * HOUR))
        assert set() == to_follow(state, at=AT + 30)

    def test_the_first_look_and_a_restart_know_it_by_its_last_change(self):
        recent = operation("recent", status="COMPLETED", created=NOW - DAY, updated=NOW - 600, total=2, sent=2)
        old = operation("old", status="COMPLETED", created=NOW - DAY, updated=NOW - 2 * HOUR, total=2, sent=2)
        state = AccountState()
        apply(state, listing(recent, old, sweep=True))

        afresh = restored(saved_account(*state.tracked.values()))

        assert {"recent"} == to_follow(state, at=NOW) == to_follow(afresh, at=NOW)

    async def test_a_campaign_that_completes_is_seen_delivered_at_every_poll(self):
        """Not in jumps at every tenth poll, which look like a stalled delivery."""
        async with simulator_harness(page_size=1000) as harness:
            fates = [Fate(sent=2 * HOUR, delivered=2 * HOUR + 300 + 30 * n) for n in range(20)]
            harness.world.send(at=NOW, fates=fates)
            await harness.poll()
            await harness.poll(after=2 * HOUR)
            delivered = []
            for _ in range(30):
                await harness.poll()
                delivered.append(harness.totals.get("delivered", 0))
            harness.requested_paths()
            await harness.poll()
            requests = len(harness.requested_paths())

        assert 20 == delivered[-1]
        assert max(b - a for a, b in pairwise(delivered)) <= 1
        assert 1 == requests

    async def test_many_are_followed_by_one_more_listing(self):
        async with simulator_harness(page_size=1000) as harness:
            for n in range(50):
                harness.world.send(at=NOW - n, fates=[Fate(sent=2 * HOUR, delivered=5 * HOUR)])
            await harness.poll()
            await harness.poll(after=2 * HOUR + 60)
            harness.requested_paths()
            await harness.poll()

            assert 2 == len(harness.requested_paths())
            extra = harness.poller.requests_per_hour() - 120
            assert 120 <= extra <= 130


class TestUnlisted:
    def unlisted(self, state, **how):
        return left(state, **how).unlisted

    def test_counts_what_the_window_should_have(self, state):
        apply(
            state,
            listing(
                operation("listed", status="COMPLETED"),
                operation("lost", status="COMPLETED"),
                operation("lost too"),
                operation("older", status="COMPLETED", created=NOW - 2 * HOUR, updated=NOW),
            ),
        )

        assert 2 == self.unlisted(state, at=NOW + 30, ids={"listed"})

    def test_counts_what_has_long_been_quiet_in_a_wider_window(self, state):
        operations = [
            operation(f"a{n}", status="COMPLETED", created=NOW - (n + 4) * HOUR, updated=NOW - (n + 4) * HOUR)
            for n in range(10)
        ]
        apply(state, listing(*operations))
        view(state, now=NOW, active_window=HOUR, limit=9)

        assert 10 == self.unlisted(state, at=NOW, hours=24)
        assert 4 == self.unlisted(state, at=NOW, hours=24, ids={f"a{n}" for n in range(6)})
        assert 0 == self.unlisted(state, at=NOW, hours=24, ids={f"a{n}" for n in range(10)})
        assert 0 == self.unlisted(state, at=NOW, hours=1)

    def test_does_not_count_what_the_api_may_have_deleted(self, state):
        old = operation(status="COMPLETED", created=NOW - RETENTION + 600, updated=NOW - RETENTION + 600)
        apply(state, listing(old))

        assert 0 == self.unlisted(state, at=NOW, hours=7 * 24 + 1)

    def test_does_not_count_what_is_gone(self, state):
        created = {"created": NOW - 4 * HOUR, "updated": NOW - 4 * HOUR}
        apply(state, listing(operation("a", **created), operation("b", **created)))
        state.mark_gone("a")

        assert 1 == self.unlisted(state, at=NOW, hours=24)

    def test_counts_an_operation_whose_creation_time_changes_once(self, state):
        for created in (NOW - 3 * HOUR, NOW - 9 * HOUR, NOW - 6 * HOUR):
            apply(state, listing(operation(status="COMPLETED", created=created, updated=NOW)))

        assert 1 == self.unlisted(state, at=NOW, hours=24)
        assert {hour(6): 1} == +state.created_by_hour

    async def test_an_api_that_returns_empty_lists_is_seen(self):
        """A quiet account sees it when it lists the last day."""
        async with simulator_harness() as harness:
            for n in range(30):
                harness.world.send(at=NOW - n * 1200 - HOUR, fates=[SENT])
            await harness.poll()
            assert (30, 0) == (harness.poller.view.listed, harness.poller.view.unlisted)

            harness.world._operations.clear()
            for _ in range(12):
                await harness.poll()

            assert 0 == harness.poller.view.listed
            assert 28 <= harness.poller.view.unlisted <= 30
            assert harness.poller.health.up

    async def test_a_window_without_operations_says_nothing(self):
        async with simulator_harness() as harness:
            harness.world.send(at=NOW - 2 * HOUR, fates=[SENT])
            await harness.poll()
            await harness.poll()

            assert (1, 0) == (harness.poller.view.listed, harness.poller.view.unlisted)
