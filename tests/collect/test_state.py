"""Totals say what happened since the first look, once, whatever the answers do."""

import pytest
from operations import NOW, apply, listing, operation, view

from comms_exporter.collect.schedule import DAY, MARGIN, RETENTION
from comms_exporter.collect.state import AccountState
from comms_exporter.model.histogram import Exemplar
from comms_exporter.model.readings import Reading
from comms_exporter.model.records import TOTALS

MINUTE = 60.0


@pytest.fixture
def state():
    """An account whose first look found nothing."""
    state = AccountState()
    apply(state, listing(sweep=True, at=NOW - MINUTE))
    return state


def totals(state):
    return {name: n for name, n in zip(TOTALS, state.totals, strict=True) if n}


class TestFirstLook:
    def test_counts_nothing(self):
        state = AccountState()

        apply(state, listing(operation(total=3, sent=3, delivered=3), sweep=True))

        assert {} == totals(state)
        assert ["a"] == list(state.tracked)

    def test_what_it_saw_counts_by_its_growth(self):
        state = AccountState()
        apply(state, listing(operation(total=3, queued=2, sent=1), sweep=True))

        apply(state, listing(operation(total=3, sent=3, updated=NOW + 1)))

        assert {"sent": 2} == totals(state)

    def test_what_was_created_after_it_counts_in_full(self, state):
        apply(state, listing(operation(total=3, sent=3, delivered=1)))

        assert {"total": 3, "sent": 3, "delivered": 1, "operations_created": 1} == totals(state)

    def test_what_it_missed_but_is_older_sets_marks_only(self, state):
        """A listing that shows it late does not make it new."""
        apply(state, listing(operation(total=3, sent=2, created=NOW - DAY)))
        apply(state, listing(operation(total=3, sent=3, created=NOW - DAY, updated=NOW)))

        assert {"sent": 1} == totals(state)

    def test_what_is_created_in_its_very_second_is_new(self):
        """Twilio's times are whole seconds."""
        state = AccountState()
        apply(state, listing(sweep=True, at=NOW + 0.7))

        apply(state, listing(operation(total=1, created=NOW)))

        assert {"total": 1, "operations_created": 1} == totals(state)

    def test_making_up_our_mind_later_adds_nothing_from_before_it(self):
        """Undecided at first, exclusive in the end: the seven that were sent before stay uncounted."""
        state = AccountState()
        apply(state, listing(operation(total=10, sent=3, delivered=4), sweep=True))

        apply(state, listing(operation(total=10, sent=4, delivered=6, updated=NOW + 1)))

        assert state.tracked["a"].reading is Reading.EXCLUSIVE
        assert {"sent": 3, "delivered": 2} == totals(state)

    def test_must_see_everything(self):
        with pytest.raises(ValueError, match="first look"):
            apply(AccountState(), listing(operation()))


class TestTotals:
    def test_an_answer_seen_twice_adds_nothing(self, state):
        for _ in range(3):
            apply(state, listing(operation(total=3, sent=3, delivered=2)))

        assert {"total": 3, "sent": 3, "delivered": 2, "operations_created": 1} == totals(state)

    @pytest.mark.parametrize(
        "history",
        [
            [
                {"total": 4, "queued": 4},
                {"total": 4, "queued": 1, "sent": 3, "delivered": 1},
                {"total": 4, "sent": 4, "delivered": 3, "opened": 2, "undelivered": 1},
            ],
            [
                {"total": 4, "queued": 4},
                {"total": 4, "queued": 1, "sent": 2, "delivered": 1},
                {"total": 4, "delivered": 1, "opened": 2, "undelivered": 1},
            ],
        ],
        ids=["cumulative", "exclusive"],
    )
    def test_one_history_gives_the_same_totals_under_both_readings(self, state, history):
        for second, counters in enumerate(history):
            apply(state, listing(operation(updated=NOW + second, **counters)))

        assert {
            "total": 4,
            "sent": 4,
            "delivered": 3,
            "opened": 2,
            "undelivered": 1,
            "operations_created": 1,
        } == totals(state)

    def test_a_forced_reading_is_not_argued_with(self):
        state = AccountState(forced_reading=Reading.CUMULATIVE)
        apply(state, listing(sweep=True, at=NOW - MINUTE))

        apply(state, listing(operation(total=2, delivered=2)))

        assert {"total": 2, "delivered": 2, "operations_created": 1} == totals(state)

    def test_completion_and_cancellation_count_once(self, state):
        for status in ("COMPLETED", "PROCESSING", "COMPLETED"):
            apply(state, listing(operation("a", status=status), operation("b", status="CANCELED")))

        assert {"operations_created": 2, "operations_completed": 1, "operations_canceled": 1} == totals(state)

    def test_what_changes_after_completion_counts(self, state):
        apply(state, listing(operation(status="COMPLETED", total=2, sent=2, delivered=2)))
        apply(state, listing(operation(status="COMPLETED", updated=NOW + 9, total=2, sent=2, delivered=2, opened=1)))

        assert totals(state)["opened"] == 1

    def test_a_counter_that_falls_and_rises_again_is_counted_once_and_reported(self, state):
        for second, sent in enumerate([3, 1, 3, 4]):
            apply(state, listing(operation(updated=NOW + second, total=4, queued=4 - sent, sent=sent)))

        assert totals(state)["sent"] == 4
        assert {"sent": 1} == state.regressions

    def test_an_answer_from_the_past_undoes_nothing_and_is_no_regression(self, state):
        apply(state, listing(operation(updated=NOW + 60, total=3, sent=3)))
        apply(state, listing(operation(updated=NOW + 30, total=3, queued=1, sent=2, failed=0)))

        assert state.tracked["a"].operation.updated == NOW + 60
        assert totals(state)["sent"] == 3
        assert {} == state.regressions

    def test_the_last_mover_of_a_failure_is_named(self, state):
        apply(state, listing(operation("a", total=3, failed=1, sent=2), operation("b", total=2, sent=2)))
        apply(state, listing(operation("b", updated=NOW + 9, total=2, sent=2, undelivered=2), at=NOW + 10))

        assert {"failed": Exemplar("a", 1, NOW), "undelivered": Exemplar("b", 2, NOW + 10)} == state.exemplars


