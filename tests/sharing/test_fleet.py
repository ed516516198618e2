"""Several exporters share accounts in a real database, whatever happens to them: each total is exact, and never falls."""

import asyncio
import os
import random
import signal

import pytest
from postgres import needs_postgres
from sharing.fleet import Fleet
from sharing.world import World

pytestmark = [needs_postgres, pytest.mark.timeout(3600)]

# A short form of what `make soak` does.
ROUNDS = 6 * int(os.environ.get("SOAK", "1"))
ACCOUNTS = [f"ac{number:03}" for number in range(30 if ROUNDS == 6 else 300)]


def everything_once(shown):
    return sum(map(len, shown.values())) == len(ACCOUNTS) == len(set().union(*shown.values()))


def evenly(exporters):
    """Return whether so many exporters share all accounts, with a deviation of up to 20 %."""
    share = len(ACCOUNTS) / exporters

    def even(shown):
        counts = [len(accounts) for accounts in shown.values()]
        return len(counts) == exporters and everything_once(shown) and all(abs(n - share) <= share / 5 for n in counts)

    return even


@pytest.fixture
async def world():
    async with World(seed=7) as world:
        yield world


@pytest.fixture
async def fleet(world, server, schema, tmp_path):
    async with Fleet(tmp_path, world=world, database=server.url, schema=schema, accounts=ACCOUNTS) as fleet:
        yield fleet


async def test_every_account_is_polled_by_one_exporter_and_the_shares_are_even(fleet):
    await fleet.start("a")
    await fleet.settle(30, evenly(1))
    await fleet.start("b")
    await fleet.start("c")

    await fleet.settle(60, evenly(3))

    assert [] == fleet.shown_twice


async def test_a_stopped_exporter_hands_its_accounts_over_within_seconds(fleet):
    await fleet.start("a")
    await fleet.start("b")
    await fleet.settle(60, evenly(2))

    assert 0 == await fleet.stop("a")

    await fleet.settle(10, evenly(1))


async def test_a_resumed_exporter_shows_nothing_of_what_others_own_by_now(fleet, world):
    await fleet.start("a")
    await fleet.start("b")
    await fleet.settle(60, evenly(2))
    fleet.pause("a")
    await fleet.settle(30, evenly(1))
    fleet.resume("a")

    shown = await fleet.scrape()

    assert set() == shown["a"]
    assert set(ACCOUNTS) == shown["b"]


async def test_without_the_database_what_was_committed_is_served(fleet, world, server):
    await fleet.start("a")
    await fleet.settle(30, evenly(1))
    await fleet.ready()
    for account in ACCOUNTS:
        world.send(account, 5)
    await fleet.settle(30, lambda _: not fleet.differences())
    try:
        await asyncio.to_thread(server.stop)
        for account in ACCOUNTS:
            world.send(account, 7)
        for _ in range(10):
            assert everything_once(await fleet.scrape())
            await asyncio.sleep(0.5)
        assert all(shown == 5 for _, stage, shown, _ in fleet.differences() if stage == "created")
    finally:
        await asyncio.to_thread(server.start)

    await fleet.settle(30, lambda _: not fleet.differences())
    assert [] == fleet.fallen


async def test_a_database_that_hangs_delays_no_page_for_long(fleet, world, server):
    await fleet.start("a")
    await fleet.settle(30, evenly(1))
    await fleet.ready()
    server.send(signal.SIGSTOP)
    try:
        # The fleet waits for a page for 8 seconds.
        for _ in range(5):
            assert everything_once(await fleet.scrape())
            await asyncio.sleep(2)
        world.send(ACCOUNTS[0], 5)
    finally:
        server.send(signal.SIGCONT)

    await fleet.settle(30, lambda _: not fleet.differences())


async def test_whatever_happens_every_total_is_exact_and_never_falls(fleet, world, server):
    chance = random.Random(7)
    names = ["a", "b", "c"]
    for name in names:
        await fleet.start(name)
    await fleet.settle(90, evenly(3))
    # What is created after the first look is counted; the API has seconds.
    await fleet.ready()
    await asyncio.sleep(1)

    async def live():
        while True:
            for _ in range(5):
                world.send(chance.choice(ACCOUNTS), chance.randint(1, 50))
                world.progress(chance.choice(list(world.operations)))
            await fleet.scrape()
            await asyncio.sleep(0.2)

    life = asyncio.create_task(live())
    try:
        for number in range(ROUNDS):
            name = chance.choice(names)
            match ("kill", "pause", "stop", "database")[number % 4]:
                case "kill":
                    await fleet.kill(name)
                    await asyncio.sleep(chance.uniform(0, 5))
                    await fleet.start(name)
                case "pause":
                    fleet.pause(name)
                    await asyncio.sleep(chance.uniform(0, 10))
                    fleet.resume(name)
                case "stop":
                    assert 0 == await fleet.stop(name)
                    await asyncio.sleep(chance.uniform(0, 2))
                    await fleet.start(name)
                case "database":
                    await asyncio.to_thread(server.stop, chance.choice(["fast", "immediate"]))
                    await asyncio.sleep(chance.uniform(0, 5))
                    await asyncio.to_thread(server.start)
            await asyncio.sleep(chance.uniform(0, 3))
    finally:
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)

    await fleet.settle(120, lambda shown: evenly(3)(shown) and not fleet.differences())
    assert [] == fleet.fallen
    assert [] == fleet.shown_twice
