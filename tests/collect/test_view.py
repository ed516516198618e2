"""What a view publishes of the state: the operations to expose, and sums over all of them."""

import pytest
from operations import NOW, apply, listing, operation, view

from comms_exporter.collect.schedule import DAY
from comms_exporter.collect.state import AccountState
from comms_exporter.model.readings import Reading


@pytest.fixture
def state():
    """An account whose first look found nothing."""
    state = AccountState()
    apply(state, listing(sweep=True, at=NOW - 60))
    return state


class TestView:
    def test_operations_that_left_the_window_return_with_a_longer_one(self, state):
        """After a reload, or when a clock that was ahead is corrected."""
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

    def test_exposes_unfinished_and_recently_updated_operations(self, state):
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

    def test_unfinished_and_then_the_latest_operations_are_within_the_limit(self, state):
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

    def test_sums_include_all_tracked_operations(self, state):
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

    def test_operations_that_are_gone_are_not_shown(self, state):
        apply(state, listing(operation(total=5, queued=5)))
        state.mark_gone("a")

        shown = self.view(state)

        assert ([], 0, {}) == (shown.exposed, shown.queued, shown.oldest_unfinished)


class TestUnknownStatuses:
    def test_the_most_frequent_have_their_names_and_the_rest_are_other(self):
        """The number of series is bounded even if every operation has a status of its own."""
        state = AccountState()
        some = [operation(f"o{n}", status=f"S{n:03d}", created=NOW + n) for n in range(100)]
        known = operation("p", status="PROCESSING", created=NOW)
        apply(state, listing(known, operation("twice", status="S099", created=NOW), *some, sweep=True))

        shown = view(state, now=NOW, active_window=3600, limit=10)

        names = {"PROCESSING", "S099", *(f"S{n:03d}" for n in range(19))}
        assert {**dict.fromkeys(names, 1), "S099": 2, "OTHER": 80} == shown.by_status
        assert {*names, "OTHER"} == shown.oldest_unfinished.keys()
        assert NOW + 19 == shown.oldest_unfinished["OTHER"]

    def test_a_single_one_has_its_name(self):
        state = AccountState()
        apply(state, listing(operation(status="PAUSED"), sweep=True))

        assert {"PAUSED": 1} == view(state, now=NOW, active_window=3600, limit=10).by_status
