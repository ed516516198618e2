"""Joins the parts that the settings name, runs them, and joins them anew when the settings change."""

import asyncio
import os
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp import web
from structlog.typing import FilteringBoundLogger
from yarl import URL

from comms_exporter import __version__
from comms_exporter.api.client import CommsClient
from comms_exporter.api.request_stats import RequestStats
from comms_exporter.base.redaction import Redactor
from comms_exporter.base.slices import run_in_slices
from comms_exporter.check import ADVICE, Report, check
from comms_exporter.collect.health import PollHealth, Reloads
from comms_exporter.collect.poller import Poller
from comms_exporter.collect.state import AccountState, View
from comms_exporter.config import (
    Account,
    Settings,
    SettingsError,
    effective_settings_text,
    needs_restart,
    parse_proxy_url,
)
from comms_exporter.expose.exposition import Exposition
from comms_exporter.expose.families import Shard
from comms_exporter.expose.negotiation import accepts_gzip, negotiate
from comms_exporter.model.operations import Operation
from comms_exporter.model.readings import REACHED, Reading, reached, stat
from comms_exporter.store.background import BackgroundStore, Store
from comms_exporter.store.errors import StateInUseError, StoreError
from comms_exporter.store.files import check_path
from comms_exporter.store.sqlite import SqliteStore
from comms_exporter.web.app import make_app
from comms_exporter.web.server import listening, systemd_sockets
from comms_exporter.web.status_page.model import Account as AccountStatus
from comms_exporter.web.status_page.model import Funnel, OperationRow, Status
from comms_exporter.web.web_config import WebConfigError, WebConfigFile

T = TypeVar("T")

# Whoever is in the middle of a scrape gets this long to read it when we are told to stop.
SHUTDOWN_SECONDS = 2.0


class CannotStartError(Exception):
    """Something that only one process can have is taken; the message says what."""


class Credentials:
    """One account's Authorization header; read again from its files when they change, and when it is refused."""

    def __init__(self, account: Account, *, redactor: Redactor, log: FilteringBoundLogger) -> None:
        self._account = account
        self._redactor = redactor
        self._log = log
        self._stamps = self._stamp()
        self._header = self._read()
        self._trouble = ""

    def header(self) -> str:
        """Return the header as the files say it now."""
        if self._stamp() != self._stamps:
            self.refresh()
        return self._header

    def refresh(self) -> bool:
        """Read the files again and say whether they hold something new; what cannot be read changes nothing."""
        before, self._stamps = self._header, self._stamp()
        try:
            self._header = self._read()
        except SettingsError as error:
            if str(error) != self._trouble:
                self._log.warning("credentials cannot be read again", account=self._account.name, error=str(error))
            self._trouble = str(error)
            return False
        self._trouble = ""
        return self._header != before

    def _read(self) -> str:
        user, secret = self._account.credentials()
        self._redactor.add([secret])
        return aiohttp.encode_basic_auth(user, secret)

    def _stamp(self) -> list[tuple[int, int, int] | None]:
        stamps: list[tuple[int, int, int] | None] = []
        for path in (self._account.user_file, self._account.secret_file):
            try:
                status = path.stat() if path is not None else None
            except OSError:
                status = None
            stamps.append(None if status is None else (status.st_mtime_ns, status.st_ino, status.st_size))
        return stamps


class PollLoopEndedError(Exception):
    """A poll loop has ended although nobody cancelled it; this is a bug."""


@dataclass(slots=True)
class _Member:
    """An account with its poller, the settings that it was built from, and the task that runs it."""

    account: Account
    settings: tuple[Any, ...]
    poller: Poller
    task: asyncio.Task[None] | None = None

    def can_stay(self, account: Account, settings: tuple[Any, ...]) -> bool:
        """Whether a reload to *account* and *settings* changes nothing here, and the poll loop still runs."""
        return (self.account, self.settings) == (account, settings) and not (self.task and self.task.done())


