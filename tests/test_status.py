"""What the status page shows of a poller."""

from harness import simulator_harness

from comms_exporter.check import ADVICE
from comms_exporter.simulator import Fate
from comms_exporter.status import account_card, current_status, operation_rows

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
