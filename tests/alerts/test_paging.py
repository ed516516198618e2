"""From failing emails to the pager: simulator, exporter, Prometheus with our rules, Alertmanager with our example."""

import asyncio
import re
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from process import exporter, unused_port
from prometheus import Alertmanager, Binaries, Prometheus

from comms_exporter.simulator import Fate, World, make_app
from comms_exporter.simulator.mail import Address, Message

DEPLOY = Path(__file__).parents[2] / "deploy"
# All windows, waits and intervals are so many times shorter: a minute becomes three seconds.
SPEED = 20
GOOD = Fate(sent=0.1, delivered=0.2)
BAD = Fate(failed=0.1)
BOUNCED = Fate(sent=0.1, undelivered=0.2)


def accelerated(text, speed=SPEED):
    """Return *text* with every duration of a rule or a route divided by *speed*, but at least one second."""
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}

    def shorter(match):
        return f"{max(1, round(int(match[1]) * seconds[match[2]] / speed))}s"

    return re.sub(r"\b([0-9]+)([smhd])\b", shorter, text)


class Webhooks:
    """A server that records the alerts that Alertmanager posts, by receiver."""

    def __init__(self):
        self.posted = {"pager": [], "tickets": [], "watchdog": []}
        self.app = web.Application()
        self.app.router.add_post("/{receiver}", self.post)

    async def post(self, request):
        self.posted[request.match_info["receiver"]] += (await request.json())["alerts"]
        return web.Response()

    def names(self, receiver):
        return {alert["labels"]["alertname"] for alert in self.posted[receiver] if alert["status"] == "firing"}

    async def until(self, receiver, name, within=60):
        """Wait until *receiver* gets the alert *name*, and return it."""
        deadline = time.monotonic() + within
        while True:
            for alert in self.posted[receiver]:
                if alert["labels"]["alertname"] == name and alert["status"] == "firing":
                    return alert
            assert time.monotonic() < deadline, f"{receiver} did not get {name}, only {self.names(receiver)}"
            await asyncio.sleep(0.1)


