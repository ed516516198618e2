"""The command line: parse arguments, run a command, and turn its end into an exit code."""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import indent
from typing import TextIO, TypeVar

from aiohttp import ClientSession, web
from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

from comms_exporter import simulator
from comms_exporter.api.client import CommsClient
from comms_exporter.api.emails import EmailsClient
from comms_exporter.api.errors import CommsError
from comms_exporter.api.request_stats import RequestStats
from comms_exporter.base.printable import printable
from comms_exporter.base.redaction import Redactor
from comms_exporter.base.slices import freeze_gc
from comms_exporter.base.suggestions import suggestion
from comms_exporter.check import ADVICE, Report, as_json, as_text, check
from comms_exporter.commands import email, operation, operations
from comms_exporter.commands.ids import why_not_found
from comms_exporter.commands.operations import Row, list_operations
from comms_exporter.commands.progress import Progress
from comms_exporter.commands.state import Summary
from comms_exporter.config import (
    Account,
    ListenAddress,
    Settings,
    SettingsError,
    build_parser,
    load,
    parse_duration,
    parse_listen_address,
)
from comms_exporter.logs import configure, log_uncaught
from comms_exporter.model.operations import STATUSES, Operation
from comms_exporter.model.providers import Providers
from comms_exporter.rules import command as rules
from comms_exporter.service import Service, exporter
from comms_exporter.signals import run_until, signal_events
from comms_exporter.simulator.demo import STORY, demo_world
from comms_exporter.store.errors import StoreError
from comms_exporter.web.server import listening
from comms_exporter.web.sockets import CannotListenError
from comms_exporter.wiring import (
    CannotStartError,
    build_client,
    check_settings,
    export_state,
    import_state,
    open_api_session,
    proxy_of,
)

Found = TypeVar("Found")

PROG = "comms-exporter"

# A person reads the output, and the log is on the same terminal.
_COMMAND_DEFAULTS = {"log_level": "warn"}

# A thousand accounts, one after the other, would take minutes.
_CHECKS_AT_A_TIME = 16

COMMANDS = """\
commands:
  serve       run the exporter (default)
  check       test whether each account can be read
  operations  list the operations that lost the most emails
  operation   show one operation, and which of its emails are lost
  email       show one email, such as one that the log names
  state       move accounts between a state file and the database
  rules       print the alerting rules, with your thresholds and links
  demo        run the exporter on a simulated account; needs no Twilio account
  simulator   run only the simulated API
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in *argv* and return the exit code: 2 for invalid settings, 130 on Ctrl-C, 1 for any other failure."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "serve": _serve_command,
        "check": _check_command,
        "operations": _operations_command,
        "operation": _operation_command,
        "email": _email_command,
        "state": _state_command,
        "rules": _rules_command,
        "demo": _demo_command,
        "simulator": _simulator_command,
    }
    run = commands[arguments.pop(0)] if arguments and arguments[0] in commands else _serve_command
    try:
        return run(arguments)
    except SettingsError as error:
        for problem in error.problems:
            _print(f"{PROG}: {problem}", file=sys.stderr)
        return 2
    except (CannotStartError, CannotListenError) as error:
        _print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Such as `| head`. What is still buffered must not raise again when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        # Commands that run until they are stopped handle the signal, except for a moment at the start. For others, an
        # incomplete result is a failure.
        run_until_stopped = {_serve_command, _demo_command, _simulator_command}
        return 0 if run in run_until_stopped else 130


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command, in the order of COMMANDS."""
    return {
        "serve": serve_parser(),
        "check": check_parser(),
        "operations": operations_parser(),
        "operation": operation_parser(),
        "email": email_parser(),
        "state": state_parser(),
        "rules": rules_parser(),
        "demo": demo_parser(),
        "simulator": simulator.build_parser(prog=f"{PROG} simulator"),
    }


def serve_parser() -> argparse.ArgumentParser:
    """Return the parser of the command `serve`, whose help is about all commands."""
    parser = build_parser()
    parser.usage = "%(prog)s [command] [flags]"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{parser.description}\n\n{COMMANDS}"
    parser.epilog = textwrap.fill(parser.epilog or "", 78)
    return parser


