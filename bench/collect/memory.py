"""What an operation costs in memory that is held from poll to poll."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.collect.operations import LARGEST_CAMPAIGN
from bench.exporters import Exporter
from bench.expose.samples import fetch
from bench.expose.scrape import TEXT
from bench.processes import Worker
from bench.tables import Table


def measure(sizes, progress):
    """Return the table of bytes per operation, tracked and exposed."""
    few, *counts = sizes.memory
    table = Table(
        "Memory",
        f"Resident bytes, after everything free was given back, beyond those of the same process with {few:,} operations, "
        "for each operation. Half are transactional mail (1 recipient), half campaigns (up to "
        f"{LARGEST_CAMPAIGN:,} recipients, random counters).",
        ["operations", "exposed", "state file", "bytes per operation"],
    )
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="bench-")))
        progress(f"memory of {counts[-1]:,} operations")
        api = enter(Worker("collect.api", counts[-1], 1))
        api.ask("show", count=few)
        # One process each, at the same time: what they hold does not depend on how busy the machine is.
        held = {
            "none": _harness(sizes, enter, api, 0, ""),
            "kept": _harness(sizes, enter, api, 0, f"{folder}/state.db"),
        }
        before = {}
        for name, each in held.items():
            each.wait_for_polls(2)
            before[name] = each.ask("resident")
        tracked = {}
        for count in counts:
            api.ask("show", count=count)
            # The first of them may have begun with fewer.
            for each in held.values():
                each.wait_for_polls(2)
            for name, each in held.items():
                tracked[name, count] = (each.ask("resident") - before[name]) / count
                table.add(f"{count:,}", "none", name, tracked[name, count])
    with ExitStack() as stack:
        count = sizes.memory_exposed
        progress(f"memory of {count:,} exposed operations")
        api = stack.enter_context(Worker("collect.api", count, 1))
        api.ask("show", count=few)
        exposing = _harness(sizes, stack.enter_context, api, count, "")
        before = _scraped_and_resident(exposing)
        api.ask("show", count=count)
        held = (_scraped_and_resident(exposing) - before) / count
        table.add(f"{count:,}", "all, and scraped with gzip", "none", held)
        table.remarks.append(f"So an exposed operation takes {held - tracked['none', count]:,.0f} bytes on top.")
    return [table]


def _harness(sizes, enter, api, exposed, path):
    return enter(
        Exporter(
            f"--state.path={path}",
            f"--collect.interval={sizes.interval}",
            f"--collect.max-operations={exposed}",
            api=api.address,
            harness=True,
        )
    )


def _scraped_and_resident(exposing):
    exposing.wait_for_polls(2)
    for _ in range(2):
        fetch(f"{exposing.url}/metrics", Accept=TEXT, Accept_Encoding="gzip")
    return exposing.ask("resident")
