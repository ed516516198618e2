"""Share the accounts with other exporters: take a share of them, move single ones, and take over from those that died.

A member is taken for dead when its beats have stood still for a while that this exporter has watched without a break: neither
clocks nor an outage of the database make anybody look dead.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar
from uuid import UUID

from structlog.typing import FilteringBoundLogger

from comms_exporter.store.errors import StoreError
from comms_exporter.store.postgres.claims import Claims, Member, Ownership

T = TypeVar("T")

# The part of the failover timeout after which a member without a beat is dead; the rest is for noticing, loading and polling.
_DEAD_AFTER = 0.6
# What an exporter knows is used for this part of that time: it stops showing accounts before anybody else can own them.
_TRUSTED = 0.9
# Seconds between two beats, or a part of the failover timeout if that is less.
_BEAT_SECONDS = 2.0
_BEATS_IN_TIMEOUT = 15
# Seconds between two attempts to own more.
_WANTING_SECONDS = 0.5
# An exporter with more than its share gives away one account after the other, all of them in so many seconds.
_MOVING_SECONDS = 40.0
# An account that nobody took is not given away again for so many seconds.
_EVENING_SECONDS = 60.0
# So many accounts are claimed and loaded at a time.
_LOT = 200
# A call that takes longer has lost the database.
_CALL_SECONDS = 6.0
# How long leaving may take when the process stops.
_LEAVING_SECONDS = 2.0
# How often the owners of all accounts are read, for people.
_OWNERS_SECONDS = 10.0


class Membership(Protocol):
    """The part of one exporter in sharing; see store/postgres/membership.py. All methods but interrupt() may block."""

    @property
    def id(self) -> UUID: ...  # noqa: D102
    def register(self, names: Collection[str]) -> None: ...  # noqa: D102
    def beat(self) -> list[Member]: ...  # noqa: D102
    def bury(self, member: Member) -> bool: ...  # noqa: D102
    def claim(self, limit: int) -> int: ...  # noqa: D102
    def release(self, names: Collection[str]) -> None: ...  # noqa: D102
    def ownerships(self) -> list[Ownership]: ...  # noqa: D102
    def leave(self) -> None: ...  # noqa: D102
    def interrupt(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Accounts(Protocol):
    """What is polled and shown: it follows the claims."""

    async def follow(self) -> None:
        """Stop polling accounts that are not held any more, and load and poll those that were claimed."""

    async def hand_over(self) -> str | None:
        """Stop polling one account, save it, and return its name; None if there is none to give away."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How many accounts this exporter owns, other ones, and nobody, and how many *members* share them."""

    own: int
    other: int
    nobody: int
    members: int


