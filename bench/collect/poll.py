"""Cost of a poll, from the first request to the saved state and the rendered page."""

import tempfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.exporters import Exporter
from bench.expose.samples import fetch
from bench.expose.scrape import TEXT
from bench.processes import Worker
from bench.tables import Table

PAGE_SIZE = 1000
DEFAULT_EXPOSED = 1000
SCRAPE_EVERY_SECONDS = 3


def measure(sizes, progress):
    """Return the table by what changes between two polls, with few and with all operations exposed."""
    count = sizes.poll_operations
    table = Table(
        "Polls",
        f"{count:,} operations in pages of {PAGE_SIZE:,}. CPU time of the whole process per operation: fetch, parse, compare, "
        "count, save to a file, render and compress. If all are exposed, a client scrapes with gzip every "
        f"{SCRAPE_EVERY_SECONDS} s. For comparison, the same client library (aiohttp) fetches the same pages in another process "
        "and discards them.",
        ["exposed", "changed", "CPU µs per operation", "fetch only", "ratio to fetch only", "seconds"],
    )
    hundredth = max(1, count // 100)
    modes = {
        "nothing": (0, False),
        "the newest 1 %": (hundredth, False),
        "evenly spread 1 %": (hundredth, True),
        "all": (count, False),
    }
    for exposed in (min(DEFAULT_EXPOSED, count), count):
        progress(f"polls of {count:,} operations, {exposed:,} exposed")
        rows, fetch_only = _one(sizes, exposed, modes)
        for name, cost, seconds in rows:
            table.add(f"{exposed:,}", name, cost, fetch_only, cost / fetch_only, seconds)
    return [table]


def _one(sizes, exposed, modes):
    """Return (what changed, CPU microseconds per operation, seconds) of polls, and the CPU microseconds of only fetching."""
    count = sizes.poll_operations
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="bench-")))
        api = enter(Worker("collect.api", count, 1))
        reader = enter(Worker("collect.reader", f"{api.address}/0/v1", PAGE_SIZE))
        laps = [_lap(reader, count)]
        exporter = enter(
            Exporter(
                f"--state.path={folder}/state.db",
                f"--collect.interval={sizes.poll_interval}",
                f"--collect.max-operations={exposed}",
                f"--api.page-size={PAGE_SIZE}",
                api=api.address,
            )
        )
        before = exporter.cpu_seconds()
        if exposed == count:
            enter(_scraped(exporter.url))
        exporter.wait_for_first_polls()
        if exposed == count:
            # Work that is left to the first scrape is part of the cost of new operations.
            _scrape(exporter.url)
        rows = [
            ("all new", 1e6 * (exporter.cpu_seconds() - before) / count, exporter.since(api.ask("began", account=0)))
        ]
        for name, (changed, spread) in modes.items():
            api.ask("change", count=changed, spread=spread)
            cost = 1e6 * exporter.cpu_of_polls(sizes.polls) / count
            rows.append((name, cost, exporter.since(api.ask("began", account=0), sizes.polls)))
            laps.append(_lap(reader, count))
        return rows, median(laps)


def _scrape(url):
    fetch(f"{url}/metrics", Accept=TEXT, Accept_Encoding="gzip")


def _lap(reader, count):
    """Return the CPU microseconds per operation of only fetching."""
    reader.ask("lap")
    return 1e6 * reader.reply() / count


@contextmanager
def _scraped(url):
    """Scrape every few seconds in a thread."""
    stop = threading.Event()

    def scrape():
        while not stop.wait(SCRAPE_EVERY_SECONDS):
            _scrape(url)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
