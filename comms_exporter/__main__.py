"""Entry point of `comms-exporter` and `python -m comms_exporter`: handle signals, then import the rest, which is slow."""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line and exit; SIGTERM and SIGINT exit with code 0 even during startup and shutdown."""
    arguments = sys.argv[1:]
    command = arguments[0] if arguments and not arguments[0].startswith("-") else "serve"
    checks = any(each.startswith("--config.check") for each in arguments)
    # Any other command that is stopped before it has finished must not report success.
    if command in {"serve", "demo", "simulator"} and not checks:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _exit)
    if command == "serve":
        # There is nothing to reload yet: the settings are loaded after this.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if command == "state":
        # It removes its temporary files.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    from comms_exporter import cli  # noqa: PLC0415 - takes most of a second, during which signals are frequent

    code = cli.main()
    # While it exits, the interpreter restores the default action of every signal that is not ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _exit(_number: int, _frame: FrameType | None) -> None:
    # Nothing has started yet, or everything has ended. An exception could be swallowed by the import in progress.
    os._exit(0)


if __name__ == "__main__":
    main()
