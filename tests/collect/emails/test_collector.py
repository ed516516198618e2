"""Emails are asked for where some are missing, and whatever the API does, counts equal the simulator's own tally."""

import asyncio
import contextlib
import os
import random
from collections import Counter
from urllib.parse import parse_qs, urlsplit

import pytest
from harness import HOUR, simulator_harness
from store.state_files import Damage

from comms_exporter.api.emails import EmailFilter
from comms_exporter.api.retries import RetryBudget
from comms_exporter.collect.emails.state import EmailOptions
from comms_exporter.model.email_records import STAGES
from comms_exporter.model.providers import provider_of
from comms_exporter.simulator import Dialect, Fate
from comms_exporter.simulator.mail import Address, Message
from comms_exporter.store.sqlite import SqliteStore

SOAK = int(os.environ.get("SOAK", "1"))
DAY = 24 * HOUR
FAILS = Fate(failed=1)
BOUNCES = Fate(sent=1, undelivered=60)
ARRIVES = Fate(sent=1, delivered=2, opened=30)
LOST = EmailOptions(tags=("campaign",), max_values=50)
ALL = EmailOptions(all_stages=True, tags=("campaign", "language"), max_values=50, errors=True)


def email_requests(harness):
    """Return the queries for emails since the last call, without sizes and tokens."""
    urls = [urlsplit(path) for path in harness.requested_paths()]
    queries = [
        {key: value for key, (value,) in parse_qs(url.query).items()} for url in urls if url.path == "/v1/Emails"
    ]
    return [
        {key: value for key, value in query.items() if key != "pageSize"}
        for query in queries
        if "pageToken" not in query
    ]


def counted(harness):
    """Return what is counted, as {(label, value, stage): count}."""
    emails = harness.poller.view.emails
    counts = Counter({("inbound", "", ""): emails.inbound})
    for (label, value), numbers in emails.counts.items():
        names = ("",) if label == "code" else STAGES
        counts.update({(label, value, stage): number for stage, number in zip(names, numbers, strict=True)})
    return +counts


def tallied(harness, *, since, options):
    """Return what the simulator counts, in the same form."""
    tally = harness.world.email_tally(since)
    stages = STAGES if options.all_stages else ("undelivered", "failed")
    counts = Counter({("inbound", "", ""): tally.inbound})
    for stage in stages:
        for domain, number in tally.recipient_domain.get(stage, {}).items():
            counts["provider", provider_of(domain), stage] += number
        for sender, number in tally.sender_domain.get(stage, {}).items():
            counts["sender_domain", sender, stage] += number
        for tag, number in tally.tag.get(stage, {}).items():
            key, _, value = tag.partition(":")
            if key in options.tags:
                counts[f"tag:{key}", value, stage] += number
    if options.errors:
        counts.update({("code", code, ""): number for code, number in tally.error.items()})
    return +counts


async def first_look(harness):
    """Let the first looks at operations and emails pass; return when they were."""
    await harness.poll_and_collect()
    assert harness.poller.state.emails.first_look_complete
    email_requests(harness)
    since = harness.clock.now
    # What is sent in the same second may count or not.
    harness.clock.now += 1
    return since