class Watch:
    """Which members are dead: their beats stood still for *seconds* while they were watched."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = float("-inf")
        self._seen: dict[UUID, tuple[int, float]] = {}

    def look(self, members: Sequence[Member], now: float) -> list[Member]:
        """Return those of *members* that are dead at *now*, on the monotonic clock."""
        if now - self._last > self._seconds / 2:
            # The database was away, or this process was stopped. Others may have beaten meanwhile.
            self._seen.clear()
        self._last = now
        self._seen = {
            each.id: known if (known := self._seen.get(each.id)) and known[0] == each.beats else (each.beats, now)
            for each in members
        }
        return [each for each in members if now - self._seen[each.id][1] > self._seconds]


class Sharing:
    """Keeps this exporter a member with a fair share of the accounts, and knows whether what it knows is still true."""

    def __init__(
        self,
        membership: Membership,
        claims: Claims,
        *,
        failover_timeout: float,
        interrupt: Callable[[], None],
        log: FilteringBoundLogger,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        thread: Executor | None = None,
    ) -> None:
        """Call *interrupt* when the database does not answer in time, so that nobody else waits for it."""
        self.claims = claims
        self.members: Sequence[Member] = ()
        # Who owns each account, as of a few seconds ago.
        self.owners: Sequence[Ownership] = ()
        # Whether the database answered last time.
        self.connected = False
        # Whether this exporter has tried to get accounts since its start.
        self.settled = False
        self._membership = membership
        self._dead_after = _DEAD_AFTER * failover_timeout
        self._beat_seconds = min(_BEAT_SECONDS, failover_timeout / _BEATS_IN_TIMEOUT)
        self._watch = Watch(self._dead_after)
        self._dead: list[Member] = []
        self._interrupt = interrupt
        self._log = log
        self._monotonic = monotonic
        self._sleep = sleep
        self._thread = thread or ThreadPoolExecutor(max_workers=1, thread_name_prefix="sharing")
        self._names: frozenset[str] = frozenset()
        self._registered = False
        self._beating: asyncio.Task[None] | None = None
        # How many accounts were taken over by others, as far as that was logged.
        self._taken = 0
        # Whether it was logged that the database does not answer.
        self._away = False
        self._trusted_until = float("-inf")
        self._owners_until = float("-inf")
        # The least number of accounts of any other member, None if there is none or it has changed since the last beat.
        self._fewest: int | None = None
        # For what numbers of members and of accounts the last account was moved to even them out, and until when no other is.
        self._evened: tuple[int, int] | None = None
        self._even_again_at = 0.0
        # The most accounts above its share that this exporter has had since it last had none.
        self._most_surplus = 0
        # When the next of them is to move.
        self._next_move = 0.0

    @property
    def id(self) -> UUID:
        """The id of this exporter among the members."""
        return self._membership.id

    async def prepare(self, names: Iterable[str]) -> None:
        """Register *names*, or note that this has to be done once the database answers."""
        self._share(names)
        with suppress(StoreError):
            await self._register()

    async def register(self, names: Iterable[str]) -> None:
        """Share the accounts *names*, and no others, with the exporters that do so, too; if that fails, go on with those before."""
        before = self._names
        self._share(names)
        try:
            await self._register()
        except BaseException:
            self._share(before)
            raise

    def shares(self) -> Shares:
        """Return how the accounts are shared, as of a few seconds ago."""
        own = len(self.claims.all())
        nobody = sum(each.owner is None and self.claims.get(each.account) is None for each in self.owners)
        return Shares(own, max(0, len(self._names) - own - nobody), nobody, len(self.members))

    async def run(self, accounts: Accounts) -> None:
        """Share until cancelled."""
        await self._beat()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat_forever(), name="beat")
            group.create_task(self._work_forever(accounts), name="share accounts")

    async def verify(self) -> None:
        """Return once it is known which accounts are owned; if the database does not answer, what was known last counts.

        After a pause, such as SIGSTOP, other exporters may own the accounts by now.
        """
        while self._monotonic() > self._trusted_until:
            await self._beat()

    @property
    def verified(self) -> bool:
        """Whether verify() has nothing to do."""
        return self._monotonic() <= self._trusted_until

    def close(self) -> None:
        """Free all accounts and close the connection, within seconds."""
        leaving = self._thread.submit(self._leave)
        deadline = time.monotonic() + _LEAVING_SECONDS
        while not wait([leaving], timeout=max(0.1, deadline - time.monotonic())).done:
            self._membership.interrupt()
        self._thread.shutdown()
        leaving.result()

    def _leave(self) -> None:
        try:
            self._membership.leave()
        except StoreError as error:
            self._log.warning("leaving failed: other exporters take over after the failover timeout", error=str(error))
        finally:
            self._membership.close()

    async def _beat_forever(self) -> None:
        while True:
            await self._sleep(self._beat_seconds)
            await self._beat()

    async def _beat(self) -> None:
        """Have one beat; those who call at the same time share it."""
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat_once())
            self._beating.add_done_callback(self._beat_done)
        await asyncio.shield(self._beating)

    def _beat_done(self, _: asyncio.Task[None]) -> None:
        self._beating = None

    async def _beat_once(self) -> None:
        began = self._monotonic()
        try:
            while not self._registered:
                await self._register()
            members = await self._call(self._membership.beat)
        except StoreError as error:
            # Nobody can be asked: go on with what was committed.
            self._trusted_until = self._monotonic() + _TRUSTED * self._dead_after
            if not self._away:
                self._away = True
                self._log.error("the database does not answer: nothing new is shown until it does", error=str(error))
            self.connected = False
            return
        self._away = False
        if not self.connected:
            self._log.info("connected to the database", members=len(members))
        self.connected = True
        self._trusted_until = began + _TRUSTED * self._dead_after
        if taken := self.claims.taken - self._taken:
            self._taken += taken
            self._log.warning("other exporters have taken accounts over from this one", accounts=taken)
        self.members = members
        self._fewest = min((each.accounts for each in members if each.id != self.id), default=None)
        self._dead = [each for each in self._watch.look(members, self._monotonic()) if each.id != self.id]

    def _share(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._registered = False

    async def _register(self) -> None:
        names = self._names
        await self._call(partial(self._membership.register, names))
        self._registered = names == self._names

    async def _work_forever(self, accounts: Accounts) -> None:
        failing = False
        while True:
            try:
                pause = await self._work(accounts)
            except StoreError as error:
                log = self._log.debug if failing else self._log.error
                log("sharing the accounts failed, trying again", error=str(error))
                failing = True
                pause = self._beat_seconds
            else:
                failing = False
            await self._sleep(pause)

    async def _work(self, accounts: Accounts) -> float:
        """Do what is to do now, and return how many seconds there is nothing more to do."""
        await accounts.follow()
        if not self.connected:
            return self._beat_seconds
        dead, self._dead = self._dead, []
        for each in dead:
            if await self._call(partial(self._membership.bury, each)):
                self._log.warning("an exporter is gone: its accounts are free", gone=each.name, accounts=each.accounts)
        if dead:
            self._owners_until = float("-inf")
        await self._look_up_owners()
        count = max(1, len(self.members))
        own, share = len(self.claims.all()), -(-len(self._names) // count)
        if own < share:
            claimed = await self._call(partial(self._membership.claim, min(_LOT, share - own)))
            if claimed:
                self._owners_until = float("-inf")
                await accounts.follow()
                self._log.info("claimed accounts", claimed=claimed, owned=own + claimed, members=count)
                return 0.0
            self.settled = True
            return _WANTING_SECONDS if own < len(self._names) // count else self._beat_seconds
        self.settled = True
        if surplus := own - share:
            if not self._most_surplus:
                self._next_move = self._monotonic()
            self._most_surplus = max(surplus, self._most_surplus)
            await self._move_one(accounts)
            self._next_move += min(_WANTING_SECONDS, _MOVING_SECONDS / self._most_surplus)
            # No pause if moving takes longer than that.
            return max(0.0, self._next_move - self._monotonic())
        self._most_surplus = 0
        await self._even_out(accounts, own)
        return self._beat_seconds

    async def _even_out(self, accounts: Accounts, own: int) -> None:
        """Give an account away if another exporter has fewer than this one with its *own*, even if that is no more than its share."""
        if self._fewest is None or own - self._fewest <= 1:
            return
        # Only once for what the last beat said.
        evened, self._fewest = (len(self.members), self._fewest), None
        if evened != self._evened or self._monotonic() > self._even_again_at:
            # If nobody takes the account, giving more away would only interrupt their polls: others may not know them yet.
            self._evened, self._even_again_at = evened, self._monotonic() + _EVENING_SECONDS
            await self._move_one(accounts)

    async def _move_one(self, accounts: Accounts) -> None:
        name = await accounts.hand_over()
        if name is not None:
            await self._call(partial(self._membership.release, [name]))
            self._log.info("released an account for another exporter", account=name)

    async def _look_up_owners(self) -> None:
        if self._monotonic() > self._owners_until:
            self.owners = await self._call(self._membership.ownerships)
            self._owners_until = self._monotonic() + _OWNERS_SECONDS
            if {each.account for each in self.owners} != self._names:
                # A backup that was restored may not know all accounts, or know them under other ids.
                self._registered = False

    async def _call(self, call: Callable[[], T]) -> T:
        """Return what *call* returns in the background thread; one that takes too long is interrupted."""
        done = asyncio.wrap_future(self._thread.submit(call))
        done.add_done_callback(_retrieved)
        while not (await asyncio.wait([done], timeout=_CALL_SECONDS))[0]:
            self._membership.interrupt()
            self._interrupt()
        return done.result()


def _retrieved(done: asyncio.Future[T]) -> None:
    """Take note of the exception: whoever waited for it may have been cancelled."""
    if not done.cancelled():
        done.exception()
