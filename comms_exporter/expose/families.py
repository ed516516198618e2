"""The metrics: name, type, HELP, labels and how a value is read, once for each. Names are a contract (docs/metrics.md).

The samples of single operations are written as text: prometheus_client takes 17 microseconds for each of their series.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.samples import Exemplar as SampleExemplar
from prometheus_client.utils import floatToGoString

from comms_exporter import __version__
from comms_exporter.api.errors import REASONS
from comms_exporter.api.request_stats import RequestStats
from comms_exporter.collect.health import PollHealth, Reloads
from comms_exporter.collect.state import EXEMPLIFIED, AccountState, View
from comms_exporter.model.histogram import Exemplar, Histogram
from comms_exporter.model.operations import STATS, STATUSES, Operation
from comms_exporter.model.readings import REACHED, Reading
from comms_exporter.model.records import TOTALS

CACHED = "As of the last poll, see comms_exporter_last_poll_success_timestamp_seconds."
# The codes that Twilio documents for these requests, and those it gives without saying so.
KNOWN_CODES = ("200", "400", "401", "403", "404", "429", "500", "503", "error")
UNKNOWN_FIELDS = ("status", "operation", "stats")
# OpenMetrics: names and values of an exemplar's labels together hold at most 128 characters.
_LONGEST_EXEMPLAR = 128 - len("operation_id")


class Account(Protocol):
    """What there is to say about one account."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def state(self) -> AccountState: ...  # noqa: D102
    @property
    def view(self) -> View: ...  # noqa: D102
    @property
    def health(self) -> PollHealth: ...  # noqa: D102
    @property
    def request_stats(self) -> RequestStats: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Shard:
    """Which of how many exporters this one is, from 0."""

    index: int = 0
    total: int = 1


_EMAILS = {
    "total": "Emails created by the operation.",
    "recipients": "Recipients targeted by the operation.",
    "attempts": "Send attempts by Twilio.",
    "scheduled": "Emails waiting for their scheduled time.",
    "queued": "Emails queued at Twilio.",
    "sent": "Emails sent by Twilio.",
    "delivered": "Emails delivered to the recipient's server.",
    "opened": "Emails opened, by unique recipients.",
    "undelivered": "Emails sent but not delivered.",
    "failed": "Emails that failed inside Twilio.",
    "canceled": "Emails canceled by API request.",
}

STATUS_FAMILY = "comms_email_operation_status"

# Gauges for every exposed operation, name and HELP: the first has one series per status, the others one each, of values().
OPERATION_FAMILIES = (
    (STATUS_FAMILY, f"1 for the current status of the operation, 0 for every other status. {CACHED}"),
    *(
        (
            f"comms_email_operation_{'emails' if name == 'total' else name}",
            f"{_EMAILS[name]} stats.{name} as reported by the API; absent if not reported. {CACHED}",
        )
        for name in STATS
    ),
    ("comms_email_operation_created_timestamp_seconds", f"When the operation was created (createdAt). {CACHED}"),
    ("comms_email_operation_updated_timestamp_seconds", f"When the operation last changed (updatedAt). {CACHED}"),
)

_TOTAL_NAMES = {
    "total": ("comms_emails_created", "Emails created (stats.total)"),
    "recipients": ("comms_email_recipients", "Recipients targeted"),
    "attempts": ("comms_email_attempts", "Send attempts by Twilio"),
    "sent": ("comms_emails_sent", "Emails sent by Twilio"),
    "delivered": ("comms_emails_delivered", "Emails delivered to the recipient's server"),
    "opened": ("comms_emails_opened", "Emails opened, by unique recipients"),
    "undelivered": ("comms_emails_undelivered", "Emails sent but not delivered"),
    "failed": ("comms_emails_failed", "Emails that failed inside Twilio"),
    "canceled": ("comms_emails_canceled", "Emails canceled by API request"),
    "operations_created": ("comms_email_operations_created", "Operations created"),
    "operations_completed": ("comms_email_operations_completed", "Operations that reached COMPLETED"),
    "operations_canceled": ("comms_email_operations_canceled", "Operations that reached CANCELED"),
}


