"""Single emails of the simulator: whom they are from and to, what becomes of them, and what the API shows."""

import json
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_client import DAY, OPERATIONS, START, Clock, fetch, ids, pages, refusal, serving

from comms_exporter.simulator import FAULTS, Address, Conditions, Dialect, Fate, Message, World, make_app, views
from comms_exporter.simulator.mail import PROVIDERS, SENDER_DOMAINS, TAGS, draw_message, message_seed, provider_of

EMAILS = "/v1/Emails"
HOUR = 3600.0
FAILED, BOUNCED, READ = Fate(failed=0), Fate(sent=0, undelivered=1), Fate(sent=0, delivered=1, opened=2)
# The statuses of the emails that each cumulative counter counts.
REACHED = {
    "scheduled": {"SCHEDULED"},
    "queued": {"QUEUED"},
    "sent": {"SENT", "DELIVERED", "OPENED", "UNDELIVERED"},
    "delivered": {"DELIVERED", "OPENED"},
    "opened": {"OPENED"},
    "undelivered": {"UNDELIVERED"},
    "failed": {"FAILED"},
    "canceled": {"CANCELED"},
}


@pytest.fixture
async def client(world):
    async with serving(make_app(world)) as client:
        yield client


async def listed(client, **query):
    return [email async for page in pages(client, EMAILS, **query) for email in page["emails"]]


def domain(address):
    return address["address"].partition("@")[2]


class TestMail:
    def test_goes_to_the_providers_by_their_shares(self):
        message = draw_message(7)
        emails = Counter(provider_of(message.recipient_domain(email)) for email in range(10_000))
        for provider, domains in PROVIDERS.items():
            assert emails[provider] == pytest.approx(10_000 * sum(domains.values()), rel=0.25), provider
        assert emails.keys() - PROVIDERS.keys() == {"other"}

    def test_goes_to_many_small_domains_too(self):
        message = draw_message(7)
        domains = {message.recipient_domain(email) for email in range(10_000)}
        assert 200 < sum(provider_of(each) == "other" for each in domains) < 400

    def test_has_a_sender_and_tags_by_their_shares(self):
        messages = [draw_message(message_seed(1, number)) for number in range(5000)]
        senders = Counter(message.sender.domain for message in messages)
        campaigns = Counter(message.tags["campaign"] for message in messages)
        for counts, shares in ((senders, SENDER_DOMAINS), (campaigns, TAGS["campaign"])):
            assert counts.keys() == shares.keys()
            for name, share in shares.items():
                assert counts[name] == pytest.approx(5000 * share, rel=0.2), name

    def test_is_the_same_for_the_same_seed(self):
        first, second = (World(seed=3, clock=Clock(), rate=30, history_seconds=DAY) for _ in range(2))
        assert first.email_tally() == second.email_tally()
        assert first.email_tally() != World(seed=4, clock=Clock(), rate=30, history_seconds=DAY).email_tally()


class TestStatuses:
    @settings(derandomize=True, max_examples=40)
    @given(
        st.integers(1, 60),
        st.floats(0, 2 * DAY),
        st.builds(Conditions, failed=st.floats(0, 1), undelivered=st.floats(0, 1), canceled=st.floats(0, 1)),
        st.floats(0, 6 * DAY),
    )
    def test_agree_with_the_counters_in_both_readings(self, recipients, wait, conditions, look):
        clock = Clock()
        world = World(clock=clock)
        operation = world.send(recipients, schedule=START + wait, conditions=conditions)
        clock.now += look
        statuses = Counter(operation.email_status(email, clock.now) for email in range(recipients))
        exclusive = views.operation_stats(operation, clock.now, reading="exclusive")
        cumulative = views.operation_stats(operation, clock.now, reading="cumulative")
        assert statuses.total() == recipients
        assert {name: statuses[name.upper()] for name in REACHED} == {name: exclusive[name] for name in REACHED}
        for name, counted in REACHED.items():
            assert cumulative[name] == sum(statuses[status] for status in counted), name

    async def test_a_filter_finds_each_email_under_its_own_status_only(self, clock):
        world = World(clock=clock, rate=60, history_seconds=DAY, conditions=Conditions(failed=0.1, undelivered=0.2))
        async with serving(make_app(world)) as client:
            emails = {email["id"]: email["status"] for email in await listed(client, pageSize=1000)}
            assert len(emails) > 500
            found = {}
            for status in set(emails.values()):
                found |= dict.fromkeys(await ids(client, EMAILS, status=status, pageSize=333), status)
            assert found == emails


