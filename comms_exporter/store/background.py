"""Run a store in a background thread, so that the event loop never waits for a disk."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from comms_exporter.collect.state import AccountState, Snapshot
from comms_exporter.model.readings import Reading
from comms_exporter.store.sqlite import StateLostError, Store, StoreError

# How long the last saves may take in all, from the moment the process is told to stop.
CLOSING_SECONDS = 2.0


class BackgroundStore:
    """Load and save states in a background thread, one call at a time; without *path*, do nothing."""

    def __init__(self, path: Path | None, log: FilteringBoundLogger) -> None:
        self._path = path
        self._log = log
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._store: Store | None = None
        # On the monotonic clock: nothing starts or waits for a lock later than this.
        self._deadline = float("inf")

    async def open(self) -> None:
        """Open the store; StateInUseError and StoreError say why that is impossible."""
        if self._path is None:
            self._log.warning("no state file: counters are lost at a restart")
            return
        await self._run(self._open, self._path)

    def _open(self, path: Path) -> None:
        # Assigned in the thread, so that close() finds the store even if open() was cancelled.
        self._store = Store(path, until=lambda: self._deadline)

    async def load(self, names: Sequence[str], forced_reading: Reading | None) -> dict[str, AccountState]:
        """Return the states of the accounts *names*; accounts without a saved state get a new one."""
        states = {name: AccountState(forced_reading=forced_reading) for name in names}
        if self._store is not None and states:
            await self._run(self._store.load, states)
            self._log_damage("state file is unreadable: renamed it and starting over")
        return states

    def saver(self, name: str) -> Callable[[Snapshot], Awaitable[None]] | None:
        """Return a function that saves snapshots of the account *name*; None without a store."""
        return None if self._store is None else partial(self._save, self._store, name)

    async def _save(self, store: Store, name: str, snapshot: Snapshot) -> None:
        try:
            await self._run(store.save, name, snapshot)
        finally:
            self._log_damage("state file is damaged: renamed it and saving everything again")

    def _log_damage(self, event: str) -> None:
        store = self._store
        if store is not None and store.put_aside is not None:
            self._log.error(event, renamed_to=str(store.put_aside), error=store.why)
            store.put_aside = None

    def stop(self) -> None:
        """Finish within CLOSING_SECONDS from now."""
        self._deadline = min(self._deadline, time.monotonic() + CLOSING_SECONDS)

    def close(self, states: Mapping[str, AccountState]) -> None:
        """Finish the current call, save the changes in *states*, and close the store.

        Calls that take too long are interrupted: the store keeps its previous save, and the next start counts the rest.
        """
        self.stop()
        # Scrapes that were still being answered must not use up the time for the last save.
        self._deadline = max(self._deadline, time.monotonic() + CLOSING_SECONDS / 2)
        closing = self._thread.submit(self._finish, states)
        while not wait([closing], timeout=max(0.1, self._deadline - time.monotonic())).done:
            if self._store is not None:
                self._store.interrupt()
        self._thread.shutdown()
        closing.result()

    def _finish(self, states: Mapping[str, AccountState]) -> None:
        store = self._store
        if store is None:
            return
        try:
            for name, state in states.items():
                snapshot = state.snapshot()
                if snapshot is None or not snapshot.changed:
                    continue
                try:
                    store.save(name, snapshot)
                except StateLostError:
                    state.not_saved(snapshot)
                    state.save_everything()
                    store.save(name, state.snapshot() or snapshot)
        except StoreError as error:
            self._log.error("last save failed: the next start counts the unsaved changes again", error=str(error))
        finally:
            store.close()

    async def _run(self, call: Callable[..., None], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)
