"""How cost grows with what there is to do."""

import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.exporters import Exporter, write_accounts
from bench.expose.samples import fetch
from bench.expose.scrape import ASKED, SETTLING_SECONDS
from bench.processes import Worker
from bench.sizes import Growth
from bench.tables import Table

COLUMNS = ["CPU ms per poll and the scrape after it", "CPU ms per scrape between polls"]


def measure(sizes, progress):
    """Return a table for each thing that can grow."""
    with Worker("expose.scraper") as scraper:
        known = {}

        def cost(growth):
            if growth not in known:
                what = f"{growth.operations:,} operations in {growth.accounts} account(s), {growth.changed:.0%} changed"
                progress(f"cost of {what}")
                known[growth] = _cost(growth, sizes, scraper)
            return known[growth]

        return [*_tables(sizes, cost), _scrapers(sizes, progress, scraper)]


def _tables(sizes, cost):
    operations = Table(
        "More operations",
        "All operations are exposed and scraped with gzip, changes are spread evenly, nothing is saved. 1 % changes between "
        "two polls, in one account.",
        ["operations", *COLUMNS],
    )
    for each in sizes.growth_operations:
        operations.add(f"{each.operations:,}", *cost(each))
    changed = Table(
        "More change",
        f"{sizes.growth_changed[0].operations:,} operations in one account.",
        ["changed between polls", *COLUMNS],
    )
    for each in sizes.growth_changed:
        changed.add(f"{each.changed:.0%}", *cost(each))
    accounts = Table(
        "More accounts",
        f"{sizes.growth_accounts[0].operations:,} operations in all, 1 % of which change; polls of all accounts together.",
        ["accounts", *COLUMNS],
    )
    for each in sizes.growth_accounts:
        accounts.add(f"{each.accounts}", *cost(each))
    return operations, changed, accounts


def _scrapers(sizes, progress, scraper):
    table = Table(
        "More scrapers at a time",
        f"{sizes.growth_scraped:,} operations, gzip, between polls.",
        ["scrapers at once", "ms per scrape, median", "CPU ms per scrape"],
    )
    progress("scrapers at a time")
    growth = Growth(sizes.growth_scraped)
    with _api(growth) as api, _exporter(growth, api, "10m") as (ours, target):
        _scraped(ours, target, scraper, 1, 2)
        for clients in sizes.growth_scrapers:
            took, cpu = _scraped(ours, target, scraper, clients, sizes.growth_block)
            table.add(f"{clients}", median(took), cpu)
    return table


def _cost(growth, sizes, scraper):
    """Return the CPU milliseconds of polls, and those of a scrape between them."""
    with _api(growth) as api:
        with _exporter(growth, api, "10m") as (ours, target):
            _scraped(ours, target, scraper, 1, 2)
            _, between = _scraped(ours, target, scraper, 1, sizes.growth_block)
        with _exporter(growth, api, sizes.interval) as (ours, target):
            api.ask("change", count=int(growth.operations * growth.changed), spread=True)
            return _polled(growth, ours, target, sizes.growth_polls), between


def _polled(growth, ours, target, count):
    """Return the CPU milliseconds of a poll of all accounts, and of one scrape of what it brought."""
    headers = {name.replace("-", "_"): value for name, value in target["headers"].items()}
    ours.wait_for_polls(growth.accounts)
    fetch(target["url"], **headers)
    before, first = ours.cpu_seconds(), ours.polls
    for _ in range(count):
        ours.wait_for_polls(growth.accounts)
        fetch(target["url"], **headers)
    return 1000 * (ours.cpu_seconds() - before) * growth.accounts / (ours.polls - first)


def _scraped(ours, target, scraper, clients, count):
    """Return what each scrape took, and the CPU milliseconds of one."""
    before = ours.cpu_seconds()
    took = scraper.ask("together", target=target, clients=clients, count=count)
    time.sleep(SETTLING_SECONDS)
    # Each client scrapes once to connect.
    return took, 1000 * (ours.cpu_seconds() - before) / (clients * (count + 1))


def _api(growth):
    return Worker("collect.api", growth.operations, growth.accounts)


@contextmanager
def _exporter(growth, api, interval):
    """Run one that polls the accounts of *api* and has done so once; gives it, and what to scrape."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        ours = stack.enter_context(
            Exporter(
                write_accounts(folder / "accounts.yml", api.address, growth.accounts),
                "--state.path=",
                f"--collect.interval={interval}",
                f"--collect.max-operations={growth.operations}",
            )
        )
        ours.wait_for_first_polls(growth.accounts)
        yield ours, {"url": f"{ours.url}/metrics", "headers": ASKED["gzip"]}
