"""The same samples by prometheus_client: a custom collector, its own writer, its own gzip and its own server.

Usage: python -m bench.expose.client_python_server PAGE, where PAGE is a file that the exporter has written. The samples are read from it once;
at every scrape the collector makes metrics of them, as prometheus_client's documentation shows it.
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
    """One family as it stands on the page."""

    def __init__(self, name, text, kind):
        self.name, self.text, self.kind = name, text, kind
        self.samples = []
        self._labels = None

    def finish(self):
        """Do once what is not the writer's business: see whether all samples have labels of the same names."""
        names = {tuple(labels) for _, labels, _ in self.samples}
        if self.kind == "gauge" and len(names) == 1:
            (self._labels,) = names
            self.samples = [(tuple(labels.values()), value) for _, labels, value in self.samples]

    def metric(self):
        """Return it as prometheus_client wants it."""
        if self._labels is not None:
            family = GaugeMetricFamily(self.name, self.text, labels=self._labels)
            for values, value in self.samples:
                family.add_metric(values, value)
            return family
        # The name of a counter's family is without its ending, and a histogram has samples of several names.
        family = Metric(self.name.removesuffix("_total") if self.kind == "counter" else self.name, self.text, self.kind)
        for name, labels, value in self.samples:
            family.add_sample(name, labels, value)
        return family


class Page(Collector):
    """Everything that stands on the page."""

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
    """Serve until the benchmark goes away."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Page(Path(path).read_text(encoding="utf-8")))
    server, _ = start_http_server(0, "127.0.0.1", registry)
    reply(f"http://127.0.0.1:{server.server_port}")
    serve_blocking({})


if __name__ == "__main__":
    main(sys.argv[1])
