"""A token bucket allows a burst, and then one event per interval."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comms_exporter.base.token_bucket import TokenBucket


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


class TestTake:
    def test_allows_a_burst_and_then_one_per_interval(self, clock):
        bucket = TokenBucket(burst=2, seconds_per_token=10, monotonic=clock)

        assert [True, True, False] == [bucket.take() for _ in range(3)]
        clock.now += 9
        assert not bucket.take()
        clock.now += 1
        assert [True, False] == [bucket.take() for _ in range(2)]

    def test_saves_no_more_tokens_than_the_burst(self, clock):
        bucket = TokenBucket(burst=2, seconds_per_token=10, monotonic=clock)
        clock.now += 3600

        assert [True, True, False] == [bucket.take() for _ in range(3)]

    def test_gives_a_token_after_exactly_one_interval(self, clock):
        """1 / 49 s is not exact: a refill computed as a rate would be a fraction short of a token."""
        bucket = TokenBucket(burst=1, seconds_per_token=49, monotonic=clock)
        bucket.take()
        clock.now += 49

        assert bucket.take()

    @given(
        burst=st.integers(1, 5),
        seconds=st.floats(0.001, 100),
        pauses=st.lists(st.floats(0, 200), min_size=1, max_size=30),
    )
    def test_never_allows_more_than_the_burst_and_what_the_time_has_refilled(self, burst, seconds, pauses):
        clock = Clock()
        bucket = TokenBucket(burst=burst, seconds_per_token=seconds, monotonic=clock)
        started, taken = clock.now, 0
        for pause in pauses:
            clock.now += pause
            taken += bucket.take()

            assert taken <= burst + (clock.now - started) / seconds * (1 + 1e-9)


class TestReserve:
    def test_waits_for_the_tokens_after_the_burst(self, clock):
        bucket = TokenBucket(burst=2, seconds_per_token=0.5, monotonic=clock)

        assert [0, 0, 0.5, 1.0] == [bucket.reserve() for _ in range(4)]

    def test_waits_less_the_later_it_is_asked(self, clock):
        bucket = TokenBucket(burst=1, seconds_per_token=10, monotonic=clock)
        bucket.reserve()
        clock.now += 4

        assert 6 == bucket.reserve()

    def test_leaves_nothing_to_take(self, clock):
        """Whoever reserved a token gets it, even if somebody else asks when it is due."""
        bucket = TokenBucket(burst=1, seconds_per_token=10, monotonic=clock)
        bucket.reserve(), bucket.reserve()
        clock.now += 10

        assert not bucket.take()
        clock.now += 10
        assert bucket.take()
