"""Build the exporter's parts from the settings; report unusable settings under their names."""

import asyncio
import importlib.util
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
from structlog.typing import FilteringBoundLogger
from yarl import URL

from comms_exporter.api.client import CommsClient
from comms_exporter.api.credentials import ReloadingCredentials
from comms_exporter.api.emails import EmailsClient
from comms_exporter.api.request_stats import RequestStats
from comms_exporter.api.session import client_tls, open_session, proxy_for
from comms_exporter.base.redaction import Redactor
from comms_exporter.collect.emails.health import EmailHealth
from comms_exporter.collect.emails.state import EmailOptions, EmailState
from comms_exporter.collect.health import PollHealth
from comms_exporter.collect.history import AccountHistory, History
from comms_exporter.collect.poller import EmailCollection, Poller
from comms_exporter.collect.recording import Recorder
from comms_exporter.collect.sharing import Sharing
from comms_exporter.collect.state import AccountState
from comms_exporter.config import Account, Settings, SettingsError, needs_restart
from comms_exporter.model.operations import Operation
from comms_exporter.model.providers import Providers
from comms_exporter.model.readings import Reading
from comms_exporter.model.records import Snapshot
from comms_exporter.store.background import BackgroundStore, Store
from comms_exporter.store.errors import StateInUseError, StoreError, StoreRefusedError
from comms_exporter.store.files import check_path
from comms_exporter.store.postgres.claims import Claims
from comms_exporter.store.recording import Recording, check_recording
from comms_exporter.store.sqlite import SqliteStore
from comms_exporter.web.web_config_file import WebConfigFile
from comms_exporter.web.yaml_nodes import WebConfigError

if TYPE_CHECKING:
    from comms_exporter.store.postgres.connection import Connection
    from comms_exporter.store.postgres.transfer import Transferred

T = TypeVar("T")

# An index of PostgreSQL has room for it, whatever the characters are.
_MAX_NAME_LENGTH = 500

# Seconds that a disk may take to write one account while its transaction in the database waits.
_TRANSFER_PATIENCE = 300.0

_STATE_PATH_PROBLEM = "--state.path: {}; set a writable path, or leave it empty to run without a state file"
_RECORD_FILE_PROBLEM = "--record.file: {}; set a writable path, or leave it empty to record nothing"


class CannotStartError(Exception):
    """A resource that only one process can use is taken; the message names it."""


def check_settings(settings: Settings, *, log: FilteringBoundLogger, redactor: Redactor) -> WebConfigFile | None:
    """Raise a SettingsError that lists every file and variable that cannot be used; return the web config.

    Opens and creates nothing. The exporter starts with this, so it accepts what `--config.check` accepts.
    """
    problems: dict[str, None] = {}

    def attempt(call: Callable[[], T]) -> T | None:
        try:
            return call()
        except SettingsError as error:
            # Accounts may share a problem.
            problems.update(dict.fromkeys(error.problems))
        return None

    web_config = attempt(partial(load_web_config, settings, log))
    attempt(partial(_check_state_path, settings))
    attempt(partial(_check_database, settings))
    attempt(partial(_check_record_file, settings))
    attempt(partial(_tls, settings))
    for account in settings.accounts:
        attempt(account.credentials)
        attempt(partial(proxy_of, account, redactor))
    if problems:
        raise SettingsError(problems)
    return web_config


def load_web_config(settings: Settings, log: FilteringBoundLogger) -> WebConfigFile | None:
    """Load the web config file, if there is one."""
    file = settings.web_config_file
    return _usable("--web.config.file: {}", lambda: WebConfigFile(file, log=log)) if file else None


def build_store(settings: Settings, log: FilteringBoundLogger, *, claims: Claims) -> BackgroundStore:
    """Return the store of the accounts' states, which open_store() opens; *claims* are the accounts in a shared database."""
    path = settings.state_path
    if settings.state_url is not None:
        return BackgroundStore(partial(_open_database, settings, claims, log), log=log)
    if path is None:
        return BackgroundStore(None, log=log)
    emails = settings.emails_collect != "off"
    return BackgroundStore(partial(_open_state_file, path, log, emails=emails), log=log)


def build_sharing(
    settings: Settings, log: FilteringBoundLogger, *, claims: Claims, store: BackgroundStore
) -> Sharing | None:
    """Return what shares the accounts with the exporters that have the same database; None without a database."""
    if settings.state_url is None:
        return None
    from comms_exporter.store.postgres.membership import Membership  # noqa: PLC0415  its library is optional

    connection = _database(settings, "coordination")
    name = f"{socket.gethostname()} (process {os.getpid()})"
    return Sharing(
        Membership(connection, claims, name=name),
        claims,
        failover_timeout=settings.state_failover_timeout,
        interrupt=store.interrupt,
        log=log,
    )