class TestDurations:
    def test_the_time_to_completion_is_observed_once(self, state):
        apply(state, listing(operation()))
        for _ in range(2):
            apply(state, listing(operation(status="COMPLETED", updated=NOW + 90)))

        assert (90.0, 1) == (state.durations.sum, sum(state.durations.counts))
        assert [Exemplar("a", 90.0, NOW)] == list(state.durations.exemplars.values())

    def test_what_completed_before_the_first_look_is_not(self):
        state = AccountState()
        apply(state, listing(operation(status="COMPLETED", updated=NOW + 90), sweep=True))

        assert sum(state.durations.counts) == 0


class TestForgetting:
    def old(self, **other):
        return operation(created=NOW, status="COMPLETED", total=1, sent=1, **other)

    def test_an_operation_is_kept_as_long_as_the_api_can_return_it(self, state):
        apply(state, listing(self.old()))

        apply(state, listing(sweep=True, at=NOW + RETENTION))

        assert "a" in state.tracked

    def test_afterwards_it_is_forgotten_and_its_counts_stay(self, state):
        apply(state, listing(self.old()))

        apply(state, listing(sweep=True, at=NOW + RETENTION + MARGIN + 1))

        assert {} == state.tracked
        assert state.snapshot().changed == {"a": None}
        assert {"total": 1, "sent": 1, "operations_created": 1, "operations_completed": 1} == totals(state)

    def test_one_that_reappears_is_counted_once(self, state):
        apply(state, listing(self.old()))
        late = NOW + RETENTION + MARGIN + 1
        apply(state, listing(sweep=True, at=late))

        for sweep in (True, False):
            apply(state, listing(self.old(), sweep=sweep, at=late + 1))
        apply(state, listing(self.old(), at=NOW))  # the clock was set back

        assert totals(state)["sent"] == 1

    def test_one_that_a_replica_believes_unfinished_is_counted_once(self, state):
        apply(state, listing(self.old()))
        late = NOW + RETENTION + MARGIN + 1
        apply(state, listing(sweep=True, at=late))

        apply(state, listing(operation(created=NOW, total=1, queued=1), at=late + 1))
        apply(state, listing(self.old(updated=NOW + 9), at=late + 2))

        assert {} == state.tracked
        assert {"total": 1, "sent": 1, "operations_created": 1, "operations_completed": 1} == totals(state)

    def test_an_unfinished_one_is_kept_until_the_api_has_lost_it(self, state):
        apply(state, listing(operation(status="SCHEDULED", total=1, scheduled=1)))
        apply(state, listing(sweep=True, at=NOW + 9 * DAY))
        assert "a" in state.tracked

        state.mark_gone("a")
        apply(state, listing(sweep=True, at=NOW + 9 * DAY))
        assert "a" not in state.tracked

    def test_one_that_the_api_lost_too_early_counts_on_when_it_returns(self, state):
        apply(state, listing(operation(total=2, sent=1)))
        state.mark_gone("a")
        assert [] == list(state.unfinished())

        apply(state, listing(operation(total=2, sent=2)))

        assert totals(state)["sent"] == 2
        assert ["a"] == [each.id for each in state.unfinished()]


