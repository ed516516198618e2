"""Serves the samples of a page with prometheus_client: a custom collector, its renderer, its gzip and its server.

Usage: python -m bench.expose.client_python_server PAGE. PAGE is a file with the exporter's output. It is parsed once. At every
scrape the collector makes metrics of the samples, as prometheus_client's documentation recommends.
"""

import re
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bench.expose.samples import LABEL, SERIES
from bench.rpc import reply, serve_blocking


class Family:
    """One family of the page."""

    def __init__(self, name, text, kind):
        self.name, self.text, self.kind = name, text, kind
        self.samples = []
        self._labels = None

    def finish(self):
        """Find out once whether all samples have the same label names."""
        names = {tuple(labels) for _, labels, _ in self.samples}
        if self.kind == "gauge" and len(names) == 1:
            (self._labels,) = names
            self.samples = [(tuple(labels.values()), value) for _, labels, value in self.samples]

    def metric(self):
        """Return it as a metric of prometheus_client."""
        if self._labels is not None:
            family = GaugeMetricFamily(self.name, self.text, labels=self._labels)
            for values, value in self.samples:
                family.add_metric(values, value)
            return family
        # A counter family's name has no suffix. A histogram has samples of several names.
        family = Metric(self.name.removesuffix("_total") if self.kind == "counter" else self.name, self.text, self.kind)
        for name, labels, value in self.samples:
            family.add_sample(name, labels, value)
        return family


class Page(Collector):
    """All families of the page."""

    def __init__(self, text):
        self._families = []
        help_text = ""
        for line in text.splitlines():
            if line.startswith("# HELP "):
                help_text = line.split(" ", 3)[3]
            elif line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                self._families.append(Family(name, help_text, kind))
            elif line and not line.startswith("#"):
                name, labels, value = SERIES.fullmatch(line).groups()
                self._families[-1].samples.append((name, dict(re.findall(LABEL, labels or "")), float(value)))
        for family in self._families:
            family.finish()

    def collect(self):
        return [family.metric() for family in self._families]


def main(path):
    """Serve until the benchmark closes the pipe."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Page(Path(path).read_text(encoding="utf-8")))
    server, _ = start_http_server(0, "127.0.0.1", registry)
    reply(f"http://127.0.0.1:{server.server_port}")
    serve_blocking({})


if __name__ == "__main__":
    main(sys.argv[1])