async def open_recording(settings: Settings, log: FilteringBoundLogger) -> Recording | None:
    """Return the recording that is set, ready to be written; raise a CannotStartError if another process writes it."""
    path = settings.record_file
    if path is None:
        return None
    try:
        recording = await asyncio.to_thread(Recording, path, max_bytes=settings.record_max_size, log=log)
    except StateInUseError as error:
        raise CannotStartError(str(error)) from None
    except StoreError as error:
        raise SettingsError([_RECORD_FILE_PROBLEM.format(error)]) from None
    recording.started(
        poll_interval=settings.collect_interval, forgets=settings.state_path is None and settings.state_url is None
    )
    return recording


async def open_store(store: BackgroundStore) -> None:
    """Open *store*; raise a CannotStartError if another process uses it."""
    try:
        await store.open()
    except (StateInUseError, StoreRefusedError) as error:
        raise CannotStartError(str(error)) from None
    except StoreError as error:
        raise SettingsError([_STATE_PATH_PROBLEM.format(error)]) from None


def import_state(path: Path, settings: Settings, *, on_wait: Callable[[float], object]) -> Iterator["Transferred"]:
    """Import the accounts in the state file at *path* into the database that is set, see import_file()."""
    _require_database(settings)
    from comms_exporter.store.postgres import transfer  # noqa: PLC0415  its library is optional

    with closing(_database(settings, "import", patience=_TRANSFER_PATIENCE)) as connection:
        yield from transfer.import_file(path, connection, dead_after=settings.state_failover_timeout, on_wait=on_wait)


def export_state(path: Path, settings: Settings) -> list["Transferred"]:
    """Export the accounts in the database that is set to a new state file at *path*, see export_file()."""
    _require_database(settings)
    from comms_exporter.store.postgres import transfer  # noqa: PLC0415  its library is optional

    with closing(_database(settings, "export", patience=_TRANSFER_PATIENCE, migrate=False)) as connection:
        return transfer.export_file(path, connection)


def open_api_session(settings: Settings) -> aiohttp.ClientSession:
    """Return a session for requests to the API."""
    return open_session(_tls(settings))


def build_poller(
    account: Account,
    settings: Settings,
    *,
    state: AccountState,
    before: Poller | None,
    session: aiohttp.ClientSession,
    save: Callable[[Snapshot], Awaitable[None]] | None,
    prepare: Callable[[str, Sequence[Operation]], Awaitable[None]],
    on_change: Callable[[Poller], None],
    history: History,
    recorder: Recorder | None,
    redactor: Redactor,
    log: FilteringBoundLogger,
) -> Poller:
    """Return a poller for *account* that continues the health and the statistics of *before*."""
    client = build_client(
        account,
        settings,
        session=session,
        request_stats=before.request_stats if before else RequestStats(),
        redactor=redactor,
        log=log,
    )
    account_history = before.history if before else AccountHistory(history)
    if before is None:
        account_history.start((each for each in state.recently_active() if not each.gone), time.time())
    return Poller(
        account.name,
        client=client,
        state=state,
        health=before.health if before else PollHealth(interval_seconds=settings.collect_interval),
        # Changes that are not in the view may not be saved yet.
        view=before.view if before else state.view_of_totals(),
        interval=settings.collect_interval,
        active_window=settings.collect_active_window,
        max_operations=settings.collect_max_operations,
        exposes=settings.collect_operations,
        max_tracked_operations=settings.collect_max_tracked_operations,
        log=log,
        mask=redactor.mask,
        save=save,
        show_unsaved=settings.state_url is None,
        prepare=prepare,
        on_change=on_change,
        recorder=recorder,
        emails=None
        if state.emails is None
        else EmailCollection(
            client=EmailsClient(client, log=log.bind(account=account.name)),
            state=state.emails,
            interval=settings.emails_interval,
            log_losses=settings.emails_log,
        ),
        email_health=before.email_health if before else EmailHealth(),
        history=account_history,
        recent_counts=before.recent_counts if before else None,
    )


def build_email_state(settings: Settings, *, started_with: Settings) -> EmailState | None:
    """Return the state of an account's emails, None if none were to be collected at the start."""
    collect = started_with.emails_collect
    return None if collect == "off" else EmailState(email_options(settings, all_stages=collect == "all"))


def email_options(settings: Settings, *, all_stages: bool = False) -> EmailOptions:
    """Return what is counted of emails, and by what."""
    return EmailOptions(
        all_stages=all_stages,
        tags=settings.emails_tags,
        max_values=settings.emails_max_values,
        providers=Providers(dict(settings.emails_providers)),
        errors=settings.emails_errors,
    )


def poller_settings(settings: Settings) -> tuple[Any, ...]:
    """Return the settings that pollers are built from; a poller is replaced when one of them changes."""
    return tuple(
        getattr(settings, name)
        for name in type(settings).model_fields
        if name.startswith(("api_", "collect_", "emails_")) and not needs_restart(name)
    )