class TestView:
    def test_what_left_the_window_comes_back_with_a_longer_one(self, state):
        """After a reload, or when a clock that was ahead is right again."""
        for hours in (0, 2, 9):
            apply(state, listing(operation(f"{hours} hours", status="COMPLETED", created=NOW - hours * 3600, total=1)))

        def shown(window, now=NOW):
            return {each.id for each in view(state, now=now, active_window=window * 3600, limit=9).exposed}

        assert {"0 hours"} == shown(1)
        assert {"0 hours", "2 hours"} == shown(3)
        assert set() == shown(3, now=NOW + 20 * 3600)
        assert {"0 hours", "2 hours"} == shown(3)
        assert {"0 hours", "2 hours", "9 hours"} == shown(24)

    def view(self, state, limit=10, now=NOW):
        return view(state, now=now, active_window=3600, limit=limit)

    def test_shows_unfinished_and_recently_changed_operations(self, state):
        apply(
            state,
            listing(
                operation("old and unfinished", created=NOW - DAY),
                operation("unknown status", status="PAUSED", created=NOW - DAY),
                operation("just completed", status="COMPLETED", created=NOW - DAY, updated=NOW - 3600),
                operation("completed long ago", status="COMPLETED", created=NOW - DAY, updated=NOW - 3601),
            ),
        )

        shown = self.view(state)

        assert {"old and unfinished", "unknown status", "just completed"} == {each.id for each in shown.exposed}
        assert shown.hidden == 0

    def test_past_the_limit_unfinished_ones_win_and_then_the_latest(self, state):
        apply(
            state,
            listing(
                operation("unfinished", created=NOW - DAY),
                operation("earlier", status="COMPLETED", updated=NOW - 20),
                operation("later", status="COMPLETED", updated=NOW - 10),
            ),
        )

        assert ["unfinished", "later"] == [each.id for each in self.view(state, limit=2).exposed]
        assert self.view(state, limit=2).hidden == 1
        assert self.view(state, limit=0).hidden == 3

    def test_sums_over_everything_that_is_tracked(self, state):
        apply(
            state,
            listing(
                operation("a", total=5, queued=3, sent=2),
                operation("b", status="SCHEDULED", created=NOW - 50, total=4, scheduled=4),
                operation("c", status="SCHEDULED", created=NOW - 90, total=4, scheduled=4),
                operation("d", status="COMPLETED", total=1, sent=1, delivered=1),
            ),
        )

        shown = self.view(state, limit=1)

        assert (3, 8) == (shown.queued, shown.scheduled)
        assert {"PROCESSING": 1, "SCHEDULED": 2, "COMPLETED": 1} == shown.by_status
        assert {"PROCESSING": NOW, "SCHEDULED": NOW - 90} == shown.oldest_unfinished
        assert {Reading.UNDECIDED: 3, Reading.CUMULATIVE: 1} == shown.by_reading

    def test_what_the_api_has_lost_is_not_shown(self, state):
        apply(state, listing(operation(total=5, queued=5)))
        state.mark_gone("a")

        shown = self.view(state)

        assert ([], 0, {}) == (shown.exposed, shown.queued, shown.oldest_unfinished)


class TestUnknownStatuses:
    def test_a_few_have_their_names_and_the_rest_are_other(self):
        """An API that invents a status for every operation makes no more series than that."""
        state = AccountState()
        some = [operation(f"o{n}", status=f"S{n:03d}", created=NOW + n) for n in range(100)]
        known = operation("p", status="PROCESSING", created=NOW)
        apply(state, listing(known, operation("twice", status="S099", created=NOW), *some, sweep=True))

        shown = view(state, now=NOW, active_window=3600, limit=10)

        names = {"PROCESSING", "S099", *(f"S{n:03d}" for n in range(19))}
        assert {**dict.fromkeys(names, 1), "S099": 2, "OTHER": 80} == shown.by_status
        assert {*names, "OTHER"} == shown.oldest_unfinished.keys()
        assert NOW + 19 == shown.oldest_unfinished["OTHER"]

    def test_one_has_its_name(self):
        state = AccountState()
        apply(state, listing(operation(status="PAUSED"), sweep=True))

        assert {"PAUSED": 1} == view(state, now=NOW, active_window=3600, limit=10).by_status
