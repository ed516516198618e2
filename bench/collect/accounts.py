"""Cost of many accounts in one exporter: of their polls, and of scrapes while they are polled."""

import re
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.exporters import Exporter, write_accounts
from bench.expose.scrape import REQUESTS
from bench.processes import Worker
from bench.tables import Table

POLLED_ACCOUNT = r'msg="?polled.*?\baccount=(\S+)|\baccount=(\S+).*?msg="?polled'
SCRAPE_EVERY_SECONDS = 1


def measure(sizes, progress):
    """Return the table by number of accounts."""
    each = sizes.accounts_operations
    table = Table(
        "Many accounts",
        f"{each} operations in each account, of which one changes between two polls in every tenth account; saved to a file, and "
        "scraped with gzip every second. CPU per poll is measured without scrapes, CPU, scrapes and polls per interval over one "
        "interval with them. The last column is the longest time between two polls of one account.",
        [
            "accounts",
            "interval",
            "all polled once after, s",
            "CPU ms per poll",
            "CPU, % of a core",
            "peak memory, MB",
            "scrape ms, median",
            "scrape ms, worst",
            "longest pause, s",
        ],
    )
    for accounts, interval in sizes.accounts:
        progress(f"{accounts:,} accounts, polled every {interval} s")
        table.add(f"{accounts:,}", f"{interval:g}s", *_one(accounts, interval, each))
    return [table]


def _one(accounts, interval, operations):
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="bench-")))
        api = enter(Worker("collect.api", accounts * operations, accounts))
        scraper = enter(Worker("expose.scraper"))
        flags = write_accounts(folder / "accounts.yml", api.address, accounts)
        exporter = enter(Exporter(flags, f"--state.path={folder}/state.db", f"--collect.interval={interval}s"))
        began = time.monotonic()
        target = {"url": f"{exporter.url}/metrics", "headers": REQUESTS["gzip"]}
        scraper.ask("begin", target=target, clients=1, every=SCRAPE_EVERY_SECONDS)
        first = _until_all_polled(exporter, accounts) - began
        api.ask("change_some", every=10)
        # The first polls after the start are heavier.
        time.sleep(interval)
        scraper.ask("taken")
        cpu, started = exporter.cpu_seconds(), time.monotonic()
        time.sleep(interval)
        share = (exporter.cpu_seconds() - cpu) / (time.monotonic() - started)
        took = scraper.ask("taken")
        scraper.ask("end")
        cpu, polls = exporter.cpu_seconds(), exporter.polls
        time.sleep(interval)
        per_poll = (exporter.cpu_seconds() - cpu) / max(1, exporter.polls - polls)
        return (
            first,
            1000 * per_poll,
            100 * share,
            exporter.peak_bytes() / 1e6,
            median(took),
            max(took),
            _longest_pause(exporter, started),
        )


def _until_all_polled(exporter, accounts):
    """Wait until each of *accounts* has been polled, and return when that was."""
    while True:
        # Not at every log line, which would take CPU time from the exporter.
        time.sleep(0.5)
        moments = _moments(exporter)
        if len(moments) == accounts:
            return max(times[0] for times in moments.values())


def _longest_pause(exporter, since):
    """Return the longest time from one poll of an account to its next since then, or until now."""
    now = time.monotonic()
    pauses = [0.0]
    for times in _moments(exporter).values():
        recent = [each for each in times if each >= since]
        pauses += [after - before for before, after in zip([since, *recent], [*recent, now], strict=True)]
    return max(pauses)


def _moments(exporter):
    """Return the times at which polls ended, by account."""
    moments = {}
    for at, line in exporter.lines():
        if found := re.search(POLLED_ACCOUNT, line):
            moments.setdefault(found[1] or found[2], []).append(at)
    return moments
