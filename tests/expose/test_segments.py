"""Operations are grouped in segments, and unchanged segments are kept."""

from expose.pages import many_operations
from operations import operation

from comms_exporter.base.slices import SIZE, run_to_completion
from comms_exporter.expose.segments import regroup


def changed(operations, numbers):
    """Return *operations* after a poll that changed those with these *numbers*."""
    return [operation(each.id, total=7) if number in numbers else each for number, each in enumerate(operations)]


def test_small_segments_are_merged():
    segments = run_to_completion(regroup("shop", [], many_operations(10 * SIZE)))
    for percent in (50, 20, 5):
        operations = [each for segment in segments for each in segment.operations]
        left = [each for number, each in enumerate(operations) if number % 100 < percent]
        segments = run_to_completion(regroup("shop", segments, left))

    assert len(segments) <= 2 + 2 * len(left) // SIZE


def test_new_operations_fill_the_last_segment():
    operations = many_operations(SIZE - 10)
    segments = run_to_completion(regroup("shop", [], operations))
    late = [operation(f"late{number}") for number in range(10)]

    segments = run_to_completion(regroup("shop", segments, [*operations, *late]))

    assert [[*operations, *late]] == [list(each.operations) for each in segments]


def test_unchanged_segments_are_kept():
    operations = many_operations(3 * SIZE)
    before = run_to_completion(regroup("shop", [], operations))
    operations[SIZE] = operation(operations[SIZE].id, total=7)

    after = run_to_completion(regroup("shop", before, operations))

    assert [True, False, True] == [old is new for old, new in zip(before, after, strict=False)]
    assert after is run_to_completion(regroup("shop", after, operations.copy()))


def test_operations_that_change_leave_those_that_do_not():
    """Wherever they were, the next time they change, only their segment is rendered."""
    operations = many_operations(40 * SIZE)
    spread = range(0, len(operations), 100)
    segments = run_to_completion(regroup("shop", [], operations))
    costs = []
    for _ in range(4):
        operations = changed(operations, spread)
        before, segments = segments, run_to_completion(regroup("shop", segments, operations))
        costs.append(sum(len(each.operations) for each in segments if each not in before))

    assert [len(operations), len(spread), len(spread), len(spread)] == costs
    assert sorted(each.id for each in operations) == sorted(each.id for one in segments for each in one.operations)


def test_segments_in_which_most_operations_change_keep_their_order():
    operations = many_operations(2 * SIZE)
    segments = run_to_completion(regroup("shop", [], operations))
    operations = changed(operations, range(SIZE // 2))

    segments = run_to_completion(regroup("shop", segments, operations))

    assert [each.id for each in operations] == [each.id for one in segments for each in one.operations]


def test_there_are_never_many_small_segments():
    operations = many_operations(10 * SIZE)
    segments = run_to_completion(regroup("shop", [], operations))
    for number in range(400):
        operations = changed(operations, [number * 7919 % len(operations)])
        segments = run_to_completion(regroup("shop", segments, operations))
        assert len(segments) <= 4 + 2 * 10
