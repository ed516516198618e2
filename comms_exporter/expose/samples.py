"""Adds the samples of one account to a family: numbers, one number per label value, histograms, counters with exemplars."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prometheus_client.core import Metric
from prometheus_client.samples import Exemplar as SampleExemplar

from comms_exporter.expose.operation_lines import number
from comms_exporter.model.histogram import Exemplar, Histogram

# OpenMetrics: names and values of an exemplar's labels together have at most this many characters.
_LONGEST_EXEMPLAR = 128


class WithExemplar(NamedTuple):
    """The value of a counter, and the operation or email that last increased it."""

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


# The value of a label, or the values of several.
LabelValue = str | tuple[str, ...]
# A mapping has a number for each value of the metric's label or labels. None stands for no sample.
Value = float | Mapping[LabelValue, float | WithExemplar] | Buckets | WithExemplar | None


def add_samples(family: Metric, account: str, value: Value, *, label: LabelValue = "") -> None:
    """Add the samples of *value* to *family*; *label* names the label, or labels, if *value* is a mapping."""
    labels = {"account": account}
    name = f"{family.name}_total" if family.type == "counter" else family.name
    match value:
        case Buckets():
            _add_buckets(family, labels, value)
        case WithExemplar():
            _add_number(family, name, labels, value)
        case Mapping():
            for label_value, each in value.items():
                named = zip(_as_tuple(label), _as_tuple(label_value), strict=True)
                _add_number(family, name, labels | dict(named), each)
        case None:
            pass
        case _:
            _add_number(family, name, labels, value)


def _add_number(family: Metric, name: str, labels: dict[str, str], value: float | WithExemplar) -> None:
    if isinstance(value, WithExemplar):
        family.add_sample(name, labels, value.value, exemplar=_exemplar(value.exemplar))
    else:
        family.add_sample(name, labels, value)


def _as_tuple(value: LabelValue) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _add_buckets(family: Metric, labels: dict[str, str], buckets: Buckets) -> None:
    below = 0
    for index, bound in enumerate((*buckets.bounds, float("inf"))):
        below += buckets.counts[index]
        exemplar = _exemplar(buckets.exemplars.get(index))
        family.add_sample(f"{family.name}_bucket", {**labels, "le": number(bound)}, below, exemplar=exemplar)
    family.add_sample(f"{family.name}_sum", labels, buckets.sum)
    family.add_sample(f"{family.name}_count", labels, below)


def _exemplar(exemplar: Exemplar | None) -> SampleExemplar | None:
    if exemplar is None or len(exemplar.label) + len(exemplar.id) > _LONGEST_EXEMPLAR:
        return None
    return SampleExemplar({exemplar.label: exemplar.id}, exemplar.value, exemplar.time)
