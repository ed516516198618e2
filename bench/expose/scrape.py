"""How long a scrape takes: beside nginx with the same bytes in files, and beside prometheus_client with the same samples."""

import math
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.exporters import Exporter
from bench.expose import nginx
from bench.expose.samples import fetch, page_of, same
from bench.processes import Worker
from bench.tables import Table

TEXT = "text/plain;version=0.0.4"
# What Prometheus 3 sends with its default settings.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
ASKED = {
    "identity": {"Accept": TEXT},
    "gzip": {"Accept": TEXT, "Accept-Encoding": "gzip"},
    "gzip, as Prometheus 3": {"Accept": PROMETHEUS, "Accept-Encoding": "gzip"},
}
CPU_BLOCKS = 3
# A server may still be tidying up when the client has everything.
SETTLING_SECONDS = 0.02


class DifferentError(Exception):
    """Two contenders do not say the same, so there is nothing to compare."""


def measure(sizes, progress):
    """Return the table of all sizes."""
    table = Table(
        "Scrapes",
        "Median of interleaved rounds; between two polls. nginx has the bytes that the exporter wrote as files, "
        "prometheus_client (its own writer, gzip and server) the samples in memory.",
        [
            "operations",
            "asked for",
            "MB",
            "ms",
            "nginx ms",
            "times nginx",
            "prometheus_client ms",
            "times faster",
            "CPU ms",
            "nginx CPU ms",
            "prometheus_client CPU ms, mean of both",
        ],
    )
    try:
        program = nginx.find()
    except nginx.MissingError as error:
        program = None
        table.remarks.append(f"{error}: its columns are empty.")
    for size in sizes.scrape:
        progress(f"scrapes of {size.operations:,} operations")
        for row in _one(size, program):
            table.add(*row)
    table.remarks.append(
        "In this run, prometheus_client's pages held the same samples as the exporter's, plain and compressed, and nginx's "
        "were the same bytes."
        if program
        else "In this run, prometheus_client's pages held the same samples as the exporter's, plain and compressed."
    )
    return [table]


def _one(size, program):
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="bench-")))
        api = enter(Worker("collect.api", size.operations, 1))
        ours = enter(
            Exporter(
                "--state.path=",
                "--collect.interval=10m",
                f"--collect.max-operations={size.operations}",
                api=api.address,
            )
        )
        ours.wait_for_first_polls()
        url = f"{ours.url}/metrics"
        page = fetch(url, Accept=TEXT)
        (folder / "metrics").write_bytes(page)
        # Compressed is another page, some gauges later; nginx gets a name for it.
        zipped = fetch(url, Accept=TEXT, Accept_Encoding="gzip")
        (folder / "zipped.gz").write_bytes(zipped)
        (folder / "zipped").write_bytes(page_of(zipped))
        rival = enter(Worker("expose.client_python_server", folder / "metrics"))
        files = enter(nginx.Nginx(program, folder)) if program else None
        _check(page, zipped, url, rival.address, files)
        scraper = enter(Worker("expose.scraper"))
        return list(
            _rows(
                size, scraper, (ours, url), (files, files and files.url), (rival, rival.address), len(page), len(zipped)
            )
        )


def _check(page, zipped, url, rival, files):
    """Raise where not everybody says the same; what each says of operations does not change between polls."""
    theirs, theirs_zipped = fetch(f"{rival}/metrics"), fetch(f"{rival}/metrics", Accept_Encoding="gzip")
    good = {
        "prometheus_client": same(theirs, page),
        "prometheus_client, gzip": same(theirs_zipped, page) and theirs_zipped[:2] == b"\x1f\x8b",
        "gzip": same(zipped, page, b"comms_email_operation") and zipped[:2] == b"\x1f\x8b",
        "OpenMetrics": same(
            fetch(url, Accept=PROMETHEUS, Accept_Encoding="gzip"), page, b"comms_email_operation_status"
        ),
    }
    if files is not None:
        good["nginx"] = fetch(f"{files.url}/metrics") == page
        good["nginx, gzip"] = fetch(f"{files.url}/zipped", Accept_Encoding="gzip") == zipped
    wrong = [name for name, is_good in good.items() if not is_good]
    if wrong:
        raise DifferentError(f"not the same samples: {', '.join(wrong)}")


def _rows(size, scraper, ours, files, rival, *bytes_of):
    every = size.rounds // size.rival_rounds
    targets, servers = {}, {}
    for asked, headers in ASKED.items():
        targets["ours", asked] = {"url": ours[1], "headers": headers}
        servers["ours", asked] = ours[0]
        if asked not in {"identity", "gzip"}:
            continue
        if files[0] is not None:
            file = "metrics" if asked == "identity" else "zipped"
            targets["nginx", asked] = {"url": f"{files[1]}/{file}", "headers": headers}
            servers["nginx", asked] = files[0]
        targets["rival", asked] = {"url": f"{rival[1]}/metrics", "headers": headers, "every": every}
    rival_before = rival[0].cpu_seconds()
    took = dict(zip(targets, scraper.ask("rounds", targets=list(targets.values()), count=size.rounds), strict=True))
    rival_scrapes = sum(len(each) for (who, _), each in took.items() if who == "rival")
    rival_cpu = 1000 * (rival[0].cpu_seconds() - rival_before) / rival_scrapes
    cpu = {who: [] for who in servers}
    for _ in range(CPU_BLOCKS):
        for who, server in servers.items():
            cpu[who].append(_cpu(scraper, targets[who], server, size.block))
    for asked in ASKED:
        plain = asked == "identity"
        mine = median(took["ours", asked])
        # Both ways of asking for gzip bring nearly the same bytes.
        beside = "identity" if plain else "gzip"
        file = median(took["nginx", beside]) if ("nginx", beside) in took else math.nan
        their = median(took["rival", asked]) if ("rival", asked) in took else math.nan
        yield (
            f"{size.operations:,}",
            asked,
            bytes_of[0 if plain else 1] / 1e6,
            mine,
            file,
            mine / file,
            their,
            their / mine,
            median(cpu["ours", asked]),
            median(cpu["nginx", beside]) if ("nginx", beside) in cpu else math.nan,
            rival_cpu if ("rival", asked) in took else math.nan,
        )


def _cpu(scraper, target, server, count):
    """Return the milliseconds of CPU that each of *count* scrapes in a row takes of *server*."""
    before = server.cpu_seconds()
    scraper.ask("together", target=target, clients=1, count=count)
    time.sleep(SETTLING_SECONDS)
    # together() scrapes once to connect.
    return 1000 * (server.cpu_seconds() - before) / (count + 1)