def _serve_command(arguments: Sequence[str]) -> int:
    parser = serve_parser()

    def load_settings() -> Settings:
        return load(arguments, os.environ, parser=parser)

    settings = load_settings()
    if settings.config_check:
        log, redactor = _configure_logging(settings)
        check_settings(settings, log=log, redactor=redactor)
        _print(f"The settings are valid: {len(settings.accounts)} account(s).")
        return 0
    return asyncio.run(_serve(settings, load_settings))


def check_parser() -> argparse.ArgumentParser:
    """Return the parser of the command `check`."""
    return _command_parser("check", "Test whether each account can be read, and say how to fix what fails.", {})


def _check_command(arguments: Sequence[str]) -> int:
    settings, own = _load_command(check_parser(), arguments, {})
    reports = asyncio.run(_check(settings))
    _print(*(json.dumps(as_json(reports), indent=2) if own.json else as_text(reports)).splitlines())
    return 0 if all(report.good for report in reports) else 1


def _operations_command(arguments: Sequence[str]) -> int:
    settings, own = _load_command(operations_parser(), arguments)
    try:
        since_seconds = parse_duration(own.since)
    except ValueError as error:
        raise SettingsError([f"--since: {error}"]) from None
    if own.status is not None and own.status.upper() not in STATUSES:
        raise SettingsError([f"--status: must be one of {', '.join(STATUSES)}"])
    return asyncio.run(_operations(settings, own, since_seconds))


def _operation_command(arguments: Sequence[str]) -> int:
    settings, own = _load_command(operation_parser(), arguments)
    if own.id is None:
        raise SettingsError(["needs the id of an operation; `comms-exporter operations` lists them"])
    if own.show_addresses and not own.emails:
        raise SettingsError(["--show-addresses: needs --emails"])
    return asyncio.run(_operation(settings, own))


def _email_command(arguments: Sequence[str]) -> int:
    settings, own = _load_command(email_parser(), arguments)
    if own.id is None:
        raise SettingsError(
            ["needs the id of an email; `comms-exporter operation ID --emails` lists those of an operation"]
        )
    return asyncio.run(_email(settings, own))


def email_parser() -> argparse.ArgumentParser:
    """Return the parser of the command `email`."""
    parser = _command_parser("email", "Show one email, such as one that the log or an exemplar names.")
    parser.usage = "%(prog)s ID [flags]"
    parser.add_argument("id", nargs="?", metavar="ID", help="The email's id.")
    parser.add_argument("--show-addresses", action="store_true", help="Show the recipients' addresses.")
    return parser


def _state_command(arguments: Sequence[str]) -> int:
    parser = state_parser()
    # The accounts are those in the file or the database, whose credentials nobody needs.
    settings = load(arguments, os.environ, accounts=(), parser=parser)
    own, _ = parser.parse_known_args(list(arguments))
    if own.action not in {"import", "export"} or own.file is None:
        raise SettingsError(["needs what to do and a file: `state import FILE` or `state export FILE`"])
    return _transfer(own.action, Path(own.file), settings)


def _transfer(action: str, file: Path, settings: Settings) -> int:
    def say(text: str) -> None:
        _print(f"{PROG}: {text}", file=sys.stderr)

    def on_wait(seconds: float) -> None:
        say(f"some accounts have an owner: waiting {seconds:g} s to see whether it is running")

    progress = Progress(lambda text: _print(text, file=sys.stderr))
    summary = Summary()
    try:
        for each in (
            import_state(file, settings, on_wait=on_wait) if action == "import" else export_state(file, settings)
        ):
            summary.add(each.operations, problem=each.problem)
            if each.problem:
                say(f"account {each.account}: not {action}ed: {each.problem}")
            progress(f"{summary.accounts:,} accounts ...")
    except StoreError as error:
        say(str(error))
        if summary.accounts:
            say(
                f"stopped after {summary.accounts:,} accounts; run the same command again for the others: it skips these"
            )
        return 1
    _print(summary.text(f"{action}ed"))
    return 0 if summary.complete else 1


def state_parser() -> argparse.ArgumentParser:
    """Return the parser of the command `state`."""
    parser = build_parser(
        prog=f"{PROG} state",
        description="Move accounts between a state file and the database in --state.url. `import` writes the accounts in FILE "
        "into the database, `export` writes those in the database into a new FILE.",
    )
    parser.usage = "%(prog)s import|export FILE [flags]"
    parser.add_argument("action", nargs="?", metavar="import|export", help="What to do.")
    parser.add_argument("file", nargs="?", metavar="FILE", help="The state file.")
    return parser