class Service:
    """All accounts of the settings, each with a poll loop of its own, and the pages that show them."""

    def __init__(
        self,
        settings: Settings,
        *,
        session: aiohttp.ClientSession,
        store: BackgroundStore,
        load: Callable[[], Settings],
        redactor: Redactor,
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._session = session
        self._store = store
        self._group: asyncio.TaskGroup | None = None
        self._stopping = False
        self._load = load
        self._redactor = redactor
        self._log = log
        self._members: dict[str, _Member] = {}
        self._reloading = asyncio.Lock()
        self.reloads = Reloads(last_success=time.time())
        self.page = Exposition(
            lambda: self.pollers,
            reloads=self.reloads,
            shard=lambda: Shard(self._settings.shard_index, self._settings.shard_total),
        )

    @property
    def pollers(self) -> list[Poller]:
        """The poll loops, in the order of the settings."""
        return [member.poller for member in self._members.values()]

    @property
    def settings(self) -> Settings:
        """The settings as they were last read and good."""
        return self._settings

    @property
    def states(self) -> dict[str, AccountState]:
        """The states of the accounts whose poll loops have ended as they were told to."""
        return {
            name: member.poller.state
            for name, member in self._members.items()
            if member.task is not None and member.task.cancelled()
        }

    def mask(self, text: str) -> str:
        """Return *text* with every secret in it masked."""
        return self._redactor.mask(text)

    async def prepare(self) -> None:
        """Take up what was counted before, so that it can be shown; CannotStartError says why that cannot be."""
        try:
            self._adopt(self._settings, await self._build(self._settings))
        except StoreError as error:
            raise CannotStartError(str(error)) from None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin to poll every account, in tasks of *group*."""
        self._group = group
        for member in self._members.values():
            self._poll(member)

    def stop(self) -> None:
        """Have every poll loop end, and none begin."""
        self._stopping = True
        self._store.stop()
        for member in self._members.values():
            if member.task is not None:
                member.task.cancel()

    async def reload(self) -> str | None:
        """Take over the settings as they are now; return what is wrong with them, in which case nothing changes.

        An account that stays goes on counting, one that comes back goes on where it was.
        """
        # Two reloads at once would both find an account missing, and poll it twice.
        async with self._reloading:
            try:
                settings = await asyncio.to_thread(self._load)
                members = await self._build(settings)
            except (SettingsError, StoreError) as error:
                self.reloads.successful = False
                self._log.error("reload failed: the settings stay as they were", error=str(error))
                return str(error)
            except Exception:
                self.reloads.successful = False
                raise
            fixed = [
                name
                for name in type(settings).model_fields
                if name != "accounts"
                and needs_restart(name)
                and getattr(settings, name) != getattr(self._settings, name)
            ]
            if fixed:
                self._log.warning("some settings need a restart", settings=fixed)
            try:
                # Two pollers must never count into the same state. Meanwhile, pages show the old accounts.
                await _ended(member for name, member in self._members.items() if members.get(name) is not member)
            finally:
                # Also if this reload is cancelled: the old pollers have ended, so the new ones have to begin.
                self._adopt(settings, members)
            self._log.info("reloaded", accounts=len(members))
            return None

    async def _build(self, settings: Settings) -> dict[str, _Member]:
        """Return the members for *settings*, those that can stay as they are; all that can fail happens here.

        The others are new and not polled yet. Nothing that is polled now changes.
        """
        needs = _what_pollers_need(settings)
        accounts = [account for account in settings.accounts if is_ours(account.name, settings)]
        saved = await self._store.load([account.name for account in accounts if account.name not in self._members])
        members: dict[str, _Member] = {}
        for account in accounts:
            before = self._members.get(account.name)
            if before is not None and before.can_stay(account, needs):
                members[account.name] = before
            else:
                if before is None:
                    state = AccountState(forced_reading=_forced_reading(settings))
                    if account.name in saved:
                        await run_in_slices(state.restore(saved[account.name]))
                else:
                    state = before.poller.state
                poller = self._poller(account, settings, state, before.poller if before else None)
                members[account.name] = _Member(account, needs, poller)
        return members

    def _adopt(self, settings: Settings, members: dict[str, _Member]) -> None:
        """Put *settings* and *members* in the place of the old ones, which have ended, and poll the new ones."""
        for name, member in members.items():
            before = self._members.get(name)
            if before is not member:
                member.poller.state.forced_reading = _forced_reading(settings)
                if before is not None:
                    member.poller.take_over(before.poller)
        self._settings, self._members = settings, members
        self.reloads.successful = True
        self.reloads.last_success = time.time()
        for member in members.values():
            self._poll(member)

    def _poll(self, member: _Member) -> None:
        if self._group is not None and member.task is None and not self._stopping:
            member.task = self._group.create_task(
                _poll_until_cancelled(member.poller), name=f"poll {member.poller.name}"
            )

    def _poller(self, account: Account, settings: Settings, state: AccountState, before: Poller | None) -> Poller:
        client = client_for(
            account,
            settings,
            session=self._session,
            request_stats=before.request_stats if before else RequestStats(),
            redactor=self._redactor,
            log=self._log,
        )
        return Poller(
            account.name,
            client=client,
            state=state,
            health=before.health if before else PollHealth(interval_seconds=settings.collect_interval),
            # What was not shown may not have been saved either.
            view=before.view if before else View.before_the_first_poll(state),
            interval=settings.collect_interval,
            active_window=settings.collect_active_window,
            max_operations=settings.collect_max_operations,
            max_tracked_operations=settings.collect_max_tracked_operations,
            log=self._log,
            mask=self._redactor.mask,
            save=self._store.saver(account.name),
            prepare=self.page.prepare,
        )


@asynccontextmanager
async def exporter(
    settings: Settings, *, load: Callable[[], Settings], log: FilteringBoundLogger, redactor: Redactor
) -> AsyncIterator[tuple[Service, list[str]]]:
    """Poll and answer within the context; gives the service and the addresses that are listened on.

    A poll loop that dies takes the context with it: a bug may stop us, it may not hide.
    """
    security = check_settings(settings, log=log, redactor=redactor)
    sockets = systemd_sockets(os.environ, os.getpid()) if settings.web_systemd_socket else []
    addresses = () if sockets else settings.web_listen_address
    path = settings.state_path
    store = BackgroundStore(partial(_open_state_file, path, log) if path is not None else None, log=log)
    service: Service | None = None
    try:
        await _open(store)
        async with connections(settings) as session:
            service = Service(settings, session=session, store=store, load=load, redactor=redactor, log=log)
            await service.prepare()
            async with listening(
                _app(service, settings),
                addresses,
                sockets=sockets,
                security=security,
                shutdown_seconds=SHUTDOWN_SECONDS,
            ) as urls:
                for url in urls:
                    log.info("listening", address=url, version=__version__)
                async with asyncio.TaskGroup() as group:
                    service.start(group)
                    try:
                        yield service, urls
                    finally:
                        service.stop()
    finally:
        store.close(service.states if service else {})


def _open_state_file(path: Path, log: FilteringBoundLogger, deadline: Callable[[], float]) -> Store:
    def log_damage(renamed_to: Path, reason: str) -> None:
        log.error(
            "state file is unreadable: renamed it and started a new one", renamed_to=str(renamed_to), error=reason
        )

    return SqliteStore(path, deadline=deadline, on_damage=log_damage)


async def _open(store: BackgroundStore) -> None:
    try:
        await store.open()
    except StateInUseError as error:
        raise CannotStartError(str(error)) from None
    except StoreError as error:
        raise SettingsError([_about_state_path(error)]) from None


def is_ours(name: str, settings: Settings) -> bool:
    """Whether the account called *name* is this shard's: the same one of as many shards, wherever that is computed."""
    return zlib.crc32(name.encode()) % settings.shard_total == settings.shard_index


def client_for(
    account: Account,
    settings: Settings,
    *,
    session: aiohttp.ClientSession,
    request_stats: RequestStats,
    redactor: Redactor,
    log: FilteringBoundLogger,
) -> CommsClient:
    """Return what asks the API for *account*."""
    return CommsClient(
        session,
        base_url=account.base_url,
        credentials=Credentials(account, redactor=redactor, log=log),
        page_size=settings.api_page_size,
        timeout=settings.api_timeout,
        requests_per_second=settings.api_max_requests_per_second,
        request_stats=request_stats,
        proxy=proxy_for(account.base_url, redactor),
        redactor=redactor,
    )


async def check_accounts(settings: Settings, *, log: FilteringBoundLogger, redactor: Redactor) -> list[Report]:
    """Return, for every account, whether it can be read and what stands in the way."""
    async with connections(settings) as session:
        return [
            await check(
                account.name,
                base_url=account.base_url,
                client=client_for(
                    account, settings, session=session, request_stats=RequestStats(), redactor=redactor, log=log
                ),
                interval=settings.collect_interval,
                proxied=proxy_for(account.base_url, redactor) is not None,
                mask=redactor.mask,
            )
            for account in settings.accounts
        ]


def connections(settings: Settings) -> aiohttp.ClientSession:
    """Return a session that trusts whom the settings trust, and knows no cookies."""
    # No account waits for another's connections: each has at most one request under way.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=_trust(settings), limit=0), cookie_jar=aiohttp.DummyCookieJar()
    )


