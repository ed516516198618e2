"""Operations are grouped in segments, and unchanged segments are kept."""

from expose.pages import many_operations
from operations import operation

from comms_exporter.base.slices import SIZE, run_to_completion
from comms_exporter.expose.segments import regroup


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

    assert [True, False, True] == [old is new for old, new in zip(before, after, strict=True)]
    assert after is run_to_completion(regroup("shop", after, operations.copy()))
