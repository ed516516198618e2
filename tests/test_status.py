"""What the status page shows of a poller."""

from functools import partial

import pytest
from harness import simulator_harness

from comms_exporter.check import ADVICE
from comms_exporter.collect.emails.state import EmailOptions
from comms_exporter.simulator import Fate
from comms_exporter.simulator.mail import Address, Message
from comms_exporter.status import account_card, current_status, operation_detail, operation_rows
from comms_exporter.web.status_page.model import Lost, LostAt, LostBy

MESSAGE = Message(
    sender=Address("a@news.example"), to=(Address("x@gmail.com"),) * 4, tags={"campaign": "spring", "language": "en"}
)
OTHER_MESSAGE = Message(sender=Address("a@shop.example"), to=(Address("x@yahoo.com"),))
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

    async def test_lists_the_operations_that_are_not_exposed(self):
        async with simulator_harness(exposes="none") as harness:
            sent = harness.world.send(fates=MIXED)
            await harness.poll()
            rows = list(operation_rows(harness.poller))
        assert [] == harness.poller.view.exposed
        assert [sent.id] == [row.id for row in rows]

    async def test_explains_a_failed_poll(self):
        async with simulator_harness() as harness:
            harness.faults.add("401")
            await harness.poll()
            card = account_card(harness.poller)
        assert (False, "auth", ADVICE["auth"]) == (card.good, card.reason, card.advice)
        assert card.message.startswith("401: ")


class TestEmails:
    async def test_are_absent_where_they_are_not_collected(self):
        async with simulator_harness() as harness:
            await harness.poll()
            assert account_card(harness.poller).emails is None

    async def test_says_who_was_lost_since_the_start_worst_first(self, monkeypatch):
        async with simulator_harness(emails=EmailOptions(all_stages=True, tags=("campaign",))) as harness:
            monkeypatch.setattr("time.time", harness.clock)
            await harness.poll_and_collect()
            send = partial(harness.world.send, message=MESSAGE)
            for fate, count in ((MIXED[1], 3), (MIXED[0], 1)):
                send(fates=[fate] * count)
            harness.world.send(fates=[MIXED[2]], message=OTHER_MESSAGE)
            for _ in range(3):
                await harness.poll_and_collect(after=300)
            emails = account_card(harness.poller).emails

        assert (True, True, 0, 5) == (emails.everything, emails.good, emails.unattributed, emails.tracked)
        assert 0 <= emails.success_age_seconds <= 300
        assert 930 == pytest.approx(emails.lost_seconds)
        assert 24 <= emails.requests_a_day
        assert [
            LostBy("provider", [Lost("gmail", 3, 75.0), Lost("yahoo", 1, 100.0)], 0),
            LostBy("sender", [Lost("news.example", 3, 75.0), Lost("shop.example", 1, 100.0)], 0),
            LostBy("tag campaign", [Lost("spring", 3, 75.0)], 0),
        ] == emails.lost

    async def test_explains_why_they_cannot_be_listed(self):
        async with simulator_harness(emails=EmailOptions()) as harness:
            harness.world.send(fates=MIXED)
            await harness.poll()
            harness.faults.add("403")
            await harness.poller.collect_emails(60)
            card = account_card(harness.poller)

        assert (True, False, "forbidden") == (card.good, card.emails.good, card.emails.reason)
        assert (ADVICE["forbidden"], None) == (card.emails.advice, card.emails.success_age_seconds)

    async def test_an_operation_has_its_lost_emails_by_provider(self):
        async with simulator_harness(emails=EmailOptions()) as harness:
            await harness.poll_and_collect()
            lost = harness.world.send(fates=[*MIXED, MIXED[1]], message=MESSAGE)
            whole = harness.world.send(fates=MIXED[:1])
            await harness.poll_and_collect(after=300)
            harness.requested_paths()
            details = [operation_detail([harness.poller], "test", each.id) for each in (lost, whole)]
            account_card(harness.poller)
            # Looking at a page asks for nothing.
            assert [] == harness.requested_paths()

        assert [[LostAt("gmail", 1, 2)], []] == [each.lost for each in details]
        assert [3, 0] == [each.found_lost for each in details]


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
            assert ("/m", 2, 2) == (status.telemetry_path, len(list(status.accounts)), len(list(status.operations)))


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