class TestListing:
    async def test_shows_domains_and_tags(self, client, world, clock):
        operation = world.send(20)
        clock.now += 1
        for place, email in enumerate(await listed(client)):
            assert domain(email["to"][0]) == operation.message.recipient_domain(place)
            assert domain(email["from"]) == operation.message.sender.domain
            assert email["tags"] == operation.message.tags

    async def test_can_be_filtered_by_tags(self, client, world):
        wanted = world.send(2, message=Message(tags={"campaign": "a", "language": "en"}))
        world.send(3, message=Message(tags={"campaign": "a", "language": "de"}))
        assert len(await listed(client, tags="campaign:a;")) == 5
        assert {email["related"][0]["id"] for email in await listed(client, tags="campaign:a;language:en;")} == {
            wanted.id
        }
        assert await listed(client, tags="campaign:b;") == []
        assert (await refusal(client, EMAILS, tags="campaign:a"))[0] == 400

    async def test_keeps_its_filters_from_page_to_page(self, client, world):
        world.send(7, message=Message(tags={"campaign": "a"}))
        world.send(7, message=Message(tags={"campaign": "b"}))
        assert len(await listed(client, tags="campaign:a;", pageSize=2)) == 7

    async def test_may_ignore_all_filters(self, world):
        operation = world.send(2)
        world.send(3)
        async with serving(make_app(world, dialect=Dialect(ignore_filters=True))) as client:
            assert len(await listed(client, operationId=operation.id, status="FAILED", tags="a:b;")) == 5

    @pytest.mark.parametrize(
        ("dialect", "expected"),
        [
            (Dialect(), lambda email: (len(email["to"]), email["related"][0]["id"])),
            (Dialect(email_to="object"), lambda email: (len([email["to"]["address"]]), email["related"][0]["id"])),
            (Dialect(email_link="operationId"), lambda email: (len(email["to"]), email["operationId"])),
        ],
        ids=["reference", "object", "operationId"],
    )
    async def test_comes_in_the_shapes_of_the_reference_and_of_the_guide(self, world, dialect, expected):
        operation = world.send()
        async with serving(make_app(world, dialect=dialect)) as client:
            (email,) = await listed(client)
            assert expected(email) == (1, operation.id)
            fetched = await fetch(client, f"{EMAILS}/{email['id']}")
            assert fetched | {"content": None} == email | {"content": None}

    async def test_may_not_say_which_operation_an_email_belongs_to(self, world):
        operation = world.send()
        async with serving(make_app(world, dialect=Dialect(email_link="none"))) as client:
            (email,) = await listed(client)
            assert operation.id not in str(email)
            assert [email] == await listed(client, operationId=operation.id)

    async def test_may_have_the_content(self, client, world):
        world.send()
        assert "content" not in (await listed(client))[0]
        async with serving(make_app(world, dialect=Dialect(email_content=True))) as with_content:
            (email,) = await listed(with_content)
        assert email["content"]["html"]


class TestInbound:
    async def test_emails_belong_to_no_operation(self, client, world, clock):
        operation = world.send(3)
        clock.now += 10
        reply = world.receive(sender=Address("somebody@yahoo.com"))
        (email,) = await listed(client, status="INBOUND")
        assert (email["id"], domain(email["from"]), email["related"]) == (reply.id, "yahoo.com", [])
        assert reply.id not in [email["id"] for email in await listed(client, operationId=operation.id)]
        assert (await fetch(client, f"{EMAILS}/{reply.id}"))["status"] == "INBOUND"

    @pytest.mark.parametrize("order", ["newest", "oldest"])
    async def test_emails_are_listed_once_among_the_others_in_order_of_creation(self, world, clock, order):
        for number in range(6):
            world.send(3, at=START - 20 * number)
            world.receive(at=START - 20 * number - 10)
        async with serving(make_app(world, dialect=Dialect(order=order))) as client:
            emails = await listed(client, pageSize=2)
        times = [email["createdAt"] for email in emails]
        assert len({email["id"] for email in emails}) == len(emails) == 24
        assert times == sorted(times, reverse=order == "newest")

    async def test_emails_reply_to_a_few_messages(self, clock):
        world = World(clock=clock, rate=60, history_seconds=6 * DAY)
        replies = world.email_tally().inbound
        assert 0.01 < replies / world.tally().operations_created < 0.03
        async with serving(make_app(world)) as client:
            assert len(await ids(client, EMAILS, status="INBOUND")) == replies

    async def test_emails_are_gone_after_7_days(self, client, world, clock):
        reply = world.receive()
        clock.now += 7 * DAY
        assert await listed(client) == []
        assert (await refusal(client, f"{EMAILS}/{reply.id}"))[0] == 404
        assert world.email_tally().inbound == 1