@asynccontextmanager
async def alerting(folder):
    """Run an Alertmanager with our example configuration, and record its webhook calls."""
    binaries, webhooks = Binaries.find(3), Webhooks()
    async with TestServer(webhooks.app) as receiver:
        text = accelerated((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
        config = yaml.safe_load(text.replace("127.0.0.1:9099", f"127.0.0.1:{receiver.port}"))
        async with Alertmanager(binaries, folder, config) as alertmanager:
            yield alertmanager, webhooks


@asynccontextmanager
async def monitoring(folder, alertmanager, port, *, speed=SPEED):
    """Run a Prometheus with our example configuration and rules, both accelerated."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    rules = []
    for name in config.pop("rule_files"):
        (folder / name).write_text(accelerated((DEPLOY / "prometheus" / name).read_text(), speed))
        rules.append(folder / name)
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{port}"]
    del config["alerting"]
    async with Prometheus(
        Binaries.find(3), folder, config=config, rule_files=rules, alertmanagers=[alertmanager.address]
    ) as prometheus:
        yield prometheus


@pytest.mark.usefixtures("prometheus_three")
class TestPaging:
    async def test_pages_for_a_failure_spike_and_then_for_a_missing_exporter(self, tmp_path):
        world, port = World(clock=time.time), unused_port()
        flags = ("--collect.interval=500ms", f"--web.listen-address=127.0.0.1:{port}", "--account.name=shop")
        failing = False

        async def send():
            while True:
                world.send(fates=[GOOD] * 6 + [BAD if failing else GOOD] * 4)
                await asyncio.sleep(0.2)

        async with (
            TestServer(make_app(world)) as api,
            alerting(tmp_path) as (alertmanager, webhooks),
            exporter(str(api.make_url("/v1")), *flags, listen=False) as process,
            monitoring(tmp_path, alertmanager, port) as prometheus,
        ):
            sending = asyncio.create_task(send())
            try:
                await prometheus.until("increase(comms_emails_sent_total[10s]) > 50", within=40)
                assert set() == webhooks.names("pager")

                failing, began = True, time.monotonic()
                page = await webhooks.until("pager", "CommsEmailFailureSpike")
                # Two minutes become six seconds; the rest is the latency of this machine.
                assert time.monotonic() - began < 60
                assert ("critical", "shop") == (page["labels"]["severity"], page["labels"]["account"])
                assert page["annotations"]["runbook_url"].endswith("#commsemailfailurespike")

                failing = False
                webhooks.posted["pager"].clear()
                await process.kill()
                await webhooks.until("pager", "CommsExporterDown")
                assert "CommsEmailFailureSpike" not in webhooks.names("pager")
            finally:
                sending.cancel()

    async def test_the_page_names_the_provider_that_refuses(self, tmp_path):
        """The page about the bounces says where they are, and silences the ticket about the provider."""
        world, port = World(clock=time.time), unused_port()
        flags = (
            *("--collect.interval=500ms", f"--web.listen-address=127.0.0.1:{port}", "--account.name=shop"),
            *("--emails.collect=all", "--emails.interval=1s", "--emails.tags=campaign"),
        )
        to = [Address(f"canary{n}@{'gmail.com' if n < 4 else 'yahoo.com'}") for n in range(10)]
        message = Message(sender=Address("hello@news.example"), to=tuple(to), tags={"campaign": "spring"})
        refusing = False

        async def send():
            while True:
                world.send(fates=[BOUNCED if refusing else GOOD] * 4 + [GOOD] * 6, message=message)
                await asyncio.sleep(0.2)

        async with (
            TestServer(make_app(world)) as api,
            alerting(tmp_path) as (alertmanager, webhooks),
            exporter(str(api.make_url("/v1")), *flags, listen=False),
            # A minute is a second: emails have to be known for 20 minutes before their losses are.
            monitoring(tmp_path, alertmanager, port, speed=60) as prometheus,
        ):
            sending = asyncio.create_task(send())
            try:
                await prometheus.until(
                    'account:comms_emails_delivered_by_provider:count{provider="gmail"} > 10', within=60
                )
                refusing = True
                page = await webhooks.until("pager", "CommsEmailBounceSpike", within=90)
                firing = 'ALERTS{alertname="CommsEmailProviderRefuses",alertstate="firing"}'
                ((ticket, _),) = await prometheus.until(firing, within=90)
                said = page["annotations"]["description"]
                await alertmanager.until(
                    lambda alerts: any(
                        each["labels"]["alertname"] == "CommsEmailProviderRefuses" and each["status"]["inhibitedBy"]
                        for each in alerts
                    )
                )
            finally:
                sending.cancel()
        assert "Of the bounced emails, 100% are to gmail." in said
        assert "from news.example." in said
        assert "the tag campaign=spring." in said
        assert "gmail" == ticket["provider"]
        assert "CommsEmailProviderRefuses" not in webhooks.names("tickets")

    async def test_a_page_inhibits_the_ticket_for_the_same_account(self, tmp_path):
        async with alerting(tmp_path) as (alertmanager, webhooks):
            labels = {"alertname": "CommsEmailFailureSpike", "account": "shop"}
            alerts = [
                {**labels, "severity": "critical"},
                {**labels, "severity": "warning"},
                {**labels, "severity": "warning", "account": "other"},
            ]
            await alertmanager.post(alerts)
            await webhooks.until("pager", "CommsEmailFailureSpike")
            ticket = await webhooks.until("tickets", "CommsEmailFailureSpike")

            assert "other" == ticket["labels"]["account"]
            known = await alertmanager.until(lambda alerts: any(each["status"]["inhibitedBy"] for each in alerts))
            (inhibited,) = [each["labels"] for each in known if each["status"]["inhibitedBy"]]
            assert ("warning", "shop") == (inhibited["severity"], inhibited["account"])

    @pytest.mark.parametrize(
        ("fires", "receiver", "messages"),
        [
            (
                ["CommsEmailBounceSpike critical", "CommsEmailProviderRefuses warning"],
                "pager",
                {"CommsEmailBounceSpike"},
            ),
            (["CommsEmailFailureSpike critical", "CommsEmailSenderFails warning"], "pager", {"CommsEmailFailureSpike"}),
            (
                ["CommsEmailBounceSpike warning", "CommsEmailProviderRefuses warning"],
                "tickets",
                {"CommsEmailProviderRefuses"},
            ),
            (["CommsEmailFailureSpike warning", "CommsEmailSenderFails warning"], "tickets", {"CommsEmailSenderFails"}),
            (["CommsEmailQueueStuck critical", "CommsEmailCampaignMissing warning"], "pager", {"CommsEmailQueueStuck"}),
            (
                ["CommsExporterListingIncomplete warning", "CommsEmailCampaignMissing warning"],
                "tickets",
                {"CommsExporterListingIncomplete"},
            ),
        ],
    )
    async def test_one_cause_is_one_message(self, tmp_path, fires, receiver, messages):
        async with alerting(tmp_path) as (alertmanager, webhooks):
            alerts = [
                {"account": "shop", "alertname": name, "severity": severity} for name, severity in map(str.split, fires)
            ]
            # Of another account, and so never silenced: once it is there, the others would be.
            await alertmanager.post(
                [*alerts, {"alertname": "CommsEmailSurge", "severity": "warning", "account": "other"}]
            )
            for name in messages:
                await webhooks.until(receiver, name)
            await webhooks.until("tickets", "CommsEmailSurge")

            assert messages | {"CommsEmailSurge"} == webhooks.names("pager") | webhooks.names("tickets")

    async def test_trouble_that_fifty_accounts_share_is_one_message(self, tmp_path):
        accounts = [f"shop-{n}" for n in range(50)]
        symptoms = {
            "CommsExporterDataStale": "critical",
            "CommsExporterPollsFailing": "warning",
            "CommsExporterThrottled": "warning",
        }
        async with alerting(tmp_path) as (alertmanager, webhooks):
            await alertmanager.post(
                [
                    {"alertname": "CommsTwilioIncident", "problem": "polls", "severity": "critical"},
                    *({"alertname": name, "severity": severity, "account": account, "instance": "a"}
                      for account in accounts for name, severity in symptoms.items()),
                ]
            )  # fmt: skip
            await webhooks.until("pager", "CommsTwilioIncident")
            await alertmanager.until(lambda alerts: 150 == sum(bool(each["status"]["inhibitedBy"]) for each in alerts))

            assert {"CommsTwilioIncident"} == webhooks.names("pager")
            assert set() == webhooks.names("tickets")

    async def test_a_shard_that_is_down_mutes_nothing_of_another(self, tmp_path):
        async with alerting(tmp_path) as (alertmanager, webhooks):
            down = {"alertname": "CommsExporterDown", "severity": "critical", "instance": "a"}
            troubles = {"CommsExporterCredentialsRefused", "CommsEmailQueueStuck"}
            of_b = [
                {"alertname": name, "severity": "critical", "account": "shop", "instance": "b"} for name in troubles
            ]
            of_a = {
                "alertname": "CommsExporterPollsFailing",
                "severity": "warning",
                "account": "other",
                "instance": "a",
            }
            await alertmanager.post([down, *of_b, of_a])
            for name in troubles:
                await webhooks.until("pager", name)
            known = await alertmanager.until(lambda alerts: any(each["status"]["inhibitedBy"] for each in alerts))

            assert ["a"] == [each["labels"]["instance"] for each in known if each["status"]["inhibitedBy"]]