class TestQuestions:
    async def test_nothing_is_asked_where_nothing_was_lost(self):
        async with simulator_harness(emails=LOST) as harness:
            await first_look(harness)
            await harness.poll_and_collect(after=300)
            # Whether there are inbound emails is in no counter.
            assert [{"status": "INBOUND"}] == [{"status": query["status"]} for query in email_requests(harness)]
            harness.world.send(fates=[ARRIVES] * 3)
            for _ in range(3):
                await harness.poll_and_collect(after=300)

            assert [] == email_requests(harness)
            assert harness.poller.email_health.up

    async def test_the_first_look_asks_for_a_week(self):
        async with simulator_harness(emails=LOST) as harness:
            await harness.poll_and_collect()

            assert [("UNDELIVERED", "2026-11-14T10:59:59Z"), ("FAILED", "2026-11-14T10:59:59Z")] == [
                (query["status"], query["startDate"]) for query in email_requests(harness)
            ]

    async def test_one_operation_is_asked_for_if_that_takes_no_more_pages(self):
        async with simulator_harness(emails=LOST) as harness:
            await first_look(harness)
            harness.clock.now += 3600
            sent = harness.world.send(fates=[FAILS, ARRIVES])
            await harness.poll_and_collect(after=300)

            assert {"status": "FAILED", "operationId": sent.id} in email_requests(harness)
            assert 1 == counted(harness)["provider", provider_of(sent.message.recipient_domain(0)), "failed"]

    async def test_many_operations_are_listed_together(self):
        async with simulator_harness(emails=LOST) as harness:
            await first_look(harness)
            harness.clock.now += 7200
            for _ in range(30):
                harness.world.send(fates=[FAILS])
            await harness.poll_and_collect(after=300)

            failed = [query for query in email_requests(harness) if query["status"] == "FAILED"]
            assert [{"status", "startDate"}] == [query.keys() for query in failed]
            assert {"failed": 0, "undelivered": 0} == harness.poller.view.emails.unattributed

    async def test_older_losses_are_asked_for_hourly_and_daily(self):
        late = {minutes: Fate(sent=1, undelivered=60 * minutes) for minutes in (90, 150, 26 * 60)}
        async with simulator_harness(emails=LOST) as harness:
            began = await first_look(harness)
            harness.clock.now += 300
            harness.world.send(fates=list(late.values()))
            asked = []
            for _ in range(12 * 51):
                await harness.poll_and_collect(after=300)
                if any(query["status"] == "UNDELIVERED" for query in email_requests(harness)):
                    asked.append((harness.clock.now - began) / HOUR)

            # Bounces 1.5, 2.5 and 26 hours after the operation.
            assert [1, 1, 1] == [
                sum(low < hours <= high for hours in asked) for low, high in ((1.5, 2.6), (2.6, 3.7), (26, 50.1))
            ]
            assert 3 == len(asked)
            assert tallied(harness, since=began, options=LOST) == counted(harness)

    async def test_a_round_is_due_after_the_interval(self):
        async with simulator_harness(emails=LOST) as harness:
            await first_look(harness)
            harness.world.send(fates=[FAILS] * 3)
            await harness.poll_and_collect(after=30)
            await harness.poll_and_collect(after=30)
            email_requests(harness)
            harness.world.send(fates=[FAILS] * 3)
            for _ in range(8):
                await harness.poll_and_collect(after=30)
                assert [] == email_requests(harness)
            await harness.poll_and_collect(after=30)

            assert {"failed": 0, "undelivered": 0} == harness.poller.view.emails.unattributed

    async def test_an_api_that_ignores_filters_is_survived(self):
        async with simulator_harness(emails=LOST, dialect=Dialect(ignore_filters=True)) as harness:
            began = await first_look(harness)
            for _ in range(3):
                harness.world.send(fates=[FAILS, BOUNCES, ARRIVES])
                await harness.poll_and_collect(after=300)
            await harness.poll_and_collect(after=HOUR)

            assert tallied(harness, since=began, options=LOST) == counted(harness)
            assert {"failed": 0, "undelivered": 0} == harness.poller.view.emails.unattributed

    @pytest.mark.parametrize("link", ["related", "operationId", "none"])
    @pytest.mark.parametrize("to", ["list", "object"])
    async def test_every_published_form_of_an_email_is_counted(self, link, to):
        async with simulator_harness(emails=ALL, dialect=Dialect(email_link=link, email_to=to)) as harness:
            began = await first_look(harness)
            harness.world.send(fates=[FAILS, BOUNCES, ARRIVES])
            for _ in range(3):
                await harness.poll_and_collect(after=300)

            assert tallied(harness, since=began, options=ALL) == counted(harness)


