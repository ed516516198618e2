"""What it costs to list emails: the estimate is compared with the requests that the simulator counts."""

import pytest
from harness import HOUR, simulator_harness

from comms_exporter.collect.emails.cost import Traffic, email_requests_per_hour
from comms_exporter.collect.emails.state import EmailOptions

INTERVAL = 300.0
# What the conditions of the simulator's ordinary sender do to emails.
FAILED, UNDELIVERED, OPENED = 0.004, 0.025, 0.34


def week(operations, emails_each):
    emails = operations * emails_each
    return Traffic(operations, emails, OPENED * emails, UNDELIVERED * emails, FAILED * emails)


class Sender:
    """Sends at equal distances, and has done so for a week."""

    def __init__(self, harness, operations, emails_each):
        self._harness = harness
        self._emails_each = emails_each
        self._distance = 168 * HOUR / operations
        self._next = harness.clock.now - 168 * HOUR + self._distance
        self.send()

    def send(self):
        while self._next <= self._harness.clock.now:
            self._harness.world.send(self._emails_each, at=self._next)
            self._next += self._distance


class TestEstimate:
    @pytest.mark.parametrize("collect", ["lost", "all"])
    @pytest.mark.parametrize(("operations", "emails_each"), [(100, 100), (1000, 10), (2000, 1), (500, 4)])
    async def test_is_what_the_simulator_counts_at_most(self, operations, emails_each, collect):
        """The simulator counts at least 40 % of the estimate, and not more than it says."""
        emails = EmailOptions(all_stages=collect == "all")
        hours = 25
        async with simulator_harness(
            emails=emails, emails_interval=INTERVAL, interval=INTERVAL, page_size=100
        ) as harness:
            sender = Sender(harness, operations, emails_each)
            # The first look, and what it finds missing.
            for _ in range(6):
                await harness.poll_and_collect(after=INTERVAL)
            harness.requested_paths()
            for _ in range(int(hours * HOUR / INTERVAL)):
                sender.send()
                await harness.poll_and_collect(after=INTERVAL)
            asked = sum(path.startswith("/v1/Emails?") for path in harness.requested_paths()) / hours
            by_the_state = harness.poller.email_requests_per_hour()

        estimate = email_requests_per_hour(
            week(operations, emails_each), all_stages=emails.all_stages, interval=INTERVAL, page_size=100
        )
        assert 0.4 * estimate <= asked <= estimate
        # The account counts its emails itself.
        assert by_the_state == pytest.approx(estimate, rel=0.2)

    def test_an_account_without_operations_asks_for_inbound_emails(self):
        nothing = Traffic(0, 0, 0, 0, 0)

        assert 1 == email_requests_per_hour(nothing, all_stages=True, interval=INTERVAL, page_size=100)
        assert 12 == email_requests_per_hour(nothing, all_stages=True, interval=INTERVAL, page_size=100, receives=True)

    @pytest.mark.parametrize("lost", [0.0, 1e-9, 1.0, 1e9])
    def test_any_account_has_an_estimate(self, lost):
        traffic = Traffic(1, 1e9, 0, lost, lost)

        for all_stages in (False, True):
            assert email_requests_per_hour(traffic, all_stages=all_stages, interval=1e5, page_size=1) > 0

    @pytest.mark.parametrize(
        ("operations", "emails_each", "lost", "everything"),
        [(100, 1000, 4, 34), (10_000, 10, 13, 37), (1_000_000, 1, 28, 299)],
    )
    def test_is_what_the_readme_states(self, operations, emails_each, lost, everything):
        traffic = week(operations, emails_each)
        estimates = [
            round(email_requests_per_hour(traffic, all_stages=all_stages, interval=INTERVAL, page_size=1000))
            for all_stages in (False, True)
        ]

        assert [lost, everything] == estimates
