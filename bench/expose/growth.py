"""How cost grows with operations, changes, accounts and scrapers."""

import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.exporters import Exporter, write_accounts
from bench.expose.samples import fetch
from bench.expose.scrape import REQUESTS, SETTLING_SECONDS
from bench.processes import Worker
from bench.sizes import Growth
from bench.tables import Table

COLUMNS = ["CPU ms per poll with the next scrape", "CPU ms per scrape between polls"]


def measure(sizes, progress):
    """Return one table for each of these."""
    with Worker("expose.scraper") as scraper:
        costs = {}

        def cost(growth):
            if growth not in costs:
                what = f"{growth.operations:,} operations in {growth.accounts} account(s), {growth.changed:.0%} changed"
                progress(f"cost of {what}")
                costs[growth] = _cost(growth, sizes, scraper)
            return costs[growth]

        return [*_tables(sizes, cost), _scrapers(sizes, progress, scraper)]


def _tables(sizes, cost):
    operations = Table(
        "By operations",
        "All operations are exposed and scraped with gzip. 1 % of them, evenly spread, change between two polls. One account, "
        "no state file.",
        ["operations", *COLUMNS],
    )
    for each in sizes.growth_operations:
        operations.add(f"{each.operations:,}", *cost(each))
    changed = Table(
        "By share of changes",
        f"{sizes.growth_changed[0].operations:,} operations in one account.",
        ["changed between polls", *COLUMNS],
    )
    for each in sizes.growth_changed:
        changed.add(f"{each.changed:.0%}", *cost(each))
    accounts = Table(
        "By accounts",
        f"{sizes.growth_accounts[0].operations:,} operations in total, of which 1 % change. The polls of all accounts together.",
        ["accounts", *COLUMNS],
    )
    for each in sizes.growth_accounts:
        accounts.add(f"{each.accounts}", *cost(each))
    return operations, changed, accounts


def _scrapers(sizes, progress, scraper):
    table = Table(
        "By concurrent scrapers",
        f"{sizes.growth_scraped:,} operations, gzip, between polls.",
        ["concurrent scrapers", "ms per scrape, median", "CPU ms per scrape"],
    )
    progress("concurrent scrapers")
    growth = Growth(sizes.growth_scraped)
    with _api(growth) as api, _exporter(growth, api, "10m") as (exporter, target):
        _scraped(exporter, target, scraper, 1, 2)
        for clients in sizes.growth_scrapers:
            took, cpu = _scraped(exporter, target, scraper, clients, sizes.growth_block)
            table.add(f"{clients}", median(took), cpu)
    return table


def _cost(growth, sizes, scraper):
    """Return the CPU milliseconds of a poll with the next scrape, and of a scrape between polls."""
    with _api(growth) as api:
        with _exporter(growth, api, "10m") as (exporter, target):
            _scraped(exporter, target, scraper, 1, 2)
            _, between = _scraped(exporter, target, scraper, 1, sizes.growth_block)
        with _exporter(growth, api, sizes.interval) as (exporter, target):
            api.ask("change", count=int(growth.operations * growth.changed), spread=True)
            return _polled(growth, exporter, target, sizes.growth_polls), between


def _polled(growth, exporter, target, count):
    """Return the CPU milliseconds of a poll of all accounts with one scrape after it."""
    headers = {name.replace("-", "_"): value for name, value in target["headers"].items()}
    exporter.wait_for_polls(growth.accounts)
    fetch(target["url"], **headers)
    before, first = exporter.cpu_seconds(), exporter.polls
    for _ in range(count):
        exporter.wait_for_polls(growth.accounts)
        fetch(target["url"], **headers)
    return 1000 * (exporter.cpu_seconds() - before) * growth.accounts / (exporter.polls - first)


def _scraped(exporter, target, scraper, clients, count):
    """Return the milliseconds of each scrape, and the CPU milliseconds per scrape."""
    before = exporter.cpu_seconds()
    took = scraper.ask("together", target=target, clients=clients, count=count)
    time.sleep(SETTLING_SECONDS)
    # Each client scrapes once to connect.
    return took, 1000 * (exporter.cpu_seconds() - before) / (clients * (count + 1))


def _api(growth):
    return Worker("collect.api", growth.operations, growth.accounts)


@contextmanager
def _exporter(growth, api, interval):
    """Run an exporter that has polled the accounts of *api* once; yield it and the target to scrape."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        exporter = stack.enter_context(
            Exporter(
                write_accounts(folder / "accounts.yml", api.address, growth.accounts),
                "--state.path=",
                f"--collect.interval={interval}",
                f"--collect.max-operations={growth.operations}",
            )
        )
        exporter.wait_for_first_polls(growth.accounts)
        yield exporter, {"url": f"{exporter.url}/metrics", "headers": REQUESTS["gzip"]}
