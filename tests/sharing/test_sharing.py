"""Members are taken for dead only while they are watched; each exporter works towards its share."""

import asyncio
from concurrent.futures import Executor, Future
from contextlib import suppress
from itertools import count
from uuid import UUID

import pytest
import structlog

from comms_exporter.collect.sharing import Sharing, Watch
from comms_exporter.store.errors import DatabaseAwayError
from comms_exporter.store.postgres.claims import Claim, Claims, Member, Ownership


def member(number, *, beats=0, accounts=0):
    return Member(UUID(int=number), f"exporter {number}", 0.0, beats, accounts)


class TestWatch:
    def test_a_member_whose_beats_stand_still_is_dead(self):
        watch = Watch(10)

        found = [watch.look([member(1), member(2, beats=now)], now) for now in range(0, 14, 2)]

        assert [[]] * 6 + [[member(1)]] == found

    def test_a_beat_starts_the_watch_anew(self):
        watch = Watch(10)

        found = [watch.look([member(1, beats=now >= 8)], now) for now in range(0, 22, 2)]

        assert [[]] * 10 + [[member(1, beats=True)]] == found

    def test_nobody_is_dead_after_a_break(self):
        """The database was away, or this process was paused: the others could not be seen to beat."""
        watch = Watch(10)
        for now in range(0, 10, 2):
            watch.look([member(1)], now)

        assert [] == watch.look([member(1)], 60)
        assert [] == watch.look([member(1)], 62)


class Database:
    """What several exporters share, in memory; *away* means that it does not answer."""

    def __init__(self):
        self.owners = {}
        self.epochs = {}
        self.members = {}
        self.away = False

    def count(self, member_id):
        return sum(owner == member_id for owner in self.owners.values())


class Membership:
    def __init__(self, database, claims, number):
        self._database = database
        self._claims = claims
        self.id = UUID(int=number)
        self.interrupted = 0
        self._names = frozenset()

    def _check(self):
        if self._database.away:
            raise DatabaseAwayError("away")

    def register(self, names):
        self._check()
        self._names = frozenset(names)
        for name in names:
            self._database.owners.setdefault(name, None)
            self._database.epochs.setdefault(name, 0)

    def beat(self):
        self._check()
        database = self._database
        if self.id not in database.members:
            self.id = UUID(int=self.id.int + 1000)
        database.members[self.id] = database.members.get(self.id, 0) + 1
        mine = [name for name, owner in database.owners.items() if owner == self.id]
        self._claims.replace({name: Claim(0, self.id, database.epochs[name]) for name in mine})
        return [
            Member(each, str(each), 0.0, beats, database.count(each))
            for each, beats in sorted(database.members.items())
        ]

    def bury(self, dead):
        self._check()
        database = self._database
        if database.members.get(dead.id) != dead.beats:
            return False
        del database.members[dead.id]
        for name in [name for name, owner in database.owners.items() if owner == dead.id]:
            database.owners[name] = None
            database.epochs[name] += 1
        return True

    def claim(self, limit):
        self._check()
        database = self._database
        free = [name for name, owner in database.owners.items() if owner is None and name in self._names][:limit]
        for name in free:
            database.owners[name] = self.id
            database.epochs[name] += 1
        self._claims.add({name: Claim(0, self.id, database.epochs[name]) for name in free})
        return len(free)

    def release(self, names):
        self._check()
        for name in names:
            if claim := self._claims.get(name):
                self._claims.give_up(name, claim)
            self._database.owners[name] = None
            self._database.epochs[name] += 1

    def ownerships(self):
        return [Ownership(name, owner, 0.0) for name, owner in self._database.owners.items() if name in self._names]

    def leave(self):
        self._check()
        self._database.members.pop(self.id, None)
        self.release([name for name, owner in self._database.owners.items() if owner == self.id])

    def interrupt(self):
        self.interrupted += 1

    def close(self):
        pass


class Clock:
    """Time that passes when somebody sleeps; whoever sleeps for the shortest time is woken first."""

    def __init__(self):
        self.now = 0.0
        self._sleepers = []
        self._numbers = count()

    def monotonic(self):
        return self.now

    async def sleep(self, seconds):
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, next(self._numbers), future))
        await future

    async def run(self, seconds, *, step=0.1):
        end = self.now + seconds
        while self.now < end:
            self.now = round(self.now + step, 6)
            for each in sorted(each for each in self._sleepers if each[0] <= self.now):
                self._sleepers.remove(each)
                if not each[2].done():
                    each[2].set_result(None)
            await settled()


async def settled():
    """Let everybody do what can be done now."""
    for _ in range(50):
        await asyncio.sleep(0)