def _trust(settings: Settings) -> ssl.SSLContext:
    """Return what tells trustworthy certificates."""
    file = settings.api_ca_file
    try:
        trust = ssl.create_default_context(cafile=str(file) if file else None)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
    else:
        if file is None or trust.cert_store_stats()["x509"]:
            return trust
        reason = "there is no certificate in it"  # but something else, such as a revocation list
    raise SettingsError([f"--api.ca-file: {file}: {reason}; write a PEM file of certificates"])


def proxy_for(base_url: str, redactor: Redactor) -> URL | None:
    """Return the proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for *base_url*.

    Not by aiohttp's trust_env, which would also take credentials out of a .netrc.
    """
    url = urlsplit(base_url)
    text = getproxies().get(url.scheme)
    if text is None or proxy_bypass(url.netloc):
        return None
    try:
        proxy = parse_proxy_url(text)
    except ValueError as error:
        variable = f"{url.scheme}_proxy"
        complaint = f"{variable if os.environ.get(variable) else variable.upper()}: {error}"
    else:
        # As it is spelled in the URL, and as it is sent.
        redactor.add(filter(None, [proxy.raw_password, proxy.password]))
        return proxy
    raise SettingsError([complaint])


def check_settings(settings: Settings, *, log: FilteringBoundLogger, redactor: Redactor) -> WebConfigFile | None:
    """Return what guards the pages, or raise a SettingsError with all that cannot be used; nothing is opened or changed.

    The exporter starts with this, so `--config.check` passes what the exporter takes.
    """
    problems: dict[str, None] = {}

    def tried(call: Callable[[], T]) -> T | None:
        try:
            return call()
        except SettingsError as error:
            # Accounts with the same trouble have it once.
            problems.update(dict.fromkeys(error.problems))
        return None

    security = tried(lambda: security_of(settings, log))
    tried(lambda: _check_state_path(settings.state_path))
    tried(lambda: _trust(settings))
    for account in settings.accounts:
        tried(account.credentials)
        tried(partial(proxy_for, account.base_url, redactor))
    if problems:
        raise SettingsError(problems)
    return security


