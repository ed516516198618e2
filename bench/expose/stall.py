"""For how long polls, saves and scrapes keep the loop from anything else."""

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.exporters import Exporter
from bench.expose.scrape import ASKED
from bench.processes import Worker
from bench.tables import Table

SCRAPERS = 4
SCRAPE_EVERY_SECONDS = 0.25


def measure(sizes, progress):
    """Return the table of what may change between two polls."""
    count = sizes.stall_operations
    table = Table(
        "The loop's worst moments",
        f"{count:,} operations, all exposed, polled every {sizes.interval} and saved to a file, while {SCRAPERS} clients scrape with "
        f"gzip at once, {1 / SCRAPE_EVERY_SECONDS:g} times a second. A heartbeat in the exporter's own loop wants to beat "
        "every ms: how late it was (ms), and how much CPU the loop's thread used between two beats (ms). The same heartbeat "
        "in an idle process at the same time tells what the machine adds.",
        [
            "changed at each poll",
            "late, worst",
            "late, 99.9 %",
            "CPU, worst",
            "CPU, 99.9 %",
            "idle process late, worst",
            "scrape ms, median",
            "scrape ms, worst",
        ],
    )
    hundredth = max(1, count // 100)
    modes = {
        "nothing": (0, False),
        "1 %, the newest": (hundredth, False),
        "1 %, spread": (hundredth, True),
        "all": (count, False),
    }
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="bench-")))
        api = enter(Worker("collect.api", count, 1))
        ours = enter(
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
        ours.wait_for_first_polls()
        target = {"url": f"{ours.url}/metrics", "headers": ASKED["gzip"]}
        scraper.ask("begin", target=target, clients=SCRAPERS, every=SCRAPE_EVERY_SECONDS)
        for name, (changed, spread) in modes.items():
            progress(f"the loop, when this changes: {name}")
            api.ask("change", count=changed, spread=spread)
            ours.wait_for_polls(2)
            scraper.ask("taken")
            for each in (ours, idle):
                each.ask("begin")
            # Polls come every second, scrapes more often: both are in any such span.
            time.sleep(max(sizes.stall_seconds, 2 * SCRAPE_EVERY_SECONDS))
            told, floor, took = ours.ask("told"), idle.ask("told"), scraper.ask("taken")
            table.add(
                name,
                *(told[key] for key in ("late", "late_999", "burnt", "burnt_999")),
                floor["late"],
                median(took),
                max(took),
            )
        scraper.ask("end")
    return [table]
