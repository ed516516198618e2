"""Joins the parts that the settings name, runs them, and joins them anew when the settings change."""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp import web
from structlog.typing import FilteringBoundLogger

from comms_exporter import __version__
from comms_exporter.check import Report, check
from comms_exporter.client import CommsClient
from comms_exporter.config import Account, ListenAddress, Settings, SettingsError
from comms_exporter.exposition import Exposition, accepts_gzip, negotiate
from comms_exporter.health import PollHealth, Reloads, Traffic
from comms_exporter.logs import Redactor
from comms_exporter.poller import Poller
from comms_exporter.state import AccountState, Snapshot, View
from comms_exporter.stats import Reading
from comms_exporter.store import StateInUseError, Store, StoreError
from comms_exporter.web import Line, make_app

# Whoever is in the middle of a scrape gets this long to read it when we are told to stop.
SHUTDOWN_SECONDS = 2.0
# What a running process cannot change.
FIXED = (
    "api_ca_file",
    "state_path",
    "web_listen_address",
    "web_telemetry_path",
    "web_config_file",
    "log_level",
    "log_format",
)


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


class Keeper:
    """Loads and saves states off the loop, one at a time; keeps nothing where there is no *path*."""

    def __init__(self, path: Path | None, log: FilteringBoundLogger) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._store: Store | None = None
        if path is None:
            log.warning("state is not kept: a restart begins with a new first look")
            return
        try:
            self._store = Store(path)
        except StateInUseError as error:
            raise CannotStartError(str(error)) from None
        except StoreError as error:
            raise SettingsError([f"--state.path: {error}; write a path that can be written to, or none"]) from None
        self._log = log

    async def load(self, names: Sequence[str], forced_reading: Reading | None) -> dict[str, AccountState]:
        """Return the states of the accounts called *names*, new where nothing was saved."""
        states = {name: AccountState(forced_reading=forced_reading) for name in names}
        if self._store is not None:
            aside = self._store.put_aside
            await self._run(self._store.load, states)
            if self._store.put_aside != aside or aside is not None:
                self._log.error(
                    "the state could not be read: it was put aside, and counting begins anew",
                    put_aside=str(self._store.put_aside),
                    error=self._store.why,
                )
                self._store.put_aside = None
        return states

    def saver(self, name: str) -> Callable[[Snapshot], Awaitable[None]] | None:
        """Return what saves snapshots of the account *name*; None where nothing is kept."""
        return None if self._store is None else partial(self._run, self._store.save, name)

    def close(self) -> None:
        """Let a save that is under way come to its end, and let go of the file."""
        if self._store is not None:
            self._thread.submit(self._store.close)
        self._thread.shutdown(wait=True)

    async def _run(self, call: Callable[..., None], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)


@dataclass(slots=True)
class _Member:
    """An account that is being polled, and what it was joined from."""

    account: Account
    settings: tuple[Any, ...]
    poller: Poller
    task: asyncio.Task[None] | None = None


