"""Exactly the assigned accounts are polled, and none of them twice at the same time."""

import asyncio

import pytest

from comms_exporter.collect.schedule import phase
from comms_exporter.collect.shards import is_in_shard
from comms_exporter.collect.supervisor import SPACING_SECONDS, Assignment, PollLoopEndedError, PollSupervisor


class FakePoller:
    """Polls until it is cancelled, and then takes as long to end as *may_end* says."""

    def __init__(self, name, running, may_end=None):
        self.name = name
        self.state = f"state of {name}"
        self.interval = 30
        self.taken_over = None
        self._running = running
        self._may_end = may_end

    async def run(self, **timing):
        self.timing = timing
        assert self.name not in self._running
        self._running[self.name] = self
        try:
            await asyncio.Event().wait()
        finally:
            if self._may_end is not None:
                await self._may_end.wait()
            del self._running[self.name]

    def take_over(self, before):
        assert self.name not in self._running
        self.taken_over = before


@pytest.fixture
def running():
    """The pollers whose loops are running, by account."""
    return {}


@pytest.fixture
async def supervisor():
    supervisor = PollSupervisor()
    async with asyncio.TaskGroup() as group:
        supervisor.start(group)
        yield supervisor
        supervisor.stop()


@pytest.fixture
def assign(running):
    return lambda name, built_from=1, **poller: Assignment(FakePoller(name, running, **poller), built_from)


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


class TestTiming:
    """When the polls of an account are due depends on its name, and on how many accounts there are."""

    async def started(self, assign, running, *names, later=()):
        now = 1000.0
        supervisor = PollSupervisor(monotonic=lambda: now)
        async with asyncio.TaskGroup() as group:
            supervisor.start(group)
            await supervisor.assign([assign(name) for name in names])
            await settle()
            if later:
                now += 70
                staying = [supervisor.reusable(name, 1) for name in names]
                await supervisor.assign([*staying, *map(assign, later)])
                await settle()
            timing = {name: poller.timing for name, poller in running.items()}
            supervisor.stop()
        return timing

    async def test_a_single_account_is_polled_at_once(self, assign, running):
        timing = await self.started(assign, running, "a")

        assert (0.0, 0.0) == (timing["a"]["first"], timing["a"]["rhythm"])

    async def test_the_polls_of_many_accounts_are_spread_over_the_interval(self, assign, running):
        names = [f"account{number}" for number in range(1000)]
        timing = await self.started(assign, running, *names)
        firsts = [each["first"] for each in timing.values()]

        assert [0.95 * 30 * phase(name) for name in names] == pytest.approx(firsts)
        assert firsts == [each["rhythm"] for each in timing.values()]
        in_each_second = [sum(second <= first < second + 1 for first in firsts) for second in range(29)]
        assert max(in_each_second) < 60

    async def test_few_accounts_are_polled_soon(self, assign, running):
        timing = await self.started(assign, running, "a", "b", "c")

        assert max(each["first"] for each in timing.values()) < 2 * SPACING_SECONDS

    async def test_an_account_that_is_added_is_polled_at_once_and_then_when_it_is_its_turn(self, assign, running):
        names = [f"account{number}" for number in range(999)]
        timing = await self.started(assign, running, *names, later=["late"])

        assert 0.0 == timing["late"]["first"]
        assert 0.95 * 30 * phase("late") - 70 == pytest.approx(timing["late"]["rhythm"])


class TestPollSupervisor:
    async def test_polls_what_was_assigned_before_the_start(self, assign, running):
        supervisor = PollSupervisor()
        await supervisor.assign([assign("a"), assign("b")])
        await settle()
        assert {} == running

        async with asyncio.TaskGroup() as group:
            supervisor.start(group)
            await settle()
            assert ["a", "b"] == sorted(running)
            supervisor.stop()
        assert {"a": "state of a", "b": "state of b"} == supervisor.stopped_states

    async def test_an_assignment_that_stays_is_not_interrupted(self, supervisor, assign, running):
        await supervisor.assign([assign("a"), assign("b")])
        await settle()
        poller = running["a"]

        await supervisor.assign([assign("c"), supervisor.reusable("a", 1)])
        await settle()

        assert ["c", "a"] == [each.name for each in supervisor.pollers]
        assert {"a", "c"} == running.keys()
        assert (poller, None) == (running["a"], poller.taken_over)

    async def test_a_new_poller_takes_over_and_starts_after_the_old_one_has_ended(self, supervisor, assign, running):
        may_end = asyncio.Event()
        await supervisor.assign([assign("a", may_end=may_end)])
        await settle()
        (old,) = supervisor.pollers
        changing = asyncio.create_task(supervisor.assign([assign("a", 2)]))
        await settle()
        assert ({"a": old}, [old]) == (running, supervisor.pollers)

        may_end.set()
        await changing
        await settle()

        (new,) = supervisor.pollers
        assert (new, old) == (running["a"], new.taken_over)

    async def test_a_cancelled_change_completes_before_it_raises(self, supervisor, assign, running):
        may_end = asyncio.Event()
        await supervisor.assign([assign("a", may_end=may_end)])
        await settle()
        changing = asyncio.create_task(supervisor.assign([assign("b")]))
        for _ in range(3):
            await settle()
            changing.cancel()
        await settle()
        assert {"a"} == running.keys()

        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await changing
        await settle()
        assert {"b"} == running.keys()

    async def test_nothing_starts_after_a_stop(self, supervisor, assign, running):
        await supervisor.assign([assign("a")])
        await settle()
        supervisor.stop()
        await supervisor.assign([assign("b")])
        await settle()
        assert {} == running

    async def test_an_assignment_is_reusable_if_it_was_built_from_the_same_and_still_runs(self, supervisor, assign):
        first = assign("a", ["settings"])
        await supervisor.assign([first])
        await settle()
        assert supervisor.reusable("a", ["settings"]) is first
        assert supervisor.reusable("a", ["other settings"]) is None
        assert supervisor.reusable("b", ["settings"]) is None

        first.task.cancel()
        await asyncio.wait({first.task})
        assert supervisor.reusable("a", ["settings"]) is None
        assert supervisor.poller("a") is first.poller

    @pytest.mark.parametrize("how", ["returns", "awaits something that was cancelled"])
    async def test_a_poll_loop_that_ends_by_itself_fails_the_group(self, how):
        class Ending:
            name = "a"
            interval = 30

            async def run(self, **timing):
                if how != "returns":
                    raise asyncio.CancelledError

        supervisor = PollSupervisor()
        await supervisor.assign([Assignment(Ending(), 1)])
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                supervisor.start(group)

        (error,) = caught.value.exceptions
        assert isinstance(error, PollLoopEndedError)
        assert "the poll loop of the account a has ended by itself" == str(error)


class TestShards:
    @pytest.mark.parametrize("total", [1, 2, 3, 7])
    def test_each_account_is_in_one_shard(self, total):
        for name in map(str, range(100)):
            assert 1 == sum(is_in_shard(name, index=index, total=total) for index in range(total))

    def test_the_shard_of_an_account_is_the_same_in_every_version(self):
        """Otherwise an upgrade would move accounts between exporters, each with its own state file."""
        assert [0, 2, 1] == [
            next(index for index in range(3) if is_in_shard(name, index=index, total=3)) for name in ("a", "b", "g")
        ]
