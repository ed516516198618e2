"""Cost of a scrape, compared with nginx serving the same bytes and prometheus_client serving the same samples."""

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
REQUESTS = {
    "identity": {"Accept": TEXT},
    "gzip": {"Accept": TEXT, "Accept-Encoding": "gzip"},
    "gzip, Accept header of Prometheus 3": {"Accept": PROMETHEUS, "Accept-Encoding": "gzip"},
}
CPU_BLOCKS = 3
# A server may still be busy when the client has the whole response.
SETTLING_SECONDS = 0.02


class DifferentError(Exception):
    """Two servers do not return the same samples, so they cannot be compared."""


def measure(sizes, progress):
    """Return the table of all sizes."""
    table = Table(
        "Scrapes",
        "Median of interleaved rounds, between two polls. nginx serves the exporter's output as files. prometheus_client uses "
        "its own renderer, gzip and server, with the samples in memory.",
        [
            "operations",
            "encoding",
            "MB",
            "ms",
            "nginx ms",
            "ratio to nginx",
            "prometheus_client ms",
            "prometheus_client / exporter",
            "CPU ms",
            "nginx CPU ms",
            "prometheus_client CPU ms, mean of identity and gzip",
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
    same_bytes = ", and nginx returned the same bytes" if program else ""
    table.remarks.append(
        f"In this run, prometheus_client returned the same samples as the exporter, with and without gzip{same_bytes}."
    )
    return [table]


def _one(size, program):
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="bench-")))
        api = enter(Worker("collect.api", size.operations, 1))
        exporter = enter(
            Exporter(
                "--state.path=",
                "--collect.interval=10m",
                f"--collect.max-operations={size.operations}",
                api=api.address,
            )
        )
        exporter.wait_for_first_polls()
        url = f"{exporter.url}/metrics"
        page = fetch(url, Accept=TEXT)
        (folder / "metrics").write_bytes(page)
        # Some gauges have changed in the compressed page, so it needs a name of its own in nginx.
        zipped = fetch(url, Accept=TEXT, Accept_Encoding="gzip")
        (folder / "zipped.gz").write_bytes(zipped)
        (folder / "zipped").write_bytes(page_of(zipped))
        client_python = enter(Worker("expose.client_python_server", folder / "metrics"))
        files = enter(nginx.Nginx(program, folder)) if program else None
        _check(page, zipped, url, client_python.address, files)
        scraper = enter(Worker("expose.scraper"))
        return list(
            _rows(
                size,
                scraper,
                (exporter, url),
                (files, files and files.url),
                (client_python, client_python.address),
                len(page),
                len(zipped),
            )
        )


def _check(page, zipped, url, client_python, files):
    """Raise if the servers do not return the same samples; those of operations do not change between polls."""
    library_page, library_zipped = (
        fetch(f"{client_python}/metrics"),
        fetch(f"{client_python}/metrics", Accept_Encoding="gzip"),
    )
    good = {
        "prometheus_client": same(library_page, page),
        "prometheus_client, gzip": same(library_zipped, page) and library_zipped[:2] == b"\x1f\x8b",
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


def _rows(size, scraper, exporter, files, client_python, *bytes_of):
    every = size.rounds // size.prometheus_client_rounds
    targets, servers = {}, {}
    for encoding, headers in REQUESTS.items():
        targets["exporter", encoding] = {"url": exporter[1], "headers": headers}
        servers["exporter", encoding] = exporter[0]
        if encoding not in {"identity", "gzip"}:
            continue
        if files[0] is not None:
            file = "metrics" if encoding == "identity" else "zipped"
            targets["nginx", encoding] = {"url": f"{files[1]}/{file}", "headers": headers}
            servers["nginx", encoding] = files[0]
        targets["client_python", encoding] = {"url": f"{client_python[1]}/metrics", "headers": headers, "every": every}
    client_python_before = client_python[0].cpu_seconds()
    took = dict(zip(targets, scraper.ask("rounds", targets=list(targets.values()), count=size.rounds), strict=True))
    client_python_scrapes = sum(len(each) for (who, _), each in took.items() if who == "client_python")
    client_python_cpu = 1000 * (client_python[0].cpu_seconds() - client_python_before) / client_python_scrapes
    cpu = {who: [] for who in servers}
    for _ in range(CPU_BLOCKS):
        for who, server in servers.items():
            cpu[who].append(_cpu(scraper, targets[who], server, size.block))
    for encoding in REQUESTS:
        plain = encoding == "identity"
        exporter_ms = median(took["exporter", encoding])
        # Both requests with gzip return nearly the same bytes.
        compared = "identity" if plain else "gzip"
        nginx_ms = median(took["nginx", compared]) if ("nginx", compared) in took else math.nan
        client_python_ms = median(took["client_python", encoding]) if ("client_python", encoding) in took else math.nan
        yield (
            f"{size.operations:,}",
            encoding,
            bytes_of[0 if plain else 1] / 1e6,
            exporter_ms,
            nginx_ms,
            exporter_ms / nginx_ms,
            client_python_ms,
            client_python_ms / exporter_ms,
            median(cpu["exporter", encoding]),
            median(cpu["nginx", compared]) if ("nginx", compared) in cpu else math.nan,
            client_python_cpu if ("client_python", encoding) in took else math.nan,
        )


def _cpu(scraper, target, server, count):
    """Return the CPU milliseconds of *server* per scrape, over *count* scrapes in a row."""
    before = server.cpu_seconds()
    scraper.ask("together", target=target, clients=1, count=count)
    time.sleep(SETTLING_SECONDS)
    # together() also scrapes once to connect.
    return 1000 * (server.cpu_seconds() - before) / (count + 1)
