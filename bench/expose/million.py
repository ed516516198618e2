"""A real Prometheus that scrapes a million series from one exporter."""

import json
import os
import re
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from bench.exporters import Exporter
from bench.expose.samples import fetch
from bench.processes import ROOT, Child, ChildError, Worker
from bench.tables import Table

TIMEOUT_SECONDS = 60
# Prometheus discovers its targets five seconds after the start and spreads first scrapes over an interval.
_SCRAPES_TIMEOUT_SECONDS = 150


class Prometheus(Child):
    """A Prometheus 3 that scrapes the exporter at *url*."""

    def __init__(self, program, folder, url, interval, *flags):
        self._file = folder / "prometheus.json"
        self._database = folder / "tsdb"
        self._target = urlsplit(url)
        self.configure(interval)
        super().__init__(
            program,
            f"--config.file={self._file}",
            "--web.listen-address=127.0.0.1:0",
            f"--storage.tsdb.path={self._database}",
            "--web.enable-lifecycle",
            *flags,
        )
        self.url = ""

    def started(self):
        address = re.search(r"address=(\S+)", self.until(r'msg="?Listening on'))[1]
        self.url = f"http://{address}"
        self.until("Server is ready")

    def configure(self, interval):
        """Set the scrape interval and the scrape timeout to *interval*."""
        scraping = {"scrape_interval": interval, "scrape_timeout": interval}
        target = {
            "metrics_path": self._target.path or "/metrics",
            "static_configs": [{"targets": [self._target.netloc]}],
        }
        jobs = [{"job_name": "bench", **target, **scraping}]
        # JSON is YAML.
        self._file.write_text(json.dumps({"scrape_configs": jobs}), encoding="utf-8")

    def reload(self):
        """Reload the configuration."""
        urlopen(Request(f"{self.url}/-/reload", method="POST"), timeout=TIMEOUT_SECONDS).close()

    def samples(self, name):
        """Return all samples of the series *name*."""
        answer = json.loads(fetch(f"{self.url}/api/v1/query?query={quote(name)}[1h]"))
        return [float(value) for series in answer["data"]["result"] for _, value in series["values"]]

    def size_of_blocks(self):
        """Write all samples to blocks, and return their bytes; needs --web.enable-admin-api."""
        urlopen(Request(f"{self.url}/api/v1/admin/tsdb/snapshot", method="POST"), timeout=TIMEOUT_SECONDS).close()
        return sum(each.stat().st_size for each in (self._database / "snapshots").rglob("*") if each.is_file())

    def wait_for_scrapes(self, count):
        """Wait for *count* scrapes, and return the seconds of each."""
        deadline = time.monotonic() + _SCRAPES_TIMEOUT_SECONDS
        while len(took := self.samples("scrape_duration_seconds")) < count:
            if time.monotonic() > deadline:
                raise ChildError(f"{len(took)} scrapes instead of {count}:\n{self._log[-5:]}")
            time.sleep(0.2)
        return took


def find():
    """Return the Prometheus 3 that tools/fetch-prometheus installed, or None."""
    folder = Path(os.environ.get("PROMETHEUS_3") or ROOT / ".tools/prometheus-3/bin")
    program = folder / "prometheus"
    return program if os.access(program, os.X_OK) else None


def version(program):
    """Return its version."""
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return output.split()[2].partition("+")[0]


def measure(sizes, progress):
    """Return the table of the first scrape and of the following ones."""
    table = Table(
        "A million series in one scrape",
        f"Prometheus 3, {sizes.million_operations:,} operations with 17 series each. Seconds are Prometheus' own "
        "scrape_duration_seconds.",
        ["scrape", "seconds", "series", "up", "exporter's CPU ms", "Prometheus' CPU s", "Prometheus' memory MiB"],
    )
    program = find()
    if program is None:
        table.remarks.append("Prometheus 3 is not installed; run tools/fetch-prometheus.")
        return [table]
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="bench-")))
        api = enter(Worker("collect.api", sizes.million_operations, 1))
        exporter = enter(
            Exporter(
                "--state.path=",
                "--collect.interval=10m",
                f"--collect.max-operations={sizes.million_operations}",
                api=api.address,
            )
        )
        exporter.wait_for_first_polls()
        progress(f"Prometheus scrapes {17 * sizes.million_operations:,} series")
        server = enter(Prometheus(program, folder, exporter.url, sizes.million_first_interval))

        def spent():
            return exporter.cpu_seconds(), server.cpu_seconds()

        def add(name, seconds, before, scrapes):
            exporter_cpu, prometheus_cpu = (now - was for now, was in zip(spent(), before, strict=True))
            table.add(
                name,
                seconds,
                int(server.samples("scrape_samples_scraped")[-1]),
                int(server.samples("up")[-1]),
                1000 * exporter_cpu / scrapes,
                prometheus_cpu / scrapes,
                int(server.resident_bytes() / 2**20),
            )

        before = spent()
        server.wait_for_scrapes(1)
        add("first", server.samples("scrape_duration_seconds")[0], before, 1)
        server.configure(f"{sizes.million_interval_seconds}s")
        server.reload()
        # The first scrape after the change may come at any time and does not count.
        before_count = len(server.samples("scrape_duration_seconds")) + 1
        server.wait_for_scrapes(before_count)
        before = spent()
        took = server.wait_for_scrapes(before_count + sizes.million_scrapes)[before_count:]
        add(f"next {len(took)}, median", median(took), before, len(took))
    return [table]
