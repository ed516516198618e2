"""Adds the samples of one account to a family: numbers, one number per label value, histograms, counters with exemplars."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prometheus_client.core import Metric
from prometheus_client.samples import Exemplar as SampleExemplar

from comms_exporter.expose.operation_lines import number
from comms_exporter.model.histogram import Exemplar, Histogram

# OpenMetrics: names and values of an exemplar's labels together have at most 128 characters.
_LONGEST_EXEMPLAR = 128 - len("operation_id")


class WithExemplar(NamedTuple):
    """The value of a counter, and the operation that last increased it."""

    value: float
    exemplar: Exemplar | None


class Buckets(NamedTuple):
    """An immutable copy of a histogram."""

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float
    exemplars: Mapping[int, Exemplar]

    @classmethod
    def of(cls, histogram: Histogram) -> "Buckets":
        """Copy *histogram*."""
        return cls(histogram.bounds, tuple(histogram.counts), histogram.sum, histogram.exemplars.copy())


# A mapping has a number for each value of the metric's label. None stands for no sample.
Value = float | Mapping[str, float] | Buckets | WithExemplar | None


def add_samples(family: Metric, account: str, value: Value, *, label: str = "") -> None:
    """Add the samples of *value* to *family*; *label* names the label if *value* is a mapping."""
    labels = {"account": account}
    name = f"{family.name}_total" if family.type == "counter" else family.name
    match value:
        case Buckets():
            _add_buckets(family, labels, value)
        case WithExemplar():
            family.add_sample(name, labels, value.value, exemplar=_exemplar(value.exemplar))
        case Mapping():
            for label_value, number_of_it in value.items():
                family.add_sample(name, {**labels, label: label_value}, number_of_it)
        case None:
            pass
        case _:
            family.add_sample(name, labels, value)


def _add_buckets(family: Metric, labels: dict[str, str], buckets: Buckets) -> None:
    below = 0
    for index, bound in enumerate((*buckets.bounds, float("inf"))):
        below += buckets.counts[index]
        exemplar = _exemplar(buckets.exemplars.get(index))
        family.add_sample(f"{family.name}_bucket", {**labels, "le": number(bound)}, below, exemplar=exemplar)
    family.add_sample(f"{family.name}_sum", labels, buckets.sum)
    family.add_sample(f"{family.name}_count", labels, below)


def _exemplar(exemplar: Exemplar | None) -> SampleExemplar | None:
    if exemplar is None or len(exemplar.operation_id) > _LONGEST_EXEMPLAR:
        return None
    return SampleExemplar({"operation_id": exemplar.operation_id}, exemplar.value, exemplar.time)
