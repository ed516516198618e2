"""What the series of operations cost a real Prometheus, by sender and by --collect.operations."""

import re
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import mean

from bench.expose.million import Prometheus, find
from bench.expose.samples import fetch
from bench.expose.simulated_hours import MODES
from bench.processes import ChildError, Worker
from bench.tables import Table

_POLLS_AT_A_TIME = 10
_TIMEOUT_SECONDS = 600


def measure(sizes, progress):
    """Return the table by sender and mode."""
    table = Table(
        "What series of operations cost",
        "Simulated senders whose operations are spread evenly over the week: most have one recipient, a tenth have up to 200, and four a "
        f"day are campaigns. Prometheus 3 scrapes the pages of {2 * sizes.churn_polls} polls into an empty database, one for every 30 "
        "seconds of the sender's time. Operations with series, new series and samples are those of the second half. The series in the "
        "head, the resident memory and the blocks on disk are those of all scrapes; memory and disk are compared with `none`.",
        [
            "operations per week",
            "--collect.operations",
            "operations with series",
            "new series per hour",
            "samples per hour",
            "series in the head",
            "MB of memory",
            "MB on disk per day",
        ],
    )
    program = find()
    if program is None:
        table.remarks.append("Prometheus 3 is not installed; run tools/fetch-prometheus.")
        return [table]
    for operations in sizes.churn_senders:
        progress(f"{operations:,} operations per week")
        for mode, row in _one(program, operations, sizes, progress):
            table.add(f"{operations:,}", f"`{mode}`", *row)
    return [table]


def _one(program, operations, sizes, progress):
    """Return (mode, figures) of one sender."""
    polls = sizes.churn_polls
    hours = 2 * polls * 30 / 3600
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="bench-")))
        sender = enter(Worker("expose.simulated_hours", operations, sizes.churn_history, sizes.churn_limit))
        for _ in range(2 * polls // _POLLS_AT_A_TIME):
            sender.ask("simulate", polls=_POLLS_AT_A_TIME)
        exposed = sender.ask("exposed")
        progress("scrapes")
        servers = {}
        for mode in MODES:
            (folder / mode).mkdir()
            url = f"{sender.address}/{mode}/metrics"
            servers[mode] = enter(
                Prometheus(program, folder / mode, url, sizes.churn_interval, "--web.enable-admin-api")
            )
        before = _once_served(sender, servers, polls)
        after = _once_served(sender, servers, 2 * polls)
        # What the client library and the runtime of Prometheus need is the same in each mode.
        memory = {mode: servers[mode].resident_bytes() / 1e6 for mode in MODES}
        disk = {mode: servers[mode].size_of_blocks() / 1e6 for mode in MODES}
        for mode in MODES:
            created, samples = (
                (now - was) * 2 / hours for now, was in zip(after[mode][:2], before[mode][:2], strict=True)
            )
            yield (
                mode,
                (
                    int(mean(exposed[mode][polls:])),
                    int(created),
                    int(samples),
                    int(after[mode][2]),
                    round(memory[mode] - memory["none"]),
                    (disk[mode] - disk["none"]) * 24 / hours,
                ),
            )


def _once_served(sender, servers, count):
    """Return (series created, samples appended, series in the head) of each server at the moment when it has scraped *count* pages."""
    found = {}
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while len(found) < len(servers):
        served = sender.ask("served")
        for mode, server in servers.items():
            if mode not in found and served[mode] >= count:
                page = fetch(f"{server.url}/metrics").decode()
                found[mode] = [
                    sum(
                        float(value)
                        for value in re.findall(rf"^prometheus_tsdb_head_{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE)
                    )
                    for name in ("series_created_total", "samples_appended_total", "series")
                ]
        if time.monotonic() > deadline:
            raise ChildError(f"Prometheus has scraped only {served} pages")
        time.sleep(0.05)
    return found
