"""The history of the counters of operations, which is bounded."""

from comms_exporter.collect.history import History, Point
from comms_exporter.model.operations import Operation


def operation(name="op", updated=10.0, packed=b"0"):
    return Operation(name, "PROCESSING", 0.0, updated, packed)


def times(history, name="op"):
    return [point.time for point in history.points("a", name)]


def test_begins_with_what_was_there_before_the_first_change():
    history = History()

    history.add("a", [(operation(), b"1")], 20.0)
    history.add("a", [(operation(updated=20.0, packed=b"1"), b"2")], 30.0)

    assert [Point(10.0, b"0"), Point(20.0, b"1"), Point(30.0, b"2")] == history.points("a", "op")


def test_an_operation_that_has_not_changed_has_none():
    assert [] == History().points("a", "op")


def test_a_change_in_the_future_is_not_before_the_first():
    history = History()
    history.add("a", [(operation(updated=99.0), b"1")], 20.0)

    assert [20.0, 20.0] == times(history)


def test_each_owner_has_its_own():
    history = History()
    history.add("a", [(operation(), b"1")], 20.0)

    assert [] == history.points("b", "op")


def test_gets_coarser_in_the_middle_when_it_grows():
    history = History(max_points=8)
    for moment in range(1, 200):
        history.add("a", [(operation(updated=0.0), b"")], float(moment))
        assert len(times(history)) <= 8

    assert (0.0, 199.0) == (times(history)[0], times(history)[-1])
    assert times(history) == sorted(times(history))


def test_as_many_changes_of_a_poll_are_kept_as_operations():
    history = History(max_operations=3)
    changes = history.changes()
    for number in range(10):
        changes.append((operation(str(number)), b"1"))
    history.add("a", changes, 20.0)

    assert ["7", "8", "9"] == [each for each in map(str, range(10)) if history.points("a", each)]


def test_drops_the_operations_that_changed_longest_ago():
    history = History(max_operations=2)
    for name in ("one", "two", "one", "three"):
        history.add("a", [(operation(name), b"1")], 20.0)

    assert [3, 0, 2] == [len(history.points("a", name)) for name in ("one", "two", "three")]
