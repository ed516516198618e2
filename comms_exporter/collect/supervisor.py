"""Run a poll loop per account, and change which accounts are polled without polling one twice at the same time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from comms_exporter.collect.poller import Poller
from comms_exporter.collect.schedule import phase
from comms_exporter.collect.state import AccountState

# So many accounts are polled at a time. Even a tenth of them are never under way together, unless the API does not respond.
MAX_POLLS = 256
# Accounts are polled so many seconds apart on average, until they fill the interval.
SPACING_SECONDS = 0.05
# The part of the interval that they fill: the last of them need some time, too.
SPREAD = 0.95


class PollLoopEndedError(Exception):
    """A poll loop ended although nobody cancelled it; this is a bug."""


@dataclass(slots=True, eq=False)
class Assignment:
    """An account to poll: its poller, and the configuration that the poller was built from."""

    poller: Poller
    built_from: object
    task: asyncio.Task[None] | None = None


class PollSupervisor:
    """Polls the accounts that it was assigned last, each in a task of its own."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._turn = asyncio.Semaphore(MAX_POLLS)
        self._started_at = 0.0
        self._assignments: dict[str, Assignment] = {}
        self._group: asyncio.TaskGroup | None = None
        self._stopping = False

    @property
    def pollers(self) -> list[Poller]:
        """The assigned pollers, in the order in which they were assigned."""
        return [assignment.poller for assignment in self._assignments.values()]

    @property
    def stopped_states(self) -> dict[str, AccountState]:
        """The states of the accounts whose poll loops were cancelled and have ended."""
        return {
            name: assignment.poller.state
            for name, assignment in self._assignments.items()
            if assignment.task is not None and assignment.task.cancelled()
        }

    def poller(self, name: str) -> Poller | None:
        """Return the poller of the account *name*, or None if the account is not assigned."""
        assignment = self._assignments.get(name)
        return assignment.poller if assignment else None

    def reusable(self, name: str, built_from: object) -> Assignment | None:
        """Return the assignment of the account *name* if it was built from the same and its poll loop has not ended."""
        assignment = self._assignments.get(name)
        if assignment is None or assignment.built_from != built_from:
            return None
        return None if assignment.task and assignment.task.done() else assignment

    def start(self, group: asyncio.TaskGroup) -> None:
        """Start polling, in tasks of *group*; a poll loop that ends by itself fails the group."""
        self._group = group
        self._started_at = self._monotonic()
        self._start_new()

    def stop(self) -> None:
        """Stop all poll loops, and start none from now on."""
        self._stopping = True
        for assignment in self._assignments.values():
            if assignment.task is not None:
                assignment.task.cancel()

    async def assign(self, assignments: Sequence[Assignment]) -> None:
        """Poll exactly *assignments*: stop the other poll loops, wait until they have ended, then start the new ones.

        If cancelled meanwhile, complete the change before raising. Until the old poll loops have ended, `pollers`
        returns the old pollers.
        """
        new = {assignment.poller.name: assignment for assignment in assignments}
        try:
            # Two pollers must never count into the same state.
            await _stop(old for name, old in self._assignments.items() if new.get(name) is not old)
        finally:
            # Even if cancelled: the old poll loops have ended, so the new ones have to start.
            for name, assignment in new.items():
                old = self._assignments.get(name)
                if old is not None and old is not assignment:
                    assignment.poller.take_over(old.poller)
            self._assignments = new
            self._start_new()

    async def drop(self, names: Collection[str]) -> None:
        """Stop polling the accounts *names*, and wait until their poll loops have ended."""
        await self.assign([each for name, each in self._assignments.items() if name not in names])

    def _start_new(self) -> None:
        if self._group is None or self._stopping:
            return
        new = [assignment for assignment in self._assignments.values() if assignment.task is None]
        since_start = self._monotonic() - self._started_at
        for assignment in new:
            poller = assignment.poller
            part = phase(poller.name)
            run = partial(
                poller.run,
                first=part * _spread(len(new), poller.interval),
                rhythm=part * _spread(len(self._assignments), poller.interval) - since_start,
                turn=self._turn,
            )
            assignment.task = self._group.create_task(_until_cancelled(poller.name, run), name=f"poll {poller.name}")


def _spread(accounts: int, interval: float) -> float:
    """Return over how many seconds of the *interval* the polls of so many *accounts* are spread."""
    return min(SPREAD * interval, SPACING_SECONDS * (accounts - 1))


async def _until_cancelled(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run the poll loop of the account *name* until this task is cancelled; raise a PollLoopEndedError if it ends by itself."""
    cause = None
    try:
        await run()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Something that the loop awaited was cancelled. A TaskGroup would mistake that for an orderly end.
        cause = error
    raise PollLoopEndedError(f"the poll loop of the account {name} has ended by itself") from cause


async def _stop(assignments: Iterable[Assignment]) -> None:
    """Cancel the poll loops of *assignments* and wait until all have ended, even if cancelled meanwhile."""
    tasks = [assignment.task for assignment in assignments if assignment.task is not None]
    for task in tasks:
        task.cancel()
    cancelled = None
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