class TestDetails:
    async def test_list_an_error_for_every_failed_email(self, client, world, clock):
        operation = world.send(fates=[FAILED] * 5 + [READ, BOUNCED])
        clock.now += 5
        path = f"{OPERATIONS}/{operation.id}/Errors"
        errors = [error async for page in pages(client, path, pageSize=2) for error in page["errors"]]
        assert [error["context"] for error in errors] == await ids(client, EMAILS, status="FAILED")
        assert Counter(str(error["code"]) for error in errors) == world.email_tally().error

    async def test_have_a_receipt_for_each_recipient(self, client, world, clock):
        world.send(fates=[FAILED, BOUNCED, READ])
        clock.now += 5
        receipts = []
        for email in await listed(client):
            receipts += (await fetch(client, f"{EMAILS}/{email['id']}/Receipts"))["receipts"]
        assert [(each["status"], each["code"] is None) for each in receipts] == [
            ("FAILED", False), ("UNDELIVERED", False), ("OPENED", True),
        ]  # fmt: skip

    async def test_of_what_nobody_knows_are_not_found(self, client, world):
        for path in (f"{OPERATIONS}/comms_operation_x/Errors", f"{EMAILS}/comms_email_x/Receipts"):
            assert (await refusal(client, path))[0] == 404
        assert (await refusal(client, f"{EMAILS}/{world.receive().id}/Receipts"))[0] == 404

    async def test_may_be_absent(self, world, clock):
        operation = world.send(fates=[FAILED])
        clock.now += 5
        async with serving(make_app(world, dialect=Dialect(details=False))) as client:
            (email,) = await ids(client, EMAILS)
            for path in (f"{OPERATIONS}/{operation.id}/Errors", f"{EMAILS}/{email}/Receipts"):
                assert (await refusal(client, path))[0] == 404


class TestFaults:
    @pytest.fixture
    def faults(self, client):
        return client.app[FAULTS]

    @pytest.mark.parametrize("listing", ["Errors", "Receipts"])
    async def test_details_can_be_truncated(self, client, world, clock, faults, listing):
        operation = world.send(fates=[FAILED])
        clock.now += 5
        (email,) = await ids(client, EMAILS)
        faults.add("truncated")
        path = f"{OPERATIONS}/{operation.id}/Errors" if listing == "Errors" else f"{EMAILS}/{email}/Receipts"

        async with client.get(path) as response:
            assert 200 == response.status
            with pytest.raises(json.JSONDecodeError):
                json.loads(await response.text())

    @pytest.mark.parametrize("kind", ["malformed", "unknown-field", "unknown-status"])
    async def test_spoil_one_email_of_a_page_and_a_single_one(self, client, world, faults, kind):
        world.send(5)
        sound = await listed(client)
        faults.add(kind, times=1)
        spoiled = await listed(client)
        assert [before == after for before, after in zip(sound, spoiled, strict=True)].count(False) == 1
        alone = await fetch(client, f"{EMAILS}/{sound[0]['id']}")
        faults.add(kind, times=1)
        assert alone != await fetch(client, f"{EMAILS}/{sound[0]['id']}")
        assert faults.active == []

    async def test_spoil_the_paging_of_emails_too(self, client, world, faults):
        world.send(5)
        faults.add("repeat-token", path=EMAILS, times=1)
        pagination = (await fetch(client, EMAILS, pageSize=2))["pagination"]
        assert pagination["next"] == pagination["self"]

    @pytest.mark.parametrize("path", ["Operations/{operation}/Errors", "{email}/Receipts", "{email}", ""])
    async def test_of_status_apply_to_every_path(self, client, world, clock, faults, path):
        operation = world.send(fates=[FAILED])
        clock.now += 5
        (email,) = await ids(client, EMAILS)
        path = f"{EMAILS}/{path.format(operation=operation.id, email=email)}".rstrip("/")
        faults.add("503", times=1, path=path)
        assert [(await client.get(path)).status for _ in range(2)] == [503, 200]

    async def test_a_stale_response_is_that_of_a_replica_that_lags_behind(self, client, world, clock, faults):
        operation = world.send(fates=[Fate(sent=1, delivered=20)])
        clock.now += 30
        later = world.send()
        (email,) = await ids(client, EMAILS, operationId=operation.id)
        faults.add("stale", lag=15)
        assert (await fetch(client, f"{OPERATIONS}/{operation.id}"))["stats"]["delivered"] == 0
        assert (await fetch(client, f"{EMAILS}/{email}"))["status"] == "SENT"
        assert await ids(client) == [operation.id]
        assert await ids(client, EMAILS) == [email]
        assert (await refusal(client, f"{OPERATIONS}/{later.id}"))[0] == 404
        faults.clear()
        assert (await fetch(client, f"{EMAILS}/{email}"))["status"] == "DELIVERED"


