"""An operation keeps its counters packed, and nobody can tell."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comms_exporter.model.operations import MAX_COUNT, STATS, STATUSES, Operation, pack, unpack

any_stats = st.lists(st.none() | st.integers(0, MAX_COUNT), min_size=len(STATS), max_size=len(STATS)).map(tuple)


@given(any_stats)
def test_an_operation_has_the_counters_that_were_packed(stats):
    assert stats == Operation("a", "PROCESSING", 0.0, 0.0, pack(stats)).stats


@given(any_stats)
def test_unpack_returns_minus_one_for_a_missing_counter(stats):
    assert tuple(-1 if count is None else count for count in stats) == unpack(pack(stats))


@pytest.mark.parametrize(
    ("status", "unfinished"),
    [("SCHEDULED", True), ("PROCESSING", True), ("COMPLETED", False), ("CANCELED", False), ("PAUSED", True)],
)
def test_only_completed_and_canceled_operations_are_finished(status, unfinished):
    """A status that we do not know may be followed by others."""
    assert status in {*STATUSES, "PAUSED"}
    assert unfinished == Operation("a", status, 0.0, 0.0, pack((0,) * len(STATS))).unfinished