def forced_reading(settings: Settings) -> Reading | None:
    """Return the reading of the API's counters that is set, or None if it is detected."""
    return None if settings.collect_stats_reading == "auto" else Reading(settings.collect_stats_reading)


def build_client(
    account: Account,
    settings: Settings,
    *,
    session: aiohttp.ClientSession,
    request_stats: RequestStats,
    redactor: Redactor,
    log: FilteringBoundLogger,
) -> CommsClient:
    """Return a client for *account*."""
    return CommsClient(
        session,
        base_url=account.base_url,
        credentials=ReloadingCredentials(
            account.credentials,
            files=[file for file in (account.user_file, account.secret_file) if file],
            redactor=redactor,
            log=log.bind(account=account.name),
        ),
        page_size=settings.api_page_size,
        timeout=settings.api_timeout,
        requests_per_second=settings.api_max_requests_per_second,
        request_stats=request_stats,
        proxy=proxy_of(account, redactor),
        redactor=redactor,
    )


def proxy_of(account: Account, redactor: Redactor) -> URL | None:
    """Return the proxy for requests of *account*, if the environment sets one."""
    return _usable("{}", partial(proxy_for, account.base_url, redactor))


def _tls(settings: Settings) -> ssl.SSLContext:
    return _usable("--api.ca-file: {}", partial(client_tls, settings.api_ca_file))


def _open_state_file(path: Path, log: FilteringBoundLogger, deadline: Callable[[], float], *, emails: bool) -> Store:
    def log_damage(renamed_to: Path, reason: str) -> None:
        log.error(
            "state file is unreadable: renamed it and started a new one", renamed_to=str(renamed_to), error=reason
        )

    return SqliteStore(path, emails=emails, deadline=deadline, on_damage=log_damage)


def _database(
    settings: Settings,
    purpose: str,
    *,
    deadline: Callable[[], float] = lambda: float("inf"),
    patience: float | None = None,
    migrate: bool = True,
) -> "Connection":
    """Return a connection to the database that is set, which is not opened yet."""
    from comms_exporter.store.postgres import connection, schema  # noqa: PLC0415  their library is optional

    url = settings.state_url
    return connection.Connection(
        "" if url is None else url.secret,
        schema=settings.state_schema,
        name=f"comms-exporter {purpose}",
        patience=settings.state_failover_timeout / 6 if patience is None else patience,
        prepare=schema.migrate if migrate else schema.require,
        deadline=deadline,
    )


def _open_database(
    settings: Settings, claims: Claims, log: FilteringBoundLogger, deadline: Callable[[], float]
) -> Store:
    from comms_exporter.store.postgres.store import PostgresStore  # noqa: PLC0415  its library is optional

    def log_unreadable(account: str, reason: str) -> None:
        log.error("the saved state of an account is unreadable: it is not polled", account=account, error=reason)

    connection = _database(settings, "state", deadline=deadline)
    try:
        connection.check()
    except StoreRefusedError:
        raise
    except StoreError:
        # It passes by itself, and those who share the accounts log it.
        pass
    return PostgresStore(
        connection,
        claims,
        emails=settings.emails_collect != "off",
        on_unreadable=log_unreadable,
    )


def _require_database(settings: Settings) -> None:
    if settings.state_url is None:
        raise SettingsError(["--state.url: is required: set it to the PostgreSQL database of the exporters"])
    _check_database(settings)


def _check_database(settings: Settings) -> None:
    if settings.state_url is None:
        return
    if importlib.util.find_spec("psycopg") is None:
        raise SettingsError(["--state.url: needs the package psycopg: pip install 'comms-exporter[postgres]'"])
    _usable("--state.url: {}", partial(_database, settings, "check"))
    if long := [account.name for account in settings.accounts if len(account.name) > _MAX_NAME_LENGTH]:
        raise SettingsError(
            [f"--state.url: the account name {long[0][:60]}... is longer than {_MAX_NAME_LENGTH} characters"]
        )


def _check_state_path(settings: Settings) -> None:
    if settings.state_path:
        _usable(_STATE_PATH_PROBLEM, partial(check_path, settings.state_path))


def _check_record_file(settings: Settings) -> None:
    if settings.record_file:
        _usable(_RECORD_FILE_PROBLEM, partial(check_recording, settings.record_file))


def _usable(problem: str, call: Callable[[], T]) -> T:
    """Return what *call* returns; if it fails, raise a SettingsError with *problem*, completed by the error."""
    try:
        return call()
    except (ValueError, StoreError, WebConfigError) as error:
        problem = problem.format(error)
    # Outside the except block: the original error may contain a secret, and would be chained.
    raise SettingsError([problem])
