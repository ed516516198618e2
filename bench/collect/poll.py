"""What a whole poll costs, from the first request to the saved and written page."""

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
    """Return the table of what may change between two polls, for few and for all operations exposed."""
    count = sizes.poll_operations
    table = Table(
        "A whole poll",
        f"{count:,} operations in pages of {PAGE_SIZE:,}; CPU of the whole process per operation: fetch, parse, compare, "
        "count, save to a file, write and compress. Where all are exposed, somebody scrapes with gzip every "
        f"{SCRAPE_EVERY_SECONDS} s. Beside it the same pages fetched by the same client (aiohttp) in a process of its own, and "
        "thrown away.",
        ["exposed", "changed", "CPU µs per operation", "fetching alone", "times fetching", "seconds from start to end"],
    )
    hundredth = max(1, count // 100)
    modes = {
        "nothing": (0, False),
        "1 %, the newest": (hundredth, False),
        "1 %, spread": (hundredth, True),
        "all": (count, False),
    }
    for exposed in (min(DEFAULT_EXPOSED, count), count):
        progress(f"polls of {count:,} operations, {exposed:,} exposed")
        rows, alone = _one(sizes, exposed, modes)
        for name, cost, seconds in rows:
            table.add(f"{exposed:,}", name, cost, alone, cost / alone, seconds)
    return [table]


def _one(sizes, exposed, modes):
    """Return (what changed, microseconds of CPU per operation, seconds) of polls, and what fetching alone takes."""
    count = sizes.poll_operations
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="bench-")))
        api = enter(Worker("collect.api", count, 1))
        reader = enter(Worker("collect.reader", f"{api.address}/0/v1", PAGE_SIZE))
        laps = [_lap(reader, count)]
        ours = enter(
            Exporter(
                f"--state.path={folder}/state.db",
                f"--collect.interval={sizes.poll_interval}",
                f"--collect.max-operations={exposed}",
                f"--api.page-size={PAGE_SIZE}",
                api=api.address,
            )
        )
        before = ours.cpu_seconds()
        if exposed == count:
            enter(_scraped(ours.url))
        ours.wait_for_first_polls()
        if exposed == count:
            # Whatever was left for the first scrape is part of what new operations cost.
            _scrape(ours.url)
        rows = [("all new", 1e6 * (ours.cpu_seconds() - before) / count, ours.since(api.ask("began", account=0)))]
        for name, (changed, spread) in modes.items():
            api.ask("change", count=changed, spread=spread)
            cost = 1e6 * ours.cpu_of_polls(sizes.polls) / count
            rows.append((name, cost, ours.since(api.ask("began", account=0), sizes.polls)))
            laps.append(_lap(reader, count))
        return rows, median(laps)


def _scrape(url):
    fetch(f"{url}/metrics", Accept=TEXT, Accept_Encoding="gzip")


def _lap(reader, count):
    """Return the microseconds of CPU that fetching alone takes for each operation."""
    reader.ask("lap")
    return 1e6 * reader.answer() / count


@contextmanager
def _scraped(url):
    """Have somebody ask for the page every few seconds."""
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