class TestTally:
    @pytest.mark.parametrize("days", [0.5, 6.9, 40])
    def test_counts_each_stage_like_the_plain_tally(self, clock, days):
        world = World(clock=clock, rate=20, history_seconds=2 * DAY, conditions=Conditions(failed=0.1, undelivered=0.1))
        world.set_conditions(traffic=0)
        clock.now += days * DAY
        plain, emails = world.tally(), world.email_tally()
        for counts in (emails.recipient_domain, emails.provider, emails.sender_domain):
            assert {stage: sum(values.values()) for stage, values in counts.items()} == {
                stage: getattr(plain, stage) for stage in counts
            }
        campaigns = [count for tag, count in emails.tag["failed"].items() if tag.startswith("campaign:")]
        assert sum(campaigns) == sum(emails.error.values()) == plain.failed > 0

    def test_is_the_same_after_single_emails_are_forgotten(self, clock):
        world = World(clock=clock)
        world.send(50)
        world.send(1, message=Message(to=(Address("you@Example.ORG"),)))
        clock.now += 6.9 * DAY
        before = world.email_tally()
        clock.now += 30 * DAY
        assert before == world.email_tally()
        assert before.recipient_domain["sent"]["example.org"] == 1

    async def test_is_told_by_the_controls(self, client, world, clock):
        world.send(message=Message(sender=Address("us@a.example"), tags={"k": "v"}), fates=[FAILED])
        clock.now += 5
        world.send(fates=[FAILED])
        tally = await fetch(client, "/simulator/tally/emails")
        assert tally["sender_domain"]["failed"]["a.example"] == 1
        assert tally["tag"]["failed"]["k:v"] == 1
        since = await fetch(client, "/simulator/tally/emails", since=START)
        assert sum(since["provider"]["failed"].values()) == 1
        assert "a.example" not in since["sender_domain"]["failed"]


class TestProblems:
    def lost(self, **conditions):
        """Return the shares of the emails that failed and that bounced, by the kinds of the tally."""
        clock = Clock()
        world = World(clock=clock, conditions=Conditions(failed=0, undelivered=0, **conditions))
        for _ in range(400):
            world.send(10)
        clock.now += 6 * DAY
        tally = world.email_tally()
        shares = {}
        for kind in ("provider", "sender_domain", "tag"):
            counts = getattr(tally, kind)
            for value in counts["sent"].keys() | counts.get("failed", {}).keys():
                failed, bounced, sent = (
                    counts.get(stage, {}).get(value, 0) for stage in ("failed", "undelivered", "sent")
                )
                shares[value] = (round(failed / (failed + sent), 1), round(bounced / sent, 1) if sent else math.nan)
        return shares

    def test_a_provider_may_refuse_all_emails(self):
        shares = self.lost(refusing_provider="microsoft")
        assert shares["microsoft"][1] > 0.8
        assert {value for value, (_, bounced) in shares.items() if bounced > 0.5} == {"microsoft"}

    def test_a_sender_domain_may_be_broken(self):
        shares = self.lost(broken_sender="shop.example.com")
        assert {value for value, (failed, _) in shares.items() if failed > 0.5} == {"shop.example.com"}

    def test_a_tag_may_be_bad(self):
        shares = self.lost(bad_tag="campaign:spring-sale")
        assert {value for value, (_, bounced) in shares.items() if bounced > 0.5} == {"campaign:spring-sale"}

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"refusing_provider": "hooli"}, "unknown refusing_provider 'hooli': must be one of gmail, microsoft"),
            ({"broken_sender": 3}, "broken_sender must be a string, not 3"),
            ({"bad_tag": "spring"}, "bad_tag must be key:value, not 'spring'"),
        ],
    )
    def test_that_cannot_be_are_refused(self, world, changes, complaint):
        with pytest.raises(ValueError, match=complaint):
            world.set_conditions(**changes)
