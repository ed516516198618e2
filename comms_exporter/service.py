"""The running exporter: poll and expose the accounts in the settings, which a reload replaces."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from structlog.typing import FilteringBoundLogger

from comms_exporter import __version__
from comms_exporter.base.redaction import Redactor
from comms_exporter.base.slices import run_in_slices
from comms_exporter.collect.health import Reloads
from comms_exporter.collect.history import History
from comms_exporter.collect.poller import Poller
from comms_exporter.collect.shards import is_in_shard
from comms_exporter.collect.sharing import Shares, Sharing
from comms_exporter.collect.state import AccountState
from comms_exporter.collect.supervisor import Assignment, PollSupervisor
from comms_exporter.config import Account, Settings, SettingsError, effective_settings_text, needs_restart
from comms_exporter.expose.exposition import Body, Exposition
from comms_exporter.expose.families import Shard
from comms_exporter.expose.negotiation import accepts_gzip, negotiate
from comms_exporter.model.records import SavedAccount
from comms_exporter.status import current_status, operation_detail
from comms_exporter.store.background import BackgroundStore
from comms_exporter.store.errors import StoreError
from comms_exporter.store.postgres.claims import Claims
from comms_exporter.store.recording import Recording
from comms_exporter.web.app import make_app
from comms_exporter.web.server import listening
from comms_exporter.web.sockets import systemd_sockets
from comms_exporter.wiring import (
    CannotStartError,
    build_email_state,
    build_poller,
    build_sharing,
    build_store,
    check_settings,
    email_options,
    forced_reading,
    open_api_session,
    open_recording,
    open_store,
    poller_settings,
)

# How long a response may take to finish after the exporter was told to stop.
SHUTDOWN_SECONDS = 2.0


@asynccontextmanager
async def exporter(
    settings: Settings, *, load: Callable[[], Settings], log: FilteringBoundLogger, redactor: Redactor
) -> AsyncIterator[tuple["Service", list[str]]]:
    """Run the exporter within the context; yield the service and the URLs that it listens on.

    A poll loop that ends by itself ends the context, so that a bug is not hidden.
    """
    web_config = check_settings(settings, log=log, redactor=redactor)
    sockets = systemd_sockets(os.environ, os.getpid()) if settings.web_systemd_socket else []
    claims = Claims()
    store = build_store(settings, log, claims=claims)
    sharing = build_sharing(settings, log, claims=claims, store=store)
    service: Service | None = None
    recording = None
    try:
        await open_store(store)
        recording = await open_recording(settings, log)
        async with open_api_session(settings) as session:
            service = Service(
                settings,
                load=load,
                session=session,
                store=store,
                sharing=sharing,
                recording=recording,
                redactor=redactor,
                log=log,
            )
            await service.prepare()
            async with listening(
                service.app(),
                () if sockets else settings.web_listen_address,
                sockets=sockets,
                web_config=web_config,
                shutdown_seconds=SHUTDOWN_SECONDS,
            ) as urls:
                for url in urls:
                    log.info("listening", address=url, version=__version__)
                async with asyncio.TaskGroup() as group:
                    service.supervisor.start(group)
                    share = group.create_task(sharing.run(service), name="sharing") if sharing else None
                    try:
                        yield service, urls
                    finally:
                        if share is not None:
                            share.cancel()
                        store.stop()
                        service.supervisor.stop()
    finally:
        store.close(service.supervisor.stopped_states if service else {})
        if sharing is not None:
            sharing.close()
        if recording is not None:
            recording.close()


class Service:
    """The accounts in the settings, polled and exposed."""

    def __init__(
        self,
        settings: Settings,
        *,
        load: Callable[[], Settings],
        session: aiohttp.ClientSession,
        store: BackgroundStore,
        sharing: Sharing | None = None,
        recording: Recording | None,
        redactor: Redactor,
        log: FilteringBoundLogger,
    ) -> None:
        self.settings = settings
        self._started_with = settings
        self.reloads = Reloads(last_success=time.time())
        self.supervisor = PollSupervisor()
        self.exposition = Exposition(
            lambda: self.pollers,
            reloads=self.reloads,
            shares=self._shares,
            shard=lambda: Shard(self.settings.shard_index, self.settings.shard_total),
            with_process=not settings.web_disable_exporter_metrics,
        )
        self._load = load
        self._session = session
        self._store = store
        self._sharing = sharing
        self._recording = recording
        self._redactor = redactor
        self._log = log
        self._reloading = asyncio.Lock()
        # All accounts share it, and so its limits.
        self._history = History()

    @property
    def pollers(self) -> list[Poller]:
        """The pollers of the accounts that this exporter shows."""
        sharing = self._sharing
        pollers = self.supervisor.pollers
        return pollers if sharing is None else [each for each in pollers if sharing.claims.held(each.name)]

    async def prepare(self) -> None:
        """Load the saved states, so that pages show them before the first poll."""
        if self._sharing is not None:
            await self._sharing.prepare(account.name for account in self.settings.accounts)
        try:
            await self._apply(self.settings, await self._assignments(self.settings))
        except StoreError as error:
            raise CannotStartError(str(error)) from None

    def app(self) -> web.Application:
        """Return the web application that exposes the accounts."""
        started_with = self.settings
        return make_app(
            telemetry_path=started_with.web_telemetry_path,
            max_requests=started_with.web_max_requests,
            write=self._write,
            negotiate=negotiate,
            accepts_gzip=accepts_gzip,
            healthy=lambda: all(poller.alive for poller in self.supervisor.pollers),
            ready=self._ready,
            reload=self.reload,
            verify=self._verify,
            status=lambda: current_status(
                self.pollers, telemetry_path=started_with.web_telemetry_path, sharing=self._sharing
            ),
            operation=lambda account, operation_id: operation_detail(self.pollers, account, operation_id),
            settings=lambda: self._redactor.mask(effective_settings_text(started_with, self.settings)),
        )

    async def reload(self) -> str | None:
        """Reload the settings; return an error message and change nothing if they are unusable, else None.

        Accounts that stay keep counting, and accounts that return continue from their saved state.
        """
        # Two reloads at the same time would both find an account missing, and poll it twice.
        async with self._reloading:
            try:
                settings = await asyncio.to_thread(self._load)
                assignments = await self._assignments(settings)
                if self._sharing is not None:
                    # The last step that can fail: others may get what it frees.
                    await self._sharing.register(account.name for account in settings.accounts)
            except (SettingsError, StoreError) as error:
                self.reloads.successful = False
                self._log.error("reload failed, keeping the current settings", error=str(error))
                return str(error)
            except Exception:
                self.reloads.successful = False
                raise
            if pending := [name for name in _changed(self.settings, settings) if needs_restart(name)]:
                self._log.warning("changed settings take effect after a restart", settings=pending)
            await self._apply(settings, assignments)
            self._log.info("reloaded", accounts=len(assignments))
            return None

    async def follow(self) -> None:
        """Poll the accounts that are claimed, and no others; see Sharing."""
        sharing = self._sharing
        if sharing is None:
            return
        async with self._reloading:
            # A poller whose account was lost knows nothing of what its owners have counted since, even if it is ours again.
            polled = {each.name for each in self.supervisor.pollers}
            if lost := {name for name in polled if sharing.claims.held(name) is None}:
                await self.supervisor.drop(lost)
            if sharing.claims.all().keys() - (polled - lost):
                await self._assign(self.settings, await self._assignments(self.settings))

    async def hand_over(self) -> str | None:
        """Stop polling one account, save it, and return its name; None if all are being polled at the moment."""
        async with self._reloading:
            idle = [each for each in self.pollers if each.revision is not None and each.health.attempted]
            if not idle:
                return None
            poller = max(idle, key=lambda each: each.next_poll_seconds)
            await self.supervisor.drop({poller.name})
            await self._store.save_changes(poller.name, poller.state)
            return poller.name

    async def _verify(self) -> None:
        if self._sharing is not None:
            await self._sharing.verify()

    async def _write(self, *, openmetrics: bool, gzip: bool, names: Iterable[str]) -> Body:
        """Return the page; it shows no account that another exporter owns by now."""
        sharing = self._sharing
        if sharing is None:
            return await self.exposition.body(openmetrics=openmetrics, gzip=gzip, names=names)
        while True:
            await sharing.verify()
            losses = sharing.claims.losses
            body = await self.exposition.body(openmetrics=openmetrics, gzip=gzip, names=names)
            if sharing.verified and sharing.claims.losses == losses:
                return body

    def _ready(self) -> bool:
        settled = self._sharing is None or self._sharing.settled
        return settled and all(poller.health.attempted for poller in self.pollers)

    def _shares(self) -> Shares | None:
        return None if self._sharing is None else self._sharing.shares()

    async def _assignments(self, settings: Settings) -> list[Assignment]:
        """Return what to poll with *settings*, reusing pollers that need no change.

        Everything that can fail happens here; what is polled now does not change.
        """
        accounts = [
            account
            for account in settings.accounts
            if is_in_shard(account.name, index=settings.shard_index, total=settings.shard_total)
            and (self._sharing is None or self._sharing.claims.get(account.name))
        ]
        new = [account.name for account in accounts if self.supervisor.poller(account.name) is None]
        saved = await self._store.load(new)
        if self._sharing is not None:
            # Some may have been lost while they were loaded.
            accounts = [account for account in accounts if self._sharing.claims.held(account.name)]
        return [await self._assignment(account, settings, saved) for account in accounts]

    async def _assignment(self, account: Account, settings: Settings, saved: Mapping[str, SavedAccount]) -> Assignment:
        built_from = (account, poller_settings(settings))
        if reusable := self.supervisor.reusable(account.name, built_from):
            return reusable
        before = self.supervisor.poller(account.name)
        if before is not None:
            state = before.state
        else:
            state = AccountState(
                forced_reading=forced_reading(settings),
                emails=build_email_state(settings, started_with=self._started_with),
            )
            if account.name in saved:
                await run_in_slices(state.restore(saved[account.name]))
                if self._recording is not None and self._recording.is_new:
                    known = [each.operation for each in state.tracked.values() if not each.gone]
                    self._recording.known(account.name, known)
        poller = build_poller(
            account,
            settings,
            state=state,
            before=before,
            session=self._session,
            save=self._store.saver(account.name),
            prepare=self.exposition.prepare,
            on_change=self.exposition.refresh,
            history=self._history,
            recorder=self._recording,
            redactor=self._redactor,
            log=self._log,
        )
        return Assignment(poller, built_from)

    async def _apply(self, settings: Settings, assignments: list[Assignment]) -> None:
        try:
            await self._assign(settings, assignments)
        finally:
            self.reloads.successful = True
            self.reloads.last_success = time.time()

    async def _assign(self, settings: Settings, assignments: list[Assignment]) -> None:
        try:
            await self.supervisor.assign(assignments)
        finally:
            # Even if cancelled: the assignments are in effect.
            self.settings = settings
            for poller in self.supervisor.pollers:
                poller.state.forced_reading = forced_reading(settings)
                if poller.state.emails is not None:
                    poller.state.emails.configure(email_options(settings))


def _changed(before: Settings, after: Settings) -> list[str]:
    names = [name for name in type(after).model_fields if name != "accounts"]
    return [name for name in names if getattr(after, name) != getattr(before, name)]
