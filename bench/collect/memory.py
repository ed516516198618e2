"""Memory per operation."""

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
    """Return the table of bytes per tracked and per exposed operation."""
    few, *counts = sizes.memory
    table = Table(
        "Memory",
        f"Resident memory per operation, compared with the same process with {few:,} operations, after freeing what can be "
        "freed. Half of the operations are transactional (1 recipient), half are campaigns (up to "
        f"{LARGEST_CAMPAIGN:,} recipients, random counters).",
        ["operations", "exposed", "state file", "bytes per operation"],
    )
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="bench-")))
        progress(f"memory of {counts[-1]:,} operations")
        api = enter(Worker("collect.api", counts[-1], 1))
        api.ask("show", count=few)
        # Both processes run at the same time: their memory does not depend on the load of the machine.
        held = {
            "no": _harness(sizes, enter, api, 0, ""),
            "yes": _harness(sizes, enter, api, 0, f"{folder}/state.db"),
        }
        before = {}
        for name, each in held.items():
            each.wait_for_polls(2)
            before[name] = each.ask("resident")
        tracked = {}
        for count in counts:
            api.ask("show", count=count)
            # The first of these polls may have started before the change.
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
        table.add(f"{count:,}", "all, scraped with gzip", "no", held)
        table.remarks.append(f"An exposed operation takes {held - tracked['no', count]:,.0f} bytes more.")
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