def values(operation: Operation) -> tuple[float | None, ...]:
    """Return what there is to say about *operation* in each of OPERATION_FAMILIES but the first; None means nothing."""
    return (*operation.stats, operation.created, operation.updated)


def operation_texts(account: str, operations: Sequence[Operation]) -> list[str]:
    """Return the sample lines of *operations*, one text for each of OPERATION_FAMILIES."""
    opening = f'{{account="{escape(account)}",operation_id="'
    labels = [f'{opening}{escape(each.id)}"' for each in operations]
    texts = ["".join(map(_status_lines, labels, [each.status for each in operations]))]
    for (name, _), column in zip(OPERATION_FAMILIES[1:], zip(*map(values, operations), strict=True), strict=True):
        pairs = zip(labels, column, strict=True)
        texts.append("".join([f"{name}{label}}} {number(n)}\n" for label, n in pairs if n is not None]))
    return texts


def _status_lines(labels: str, present: str) -> str:
    return "".join([f"{STATUS_FAMILY}{labels}{ending}" for ending in _status_endings(present)])


@lru_cache
def _status_endings(present: str) -> list[str]:
    statuses = STATUSES if present in STATUSES else (*STATUSES, present)
    return [f',status="{escape(status)}"}} {"1.0" if status == present else "0.0"}\n' for status in statuses]


def escape(value: str) -> str:
    """Return *value* as it stands between the quotes of a label."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def number(value: float) -> str:
    """Return *value* as prometheus_client writes it."""
    if type(value) is int and value < 1_000_000:
        return f"{value}.0"
    return _by_the_library(value)


# Few moments are those of many operations, and most operations are written again only because their neighbours changed.
@lru_cache(maxsize=4096)
def _by_the_library(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


# The metrics of an account, in the order of the page: everything about a metric stands in its row, and only there.


class Exemplified(NamedTuple):
    """The value of a counter, and the operation that last moved it."""

    value: float
    exemplar: Exemplar | None


Value = float | Mapping[str, float] | Histogram | Exemplified
Values = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class AccountMetric:
    """One metric of every account.

    *read* takes the account and the time on the monotonic clock. It returns a mapping where the metric has a *label*
    beside `account`: one sample for each value of the label.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    read: Callable[[Account, float], Value]
    label: str = ""


def _total(index: int, total: str) -> AccountMetric:
    name, what = _TOTAL_NAMES[total]

    def read(account: Account, _: float) -> Value:
        value = account.view.totals[index]
        return Exemplified(value, account.view.exemplars.get(total)) if total in EXEMPLIFIED else value

    return AccountMetric(name, "counter", f"{what} since the first look at the account. {CACHED}", read)


