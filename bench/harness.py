"""The exporter with a heartbeat in its own loop, to see for how long anything keeps the loop from others.

Usage: python -m bench.harness FLAGS, the exporter's own; without any it is a loop with a heartbeat and nothing else.
"""

import asyncio
import ctypes
import gc
import os
import sys
import time
from pathlib import Path

from bench.rpc import reply, serve
from bench.tables import quantile
from comms_exporter.base.redaction import Redactor
from comms_exporter.base.slices import freeze_gc
from comms_exporter.config import build_parser, load
from comms_exporter.logs import configure
from comms_exporter.service import exporter

BEAT_SECONDS = 0.001


class Heart:
    """Beats every millisecond once it is asked to, and keeps how late it was and how much CPU went between beats."""

    def __init__(self):
        self._late = []
        self._burnt = []
        self._beating = None

    def begin(self):
        """Forget what was, and beat."""
        self._late, self._burnt = [], []
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())

    def told(self):
        """Return the worst and nearly the worst since begin(), in milliseconds."""
        return {
            "late": 1000 * max(self._late),
            "late_999": 1000 * quantile(self._late, 0.999),
            "burnt": 1000 * max(self._burnt),
            "burnt_999": 1000 * quantile(self._burnt, 0.999),
        }

    async def _beat(self):
        while True:
            began, burnt = time.perf_counter(), time.thread_time()
            await asyncio.sleep(BEAT_SECONDS)
            self._late.append(time.perf_counter() - began - BEAT_SECONDS)
            self._burnt.append(time.thread_time() - burnt)


def resident():
    """Return the bytes in use once all that can be given back is given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu():
    """Return the CPU seconds of the loop's thread, and of all others."""
    loop = time.thread_time()
    return {"loop": loop, "others": time.process_time() - loop}


async def main(arguments):
    """Do as ordered, beside an exporter with the flags *arguments* if there are any."""
    heart = Heart()
    orders = {"begin": heart.begin, "told": heart.told, "resident": resident, "cpu": cpu}
    if not arguments:
        reply("idle")
        await serve(orders)
        return
    settings = load(arguments, os.environ, parser=build_parser())
    redactor = Redactor(account.credentials()[1] for account in settings.accounts)
    log = configure(settings.log_level, settings.log_format, redact=redactor)
    freeze_gc()
    async with exporter(settings, load=lambda: settings, log=log, redactor=redactor):
        await serve(orders)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
