"""The command line: the one place that knows the settings, and joins the parts."""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
from aiohttp import web
from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

from comms_exporter import __version__, simulator
from comms_exporter.client import CommsClient
from comms_exporter.config import (
    Account,
    ListenAddress,
    Settings,
    SettingsError,
    build_parser,
    load,
    parse_listen_address,
)
from comms_exporter.exposition import Exposition, accepts_gzip, negotiate
from comms_exporter.health import Traffic
from comms_exporter.logs import Redactor, configure
from comms_exporter.poller import Poller
from comms_exporter.state import AccountState, Snapshot
from comms_exporter.stats import Reading
from comms_exporter.store import StateInUseError, Store, StoreError
from comms_exporter.web import Line, make_app

PROG = "comms-exporter"
# Whoever is in the middle of a scrape gets this long to read it when we are told to stop.
SHUTDOWN_SECONDS = 2.0

COMMANDS = """\
commands:
  serve       answer Prometheus; what happens when no command is named
  demo        do so for a simulated account, to see it all without one
  simulator   simulate the API alone
"""


Mask = Callable[[str], str]
Save = Callable[[str, Snapshot], Awaitable[None]]


class CannotStartError(Exception):
    """Something that only one process can have is taken; the message says what."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that *argv* names, and return the exit code: 2 for wrong settings, 1 for what else went wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {"serve": _serve_command, "demo": _demo_command, "simulator": _simulator_command}
    run = commands[arguments.pop(0)] if arguments and arguments[0] in commands else _serve_command
    try:
        return run(arguments)
    except SettingsError as error:
        for problem in error.problems:
            print(f"{PROG}: {problem}", file=sys.stderr)
        return 2
    except CannotStartError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # Only before the loop listens to signals is an interrupt an exception.
        return 0


def _serve_command(arguments: Sequence[str]) -> int:
    parser = build_parser()
    parser.usage = "%(prog)s [command] [flags]"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{parser.description}\n\n{COMMANDS}"
    settings = load(arguments, os.environ, parser=parser)
    if settings.config_check:
        print(f"The settings are good: {len(settings.accounts)} account(s).")
        return 0
    return asyncio.run(serve(settings, *_logger(settings)))


def _demo_command(arguments: Sequence[str]) -> int:
    defaults = {
        "collect_interval": "5s",
        "web_listen_address": "127.0.0.1:10067",
        "log_level": "warn",
        "state_path": "",
    }
    # Nobody knows this account's secret better than its own simulator.
    account = Account(name="demo", user="ACdemo", secret=SecretStr("demonstration"), base_url="http://127.0.0.1:0")
    settings = load(
        arguments,
        {key: value for key, value in os.environ.items() if not key.startswith("TWILIO_")},
        defaults=defaults,
        accounts=[account],
        parser=build_parser(
            prog=f"{PROG} demo", description="See the exporter work on a simulated account.", defaults=defaults
        ),
    )
    return asyncio.run(demo(settings, *_logger(settings)))


def _simulator_command(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{PROG} simulator", description="Simulate Twilio's Comms Email API.", allow_abbrev=False
    )
    simulator.add_arguments(parser)
    parsed = parser.parse_args(arguments)
    try:
        address = parse_listen_address(parsed.listen_address)
    except ValueError as error:
        raise SettingsError([f"--web.listen-address: {error}"]) from None
    return asyncio.run(_simulate(simulator.from_arguments(parsed), address))


async def serve(settings: Settings, log: FilteringBoundLogger, mask: Mask) -> int:
    """Poll and answer until told to stop."""
    with _stop_on_signals() as stop:
        async with exporter(settings, log, mask):
            await stop.wait()
            log.info("stopping")
    return 0


async def demo(settings: Settings, log: FilteringBoundLogger, mask: Mask) -> int:
    """Serve a simulated account whose days pass in minutes, and say where to look."""
    world = simulator.World(seed=0, clock=time.time, speed=60, rate=20, history_seconds=7 * 86400.0)
    with _stop_on_signals() as stop, TemporaryDirectory(prefix=f"{PROG}-demo-") as folder:
        async with listening(simulator.make_app(world), [ListenAddress("127.0.0.1", 0, "127.0.0.1:0")]) as (api,):
            (account,) = settings.accounts
            settings = settings.model_copy(
                update={
                    "accounts": (replace(account, base_url=f"{api}/v1"),),
                    # The simulated world ends with the process, and so does what was counted of it.
                    "state_path": settings.state_path or Path(folder, "state.db"),
                }
            )
            async with exporter(settings, log, mask) as addresses:
                print(f"A simulated sender is at work, sixty times as fast as a real one. Its API is at {api}/")
                for address in addresses:
                    print(f"Status page: {address}/\nMetrics:     {address}{settings.web_telemetry_path}")
                print("Ctrl-C stops it.", flush=True)
                await stop.wait()
    return 0


async def _simulate(app: web.Application, address: ListenAddress) -> int:
    with _stop_on_signals() as stop:
        async with listening(app, [address]) as (url,):
            print(f"The simulated API is at {url}/", flush=True)
            await stop.wait()
    return 0


@asynccontextmanager
async def exporter(settings: Settings, log: FilteringBoundLogger, mask: Mask) -> AsyncIterator[list[str]]:
    """Poll and answer within the context; gives the addresses that are listened on.

    A poll loop that dies takes the context with it: a bug may stop us, it may not hide.
    """
    reading = None if settings.collect_stats_reading == "auto" else Reading(settings.collect_stats_reading)
    states = {account.name: AccountState(forced_reading=reading) for account in settings.accounts}
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        _keeping(states, settings.state_path, log) as save,
    ):
        pollers = [
            _poller(
                account,
                settings=settings,
                session=session,
                log=log,
                mask=mask,
                state=states[account.name],
                save=save,
            )
            for account in settings.accounts
        ]
        page = Exposition(lambda: pollers, clock=time.time)
        app = make_app(
            version=__version__,
            telemetry_path=settings.web_telemetry_path,
            write=page.page,
            negotiate=negotiate,
            accepts_gzip=accepts_gzip,
            healthy=lambda: all(poller.alive for poller in pollers),
            ready=lambda: all(poller.health.attempted for poller in pollers),
            accounts=lambda: [_line(poller) for poller in pollers],
        )
        async with listening(app, settings.web_listen_address) as addresses:
            for address in addresses:
                log.info("listening", address=address, version=__version__)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(poller.run(), name=f"poll {poller.name}") for poller in pollers]
                yield addresses
                for task in tasks:
                    task.cancel()


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


def _poller(
    account: Account,
    *,
    settings: Settings,
    session: aiohttp.ClientSession,
    log: FilteringBoundLogger,
    mask: Mask,
    state: AccountState,
    save: Save | None,
) -> Poller:
    user, secret = account.credentials()
    client = CommsClient(
        session,
        base_url=account.base_url,
        user=user,
        secret=secret,
        page_size=settings.api_page_size,
        timeout=settings.api_timeout,
        requests_per_second=settings.api_max_requests_per_second,
        traffic=Traffic(),
    )
    return Poller(
        account.name,
        client=client,
        state=state,
        interval=settings.collect_interval,
        active_window=settings.collect_active_window,
        max_operations=settings.collect_max_operations,
        log=log,
        mask=mask,
        save=None if save is None else partial(save, account.name),
    )


@asynccontextmanager
async def _keeping(
    states: dict[str, AccountState], path: Path | None, log: FilteringBoundLogger
) -> AsyncIterator[Save | None]:
    """Fill *states* with what the file at *path* holds, and give what saves them there, off the loop, one at a time."""
    if path is None:
        log.warning("state is not kept: a restart begins with a new first look")
        yield None
        return
    try:
        store = Store(path)
    except StateInUseError as error:
        raise CannotStartError(str(error)) from None
    except StoreError as error:
        raise SettingsError([f"--state.path: {error}; write a path that can be written to, or none"]) from None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="store") as thread:
        try:
            store.load(states)
            if store.put_aside is not None:
                log.error(
                    "the state could not be read: it was put aside, and counting begins anew",
                    path=str(path),
                    put_aside=str(store.put_aside),
                    error=store.why,
                )

            async def save(account: str, snapshot: Snapshot) -> None:
                await asyncio.get_running_loop().run_in_executor(thread, store.save, account, snapshot)

            yield save
        finally:
            # A save that is under way comes to its end first.
            thread.submit(store.close)


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
        f"Polled {ago:.0f} s ago. {poller.view.tracked} operations tracked, {len(poller.view.exposed)} shown.",
    )


def _logger(settings: Settings) -> tuple[FilteringBoundLogger, Mask]:
    """Return the log, and what masks every account's secret in any text."""
    redactor = Redactor(account.credentials()[1] for account in settings.accounts)
    return configure(settings.log_level, settings.log_format, redact=redactor), redactor.mask


@contextmanager
def _stop_on_signals() -> Iterator[asyncio.Event]:
    """Give an event that SIGTERM or SIGINT sets; while the context lasts, neither does anything else."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
