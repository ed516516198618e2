"""Requests are sent no faster than agreed."""

import pytest
from harness import Clock

from comms_exporter.api.rate_limiter import RateLimiter


@pytest.fixture
def clock():
    return Clock()


async def test_requests_are_sent_at_the_agreed_rate(clock):
    limiter = RateLimiter(2, monotonic=clock, sleep=clock.sleep)

    for _ in range(6):
        await limiter.acquire()

    assert [0.5, 0.5, 0.5, 0.5] == clock.waits


async def test_less_than_one_request_per_second(clock):
    limiter = RateLimiter(0.1, monotonic=clock, sleep=clock.sleep)

    for _ in range(3):
        await limiter.acquire()

    assert [10, 10] == clock.waits


async def test_a_wait_is_announced_before_it_begins(clock):
    announced = []
    limiter = RateLimiter(1, monotonic=clock, sleep=clock.sleep)

    for _ in range(2):
        await limiter.acquire(lambda seconds: announced.append((seconds, list(clock.waits))))

    assert [(1, [])] == announced
