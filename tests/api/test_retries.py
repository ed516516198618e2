"""Which failed requests are retried, how often, and after how long."""

import pytest

from comms_exporter.api.errors import CommsError, ConnectionLostError, ThrottledError
from comms_exporter.api.retries import MAX_WAIT_WITHIN_LISTING_SECONDS, RetryBudget, retry_delay

LOST = ConnectionLostError("connection", "reset")


def throttled(retry_after):
    return ThrottledError("rate_limited", "429", retry_after)


class TestRetryBudget:
    def test_lets_two_retries_through(self):
        budget = RetryBudget()

        assert [True, True, False, False] == [budget.take() for _ in range(4)]


class TestRetryDelay:
    @pytest.mark.parametrize("within_listing", [False, True])
    def test_backs_off_exponentially_after_a_lost_connection(self, within_listing):
        delays = [retry_delay(LOST, retries=n, jitter=1, within_listing=within_listing) for n in range(6)]

        assert [0.5, 1, 2, 4, 8, 8] == delays

    def test_jitter_spreads_the_delays(self):
        assert 0 == retry_delay(LOST, retries=2, jitter=0, within_listing=False)
        assert 1 == retry_delay(LOST, retries=2, jitter=0.5, within_listing=False)

    @pytest.mark.parametrize(
        ("retry_after", "delay"),
        [
            (0.0, 0.0),
            (7.0, 7.0),
            (MAX_WAIT_WITHIN_LISTING_SECONDS, MAX_WAIT_WITHIN_LISTING_SECONDS),
            (MAX_WAIT_WITHIN_LISTING_SECONDS + 1, None),
            (None, 4.0),
        ],
    )
    def test_a_throttled_listing_waits_as_long_as_the_api_asks_but_not_for_minutes(self, retry_after, delay):
        assert delay == retry_delay(throttled(retry_after), retries=0, jitter=0.5, within_listing=True)

    def test_a_throttled_request_that_continues_no_listing_is_not_retried(self):
        assert retry_delay(throttled(1.0), retries=0, jitter=0.5, within_listing=False) is None

    @pytest.mark.parametrize("within_listing", [False, True])
    def test_other_errors_are_not_retried(self, within_listing):
        assert retry_delay(CommsError("server", "500"), retries=0, jitter=0, within_listing=within_listing) is None
