"""Run a store in a background thread, so that the event loop never waits for a disk or a network."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from comms_exporter.model.records import SavedAccount, Snapshot
from comms_exporter.store.errors import NotOwnerError, StateLostError, StoreError

T = TypeVar("T")

# How long the last saves may take in all, from the moment the process is told to stop.
CLOSING_SECONDS = 2.0


class Store(Protocol):
    """Keeps accounts in a database. All methods but interrupt() may block and are called from one thread.

    Any method may raise a StoreError: nothing was loaded or saved, and the same call may succeed later. Opening a store
    raises a StateInUseError, a kind of StoreError, if another process uses it.
    """

    def load(self, names: Collection[str]) -> dict[str, SavedAccount]:
        """Return the saved accounts among *names*."""

    def save(self, account: str, snapshot: Snapshot) -> None:
        """Write *snapshot* as a whole or not at all; when this returns, it survives a crash.

        A StateLostError, a kind of StoreError, means that the store lacks earlier saves of *account*, for example because
        somebody replaced it. It is raised until a snapshot is complete.
        """

    def interrupt(self) -> None:
        """Make the current call fail soon; called from another thread."""

    def close(self) -> None:
        """Let another process use the store."""


class StatefulAccount(Protocol):
    """An account whose changes are saved, see AccountState."""

    def snapshot(self) -> Snapshot | None:
        """Return the changes since the last snapshot."""

    def requeue(self, snapshot: Snapshot) -> None:
        """Include the changes of *snapshot*, which was not saved, in the next one."""

    def requeue_all(self) -> None:
        """Make the next snapshot complete."""


class BackgroundStore:
    """Load and save accounts in a background thread, one call at a time; without *open_store*, do nothing.

    *open_store* takes the deadline, a function: nothing may start or wait later than it says, on the monotonic clock.
    """

    def __init__(self, open_store: Callable[[Callable[[], float]], Store] | None, *, log: FilteringBoundLogger) -> None:
        self._open_store = open_store
        self._log = log
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._store: Store | None = None
        self._deadline = float("inf")

    async def open(self) -> None:
        """Open the store; StateInUseError and StoreError say why that is impossible."""
        if self._open_store is None:
            self._log.warning("no state file: counters are lost at a restart")
        else:
            await self._run(self._open)

    def _open(self) -> None:
        # Assigned in the thread, so that close() finds the store even if open() was cancelled.
        if self._open_store is not None:
            self._store = self._open_store(lambda: self._deadline)

    async def load(self, names: Collection[str]) -> dict[str, SavedAccount]:
        """Return the saved accounts among *names*."""
        if self._store is None or not names:
            return {}
        return await self._run(partial(self._store.load, names))

    def saver(self, account: str) -> Callable[[Snapshot], Awaitable[None]] | None:
        """Return a function that saves snapshots of *account*; None without a store."""
        return None if self._store is None else partial(self._save, self._store, account)

    async def _save(self, store: Store, account: str, snapshot: Snapshot) -> None:
        await self._run(partial(store.save, account, snapshot))

    async def save_changes(self, name: str, account: StatefulAccount) -> None:
        """Save what has changed of an *account* that is not polled any more."""
        if self._store is not None:
            await self._run(partial(_save_changes, self._store, name, account))

    def interrupt(self) -> None:
        """Make the current call fail soon."""
        if self._store is not None:
            self._store.interrupt()

    def stop(self) -> None:
        """Finish within CLOSING_SECONDS from now."""
        self._deadline = min(self._deadline, time.monotonic() + CLOSING_SECONDS)

    def close(self, accounts: Mapping[str, StatefulAccount]) -> None:
        """Finish the current call, save the changes of *accounts*, and close the store.

        Calls that take too long are interrupted: the store keeps the previous save, and the next start counts the rest.
        """
        self.stop()
        # Scrapes that were still being answered must not use up the time for the last save.
        self._deadline = max(self._deadline, time.monotonic() + CLOSING_SECONDS / 2)
        closing = self._thread.submit(self._finish, accounts)
        while not wait([closing], timeout=max(0.1, self._deadline - time.monotonic())).done:
            self.interrupt()
        self._thread.shutdown()
        closing.result()

    def _finish(self, accounts: Mapping[str, StatefulAccount]) -> None:
        store = self._store
        if store is None:
            return
        try:
            for name, account in accounts.items():
                with suppress(NotOwnerError):
                    _save_changes(store, name, account)
        except StoreError as error:
            self._log.error("last save failed: the next start counts the unsaved changes again", error=str(error))
        finally:
            store.close()

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _save_changes(store: Store, name: str, account: StatefulAccount) -> None:
    snapshot = account.snapshot()
    if snapshot is None or snapshot.is_empty:
        return
    try:
        store.save(name, snapshot)
    except StateLostError:
        account.requeue(snapshot)
        account.requeue_all()
        store.save(name, account.snapshot() or snapshot)