class TestFailures:
    async def test_failures_have_a_health_of_their_own(self):
        async with simulator_harness(emails=LOST) as harness:
            await first_look(harness)
            harness.world.send(fates=[FAILS])
            harness.faults.add("500", path="/v1/Emails?")
            listing = harness.faults.draw
            harness.faults.draw = lambda method, path: listing(method, path + "?" if path == "/v1/Emails" else path)
            await harness.poll_and_collect(after=300)
            health = harness.poller.email_health
            assert (True, False, "server") == (harness.poller.health.up, health.up, health.problem.reason)
            assert 1 == harness.poller.view.emails.unattributed["failed"]
            await harness.poll_and_collect(after=300)
            assert [("listing emails failed", "server")] == harness.log.events("warning", "error")

            harness.faults.clear()
            await harness.poll_and_collect(after=300)
            assert harness.poller.email_health.up
            assert 0 == harness.poller.view.emails.unattributed["failed"]

    async def test_nothing_is_asked_while_polls_fail(self):
        async with simulator_harness(emails=LOST) as harness:
            await first_look(harness)
            harness.faults.add("500")
            await harness.poll_and_collect(after=HOUR)

            assert [] == email_requests(harness)

    async def test_a_poll_does_not_wait_for_a_page(self):
        """The page is counted after the poll."""
        async with simulator_harness(emails=LOST) as harness:
            await first_look(harness)
            harness.world.send(fates=[FAILS])
            collector = harness.poller._emails
            listing, asked, go_on = collector._client.list_emails, asyncio.Event(), asyncio.Event()

            async def slow(*arguments):
                asked.set()
                await go_on.wait()
                async for page in listing(*arguments):
                    yield page

            collector._client.list_emails = slow
            await harness.poll(after=300)
            await harness.poller.collect_emails(0.05)
            await asked.wait()
            await harness.poll()
            assert harness.poller.health.up
            assert 1 == harness.poller.view.emails.unattributed["failed"]

            go_on.set()
            await harness.poller.collect_emails(30)
            assert 0 == harness.poller.view.emails.unattributed["failed"]

    async def test_a_request_ends_with_the_poll_loop(self):
        async with simulator_harness(emails=LOST) as harness:
            harness.faults.add("hang", path="/v1/Emails", times=1)
            pending = harness.faults.draw
            harness.faults.draw = lambda method, path: pending(method, path) if path == "/v1/Emails" else None
            await harness.poll()
            await harness.poller.collect_emails(0.05)
            assert harness.poller._emails._step is not None

            await harness.poller._emails.close()
            assert harness.poller._emails._step is None


class TestLog:
    async def test_each_lost_email_has_one_line(self):
        async with simulator_harness(emails=LOST, log_losses=True) as harness:
            await first_look(harness)
            message = Message(
                sender=Address("canary-sender@news.example"),
                to=(Address("canary-local-part@gmail.com", "Canary Name"), Address("x@gmail.com")),
                subject="canary subject",
                tags={"campaign": "spring", "other": "secret"},
            )
            sent = harness.world.send(fates=[BOUNCES, ARRIVES], message=message)
            for _ in range(3):
                await harness.poll_and_collect(after=300)

            lines = [fields for _, event, fields in harness.log.entries if event == "email lost"]
            assert [
                {
                    "email_id": lines[0]["email_id"],
                    "operation_id": sent.id,
                    "status": "UNDELIVERED",
                    "provider": "gmail",
                    "sender_domain": "news.example",
                    "delay": 60.0,
                    "tag_campaign": "spring",
                }
            ] == lines
            assert "canary" not in str(harness.log.entries).lower()

    @pytest.mark.parametrize("stops", [True, False])
    async def test_each_lost_email_has_a_line_whenever_the_process_ends(self, stops, tmp_path):
        """It *stops* or is killed. Only when killed, emails that were not saved are counted and logged again."""
        lost, moments = 300, 0
        while True:
            async with simulator_harness(emails=LOST, log_losses=True, page_size=1000) as harness:
                store = SqliteStore(tmp_path / f"{moments}.db", emails=True)
                await first_look(harness)
                harness.world.send(fates=[FAILS] * lost)
                await harness.poll(after=300)
                ended = await end_after(moments, harness, store, stops=stops)

                harness.restart(store.load(["test"])["test"])
                store.close()
                await harness.poll_and_collect(after=300)
                lines = Counter(fields["email_id"] for _, event, fields in harness.log.entries if event == "email lost")

                assert lost == len(lines)
                assert lost == sum(number for (label, *_), number in counted(harness).items() if label == "provider")
                assert lost == lines.total() or not stops
            if ended:
                break
            moments += 1
        assert moments > 10


