"""Totals count what happened since the first look, once, whatever the API returns."""

import pytest
from operations import NOW, apply, listing, operation, restored, saved_account

from comms_exporter.base.slices import run_to_completion
from comms_exporter.collect.schedule import DAY, MARGIN, RETENTION
from comms_exporter.collect.state import AccountState
from comms_exporter.model.histogram import Exemplar
from comms_exporter.model.readings import Reading
from comms_exporter.model.records import TOTALS, Tracked

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

    def test_what_it_found_counts_by_its_growth(self):
        state = AccountState()
        apply(state, listing(operation(total=3, queued=2, sent=1), sweep=True))

        apply(state, listing(operation(total=3, sent=3, updated=NOW + 1)))

        assert {"sent": 2} == totals(state)

    def test_an_operation_created_after_it_counts_in_full(self, state):
        apply(state, listing(operation(total=3, sent=3, delivered=1)))

        assert {"total": 3, "sent": 3, "delivered": 1, "operations_created": 1} == totals(state)

    def test_an_older_operation_that_it_missed_only_sets_marks(self, state):
        """It is not new because a later listing is the first to include it."""
        apply(state, listing(operation(total=3, sent=2, created=NOW - DAY)))
        apply(state, listing(operation(total=3, sent=3, created=NOW - DAY, updated=NOW)))

        assert {"sent": 1} == totals(state)

    def test_an_operation_created_in_the_same_second_is_new(self):
        """The API's times are whole seconds."""
        state = AccountState()
        apply(state, listing(sweep=True, at=NOW + 0.7))

        apply(state, listing(operation(total=1, created=NOW)))

        assert {"total": 1, "operations_created": 1} == totals(state)

    def test_deciding_on_a_reading_later_counts_nothing_from_before_it(self):
        """Undecided at first, then exclusive: the seven emails that were sent before are not counted."""
        state = AccountState()
        apply(state, listing(operation(total=10, sent=3, delivered=4), sweep=True))

        apply(state, listing(operation(total=10, sent=4, delivered=6, updated=NOW + 1)))

        assert state.tracked["a"].reading is Reading.EXCLUSIVE
        assert {"sent": 3, "delivered": 2} == totals(state)

    def test_it_has_to_be_a_sweep(self):
        with pytest.raises(ValueError, match="first look"):
            apply(AccountState(), listing(operation()))


