"""The sums over recent mail are those of a count of every operation, at any time; test_counters has them in a whole life."""

import os
import random

import pytest
from operations import NOW, apply, listing, operation, restored, saved_account, view

from comms_exporter.collect.recent import STAGES, WINDOWS, RecentSums
from comms_exporter.collect.schedule import DAY, RETENTION
from comms_exporter.collect.state import AccountState
from comms_exporter.model.readings import REACHED, Reading

SOAK = int(os.environ.get("SOAK", "1"))
MINUTE = 60.0
HOUR = 3600.0
NOTHING = (0,) * len(STAGES)


def change(**counts):
    return tuple(counts.get(name, 0) for name in REACHED)


def naive_sums(changes, now):
    """Return the sums over *changes*, pairs of when an operation began and how its counts changed."""
    return {
        window: tuple(
            sum(counts[REACHED.index(stage)] for began, counts in changes if began // 60 >= (now - seconds) // 60)
            for stage in STAGES
        )
        for window, seconds in WINDOWS.items()
    }


class TestRecentSums:
    def test_of_nothing_are_zero(self):
        assert dict.fromkeys(WINDOWS, NOTHING) == RecentSums().sums(NOW)

    def test_hold_an_operation_in_every_window_since_it_began(self):
        recent = RecentSums()
        recent.add(NOW - 2 * HOUR, change(total=5, sent=3, failed=1))

        assert {
            "10m": NOTHING,
            "1h": NOTHING,
            "6h": (5, 3, 0, 0, 1),
            "1d": (5, 3, 0, 0, 1),
            "3d": (5, 3, 0, 0, 1),
        } == recent.sums(NOW)

    def test_a_bounce_belongs_to_the_mail_it_came_from(self):
        """However late it comes, no window has it that does not have the mail."""
        recent = RecentSums()
        recent.add(NOW - 2 * DAY, change(total=100, sent=100))
        recent.add(NOW - MINUTE, change(total=1, sent=1))
        recent.sums(NOW)

        recent.add(NOW - 2 * DAY, change(undelivered=30))

        sums = recent.sums(NOW)
        assert (1, 1, 0, 0, 0) == sums["1d"]
        assert (101, 101, 0, 30, 0) == sums["3d"]

    @pytest.mark.parametrize(("window", "seconds"), WINDOWS.items())
    def test_an_operation_leaves_a_window_within_a_minute_of_its_end(self, window, seconds):
        recent = RecentSums()
        recent.add(NOW + 59, change(total=1))

        assert (1, 0, 0, 0, 0) == recent.sums(NOW + seconds + 59)[window]
        assert NOTHING == recent.sums(NOW + seconds + MINUTE)[window]

    def test_what_left_the_longest_window_is_no_longer_kept(self):
        recent = RecentSums()
        for minute in range(10 * 24 * 60):
            recent.add(NOW + minute * MINUTE, change(total=1))
            recent.sums(NOW + minute * MINUTE)

        assert len(recent._buckets) <= (WINDOWS["3d"] + HOUR) / MINUTE + 1

    def test_a_clock_that_was_ahead_for_a_little_needs_no_rebuild(self):
        recent = RecentSums()
        recent.add(NOW - 2 * DAY, change(total=1))
        before = recent.sums(NOW)

        recent.sums(NOW + HOUR)

        assert recent.covers(NOW)
        assert before == recent.sums(NOW)

    def test_a_clock_that_was_days_ahead_does(self):
        recent = RecentSums()
        recent.add(NOW, change(total=1))
        recent.sums(NOW + 5 * DAY)
        assert not recent.covers(NOW)

        assert recent.restart(NOW) <= NOW - WINDOWS["3d"]
        recent.add(NOW, change(total=1))

        assert recent.covers(NOW)
        assert (1, 0, 0, 0, 0) == recent.sums(NOW)["10m"]

    @pytest.mark.parametrize("seed", range(20 * SOAK))
    def test_are_those_of_a_count_of_every_change(self, seed):
        """Whatever comes in whatever order, and however the clock moves."""
        chance = random.Random(seed)
        recent, changes, now = RecentSums(), [], NOW
        for _ in range(200):
            now += chance.choice([0, 1, 30, 600, HOUR, 5 * HOUR, DAY, -HOUR / 2, -2 * DAY])
            if not recent.covers(now):
                since = recent.restart(now)
                for began, counts in changes:
                    if began >= since:
                        recent.add(began, counts)
            for _ in range(chance.randrange(4)):
                began = now - chance.choice([0, 59, HOUR, DAY, 3 * DAY, 4 * DAY]) * chance.random()
                counts = tuple(chance.randrange(-2, 100) for _ in REACHED)
                changes.append((began, counts))
                recent.add(began, counts)
            assert naive_sums(changes, now) == recent.sums(now)


def recent(state, at=NOW):
    return view(state, now=at, active_window=HOUR, limit=3).recent


@pytest.fixture
def state():
    """An account whose first look found nothing."""
    state = AccountState()
    apply(state, listing(sweep=True, at=NOW - MINUTE))
    return state


class TestOfAnAccount:
    def test_the_first_look_counts(self):
        """They are absolute numbers: nothing has to be seen growing."""
        state = AccountState()

        apply(state, listing(operation(created=NOW - 2 * HOUR, total=9, sent=9, undelivered=2), sweep=True))

        assert (9, 9, 0, 2, 0) == recent(state)["6h"]
        assert NOTHING == recent(state)["1h"]

    @pytest.mark.parametrize(
        ("reading", "said"),
        [
            (Reading.CUMULATIVE, {"sent": 8, "delivered": 6, "opened": 3, "undelivered": 1}),
            (Reading.EXCLUSIVE, {"sent": 1, "delivered": 3, "opened": 3, "undelivered": 1}),
        ],
    )
    def test_either_reading_gives_the_same(self, reading, said):
        state = AccountState(forced_reading=reading)

        apply(state, listing(operation(total=10, failed=2, **said), sweep=True))

        assert (10, 8, 6, 1, 2) == recent(state)["10m"]

    def test_a_first_look_that_cannot_tell_the_reading_is_corrected_by_the_next(self):
        """The totals keep its upper bound for good."""
        state = AccountState()
        apply(state, listing(operation(total=9, sent=3, delivered=2, undelivered=1), sweep=True))
        later = {"total": 9, "sent": 9, "delivered": 5, "undelivered": 2}

        apply(state, listing(operation(updated=NOW + 1, **later), at=NOW + 1))

        assert (9, 9, 5, 2, 0) == recent(state)["10m"]

    def test_scheduled_mail_has_not_begun(self, state):
        apply(state, listing(operation(status="SCHEDULED", total=5, scheduled=5)))

        assert dict.fromkeys(WINDOWS, NOTHING) == recent(state)

    def test_scheduled_mail_begins_when_it_is_sent(self, state):
        """A campaign of the day before yesterday is mail of now."""
        created = NOW - 2 * DAY
        apply(state, listing(operation(status="SCHEDULED", created=created, total=5, scheduled=5)))

        apply(state, listing(operation(created=created, updated=NOW, total=5, queued=4, sent=1)))
        assert (5, 1, 0, 0, 0) == recent(state)["10m"]
        apply(state, listing(operation(created=created, updated=NOW + HOUR, total=5, sent=5), at=NOW + HOUR))

        assert NOTHING == recent(state, NOW + HOUR)["10m"]
        assert (5, 5, 0, 0, 0) == recent(state, NOW + HOUR)["1h"]

    def test_scheduled_mail_begins_with_the_first_recipient(self, state):
        """Each may have a time of their own; meanwhile the operation stays SCHEDULED."""
        created = NOW - 2 * DAY
        at = {"status": "SCHEDULED", "created": created}
        apply(state, listing(operation(**at, updated=NOW - HOUR, total=5, scheduled=3, failed=2)))
        apply(state, listing(operation(**at, updated=NOW, total=5, scheduled=1, failed=4)))

        assert NOTHING == recent(state)["10m"]
        assert (5, 0, 0, 0, 4) == recent(state)["1h"]

    def test_what_has_begun_does_not_begin_again(self, state):
        apply(state, listing(operation(created=NOW - HOUR, total=5, queued=5)))
        for status in ("SCHEDULED", "PROCESSING"):
            apply(state, listing(operation(status=status, created=NOW - HOUR, updated=NOW, total=5, queued=5)))

        assert (NOTHING, (5, 0, 0, 0, 0)) == (recent(state)["10m"], recent(state)["1h"])

    @pytest.mark.parametrize("updated", [NOW + 9 * DAY, NOW - 9 * DAY])
    def test_a_wrong_time_does_not_make_it_begin_in_the_future_or_before_it_exists(self, state, updated):
        at = {"created": NOW - HOUR, "updated": NOW - 99 * DAY}
        apply(state, listing(operation(status="SCHEDULED", **at, total=5, scheduled=5)))

        apply(state, listing(operation(created=NOW - HOUR, updated=updated, total=5, queued=5)))

        assert (NOW if updated > NOW else NOW - HOUR) == state.tracked["a"].began

    def test_an_operation_of_the_far_future_is_not_recent_for_ever(self, state):
        apply(state, listing(operation(created=NOW + 9 * DAY, total=5)))

        assert (5, 0, 0, 0, 0) == recent(state)["10m"]
        assert NOTHING == recent(state, NOW + 4 * DAY)["3d"]

    def test_one_that_the_api_no_longer_knows_was_sent_all_the_same(self, state):
        apply(state, listing(operation(total=5, sent=5)))
        state.mark_gone("a")

        assert (5, 5, 0, 0, 0) == recent(state)["10m"]

    def test_a_forgotten_operation_is_taken_out(self, state):
        """It was created a week ago, and scheduled for today."""
        created, at = NOW - RETENTION + HOUR, NOW + 3 * HOUR
        apply(state, listing(operation(status="SCHEDULED", created=created, total=5, scheduled=5)))
        apply(state, listing(operation(status="COMPLETED", created=created, updated=NOW, total=5, sent=5)))
        assert (5, 5, 0, 0, 0) == recent(state)["1d"]

        apply(state, listing(sweep=True, at=at))

        assert dict.fromkeys(WINDOWS, NOTHING) == recent(state, at)

    def test_a_restart_changes_nothing(self, state):
        at = {"created": NOW - 2 * DAY}
        apply(state, listing(operation("b", status="SCHEDULED", **at, total=5), operation("c", total=3, sent=1)))
        apply(state, listing(operation("b", **at, updated=NOW, total=5, sent=2), at=NOW + 9))

        afresh = restored(saved_account(*state.tracked.values()))

        assert recent(state) == recent(afresh)
        assert (8, 3, 0, 0, 0) == recent(afresh)["10m"]


class TestOldestProcessing:
    def oldest(self, state):
        return view(state, now=NOW, active_window=HOUR, limit=3).oldest_processing

    def test_is_the_one_that_began_first(self, state):
        """Not the one that was created first, and then waited for its time."""
        apply(state, listing(operation("b", status="SCHEDULED", created=NOW - 2 * DAY)))
        apply(
            state,
            listing(
                operation("b", created=NOW - 2 * DAY, updated=NOW - 60),
                operation("c", created=NOW - 300),
                operation("d", created=NOW - 200),
                operation("e", status="SCHEDULED", created=NOW - DAY),
                operation("f", status="COMPLETED", created=NOW - DAY),
            ),
        )

        assert NOW - 300 == self.oldest(state)

    def test_is_absent_if_there_is_none(self, state):
        apply(state, listing(operation("e", status="SCHEDULED"), operation("f", status="COMPLETED")))

        assert self.oldest(state) is None
