"""A real Prometheus scrapes the real exporter of a simulated account, and answers what it is asked."""

import time
from urllib.parse import urlsplit

import aiohttp
from aiohttp.test_utils import TestServer
from process import exporter
from prometheus import Prometheus, check_metrics

from comms_exporter.simulator import Fate, World, make_app

CAMPAIGN = [Fate(sent=1, delivered=2, opened=3)] * 6 + [Fate(sent=1, undelivered=2)] * 3 + [Fate(failed=1)]


async def test_a_real_prometheus_knows_what_happened(prometheus_binaries, tmp_path):
    """From the first look on: ten emails of a campaign, as counters, as gauges, and with nothing to complain of."""
    world = World(clock=time.time)
    for _ in range(50):
        world.send(at=time.time() - 600, fates=[Fate(sent=1, delivered=2)])
    async with (
        TestServer(make_app(world)) as api,
        exporter(str(api.make_url("/v1")), "--collect.interval=200ms") as process,
        Prometheus(prometheus_binaries, tmp_path, targets=[urlsplit(process.url).netloc]) as prometheus,
    ):
        await prometheus.until("comms_up == 1", len)
        assert [0.0] == [value for _, value in await prometheus.query("comms_emails_sent_total")]

        campaign = world.send(fates=CAMPAIGN)
        await prometheus.until("comms_emails_opened_total == 6", len)

        async def ask(promql):
            return [value for _, value in await prometheus.query(promql)]

        assert [10.0] == await ask("comms_emails_created_total")
        assert [9.0] == await ask("comms_emails_sent_total")
        assert [3.0] == await ask("comms_emails_undelivered_total")
        assert [1.0] == await ask("comms_emails_failed_total")
        assert [1.0] == await ask(f'comms_email_operation_status{{operation_id="{campaign.id}",status="COMPLETED"}}')
        assert [6.0] == await ask(f'comms_email_operation_opened{{operation_id="{campaign.id}"}}')
        assert [51.0] == await ask("count(comms_email_operation_sent)")
        assert [1.0] == await ask('comms_email_operation_duration_seconds_count{account="ACtest"}')
        # What increase() makes of it is never more than what happened.
        (spike,) = await ask("max_over_time(comms_emails_sent_total[5m]) - min_over_time(comms_emails_sent_total[5m])")
        assert 9.0 == spike
        assert [1.0] == await ask("up")
        async with aiohttp.ClientSession() as session, session.get(f"{process.url}/metrics") as response:
            assert "" == check_metrics(prometheus_binaries, await response.text())