class Service:
    """All accounts of the settings, each with a poll loop of its own, and the pages that show them."""

    def __init__(
        self,
        settings: Settings,
        *,
        session: aiohttp.ClientSession,
        keeper: Keeper,
        load: Callable[[], Settings],
        redactor: Redactor,
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._session = session
        self._keeper = keeper
        self._group: asyncio.TaskGroup | None = None
        self._load = load
        self._redactor = redactor
        self._log = log
        self._members: dict[str, _Member] = {}
        self._reloading = asyncio.Lock()
        self.reloads = Reloads(last_success=time.time())

    @property
    def pollers(self) -> list[Poller]:
        """The poll loops, in the order of the settings."""
        return [member.poller for member in self._members.values()]

    async def prepare(self) -> None:
        """Take up what was counted before, so that it can be shown."""
        await self._join(self._settings)

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin to poll every account, in tasks of *group*."""
        self._group = group
        for member in self._members.values():
            self._poll(member)

    def stop(self) -> None:
        """Have every poll loop end."""
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
            except SettingsError as error:
                self.reloads.successful = False
                self._log.error("reload failed: the settings stay as they were", error=str(error))
                return str(error)
            await self._join(settings)
            fixed = [name for name in FIXED if getattr(settings, name) != getattr(self._settings, name)]
            if fixed:
                self._log.warning("some settings need a restart", settings=fixed)
            self._settings = settings
            self.reloads.successful = True
            self.reloads.last_success = time.time()
            self._log.info("reloaded", accounts=len(self._members))
            return None

    async def _join(self, settings: Settings) -> None:
        wanted = {account.name: (account, _what_pollers_need(settings)) for account in settings.accounts}
        reading = None if settings.collect_stats_reading == "auto" else Reading(settings.collect_stats_reading)
        states = await self._keeper.load([name for name in wanted if name not in self._members], reading)
        members: dict[str, _Member] = {}
        for name, (account, needs) in wanted.items():
            known = self._members.pop(name, None)
            if known is not None and (known.account, known.settings) == (account, needs):
                members[name] = known
                continue
            if known is not None:
                await _ended(known)
                known.poller.state.forced_reading = reading
                poller = self._poller(account, settings, known.poller.state, known.poller)
            else:
                poller = self._poller(account, settings, states[name], None)
            members[name] = _Member(account, needs, poller)
        for member in self._members.values():
            await _ended(member)
        self._members = members
        for member in members.values():
            self._poll(member)

    def _poll(self, member: _Member) -> None:
        if self._group is not None and member.task is None:
            member.task = self._group.create_task(member.poller.run(), name=f"poll {member.poller.name}")

    def _poller(self, account: Account, settings: Settings, state: AccountState, before: Poller | None) -> Poller:
        client = client_for(
            account,
            settings,
            session=self._session,
            traffic=before.traffic if before else Traffic(),
            redactor=self._redactor,
            log=self._log,
        )
        health = before.health if before else PollHealth(interval_seconds=settings.collect_interval)
        poller = Poller(
            account.name,
            client=client,
            state=state,
            health=health,
            # What was not shown may not have been saved either.
            view=before.view if before else View.before_the_first_poll(state),
            interval=settings.collect_interval,
            active_window=settings.collect_active_window,
            max_operations=settings.collect_max_operations,
            log=self._log,
            mask=self._redactor.mask,
            save=self._keeper.saver(account.name),
        )
        if before is not None:
            poller.take_over(before)
        return poller


@asynccontextmanager
async def exporter(
    settings: Settings, *, load: Callable[[], Settings], log: FilteringBoundLogger, redactor: Redactor
) -> AsyncIterator[tuple[Service, list[str]]]:
    """Poll and answer within the context; gives the service and the addresses that are listened on.

    A poll loop that dies takes the context with it: a bug may stop us, it may not hide.
    """
    keeper = Keeper(settings.state_path, log)
    try:
        async with connections(settings) as session:
            service = Service(settings, session=session, keeper=keeper, load=load, redactor=redactor, log=log)
            await service.prepare()
            async with listening(_app(service, settings), settings.web_listen_address) as addresses:
                for address in addresses:
                    log.info("listening", address=address, version=__version__)
                async with asyncio.TaskGroup() as group:
                    service.start(group)
                    yield service, addresses
                    service.stop()
    finally:
        keeper.close()


def client_for(
    account: Account,
    settings: Settings,
    *,
    session: aiohttp.ClientSession,
    traffic: Traffic,
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
        traffic=traffic,
        proxy=proxy_for(account.base_url, redactor),
    )


async def check_accounts(settings: Settings, *, log: FilteringBoundLogger, redactor: Redactor) -> list[Report]:
    """Return, for every account, whether it can be read and what stands in the way."""
    async with connections(settings) as session:
        return [
            await check(
                account.name,
                base_url=account.base_url,
                client=client_for(account, settings, session=session, traffic=Traffic(), redactor=redactor, log=log),
                interval=settings.collect_interval,
                proxied=proxy_for(account.base_url, redactor) is not None,
                mask=redactor.mask,
            )
            for account in settings.accounts
        ]


def connections(settings: Settings) -> aiohttp.ClientSession:
    """Return a session that trusts whom the settings trust, and knows no cookies."""
    try:
        trust = ssl.create_default_context(cafile=str(settings.api_ca_file) if settings.api_ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            [f"--api.ca-file: {settings.api_ca_file}: {error.strerror or error}; write a PEM file of certificates"]
        ) from None
    # No account waits for another's connections: each has at most one request under way.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust, limit=0), cookie_jar=aiohttp.DummyCookieJar()
    )


def proxy_for(base_url: str, redactor: Redactor) -> str | None:
    """Return the proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for *base_url*.

    Not by aiohttp's trust_env, which would also take credentials out of a .netrc.
    """
    url = urlsplit(base_url)
    proxy = getproxies().get(url.scheme)
    if proxy is None or proxy_bypass(url.netloc):
        return None
    redactor.add(filter(None, [urlsplit(proxy).password]))
    return proxy


@asynccontextmanager
async def listening(app: web.Application, addresses: Sequence[ListenAddress]) -> AsyncIterator[list[str]]:
    """Serve *app* on all *addresses* within the context; gives their URLs, with the ports that were free."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        urls = []
        for address in addresses:
            known = len(runner.addresses)
            try:
                await web.TCPSite(runner, address.host, address.port).start()
            except OSError as error:
                # asyncio tells the address again where the system only says why; names are not resolved by the system.
                reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
                raise CannotStartError(f"cannot listen on {address}: {reason}") from None
            port = runner.addresses[known][1]
            host = address.host or "localhost"
            urls.append(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        yield urls
    finally:
        await runner.cleanup()


def _app(service: Service, settings: Settings) -> web.Application:
    page = Exposition(lambda: service.pollers, reloads=service.reloads, clock=time.time)
    return make_app(
        version=__version__,
        telemetry_path=settings.web_telemetry_path,
        write=page.page,
        negotiate=negotiate,
        accepts_gzip=accepts_gzip,
        healthy=lambda: all(poller.alive for poller in service.pollers),
        ready=lambda: all(poller.health.attempted for poller in service.pollers),
        reload=service.reload,
        accounts=lambda: [_line(poller) for poller in service.pollers],
    )


def _line(poller: Poller) -> Line:
    health = poller.health
    if not health.attempted:
        return Line(poller.name, None, "The first poll is under way.")
    if health.problem is not None:
        return Line(poller.name, False, f"The last poll failed ({health.problem.reason}): {health.problem.message}")
    ago = max(0.0, time.time() - health.last_success)
    return Line(
        poller.name,
        True,
        f"Polled {ago:.0f} s ago. {poller.view.tracked} operations tracked, {len(poller.view.exposed)} shown, "
        f"about {poller.requests_per_hour() * 24:,.0f} requests a day.",
    )


def _what_pollers_need(settings: Settings) -> tuple[Any, ...]:
    return tuple(
        getattr(settings, name)
        for name in type(settings).model_fields
        if name.startswith(("api_", "collect_")) and name not in FIXED
    )


async def _ended(member: _Member) -> None:
    """Stop polling *member*, and wait until it has stopped."""
    if member.task is not None:
        member.task.cancel()
        with suppress(asyncio.CancelledError):
            await member.task