LIVE = (
    AccountMetric(
        "comms_up",
        "gauge",
        "1 if the last poll of the account succeeded.",
        lambda a, _: a.health.up,
    ),
    AccountMetric(
        "comms_exporter_polls",
        "counter",
        "Polls that finished, successful or not.",
        lambda a, _: a.health.polls,
    ),
    AccountMetric(
        "comms_exporter_poll_failures",
        "counter",
        "Polls that failed, by reason.",
        lambda a, _: dict.fromkeys(REASONS, 0) | a.health.failures,
        label="reason",
    ),
    AccountMetric(
        "comms_exporter_last_poll_duration_seconds",
        "gauge",
        "Duration of the last poll.",
        lambda a, _: a.health.last_duration_seconds,
    ),
    AccountMetric(
        "comms_exporter_last_poll_success_timestamp_seconds",
        "gauge",
        "Time of the last successful poll; 0 before the first.",
        lambda a, _: a.health.last_success,
    ),
    AccountMetric(
        "comms_exporter_poll_interval_seconds",
        "gauge",
        "Current interval between polls; longer than configured while the API throttles.",
        lambda a, _: a.health.interval_seconds,
    ),
    AccountMetric(
        "comms_exporter_api_requests",
        "counter",
        'API requests by HTTP status code; "error" if no complete response arrived.',
        lambda a, _: dict.fromkeys(KNOWN_CODES, 0) | a.request_stats.requests,
        label="code",
    ),
    AccountMetric(
        "comms_exporter_api_request_duration_seconds",
        "histogram",
        "Duration of API requests, failed ones included.",
        lambda a, _: a.request_stats.durations,
    ),
    AccountMetric(
        "comms_exporter_api_retries",
        "counter",
        "API requests that were retries.",
        lambda a, _: a.request_stats.retries,
    ),
    AccountMetric(
        "comms_exporter_rate_limit_wait_seconds",
        "counter",
        "Time spent waiting because the API answered 429 or 503.",
        lambda a, _: a.request_stats.waited_seconds,
    ),
    AccountMetric(
        "comms_exporter_operations_tracked",
        "gauge",
        f"Operations whose counts the exporter tracks. {CACHED}",
        lambda a, _: a.view.tracked,
    ),
    AccountMetric(
        "comms_exporter_operations_exposed",
        "gauge",
        f"Recently active operations that have their own series. {CACHED}",
        lambda a, now: 0 if a.health.stale(now) else len(a.view.exposed),
    ),
    AccountMetric(
        "comms_exporter_operations_hidden",
        "gauge",
        f"Recently active operations without their own series, because of --collect.max-operations; all totals include them. {CACHED}",
        lambda a, _: a.view.hidden,
    ),
    AccountMetric(
        "comms_exporter_stat_regressions",
        "counter",
        "Counters of an operation that were lower than in an earlier response.",
        lambda a, _: dict.fromkeys(REACHED, 0) | a.state.regressions,
        label="stat",
    ),
    AccountMetric(
        "comms_exporter_unknown_values",
        "counter",
        "Values in API responses that the exporter does not know: a status, a field of an operation, a counter in stats.",
        lambda a, _: dict.fromkeys(UNKNOWN_FIELDS, 0) | a.state.unknown,
        label="field",
    ),
    AccountMetric(
        "comms_exporter_malformed_operations",
        "counter",
        "Entries of listings that were skipped because they could not be parsed as an operation.",
        lambda a, _: a.state.malformed,
    ),
    AccountMetric(
        "comms_exporter_operations_by_reading",
        "gauge",
        f"Tracked operations by how their counters are interpreted. {CACHED}",
        lambda a, _: {reading.value: a.view.by_reading[reading] for reading in Reading},
        label="reading",
    ),
    AccountMetric(
        "comms_exporter_state_last_save_timestamp_seconds",
        "gauge",
        "Time of the last successful save of the state; 0 before the first.",
        lambda a, _: a.health.last_save,
    ),
    AccountMetric(
        "comms_exporter_state_save_failures",
        "counter",
        "Failed saves of the state; a crash before the next successful save can lose counts.",
        lambda a, _: a.health.save_failures,
    ),
)

# The values of these change only when a poll publishes another view.
PUBLISHED = (
    *(_total(index, total) for index, total in enumerate(TOTALS)),
    AccountMetric(
        "comms_emails_queued",
        "gauge",
        f"Emails queued, over all tracked operations. {CACHED}",
        lambda a, _: a.view.queued,
    ),
    AccountMetric(
        "comms_emails_scheduled",
        "gauge",
        f"Emails scheduled, over all tracked operations. {CACHED}",
        lambda a, _: a.view.scheduled,
    ),
    AccountMetric(
        "comms_email_operations",
        "gauge",
        f"Tracked operations by status. {CACHED}",
        lambda a, _: dict.fromkeys(STATUSES, 0) | a.view.by_status,
        label="status",
    ),
    AccountMetric(
        "comms_email_oldest_unfinished_operation_created_timestamp_seconds",
        "gauge",
        f"Creation time of the oldest unfinished operation; absent if there is none. {CACHED}",
        lambda a, _: a.view.oldest_unfinished,
        label="status",
    ),
    AccountMetric(
        "comms_email_operation_duration_seconds",
        "histogram",
        "Time from createdAt to the updatedAt of the response that first showed an operation as COMPLETED, for "
        "operations completed since the first look. Resolution: comms_exporter_poll_interval_seconds.",
        lambda a, _: a.view.durations,
    ),
)