def operation_parser() -> argparse.ArgumentParser:
    """Return the parser of the command `operation`."""
    parser = _command_parser("operation", "Show one operation, and which of its emails are lost.")
    parser.usage = "%(prog)s ID [flags]"
    parser.add_argument("id", nargs="?", metavar="ID", help="The operation's id.")
    parser.add_argument("--emails", action="store_true", help="List every email, with its recipient's domain.")
    parser.add_argument("--show-addresses", action="store_true", help="With --emails, show the recipients' addresses.")
    return parser


def operations_parser() -> argparse.ArgumentParser:
    """Return the parser of the command `operations`."""
    parser = _command_parser("operations", "List the operations that lost the most emails, worst first.")
    parser.add_argument("--status", metavar="STATUS", help="Only operations in this status, such as PROCESSING.")
    parser.add_argument(
        "--since", default="1d", metavar="DURATION", help="Only operations created in the last DURATION. Default: 1d."
    )
    return parser


def _rules_command(arguments: Sequence[str]) -> int:
    return rules.run(arguments, rules_parser(), _print)


def rules_parser() -> argparse.ArgumentParser:
    """Return the parser of the command `rules`, which needs no settings."""
    return rules.build_parser(f"{PROG} rules")


def _command_parser(
    name: str, description: str, defaults: Mapping[str, str] = _COMMAND_DEFAULTS
) -> argparse.ArgumentParser:
    """Return a parser of the settings and of what all commands that ask the API have in common."""
    parser = build_parser(prog=f"{PROG} {name}", description=description, defaults=defaults)
    parser.add_argument("--account", metavar="NAME", help="Only this account. Default: all.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    return parser


def _load_command(
    parser: argparse.ArgumentParser, arguments: Sequence[str], defaults: Mapping[str, str] = _COMMAND_DEFAULTS
) -> tuple[Settings, argparse.Namespace]:
    """Return the settings with the accounts that the command is for, and its own arguments."""
    settings = load(arguments, os.environ, defaults=defaults, parser=parser)
    own, _ = parser.parse_known_args(list(arguments))
    if own.account is not None:
        names = [account.name for account in settings.accounts]
        if own.account not in names:
            raise SettingsError([f"--account: there is no account {own.account}{_or_one_of(own.account, names)}"])
        chosen = tuple(account for account in settings.accounts if account.name == own.account)
        settings = settings.model_copy(update={"accounts": chosen})
    return settings, own


def _or_one_of(name: str, names: Sequence[str]) -> str:
    """Return the *names* that there are besides *name*, or if there are many, the one that looks most like it."""
    return f"; there is {', '.join(names)}" if len(names) <= 10 else suggestion(name, names)


_DEMO_DEFAULTS = {
    # Counters move every second, and finished operations make room for new ones.
    "collect_interval": "1s",
    "collect_active_window": "30s",
    # Who is lost in the failure spike, by everything that the simulator sends.
    "emails_collect": "all",
    "emails_interval": "5s",
    "emails_tags": "campaign,language",
    "web_listen_address": "127.0.0.1:10067",
    "log_level": "warn",
    "state_path": "",
}


def demo_parser() -> argparse.ArgumentParser:
    """Return the parser of the command `demo`."""
    return build_parser(
        prog=f"{PROG} demo", description="Run the exporter on a simulated account.", defaults=_DEMO_DEFAULTS
    )


def _demo_command(arguments: Sequence[str]) -> int:
    # The simulator accepts any secret.
    account = Account(name="demo", user="ACdemo", secret=SecretStr("demonstration"), base_url="http://127.0.0.1:0")
    settings = load(
        arguments,
        {key: value for key, value in os.environ.items() if not key.startswith("TWILIO_")},
        defaults=_DEMO_DEFAULTS,
        accounts=[account],
        parser=demo_parser(),
    )
    return asyncio.run(_demo(settings))


def _simulator_command(arguments: Sequence[str]) -> int:
    try:
        parsed = simulator.parse_arguments(arguments, prog=f"{PROG} simulator")
        address = parse_listen_address(parsed.listen_address)
    except simulator.WrongFlagError as error:
        raise SettingsError([str(error)]) from None
    except ValueError as error:
        raise SettingsError([f"--web.listen-address: {error}"]) from None
    return asyncio.run(_simulate(simulator.from_arguments(parsed), address))


async def _serve(settings: Settings, load: Callable[[], Settings]) -> int:
    """Run the exporter until it is told to stop; SIGHUP reloads the settings."""
    log, redactor = _configure_logging(settings)
    freeze_gc()
    stop, hangup = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        async with exporter(settings, load=load, log=log, redactor=redactor) as (service, _):
            try:
                await _reload_on(hangup, service, log)
            finally:
                if stop.is_set():
                    log.info("stopping")

    events: dict[int, asyncio.Event] = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: hangup}
    try:
        with log_uncaught(log), signal_events(events):
            await run_until(stop, run())
    except ExceptionGroup:
        # Through the log, so that secrets are masked.
        log.exception("poll loop crashed, exiting; please report this bug")
        return 1
    except (SettingsError, CannotStartError, CannotListenError):
        raise
    except Exception:
        # The interpreter would print it to stderr itself, and block if nobody reads it.
        log.exception("exporter crashed; please report this bug")
        return 1
    return 0