def _check_state_path(path: Path | None) -> None:
    try:
        if path is not None:
            check_path(path)
    except StoreError as error:
        raise SettingsError([_about_state_path(error)]) from None


def _about_state_path(error: StoreError) -> str:
    return f"--state.path: {error}; write a path that can be written to, or none"


def security_of(settings: Settings, log: FilteringBoundLogger) -> WebConfigFile | None:
    """Return what guards the pages, or raise a SettingsError that says why it cannot."""
    try:
        return WebConfigFile(settings.web_config_file, log=log) if settings.web_config_file else None
    except WebConfigError as error:
        complaint = f"--web.config.file: {error}"
    raise SettingsError([complaint])


def _app(service: Service, settings: Settings) -> web.Application:
    return make_app(
        telemetry_path=settings.web_telemetry_path,
        write=service.page.body,
        negotiate=negotiate,
        accepts_gzip=accepts_gzip,
        healthy=lambda: all(poller.alive for poller in service.pollers),
        ready=lambda: all(poller.health.attempted for poller in service.pollers),
        reload=service.reload,
        status=lambda: Status(
            version=__version__,
            now=time.time(),
            telemetry_path=settings.web_telemetry_path,
            accounts=[_line(poller) for poller in service.pollers],
            operations=(each for poller in service.pollers for each in _rows(poller)),
        ),
        settings=lambda: service.mask(effective_settings_text(settings, service.settings)),
    )


def _line(poller: Poller) -> AccountStatus:
    health = poller.health
    problem = health.problem
    return AccountStatus(
        name=poller.name,
        good=health.up if health.attempted else None,
        alive=poller.alive,
        success_age_seconds=time.monotonic() - health.last_success_monotonic if health.last_success else None,
        reason=problem.reason if problem else "",
        message=problem.message if problem else "",
        advice=ADVICE.get(problem.reason, "") if problem else "",
        next_poll_seconds=poller.next_poll_seconds,
        requests_a_day=24 * poller.requests_per_hour(),
        tracked=poller.view.tracked,
        hidden=poller.view.hidden,
    )


def _rows(poller: Poller) -> Iterator[OperationRow]:
    for each in poller.view.exposed:
        failures = (stat(each.stats, "failed") or 0) + (stat(each.stats, "undelivered") or 0)
        yield OperationRow(
            poller.name,
            each.id,
            each.status,
            not each.unfinished,
            each.created,
            each.updated,
            failures,
            partial(_funnel, poller.state, each),
        )


def _funnel(state: AccountState, operation: Operation) -> Funnel:
    known = state.tracked.get(operation.id)
    counts = reached(operation.stats, known.reading if known else Reading.UNDECIDED)
    return Funnel(
        **{name: count for name, count in zip(REACHED, counts, strict=True) if name not in {"recipients", "attempts"}}
    )


def _what_pollers_need(settings: Settings) -> tuple[Any, ...]:
    return tuple(
        getattr(settings, name)
        for name in type(settings).model_fields
        if name.startswith(("api_", "collect_")) and not needs_restart(name)
    )


def _forced_reading(settings: Settings) -> Reading | None:
    return None if settings.collect_stats_reading == "auto" else Reading(settings.collect_stats_reading)


async def _poll_until_cancelled(poller: Poller) -> None:
    """Run *poller* until this task is cancelled; PollLoopEndedError says that it has ended by itself."""
    stray = None
    try:
        await poller.run()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Something that the loop awaited was cancelled. A TaskGroup would take that for an orderly end.
        stray = error
    raise PollLoopEndedError(f"the poll loop of the account {poller.name} has ended by itself") from stray


async def _ended(members: Iterable[_Member]) -> None:
    """Stop polling *members* and wait until all have stopped, even if cancelled meanwhile."""
    tasks = [member.task for member in members if member.task is not None]
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
