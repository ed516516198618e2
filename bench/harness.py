"""The exporter with a heartbeat in its event loop, which measures how long anything blocks the loop.

Usage: python -m bench.harness FLAGS, those of the exporter. Without flags, only the heartbeat runs.
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


class Heartbeat:
    """A task that is due every millisecond; it records its delays and the CPU time between two beats."""

    def __init__(self):
        self._delays = []
        self._cpu = []
        self._task = None

    def begin(self):
        """Forget earlier beats, and start if it is not running."""
        self._delays, self._cpu = [], []
        if self._task is None:
            self._task = asyncio.create_task(self._beat())

    def report(self):
        """Return the maximum and the 99.9th percentile since begin(), in milliseconds."""
        return {
            "max_delay": 1000 * max(self._delays),
            "p999_delay": 1000 * quantile(self._delays, 0.999),
            "max_cpu": 1000 * max(self._cpu),
            "p999_cpu": 1000 * quantile(self._cpu, 0.999),
        }

    async def _beat(self):
        while True:
            began, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(BEAT_SECONDS)
            self._delays.append(time.perf_counter() - began - BEAT_SECONDS)
            self._cpu.append(time.thread_time() - cpu)


def resident():
    """Return the resident bytes after freeing all memory that can be freed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu():
    """Return the CPU seconds of the event loop's thread, and of all other threads."""
    loop = time.thread_time()
    return {"loop": loop, "others": time.process_time() - loop}


async def main(arguments):
    """Serve calls from the benchmark, beside an exporter with the flags *arguments* if there are any."""
    heartbeat = Heartbeat()
    handlers = {"begin": heartbeat.begin, "report": heartbeat.report, "resident": resident, "cpu": cpu}
    if not arguments:
        reply("idle")
        await serve(handlers)
        return
    settings = load(arguments, os.environ, parser=build_parser())
    redactor = Redactor(account.credentials()[1] for account in settings.accounts)
    log = configure(settings.log_level, settings.log_format, redact=redactor)
    freeze_gc()
    async with exporter(settings, load=lambda: settings, log=log, redactor=redactor):
        await serve(handlers)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