async def _reload_on(hangup: asyncio.Event, service: Service, log: FilteringBoundLogger) -> None:
    while True:
        await hangup.wait()
        hangup.clear()
        try:
            await service.reload()
        except Exception:
            # Keep the task alive: the next reload may succeed.
            log.exception("reload crashed; please report this bug")


async def _check(settings: Settings) -> list[Report]:
    log, redactor = _configure_logging(settings)
    turn = asyncio.Semaphore(_CHECKS_AT_A_TIME)

    async def check_one(account: Account) -> Report:
        async with turn:
            return await check(
                account.name,
                base_url=account.base_url,
                client=build_client(
                    account, settings, session=session, request_stats=RequestStats(), redactor=redactor, log=log
                ),
                interval=settings.collect_interval,
                emails_collect=settings.emails_collect,
                emails_interval=settings.emails_interval,
                proxied=proxy_of(account, redactor) is not None,
                mask=redactor.mask,
            )

    async with open_api_session(settings) as session:
        return await asyncio.gather(*map(check_one, settings.accounts))


async def _operations(settings: Settings, own: argparse.Namespace, since_seconds: float) -> int:
    log, redactor = _configure_logging(settings)
    rows: list[Row] = []
    failed = False
    progress = Progress(lambda text: _print(text, file=sys.stderr))
    async with open_api_session(settings) as session:
        for account in settings.accounts:
            client = build_client(
                account, settings, session=session, request_stats=RequestStats(), redactor=redactor, log=log
            )
            try:
                rows += await list_operations(
                    account.name,
                    client,
                    status=own.status and own.status.upper(),
                    since_seconds=since_seconds,
                    progress=progress,
                )
            except CommsError as error:
                failed = True
                _print_failure(account.name, error, redactor)
    rows = operations.worst_first(rows)
    if own.json:
        _print(*json.dumps([operations.as_json(row) for row in rows], indent=2).splitlines())
    elif rows or not failed:
        several = len(settings.accounts) > 1
        _print(*operations.as_text(rows, now=time.time(), width=_width(), several_accounts=several))
    return 1 if failed else 0


async def _operation(settings: Settings, own: argparse.Namespace) -> int:
    log, redactor = _configure_logging(settings)

    async def find(client: CommsClient) -> Operation | None:
        return await operation.find_operation(client, own.id)

    async with open_api_session(settings) as session:
        found = await _find("operation", own.id, find, settings, session=session, redactor=redactor, log=log)
        if found is None:
            return 1
        name, client, described = found
        report = operation.Report(
            account=name, operation=described, providers=Providers(dict(settings.emails_providers))
        )
        reader = operation.ReportReader(
            report,
            EmailsClient(client, log=log.bind(account=name)),
            show_addresses=own.show_addresses,
            progress=Progress(lambda text: _print(text, file=sys.stderr)),
        )

        def write(lines: Sequence[str]) -> None:
            _print(*lines)

        if own.json:
            await operation.print_json(reader, all_emails=own.emails, write=write)
        else:
            await operation.print_text(reader, all_emails=own.emails, write=write, now=time.time(), width=_width())
    for problem in report.problems:
        _print_failure(name, problem, redactor)
    return 1 if report.problems else 0