class AtOnce(Executor):
    """Runs everything at once, where a thread would take its time."""

    def submit(self, call, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(call(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  whatever it is
            future.set_exception(error)
        return future


class Exporter:
    """An exporter that polls exactly the accounts that it claims."""

    def __init__(self, database, number, clock, names):
        self.claims = Claims()
        self.membership = Membership(database, self.claims, number)
        self.sharing = Sharing(
            self.membership,
            self.claims,
            failover_timeout=30,
            interrupt=lambda: None,
            log=structlog.get_logger(),
            monotonic=clock.monotonic,
            sleep=clock.sleep,
            thread=AtOnce(),
        )
        self.polled = set()
        self._names = names
        self._task = None

    async def start(self):
        await self.sharing.prepare(self._names)
        self._task = asyncio.create_task(self.sharing.run(self))

    async def crash(self):
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def follow(self):
        self.polled = set(self.claims.all())

    async def hand_over(self):
        return self.polled.pop() if self.polled else None


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def database():
    return Database()


@pytest.fixture
async def exporters(database, clock):
    names = [f"account {number}" for number in range(30)]
    made = [Exporter(database, number, clock, names) for number in (1, 2, 3)]
    yield made
    for each in made:
        if each._task is not None:
            await each.crash()
        each.sharing.close()


class TestShares:
    async def test_the_first_exporter_owns_everything_at_once(self, exporters, clock):
        await exporters[0].start()
        await clock.run(1)

        assert 30 == len(exporters[0].polled)
        assert exporters[0].sharing.settled

    async def test_newcomers_get_their_share_within_a_minute(self, exporters, clock):
        await exporters[0].start()
        await clock.run(5)
        await exporters[1].start()
        await exporters[2].start()
        await clock.run(60)

        assert [10, 10, 10] == [len(each.polled) for each in exporters]

    async def test_accounts_move_one_at_a_time(self, exporters, clock, database):
        await exporters[0].start()
        await clock.run(5)
        await exporters[1].start()
        free = []
        for _ in range(300):
            await clock.run(0.1)
            free.append(sum(owner is None for owner in database.owners.values()))

        assert 1 == max(free)

    async def test_the_accounts_of_a_dead_exporter_are_polled_within_the_timeout(self, exporters, clock):
        for each in exporters:
            await each.start()
        await clock.run(60)
        await exporters[2].crash()
        await clock.run(25)

        assert [15, 15] == [len(each.polled) for each in exporters[:2]]

    async def test_those_of_one_that_leaves_are_taken_over_at_once(self, exporters, clock, database):
        for each in exporters:
            await each.start()
        await clock.run(60)
        await exporters[2].crash()
        exporters[2].membership.leave()
        await clock.run(4)

        assert [15, 15] == [len(each.polled) for each in exporters[:2]]

    async def test_an_even_share_is_left_alone(self, exporters, clock, database):
        for each in exporters:
            await each.start()
        await clock.run(60)
        before = dict(database.epochs)
        await clock.run(60)

        assert before == database.epochs

    async def test_an_account_that_nobody_else_takes_stays_where_it_is(self, exporters, clock, database):
        """As while new accounts are rolled out: the other exporter does not know them yet."""
        knows_all, knows_few = exporters[:2]
        knows_few._names = knows_all._names[:10]
        await knows_all.start()
        await knows_few.start()
        await clock.run(120)
        before = sum(database.epochs.values())
        await clock.run(60)

        assert sum(database.epochs.values()) - before <= 4

    async def test_an_outage_of_the_database_moves_nothing(self, exporters, clock, database):
        for each in exporters:
            await each.start()
        await clock.run(60)
        before = dict(database.epochs)
        database.away = True
        await clock.run(120)
        assert [False] * 3 == [each.sharing.connected for each in exporters]
        database.away = False
        await clock.run(60)

        assert [True] * 3 == [each.sharing.connected for each in exporters]
        assert before == database.epochs

    async def test_a_start_while_the_database_is_away_succeeds_later(self, exporters, clock, database):
        database.away = True
        await exporters[0].start()
        await clock.run(30)
        assert not exporters[0].sharing.settled
        database.away = False
        await clock.run(10)

        assert 30 == len(exporters[0].polled)

    async def test_a_change_of_the_accounts_that_fails_has_no_effect_later(self, exporters, clock, database):
        await exporters[0].start()
        await clock.run(5)
        database.away = True
        with pytest.raises(DatabaseAwayError):
            await exporters[0].sharing.register(["account 0", "new"])
        database.away = False
        await clock.run(30)

        assert "new" not in database.owners
        assert 30 == exporters[0].sharing.shares().own + exporters[0].sharing.shares().other

    async def test_an_account_that_a_restored_backup_lacks_is_registered_again(self, exporters, clock, database):
        await exporters[0].start()
        await clock.run(5)
        del database.owners["account 7"]
        await clock.run(30)

        assert 30 == len(exporters[0].polled)


class TestVerification:
    async def test_after_a_pause_nothing_is_trusted_before_the_database_was_asked(self, exporters, clock, database):
        paused = exporters[0]
        await paused.start()
        await clock.run(5)
        clock.now += 60
        for name in database.owners:
            database.owners[name] = None
        assert not paused.sharing.verified

        await paused.sharing.verify()

        assert paused.sharing.verified
        assert {} == paused.claims.all()
        assert 30 == paused.claims.losses == paused.claims.taken

    async def test_if_the_database_does_not_answer_what_was_known_last_counts(self, exporters, clock, database):
        paused = exporters[0]
        await paused.start()
        await clock.run(5)
        clock.now += 60
        database.away = True

        await paused.sharing.verify()

        assert 30 == len(paused.claims.all())

    async def test_it_is_trusted_for_less_than_it_takes_to_be_buried(self, exporters, clock):
        await exporters[0].start()
        await clock.run(5)

        clock.now += 0.6 * 30

        assert not exporters[0].sharing.verified
