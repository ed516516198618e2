"""`comms-exporter` and `python -m comms_exporter`: what a signal does comes first, what takes long to import after it."""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line and exit; from its first moment to its last, being told to stop is no failure."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    # Who is told to stop before it has checked anything must not say that all is good.
    if command != "check" and not command.startswith("--config.check"):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)
    if command not in {"check", "demo", "simulator"}:
        # The settings are about to be read anyway.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from comms_exporter import cli  # noqa: PLC0415 - most of a second, in which a process is often told to stop

    code = cli.main()
    # As it ends, the interpreter gives signals their default meaning back, but for those that are ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _leave(_number: int, _frame: FrameType | None) -> None:
    # Nothing has begun, or all has ended. An exception could be lost in whatever is being imported.
    os._exit(0)


if __name__ == "__main__":
    main()
