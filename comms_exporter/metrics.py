"""Turns what is known into metric families; their names are a contract (docs: README, "Metrics").

Small families are built anew at every scrape, so nothing stale can stay. Those of single operations are
written as text, because prometheus_client takes 17 microseconds for each of their series.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar as SampleExemplar
from prometheus_client.utils import floatToGoString

from comms_exporter import __version__
from comms_exporter.health import REASONS, Exemplar, Histogram, PollHealth, Reloads, Traffic
from comms_exporter.models import STATS, STATUSES, Operation
from comms_exporter.state import EXEMPLIFIED, TOTALS, AccountState, View
from comms_exporter.stats import REACHED, Reading

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
    def traffic(self) -> Traffic: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Shard:
    """Which of how many exporters this one is, from 0."""

    index: int = 0
    total: int = 1


_EMAILS = {
    "total": "Emails that the operation created.",
    "recipients": "Recipients that the operation targets.",
    "attempts": "Attempts to send that Twilio made.",
    "scheduled": "Emails waiting for their time to be sent.",
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
    (STATUS_FAMILY, f"1 for the operation's present status, 0 for the others. {CACHED}"),
    *(
        (
            f"comms_email_operation_{'emails' if name == 'total' else name}",
            f"{_EMAILS[name]} stats.{name} as the API says it; absent where it says nothing. {CACHED}",
        )
        for name in STATS
    ),
    ("comms_email_operation_created_timestamp_seconds", f"When the operation was created (createdAt). {CACHED}"),
    ("comms_email_operation_updated_timestamp_seconds", f"When the operation last changed (updatedAt). {CACHED}"),
)

_TOTAL_NAMES = {
    "total": ("comms_emails_created", "Emails created (stats.total)"),
    "recipients": ("comms_email_recipients", "Recipients targeted"),
    "attempts": ("comms_email_attempts", "Attempts to send"),
    "operations_created": ("comms_email_operations_created", "Operations created"),
    "operations_completed": ("comms_email_operations_completed", "Operations that reached COMPLETED"),
    "operations_canceled": ("comms_email_operations_canceled", "Operations that reached CANCELED"),
    **{
        name: (f"comms_emails_{name}", f"Emails that were ever {name}")
        for name in REACHED
        if name not in {"total", "recipients", "attempts"}
    },
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


def published_families(accounts: Sequence[Account]) -> Iterator[Metric]:
    """Yield the families that are the same as long as every account has the same view."""
    yield from _totals(accounts)
    yield from _aggregates(accounts)
    yield from _durations(accounts)


def live_families(accounts: Sequence[Account], *, now: float) -> Iterator[Metric]:
    """Yield how the collecting is going, as it is *now* on the monotonic clock."""
    yield from _health(accounts)
    yield from _audit(accounts, now)


def live_key(account: Account, *, now: float) -> tuple[object, ...]:
    """Return what is different as soon as live_families() are; of what only grows, its sum."""
    health, traffic, state = account.health, account.traffic, account.state
    return (
        account.name,
        account.view,
        health.up,
        health.polls,
        health.failures.total(),
        health.last_duration_seconds,
        health.last_success,
        health.interval_seconds,
        health.last_save,
        health.save_failures,
        health.stale(now),
        traffic.requests.total(),
        traffic.seconds.sum,
        traffic.retries,
        traffic.waited_seconds,
        state.malformed,
        state.regressions.total(),
        state.unknown.total(),
    )


def _totals(accounts: Sequence[Account]) -> Iterator[Metric]:
    for index, total in enumerate(TOTALS):
        name, what = _TOTAL_NAMES[total]
        family = CounterMetricFamily(name, f"{what} since the first look at the account. {CACHED}", labels=["account"])
        for account in accounts:
            exemplar = account.view.exemplars.get(total) if total in EXEMPLIFIED else None
            family.add_sample(
                f"{name}_total",
                {"account": account.name},
                account.view.totals[index],
                exemplar=_exemplar(exemplar),
            )
        yield family


def _aggregates(accounts: Sequence[Account]) -> Iterator[Metric]:
    tracked = f"in all tracked operations. {CACHED}"
    yield _gauge("comms_emails_queued", f"Emails queued {tracked}", accounts, lambda a: a.view.queued)
    yield _gauge("comms_emails_scheduled", f"Emails scheduled {tracked}", accounts, lambda a: a.view.scheduled)
    yield _labelled_gauge(
        "comms_email_operations",
        f"Tracked operations by status. {CACHED}",
        "status",
        accounts,
        lambda a: dict.fromkeys(STATUSES, 0) | a.view.by_status,
    )
    yield _labelled_gauge(
        "comms_email_oldest_unfinished_operation_created_timestamp_seconds",
        f"When the oldest operation that is not finished was created; absent when there is none. {CACHED}",
        "status",
        accounts,
        lambda a: a.view.oldest_unfinished,
    )


def _durations(accounts: Sequence[Account]) -> Iterator[Metric]:
    yield _histogram(
        "comms_email_operation_duration_seconds",
        "Time from createdAt to the updatedAt with which an operation was first seen COMPLETED, for operations that "
        "completed since the first look. Resolution: comms_exporter_poll_interval_seconds.",
        accounts,
        lambda a: a.view.durations,
    )


def _health(accounts: Sequence[Account]) -> Iterator[Metric]:
    yield _gauge("comms_up", "1 if the last poll of the account succeeded.", accounts, lambda a: a.health.up)
    yield _counter("comms_exporter_polls", "Polls that came to an end.", accounts, lambda a: a.health.polls)
    yield _labelled_counter(
        "comms_exporter_poll_failures",
        "Polls that failed, by reason.",
        "reason",
        accounts,
        lambda a: dict.fromkeys(REASONS, 0) | a.health.failures,
    )
    yield _gauge(
        "comms_exporter_last_poll_duration_seconds",
        "How long the last poll took.",
        accounts,
        lambda a: a.health.last_duration_seconds,
    )
    yield _gauge(
        "comms_exporter_last_poll_success_timestamp_seconds",
        "When a poll last succeeded, 0 before the first.",
        accounts,
        lambda a: a.health.last_success,
    )
    yield _gauge(
        "comms_exporter_poll_interval_seconds",
        "The interval between polls as it is now; the API's throttling stretches it.",
        accounts,
        lambda a: a.health.interval_seconds,
    )
    yield _labelled_counter(
        "comms_exporter_api_requests",
        'Requests to the API by HTTP status code, "error" where no complete answer came.',
        "code",
        accounts,
        lambda a: dict.fromkeys(KNOWN_CODES, 0) | a.traffic.requests,
    )
    yield _histogram(
        "comms_exporter_api_request_duration_seconds",
        "How long the API took to answer a request, or to fail to.",
        accounts,
        lambda a: a.traffic.seconds,
    )
    yield _counter(
        "comms_exporter_api_retries", "Requests that were made again.", accounts, lambda a: a.traffic.retries
    )
    yield _counter(
        "comms_exporter_rate_limit_wait_seconds",
        "Time that the API made us wait by answering 429 or 503.",
        accounts,
        lambda a: a.traffic.waited_seconds,
    )


def _audit(accounts: Sequence[Account], now: float) -> Iterator[Metric]:
    yield _gauge(
        "comms_exporter_operations_tracked",
        f"Operations that the exporter keeps count of. {CACHED}",
        accounts,
        lambda a: a.view.tracked,
    )
    yield _gauge(
        "comms_exporter_operations_exposed",
        f"Recently active operations that have series of their own. {CACHED}",
        accounts,
        lambda a: 0 if a.health.stale(now) else len(a.view.exposed),
    )
    yield _gauge(
        "comms_exporter_operations_hidden",
        f"Recently active operations beyond --collect.max-operations; they count in all totals. {CACHED}",
        accounts,
        lambda a: a.view.hidden,
    )
    yield _labelled_counter(
        "comms_exporter_stat_regressions",
        "Counters of an operation that fell from one answer to the next, which no history explains.",
        "stat",
        accounts,
        lambda a: dict.fromkeys(REACHED, 0) | a.state.regressions,
    )
    yield _labelled_counter(
        "comms_exporter_unknown_values",
        "Values that the exporter read and does not know: a status, a field of an operation, a counter in its stats.",
        "field",
        accounts,
        lambda a: dict.fromkeys(UNKNOWN_FIELDS, 0) | a.state.unknown,
    )
    yield _counter(
        "comms_exporter_malformed_operations",
        "Entries of listings that could not be read as an operation and were skipped.",
        accounts,
        lambda a: a.state.malformed,
    )
    yield _labelled_gauge(
        "comms_exporter_operations_by_reading",
        f"Tracked operations by how their counters are read. {CACHED}",
        "reading",
        accounts,
        lambda a: {reading.value: a.view.by_reading[reading] for reading in Reading},
    )
    yield _gauge(
        "comms_exporter_state_last_save_timestamp_seconds",
        "When the state was last saved, 0 as long as it never was.",
        accounts,
        lambda a: a.health.last_save,
    )
    yield _counter(
        "comms_exporter_state_save_failures",
        "Saves of the state that failed; a crash after one can cost counts.",
        accounts,
        lambda a: a.health.save_failures,
    )


def build_info() -> Metric:
    """Return the gauge that names this version."""
    family = GaugeMetricFamily(
        "comms_exporter_build_info",
        "1, labelled with the versions of the exporter and of Python.",
        labels=["version", "python_version"],
    )
    family.add_metric([__version__, platform.python_version()], 1)
    return family


def shard_info(shard: Shard) -> Metric:
    """Return the gauge that says which part of the accounts is polled here."""
    family = GaugeMetricFamily(
        "comms_exporter_shard_info",
        "1, labelled with which of how many shards of the accounts this exporter polls.",
        labels=["shard_index", "shard_total"],
    )
    family.add_metric([str(shard.index), str(shard.total)], 1)
    return family


def reload_families(reloads: Reloads) -> Iterator[Metric]:
    """Yield how the last reload of the settings went."""
    yield GaugeMetricFamily(
        "comms_exporter_config_last_reload_successful",
        "1 if the settings were good when they were last read, 0 if older ones are still in force.",
        value=reloads.successful,
    )
    yield GaugeMetricFamily(
        "comms_exporter_config_last_reload_success_timestamp_seconds",
        "When the settings were last read and good.",
        value=reloads.last_success,
    )


def _gauge(name: str, text: str, accounts: Sequence[Account], value: Callable[[Account], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["account"])
    for account in accounts:
        family.add_metric([account.name], value(account))
    return family


def _counter(name: str, text: str, accounts: Sequence[Account], value: Callable[[Account], float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=["account"])
    for account in accounts:
        family.add_metric([account.name], value(account))
    return family


def _labelled_gauge(
    name: str, text: str, label: str, accounts: Sequence[Account], values: Callable[[Account], Mapping[str, float]]
) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["account", label])
    for account in accounts:
        for key, value in values(account).items():
            family.add_metric([account.name, key], value)
    return family


def _labelled_counter(
    name: str, text: str, label: str, accounts: Sequence[Account], values: Callable[[Account], Mapping[str, float]]
) -> Metric:
    family = CounterMetricFamily(name, text, labels=["account", label])
    for account in accounts:
        for key, value in values(account).items():
            family.add_metric([account.name, key], value)
    return family


def _histogram(name: str, text: str, accounts: Sequence[Account], histogram: Callable[[Account], Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=["account"])
    for account in accounts:
        recorded = histogram(account)
        labels = {"account": account.name}
        below = 0
        for index, bound in enumerate((*recorded.bounds, float("inf"))):
            below += recorded.counts[index]
            family.add_sample(
                f"{name}_bucket",
                {**labels, "le": number(bound)},
                below,
                exemplar=_exemplar(recorded.exemplars.get(index)),
            )
        family.add_sample(f"{name}_sum", labels, recorded.sum)
        family.add_sample(f"{name}_count", labels, below)
    return family


def _exemplar(exemplar: Exemplar | None) -> SampleExemplar | None:
    if exemplar is None or len(exemplar.operation_id) > _LONGEST_EXEMPLAR:
        return None
    return SampleExemplar({"operation_id": exemplar.operation_id}, exemplar.value, exemplar.time)
