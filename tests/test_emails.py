"""A running exporter collects emails: through kill -9 and reloads, and without what nobody should see."""

import signal
import time

import pytest
from aiohttp.test_utils import TestServer
from process import exporter, until
from simulated_api import NO_CREDENTIALS, ConfigFile, reload, sample

from comms_exporter.simulator import Dialect, Fate, World, make_app
from comms_exporter.simulator.mail import Address, Message

FAILS = Fate(failed=0)
BOUNCES = Fate(sent=0, undelivered=0)
CANARIES = ("canary-local-part", "canary name", "canary subject", "canary-sender")
MESSAGE = Message(
    sender=Address("canary-sender@news.example", "Canary Name"),
    to=(Address("canary-local-part@gmail.com", "Canary Name"), Address("canary-local-part@acme.example")),
    subject="Canary subject",
    tags={"campaign": "spring", "language": "en"},
)
BY_PROVIDER = r'comms_emails_{}_by_provider_total{{account="{}",provider="{}"}} {}\.0'
FLAGS = ("--collect.interval=100ms", "--emails.interval=100ms", "--emails.log", "--log.level=debug")


@pytest.fixture
async def api():
    world = World(clock=time.time)
    async with TestServer(make_app(world, dialect=Dialect(email_content=True))) as server:
        server.world = world
        yield server


def counted(stage, provider, number, account="ACtest"):
    return BY_PROVIDER.format(stage, account, provider, number)


async def test_counts_survive_a_kill_and_nothing_personal_is_seen(api, tmp_path):
    flags = (f"--state.path={tmp_path / 'state.db'}", "--emails.collect=all", "--emails.tags=campaign", *FLAGS)
    url, seen, lines = str(api.make_url("/v1")), "", []
    for start in (1, 2):
        async with exporter(url, *flags) as process:
            if start == 1:
                await until(process.url, "^comms_exporter_emails_last_success_timestamp_seconds.* [1-9]")
            else:
                # What was counted before is there before the first poll.
                seen += await until(process.url, counted("undelivered", "gmail", 1))
            api.world.send(fates=[BOUNCES, FAILS], message=MESSAGE)
            seen += await until(process.url, counted("undelivered", "gmail", start))
            seen += await until(process.url, counted("failed", "other", start))
            process.send(signal.SIGKILL)
            await process.ended()
            seen += process.stderr
            lines += [line for line in process.stderr.splitlines() if 'msg="email lost"' in line]

    assert 4 == len(lines)
    assert 4 == len({line.partition("email_id=")[2].split()[0] for line in lines})
    saved = "".join(path.read_bytes().decode("latin-1") for path in tmp_path.glob("state.db*"))
    assert [] == [canary for canary in CANARIES if canary in (seen + saved).lower()]
    assert "news.example" in seen


async def test_a_reload_changes_labels_and_keeps_counts(api, tmp_path):
    config = ConfigFile(tmp_path / "config.yml")
    account = {"name": "shop", "base_url": str(api.make_url("/v1"))}
    config.write(account, emails={"collect": "lost", "tags": ["campaign"]})
    async with exporter("http://127.0.0.1:1", *config.flags, *FLAGS, environ=NO_CREDENTIALS) as process:
        await until(process.url, "^comms_exporter_emails_last_success_timestamp_seconds.* [1-9]")
        api.world.send(fates=[FAILS, FAILS], message=MESSAGE)
        page = await until(process.url, counted("failed", "other", 1, "shop"))
        assert 2 == sample(page, 'comms_emails_failed_by_tag_total{account="shop",tag="campaign",value="spring"}')

        config.write(account, emails={"collect": "all", "tags": ["language"], "providers": {"acme": ["acme.example"]}})
        assert 200 == (await reload(process))[0]
        await process.until(r"changed settings take effect after a restart.*emails_collect")
        api.world.send(fates=[FAILS, FAILS], message=MESSAGE)
        page = await until(process.url, counted("failed", "acme", 1, "shop"))

        assert 1 == sample(page, 'comms_emails_failed_by_provider_total{account="shop",provider="other"}')
        assert 2 == sample(page, 'comms_emails_failed_by_tag_total{account="shop",tag="language",value="en"}')
        assert 'tag="campaign"' not in page
        assert "comms_emails_sent_by_provider" not in page
