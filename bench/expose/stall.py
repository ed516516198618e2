"""How long polls, saves and scrapes block the event loop."""

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.exporters import Exporter
from bench.expose.scrape import REQUESTS
from bench.processes import Worker
from bench.tables import Table

SCRAPERS = 4
SCRAPE_EVERY_SECONDS = 0.25


def measure(sizes, progress):
    """Return the table by what changes between two polls."""
    count = sizes.stall_operations
    table = Table(
        "Event loop latency",
        f"{count:,} operations, all exposed, polled every {sizes.interval} with a state file, while {SCRAPERS} clients scrape with "
        f"gzip concurrently, {1 / SCRAPE_EVERY_SECONDS:g} times a second. A heartbeat in the exporter's event loop is due every "
        "ms. The table shows its delay (ms), the CPU time of the loop's thread between two beats (ms), and, for comparison, the "
        "delay of the same heartbeat in an idle process.",
        [
            "changed at each poll",
            "delay, max",
            "delay, p99.9",
            "CPU, max",
            "CPU, p99.9",
            "idle process, max delay",
            "scrape ms, median",
            "scrape ms, max",
        ],
    )
    hundredth = max(1, count // 100)
    modes = {
        "nothing": (0, False),
        "the newest 1 %": (hundredth, False),
        "evenly spread 1 %": (hundredth, True),
        "all": (count, False),
    }
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="bench-")))
        api = enter(Worker("collect.api", count, 1))
        exporter = enter(
            Exporter(
                f"--state.path={folder}/state.db",
                f"--collect.interval={sizes.interval}",
                f"--collect.max-operations={count}",
                api=api.address,
                harness=True,
            )
        )
        idle = enter(Worker("harness"))
        scraper = enter(Worker("expose.scraper"))
        exporter.wait_for_first_polls()
        target = {"url": f"{exporter.url}/metrics", "headers": REQUESTS["gzip"]}
        scraper.ask("begin", target=target, clients=SCRAPERS, every=SCRAPE_EVERY_SECONDS)
        for name, (changed, spread) in modes.items():
            progress(f"loop latency, changed: {name}")
            api.ask("change", count=changed, spread=spread)
            exporter.wait_for_polls(2)
            scraper.ask("taken")
            for each in (exporter, idle):
                each.ask("begin")
            # Polls come every second and scrapes more often, so this time contains both.
            time.sleep(max(sizes.stall_seconds, 2 * SCRAPE_EVERY_SECONDS))
            report, floor, took = exporter.ask("report"), idle.ask("report"), scraper.ask("taken")
            table.add(
                name,
                *(report[key] for key in ("max_delay", "p999_delay", "max_cpu", "p999_cpu")),
                floor["max_delay"],
                median(took),
                max(took),
            )
        scraper.ask("end")
    return [table]
