"""The command line: the one place that knows the settings, and joins the parts."""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import indent
from typing import Any, TextIO

from aiohttp import web
from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

from comms_exporter import simulator
from comms_exporter.base.printable import printable
from comms_exporter.base.redaction import Redactor
from comms_exporter.base.slices import freeze_gc
from comms_exporter.check import as_json, as_text
from comms_exporter.config import (
    Account,
    ListenAddress,
    Settings,
    SettingsError,
    build_parser,
    load,
    parse_listen_address,
)
from comms_exporter.logs import configure, log_uncaught
from comms_exporter.service import CannotStartError, Service, check_accounts, check_settings, exporter
from comms_exporter.simulator.demo import STORY, demo_world
from comms_exporter.web.server import CannotListenError, listening

PROG = "comms-exporter"

COMMANDS = """\
commands:
  serve       answer Prometheus; what happens when no command is named
  check       find out whether every account can be read
  demo        run on a simulated account; needs no Twilio account
  simulator   run only the simulated API
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that *argv* names, and return the exit code: 2 for wrong settings, 1 for what else went wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "serve": _serve_command,
        "check": _check_command,
        "demo": _demo_command,
        "simulator": _simulator_command,
    }
    run = commands[arguments.pop(0)] if arguments and arguments[0] in commands else _serve_command
    try:
        return run(arguments)
    except SettingsError as error:
        for problem in error.problems:
            _say(f"{PROG}: {problem}", file=sys.stderr)
        return 2
    except (CannotStartError, CannotListenError) as error:
        _say(f"{PROG}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # Only before the loop listens to signals is an interrupt an exception.
        return 0


def _serve_command(arguments: Sequence[str]) -> int:
    parser = build_parser()
    parser.usage = "%(prog)s [command] [flags]"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{parser.description}\n\n{COMMANDS}"

    def read_settings() -> Settings:
        return load(arguments, os.environ, parser=parser)

    settings = read_settings()
    if settings.config_check:
        log, redactor = _logger(settings)
        check_settings(settings, log=log, redactor=redactor)
        _say(f"The settings are good: {len(settings.accounts)} account(s).")
        return 0
    return asyncio.run(serve(settings, read_settings))


def _check_command(arguments: Sequence[str]) -> int:
    parser = build_parser(
        prog=f"{PROG} check", description="Find out whether every account can be read, and what to do where one cannot."
    )
    parser.add_argument("--json", action="store_true", help="Say it for machines.")
    in_json = "--json" in arguments
    settings = load([each for each in arguments if each != "--json"], os.environ, parser=parser)
    log, redactor = _logger(settings)
    reports = asyncio.run(check_accounts(settings, log=log, redactor=redactor))
    _say(*(json.dumps(as_json(reports), indent=2) if in_json else as_text(reports)).splitlines())
    return 0 if all(report.good for report in reports) else 1


def _demo_command(arguments: Sequence[str]) -> int:
    defaults = {
        # Counters move every second, and finished operations make room for new ones.
        "collect_interval": "1s",
        "collect_active_window": "30s",
        "web_listen_address": "127.0.0.1:10067",
        "log_level": "warn",
        "state_path": "",
    }
    # The simulator accepts any secret.
    account = Account(name="demo", user="ACdemo", secret=SecretStr("demonstration"), base_url="http://127.0.0.1:0")
    settings = load(
        arguments,
        {key: value for key, value in os.environ.items() if not key.startswith("TWILIO_")},
        defaults=defaults,
        accounts=[account],
        parser=build_parser(
            prog=f"{PROG} demo", description="Run the exporter on a simulated account.", defaults=defaults
        ),
    )
    return asyncio.run(demo(settings))


def _simulator_command(arguments: Sequence[str]) -> int:
    try:
        parsed = simulator.parse_arguments(arguments, prog=f"{PROG} simulator")
        address = parse_listen_address(parsed.listen_address)
    except simulator.WrongFlagError as error:
        raise SettingsError([str(error)]) from None
    except ValueError as error:
        raise SettingsError([f"--web.listen-address: {error}"]) from None
    return asyncio.run(_simulate(simulator.from_arguments(parsed), address))


async def serve(settings: Settings, load: Callable[[], Settings]) -> int:
    """Poll and answer until told to stop; SIGHUP reloads the settings."""
    log, redactor = _logger(settings)
    freeze_gc()
    stop, hangup = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with exporter(settings, load=load, log=log, redactor=redactor) as (service, _):
            try:
                await _reload_on(hangup, service, log)
            finally:
                if stop.is_set():
                    log.info("stopping")

    try:
        with log_uncaught(log), _signals({signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: hangup}):
            await _until(stop, work())
    except ExceptionGroup:
        # Said through the log, which shows no secret.
        log.exception("a poll loop has crashed; this is a bug")
        return 1
    except (SettingsError, CannotStartError, CannotListenError):
        raise
    except Exception:
        # The interpreter would print it to stderr itself, and wait for a reader.
        log.exception("the exporter has crashed; this is a bug")
        return 1
    return 0


async def _reload_on(hangup: asyncio.Event, service: Service, log: FilteringBoundLogger) -> None:
    while True:
        await hangup.wait()
        hangup.clear()
        try:
            await service.reload()
        except Exception:
            # The next one may fare better; without us there would be none.
            log.exception("a reload has crashed; this is a bug")


async def demo(settings: Settings) -> int:
    """Run the exporter on the simulator's demo scenario, and print what to look at."""
    log, redactor = _logger(settings)
    world = demo_world(time.time)
    stop = asyncio.Event()

    async def work(folder: str) -> None:
        async with listening(simulator.make_app(world), [ListenAddress("127.0.0.1", 0, "127.0.0.1:0")]) as (api,):
            (account,) = settings.accounts
            simulated = settings.model_copy(
                update={
                    "accounts": (replace(account, base_url=f"{api}/v1"),),
                    # The simulated account ends with the process, so its counts are not kept.
                    "state_path": settings.state_path or Path(folder, "state.db"),
                }
            )
            async with exporter(simulated, load=lambda: simulated, log=log, redactor=redactor) as (_, addresses):
                _say(f"The exporter is running on a simulated account. The simulated API is at {api}/")
                for address in addresses:
                    _say(f"Status page: {address}/", f"Metrics:     {address}{settings.web_telemetry_path}")
                _say("", "What to look at:", *indent(STORY, "  ").splitlines(), "", "Ctrl-C stops it.")
                await stop.wait()

    with _signals({signal.SIGTERM: stop, signal.SIGINT: stop}), TemporaryDirectory(prefix=f"{PROG}-demo-") as folder:
        await _until(stop, work(folder))
    return 0