class TestTotals:
    def test_a_response_that_is_repeated_adds_nothing(self, state):
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

    def test_a_forced_reading_is_used_even_if_the_counters_contradict_it(self):
        state = AccountState(forced_reading=Reading.CUMULATIVE)
        apply(state, listing(sweep=True, at=NOW - MINUTE))

        apply(state, listing(operation(total=2, delivered=2)))

        assert {"total": 2, "delivered": 2, "operations_created": 1} == totals(state)

    def test_completion_and_cancellation_count_once(self, state):
        for status in ("COMPLETED", "PROCESSING", "COMPLETED"):
            apply(state, listing(operation("a", status=status), operation("b", status="CANCELED")))

        assert {"operations_created": 2, "operations_completed": 1, "operations_canceled": 1} == totals(state)

    def test_changes_after_completion_count(self, state):
        apply(state, listing(operation(status="COMPLETED", total=2, sent=2, delivered=2)))
        apply(state, listing(operation(status="COMPLETED", updated=NOW + 9, total=2, sent=2, delivered=2, opened=1)))

        assert totals(state)["opened"] == 1

    def test_a_counter_that_falls_and_rises_again_is_counted_once_and_reported(self, state):
        for second, sent in enumerate([3, 1, 3, 4]):
            apply(state, listing(operation(updated=NOW + second, total=4, queued=4 - sent, sent=sent)))

        assert totals(state)["sent"] == 4
        assert {"sent": 1} == state.regressions

    def test_an_older_version_undoes_nothing_and_is_no_regression(self, state):
        apply(state, listing(operation(updated=NOW + 60, total=3, sent=3)))
        apply(state, listing(operation(updated=NOW + 30, total=3, queued=1, sent=2, failed=0)))

        assert state.tracked["a"].operation.updated == NOW + 60
        assert totals(state)["sent"] == 3
        assert {} == state.regressions

    def test_the_last_operation_that_failed_is_the_exemplar(self, state):
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

    def test_completions_before_the_first_look_are_not_observed(self):
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

    def test_then_it_is_forgotten_and_the_totals_stay(self, state):
        apply(state, listing(self.old()))

        apply(state, listing(sweep=True, at=NOW + RETENTION + MARGIN + 1))

        assert {} == state.tracked
        assert state.snapshot().changed == {"a": None}
        assert {"total": 1, "sent": 1, "operations_created": 1, "operations_completed": 1} == totals(state)

    def test_a_forgotten_operation_that_reappears_is_not_counted_again(self, state):
        apply(state, listing(self.old()))
        late = NOW + RETENTION + MARGIN + 1
        apply(state, listing(sweep=True, at=late))

        for sweep in (True, False):
            apply(state, listing(self.old(), sweep=sweep, at=late + 1))
        apply(state, listing(self.old(), at=NOW))  # the clock was set back

        assert totals(state)["sent"] == 1

    def test_nor_is_one_that_reappears_as_unfinished(self, state):
        apply(state, listing(self.old()))
        late = NOW + RETENTION + MARGIN + 1
        apply(state, listing(sweep=True, at=late))

        apply(state, listing(operation(created=NOW, total=1, queued=1), at=late + 1))
        apply(state, listing(self.old(updated=NOW + 9), at=late + 2))

        assert {} == state.tracked
        assert {"total": 1, "sent": 1, "operations_created": 1, "operations_completed": 1} == totals(state)

    def test_an_unfinished_operation_is_kept_until_it_is_gone(self, state):
        apply(state, listing(operation(status="SCHEDULED", total=1, scheduled=1)))
        apply(state, listing(sweep=True, at=NOW + 9 * DAY))
        assert "a" in state.tracked

        state.mark_gone("a")
        apply(state, listing(sweep=True, at=NOW + 9 * DAY))
        assert "a" not in state.tracked

    def test_an_operation_that_was_gone_and_returns_keeps_its_marks(self, state):
        apply(state, listing(operation(total=2, sent=1)))
        state.mark_gone("a")
        assert [] == list(state.unfinished())

        apply(state, listing(operation(total=2, sent=2)))

        assert totals(state)["sent"] == 2
        assert ["a"] == [each.id for each in state.unfinished()]


class TestSnapshots:
    def test_there_is_none_before_the_first_look(self):
        assert AccountState().snapshot() is None

    def test_later_changes_do_not_affect_it(self, state):
        apply(state, listing(operation("a", total=5, sent=3)))
        snapshot = state.snapshot()
        before = repr(snapshot)

        apply(
            state,
            listing(operation("a", updated=NOW + 50, status="COMPLETED", total=5, sent=5), sweep=True, at=NOW + 99),
        )

        assert before == repr(snapshot)

    def test_it_has_the_changes_since_the_last_one(self, state):
        apply(state, listing(operation("a"), operation("b")))
        assert state.snapshot().is_complete

        apply(state, listing(operation("b", updated=NOW + 1)))
        snapshot = state.snapshot()

        assert (["b"], False) == (list(snapshot.changed), snapshot.is_complete)

    def test_one_that_was_not_saved_is_included_in_the_next_one(self, state):
        apply(state, listing(operation("a", sent=1), operation("b")))
        unsaved = state.snapshot()
        apply(state, listing(operation("a", updated=NOW + 1, sent=2)))

        state.requeue(unsaved)
        snapshot = state.snapshot()

        assert {"a": state.tracked["a"], "b": state.tracked["b"]} == snapshot.changed

    def test_it_is_complete_after_the_store_has_lost_everything(self, state):
        apply(state, listing(operation("a"), operation("b")))
        state.snapshot()

        state.requeue_all()

        assert state.snapshot().is_complete


class TestRestoring:
    def test_a_restored_state_continues_to_count(self, state):
        apply(state, listing(operation(total=3, sent=1)))
        snapshot = state.snapshot()

        state = restored(saved_account(*snapshot.changed.values()))
        apply(state, listing(operation(total=3, sent=3, updated=NOW + 1)))

        assert {"sent": 2} == totals(state)

    def test_a_forced_reading_applies_to_the_next_change(self):
        state = AccountState(forced_reading=Reading.EXCLUSIVE)
        saved = saved_account(Tracked(operation(total=3, sent=1), Reading.CUMULATIVE))
        run_to_completion(state.restore(saved))

        apply(state, listing(operation(total=3, sent=1, delivered=1, updated=NOW + 1)))

        assert state.tracked["a"].reading is Reading.EXCLUSIVE
