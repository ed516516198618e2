"""What the status page shows of a poller."""

import pytest
from harness import simulator_harness

from comms_exporter.check import ADVICE
from comms_exporter.simulator import Fate
from comms_exporter.status import account_card, current_status, operation_detail, operation_rows

MIXED = [Fate(sent=0, delivered=0), Fate(sent=0, undelivered=0), Fate(failed=0)]


class TestAccountCard:
    async def test_is_neither_good_nor_bad_before_the_first_poll(self):
        async with simulator_harness() as harness:
            card = account_card(harness.poller)
        assert ("test", None, None, "") == (card.name, card.good, card.success_age_seconds, card.advice)

    async def test_counts_operations_and_requests_after_a_successful_poll(self):
        async with simulator_harness(max_operations=1) as harness:
            harness.world.send(fates=MIXED)
            harness.world.send(fates=MIXED)
            await harness.poll()
            card = account_card(harness.poller)
        assert (True, 2, 1) == (card.good, card.tracked, card.hidden)
        assert 2800 < card.requests_a_day < 2900

    async def test_explains_a_failed_poll(self):
        async with simulator_harness() as harness:
            harness.faults.add("401")
            await harness.poll()
            card = account_card(harness.poller)
        assert (False, "auth", ADVICE["auth"]) == (card.good, card.reason, card.advice)
        assert card.message.startswith("401: ")


class TestOperationRows:
    async def test_count_failures_at_once_and_stages_on_demand(self):
        async with simulator_harness() as harness:
            operation = harness.world.send(fates=MIXED)
            await harness.poll()
            (row,) = operation_rows(harness.poller)
        assert ("test", operation.id, 2) == (row.account, row.id, row.failures)
        funnel = row.funnel()
        assert (3, 2, 1, 1, 1) == (funnel.total, funnel.sent, funnel.delivered, funnel.failed, funnel.undelivered)

    async def test_of_all_accounts_are_one_list(self):
        async with simulator_harness() as first, simulator_harness() as second:
            for harness in (first, second):
                harness.world.send(fates=MIXED)
                await harness.poll()
            status = current_status([first.poller, second.poller], telemetry_path="/m")
            assert ("/m", 2, 2) == (status.telemetry_path, len(status.accounts), len(list(status.operations)))


class TestOperationDetail:
    @pytest.mark.parametrize("reading", ["cumulative", "exclusive"])
    async def test_has_the_history_of_the_counters_since_the_start(self, reading):
        async with simulator_harness(reading=reading) as harness:
            started = harness.clock.now
            operation = harness.world.send(
                fates=[Fate(sent=50, delivered=90), Fate(sent=50, undelivered=90), Fate(failed=0)]
            )
            for after in (30, 30, 60):
                await harness.poll(after=after)
            detail = operation_detail([harness.poller], "test", operation.id)
        funnel = detail.funnel
        assert (3, 2, 1, 1, 1) == (funnel.total, funnel.sent, funnel.delivered, funnel.failed, funnel.undelivered)
        assert [(0, 0, 1), (2, 0, 1), (2, 1, 1)] == [
            (each.funnel.sent, each.funnel.delivered, each.funnel.failed) for each in detail.history
        ]
        assert started == detail.created == detail.history[0].time < detail.history[1].time < detail.history[2].time

    async def test_is_found_without_an_account(self):
        async with simulator_harness() as first, simulator_harness() as second:
            for harness in (first, second):
                await harness.poll()
            operation = second.world.send(fates=MIXED)
            await second.poll()
            pollers = [first.poller, second.poller]
            assert operation.id == operation_detail(pollers, "", operation.id).id
            assert operation_detail(pollers, "other", operation.id) is None
            assert operation_detail(pollers, "", "comms_operation_x") is None