async def _simulate(app: web.Application, address: ListenAddress) -> int:
    stop = asyncio.Event()
    with _signals({signal.SIGTERM: stop, signal.SIGINT: stop}):
        async with listening(app, [address]) as (url,):
            _say(f"The simulated API is at {url}/")
            await stop.wait()
    return 0


def _say(*lines: str, file: TextIO | None = None) -> None:
    """Print *lines*, of which some hold what others have said, as far as the terminal's encoding allows."""
    stream = file or sys.stdout
    for line in map(printable, lines):
        try:
            print(line, file=stream, flush=True)
        except UnicodeEncodeError:
            print(line.encode("ascii", "backslashreplace").decode(), file=stream, flush=True)


def _logger(settings: Settings) -> tuple[FilteringBoundLogger, Redactor]:
    redactor = Redactor(account.credentials()[1] for account in settings.accounts)
    return configure(settings.log_level, settings.log_format, redact=redactor), redactor


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do *work*; once *stop* is set it is cancelled, however far it has come."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    working.cancel()
    await asyncio.wait({working})
    if not working.cancelled():
        working.result()


@contextmanager
def _signals(events: Mapping[int, asyncio.Event]) -> Iterator[None]:
    """Have each signal set its event, and do nothing else while the context lasts.

    Not by the loop's own handlers: when those are removed there is a moment in which a signal ends the process.
    """
    loop = asyncio.get_running_loop()
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)

    def received() -> None:
        for number in reader.recv(4096):
            if number in events:
                events[number].set()

    with reader, writer:
        loop.add_reader(reader, received)
        # The numbers arrive there even if the loop is just going to sleep, when a handler would come too late.
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, lambda *_: None) for number in events}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            loop.remove_reader(reader)