async def _email(settings: Settings, own: argparse.Namespace) -> int:
    log, redactor = _configure_logging(settings)

    async def find(client: CommsClient) -> email.EmailReport | None:
        return await email.find_email(EmailsClient(client, log=log), own.id, show_addresses=own.show_addresses)

    async with open_api_session(settings) as session:
        found = await _find("email", own.id, find, settings, session=session, redactor=redactor, log=log)
    if found is None:
        return 1
    name, _, report = found
    provider = Providers(dict(settings.emails_providers)).provider_of(report.email.recipient_domain)
    if own.json:
        _print(*json.dumps(email.as_json(report, account=name, provider=provider), indent=2).splitlines())
    else:
        _print(*email.as_text(report, account=name, provider=provider, now=time.time(), width=_width()))
    if report.problem is not None:
        _print_failure(name, report.problem, redactor)
    return 0 if report.problem is None else 1


async def _find(
    kind: str,
    wanted: str,
    find: Callable[[CommsClient], Awaitable[Found | None]],
    settings: Settings,
    *,
    session: ClientSession,
    redactor: Redactor,
    log: FilteringBoundLogger,
) -> tuple[str, CommsClient, Found] | None:
    """Return the account that has the *kind* of thing with the id *wanted*, its client, and what *find* finds there.

    If there is none, say why.
    """
    failures: list[tuple[str, CommsError]] = []
    for account in settings.accounts:
        client = build_client(
            account, settings, session=session, request_stats=RequestStats(), redactor=redactor, log=log
        )
        try:
            found = await find(client)
        except CommsError as error:
            failures.append((account.name, error))
            continue
        if found is not None:
            return account.name, client, found
    for failure in failures:
        _print_failure(*failure, redactor)
    if not failures:
        names = [account.name for account in settings.accounts]
        _print(f"{PROG}: {why_not_found(kind, wanted, names, now=time.time())}", file=sys.stderr)
    return None


def _print_failure(account: str, error: CommsError, redactor: Redactor) -> None:
    _print(f"{PROG}: account {account}: {redactor.mask(str(error))}; {ADVICE[error.reason]}", file=sys.stderr)


def _width() -> int:
    """Return the width of the terminal; in a pipe, lines need not be short, and are easier to search if they are whole."""
    return shutil.get_terminal_size((1000, 24)).columns


async def _demo(settings: Settings) -> int:
    """Run the exporter on the simulator's demo scenario, and print what to look at."""
    log, redactor = _configure_logging(settings)
    world = demo_world(time.time)
    stop = asyncio.Event()

    async def run(folder: str) -> None:
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
                _print(f"The exporter is running on a simulated account. The simulated API is at {api}/")
                for address in addresses:
                    _print(f"Status page: {address}/", f"Metrics:     {address}{settings.web_telemetry_path}")
                _print("", "What to look at:", *indent(STORY, "  ").splitlines(), "", "Press Ctrl-C to stop.")
                await stop.wait()

    with (
        signal_events({signal.SIGTERM: stop, signal.SIGINT: stop}),
        TemporaryDirectory(prefix=f"{PROG}-demo-") as folder,
    ):
        await run_until(stop, run(folder))
    return 0


async def _simulate(app: web.Application, address: ListenAddress) -> int:
    stop = asyncio.Event()
    with signal_events({signal.SIGTERM: stop, signal.SIGINT: stop}):
        async with listening(app, [address]) as (url,):
            _print(f"The simulated API is at {url}/")
            await stop.wait()
    return 0


def _configure_logging(settings: Settings) -> tuple[FilteringBoundLogger, Redactor]:
    redactor = Redactor(account.credentials()[1] for account in settings.accounts)
    if settings.state_url is not None:
        redactor.add(settings.state_url.passwords)
    return configure(settings.log_level, settings.log_format, redact=redactor), redactor


def _print(*lines: str, file: TextIO | None = None) -> None:
    """Print *lines*, escaped for a terminal and for its encoding, because some contain untrusted text."""
    stream = file or sys.stdout
    for line in map(printable, lines):
        try:
            print(line, file=stream, flush=True)
        except UnicodeEncodeError:
            print(line.encode("ascii", "backslashreplace").decode(), file=stream, flush=True)
