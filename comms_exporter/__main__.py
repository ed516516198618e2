"""Entry point of `comms-exporter` and `python -m comms_exporter`: handle signals, then import the rest, which is slow."""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line and exit; SIGTERM and SIGINT exit with code 0 even during startup and shutdown."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    # A command that is stopped before it has finished must not report success.
    if command not in {"check", "operation", "operations", "rules"} and not command.startswith("--config.check"):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _exit)
    if command not in {"check", "demo", "operation", "operations", "rules", "simulator"}:
        # There is nothing to reload yet: the settings are loaded after this.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
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
