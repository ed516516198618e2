"""What a view publishes of the state: the operations to expose, and sums over all of them."""

import pytest
from operations import NOW, apply, listing, operation, view

from comms_exporter.collect.schedule import DAY
from comms_exporter.collect.state import AccountState
from comms_exporter.model.operations import STATS, Operation, pack
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

    def ids(self, operations):
        return {each.id for each in operations}

    def test_beyond_the_limit_what_is_in_trouble_comes_before_what_is_recent(self, state):
        ranked = [
            operation("unfinished and lost some", created=NOW - 20, failed=1),
            operation("unfinished for longest", created=NOW - DAY),
            operation("unfinished", status="PAUSED", created=NOW - 30),
            operation("lost the most", status="COMPLETED", updated=NOW - 90, failed=2, undelivered=5),
            operation("lost some", status="CANCELED", updated=NOW - 80, undelivered=6),
            operation("lost two early", status="SCHEDULED", created=NOW - 70, failed=2),
            operation("lost one", status="COMPLETED", updated=NOW - 70, failed=1),
            operation("waits for longest", status="SCHEDULED", created=NOW - 2 * DAY),
            operation("waits", status="SCHEDULED", created=NOW - 5),
            operation("latest", status="COMPLETED", updated=NOW - 1),
            Operation("counters are missing", "COMPLETED", NOW, NOW - 2, pack((None,) * len(STATS))),
            operation("earlier", status="COMPLETED", updated=NOW - 60),
        ]
        apply(state, listing(*reversed(ranked)))

        for limit in range(1, len(ranked) + 1):
            assert self.ids(ranked[:limit]) == self.ids(self.view(state, limit).exposed)

    def test_operations_in_trouble_or_none_can_be_exposed_alone(self, state):
        """The status page lists the others, too."""
        troubled = [
            operation("processing"),
            operation("scheduled", status="SCHEDULED"),
            operation("failed", status="COMPLETED", failed=1),
            operation("undelivered", status="COMPLETED", undelivered=1),
        ]
        good = [
            operation("delivered", status="COMPLETED", delivered=1),
            operation("canceled", status="CANCELED", canceled=1),
            Operation("counters are missing", "COMPLETED", NOW, NOW, pack((None,) * len(STATS))),
        ]
        apply(state, listing(*troubled, *good))

        def view_of(exposes, limit):
            return view(state, now=NOW, active_window=3600, limit=limit, exposes=exposes)

        for limit in (0, 3, 5, 9):
            everything = self.view(state, limit)
            some, none = view_of("troubled", limit), view_of("none", limit)
            assert self.ids(troubled) & self.ids(everything.exposed) == self.ids(some.exposed)
            assert (4, 0) == (len(some.exposed) + some.hidden, len(none.exposed) + none.hidden)
            for other in (some, none):
                assert (everything.shown, everything.not_shown) == (other.shown, other.not_shown)
                assert everything.by_status == other.by_status

    def test_operations_around_the_last_place_keep_or_miss_it(self, state):
        """They do not take turns from poll to poll."""
        names = [f"o{number:02}" for number in range(30)]
        lost = {name: 1000 - 10 * number for number, name in enumerate(names)}

        def shown(**grown):
            lost.update(grown)
            apply(state, listing(*[operation(name, status="COMPLETED", failed=lost[name]) for name in names]))
            return self.ids(self.view(state, 20).exposed)

        first = shown()
        assert {*names[:20]} == first
        assert first == shown(o20=lost["o19"] + 1)
        assert first == shown(o19=lost["o20"] + 1)
        # What is clearly worse is shown, and the last one gives way.
        assert {*names[:19], "o25"} == shown(o25=9999)
        assert {*names[:19], "o25"} == shown(o19=lost["o18"] + 1)
        # Once there is room for all, nobody has a place to keep.
        assert {*names} == self.ids(self.view(state, 30).exposed)
        assert {*names[:18], "o19", "o25"} == shown()

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
