"""Records hold the high-water marks of operations, in as little memory as possible."""

from operations import operation

from comms_exporter.model.histogram import Histogram
from comms_exporter.model.readings import Reading
from comms_exporter.model.records import TOTALS, Snapshot, Tracked, marks_of


def marks(**counts):
    return tuple(counts.get(name, 0) for name in TOTALS)


def snapshot(tracked, changed):
    return Snapshot(
        first_look=0.0,
        horizon=0.0,
        last_full_listing=0.0,
        totals=marks(),
        durations=Histogram(()),
        tracked=tracked,
        changed=changed,
    )


class TestMarks:
    def test_they_are_what_the_latest_response_says(self):
        tracked = Tracked(operation(status="COMPLETED", total=3, sent=2, delivered=1), Reading.EXCLUSIVE)

        assert (
            marks(total=3, sent=3, delivered=1, operations_created=1, operations_completed=1)
            == tracked.marks
            == marks_of(tracked.operation.stats, "COMPLETED", Reading.EXCLUSIVE)
        )

    def test_they_take_no_memory_unless_they_are_higher(self):
        latest = operation(total=3, sent=2)
        equal, higher = marks(total=3, sent=2, operations_created=1), marks(total=3, sent=3, operations_created=1)

        assert Tracked(latest, Reading.CUMULATIVE) == Tracked.with_extras(latest, Reading.CUMULATIVE, equal, None)
        assert higher == Tracked.with_extras(latest, Reading.CUMULATIVE, higher, None).marks


class TestSnapshots:
    def test_one_with_every_operation_is_complete(self):
        tracked = Tracked(operation("a"), Reading.UNDECIDED)

        assert snapshot(1, {"a": tracked, "forgotten": None}).is_complete
        assert not snapshot(2, {"a": tracked, "forgotten": None}).is_complete