def published_families(accounts: Sequence[Account]) -> Iterator[Metric]:
    """Yield what the last polls published; it changes only with an account's view."""
    return _families(PUBLISHED, [(account.name, read(PUBLISHED, account, now=0.0)) for account in accounts])


def live_values(accounts: Sequence[Account], *, now: float) -> list[tuple[str, Values]]:
    """Return every value of LIVE as it is *now* on the monotonic clock: equal lists make equal families."""
    return [(account.name, read(LIVE, account, now=now)) for account in accounts]


def live_families(values: Sequence[tuple[str, Values]]) -> Iterator[Metric]:
    """Yield the health of the accounts from live_values()."""
    return _families(LIVE, values)


def read(metrics: Sequence[AccountMetric], account: Account, *, now: float) -> Values:
    """Return the value of each of *metrics*; later changes of the account leave it alone."""
    return tuple([_frozen(metric.read(account, now)) for metric in metrics])


def _frozen(value: Value) -> Value:
    return value.copy() if isinstance(value, Histogram) else value


def _families(metrics: Sequence[AccountMetric], rows: Sequence[tuple[str, Values]]) -> Iterator[Metric]:
    for index, metric in enumerate(metrics):
        family = Metric(metric.name, metric.help, metric.type)
        for account, values in rows:
            _add_samples(family, metric, account, values[index])
        yield family


def _add_samples(family: Metric, metric: AccountMetric, account: str, value: Value) -> None:
    labels = {"account": account}
    sample = f"{metric.name}_total" if metric.type == "counter" else metric.name
    match value:
        case Histogram():
            _add_histogram(family, labels, value)
        case Exemplified():
            family.add_sample(sample, labels, value.value, exemplar=_exemplar(value.exemplar))
        case Mapping():
            for key, number_ in value.items():
                family.add_sample(sample, {**labels, metric.label: key}, number_)
        case _:
            family.add_sample(sample, labels, value)


def _add_histogram(family: Metric, labels: dict[str, str], histogram: Histogram) -> None:
    below = 0
    for index, bound in enumerate((*histogram.bounds, float("inf"))):
        below += histogram.counts[index]
        exemplar = _exemplar(histogram.exemplars.get(index))
        family.add_sample(f"{family.name}_bucket", {**labels, "le": number(bound)}, below, exemplar=exemplar)
    family.add_sample(f"{family.name}_sum", labels, histogram.sum)
    family.add_sample(f"{family.name}_count", labels, below)


def _exemplar(exemplar: Exemplar | None) -> SampleExemplar | None:
    if exemplar is None or len(exemplar.operation_id) > _LONGEST_EXEMPLAR:
        return None
    return SampleExemplar({"operation_id": exemplar.operation_id}, exemplar.value, exemplar.time)


def build_info() -> Metric:
    """Return the gauge that names this version."""
    family = GaugeMetricFamily(
        "comms_exporter_build_info",
        "Always 1; the labels are the versions of the exporter and of Python.",
        labels=["version", "python_version"],
    )
    family.add_metric([__version__, platform.python_version()], 1)
    return family


def shard_info(shard: Shard) -> Metric:
    """Return the gauge that says which part of the accounts is polled here."""
    family = GaugeMetricFamily(
        "comms_exporter_shard_info",
        "Always 1; the labels are the shard of accounts that this exporter polls and the number of shards.",
        labels=["shard_index", "shard_total"],
    )
    family.add_metric([str(shard.index), str(shard.total)], 1)
    return family


def reload_families(reloads: Reloads) -> Iterator[Metric]:
    """Yield how the last reload of the settings went."""
    yield GaugeMetricFamily(
        "comms_exporter_config_last_reload_successful",
        "1 if the last configuration reload succeeded, 0 if it failed and the previous settings are still in use.",
        value=reloads.successful,
    )
    yield GaugeMetricFamily(
        "comms_exporter_config_last_reload_success_timestamp_seconds",
        "Time of the last successful configuration reload; the start counts as one.",
        value=reloads.last_success,
    )