async def end_after(moments, harness, store, *, stops):
    """Collect emails and end the process after so many awaits; return whether it had finished. The pages are there at once."""

    async def save(snapshot):
        await asyncio.sleep(0)
        store.save("test", snapshot)
        await asyncio.sleep(0)

    poller, client = harness.poller, harness.poller._emails._client
    poller.state.requeue_all()
    await save(poller.state.snapshot())
    poller._save = save
    pages = [page async for page in client.list_emails(EmailFilter(status="FAILED"), RetryBudget())]

    async def list_emails(wanted, _):
        for page in pages if wanted.status == "FAILED" else []:
            yield page

    client.list_emails = list_emails
    task = asyncio.create_task(poller.collect_emails(60))
    for _ in range(moments):
        await asyncio.sleep(0)
    ended = task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await poller._emails.close()
    if stops:
        store.save("test", poller.state.snapshot())
    return ended


class Life:
    """Days of an account whose API fails, whose replicas lag, and whose exporter is killed now and then."""

    KINDS = (
        "500",
        "503",
        "429",
        "reset",
        "reset-body",
        "truncated",
        "malformed",
        "unknown-status",
        "empty",
        "blank-token",
    )

    def __init__(self, harness, path, options, *, seed):
        self.harness = harness
        self.options = options
        self.path = path
        self.store = self.opened()
        self.rng = random.Random(f"{seed}/life")
        self.draw = harness.faults.draw
        self.faulty = True
        self.exporter_starts()
        harness.faults.draw = self.draw_fault

    def opened(self):
        return SqliteStore(self.path, emails=True, on_damage=Damage())

    def draw_fault(self, method, path):
        faults = self.harness.faults
        faults.clear()
        if self.faulty and self.rng.random() < 0.2:
            kind = self.rng.choice(self.KINDS)
            faults.add(kind, retry_after=self.rng.choice([0, 1, 20]))
        elif self.faulty and self.rng.random() < 0.2:
            faults.add("stale", lag=self.rng.choice([5, 30, 120]))
        return self.draw(method, path)

    def exporter_starts(self):
        self.harness.restart(self.store.load(["test"]).get("test"))

        async def save(snapshot):
            self.store.save("test", snapshot)

        self.harness.poller._save = save

    def kill(self):
        """As by kill -9: what is not saved is lost."""
        self.store.close()
        self.store = self.opened()
        self.exporter_starts()

    async def run(self, rounds, *, after=60.0, rate=0.5):
        for _ in range(rounds):
            for _ in range(self.rng.randrange(3)):
                if self.rng.random() < rate:
                    later = self.harness.clock.now + self.rng.choice([0, 0, 0, 100, 2 * HOUR])
                    self.harness.world.send(self.rng.randint(1, 30), schedule=later)
            await self.harness.poll(after=after)
            if self.rng.random() < 0.05:
                self.kill()
            else:
                await self.harness.poller.collect_emails(self.rng.choice([0.02, 60.0]))
            if self.rng.random() < 0.02:
                self.kill()


@pytest.mark.parametrize("seed", range(SOAK))
@pytest.mark.parametrize(
    ("options", "reading"), [(LOST, "cumulative"), (ALL, "cumulative"), (LOST, "exclusive"), (ALL, "exclusive")]
)
async def test_every_label_is_exact_after_faults_restarts_and_lagging_replicas(options, reading, seed, tmp_path):
    async with simulator_harness(emails=options, reading=reading, page_size=100) as harness:
        life = Life(harness, tmp_path / "state.db", options, seed=seed)
        life.faulty = False
        since = await first_look(harness)
        life.faulty = True
        await life.run(300)

        # Until nothing changes any more.
        life.faulty = False
        harness.clock.now += 4 * DAY
        for _ in range(30):
            await harness.poll_and_collect(after=HOUR)

        assert harness.poller.email_health.up
        assert {"failed": 0, "undelivered": 0} == harness.poller.view.emails.unattributed
        assert tallied(harness, since=since, options=options) == counted(harness)
        life.store.close()
