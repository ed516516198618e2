"""The metrics: type, name, HELP, label and how to read the value of each, in one table. Names are a stable interface (docs/metrics.md).

The metrics of single operations are in operation_lines.py.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from prometheus_client.core import GaugeMetricFamily, Metric

from comms_exporter import __version__
from comms_exporter.api.errors import REASONS
from comms_exporter.api.request_stats import RequestStats
from comms_exporter.collect.emails.health import EmailHealth
from comms_exporter.collect.health import PollHealth, Reloads
from comms_exporter.collect.recent import STAGES
from comms_exporter.collect.sharing import Shares
from comms_exporter.collect.state import TOTALS_WITH_EXEMPLARS, AccountState
from comms_exporter.collect.view import View
from comms_exporter.expose.operation_lines import CACHED
from comms_exporter.expose.samples import LabelValue, Value, WithExemplar, add_samples
from comms_exporter.model.histogram import Histogram
from comms_exporter.model.operations import STATUSES
from comms_exporter.model.readings import REACHED, Reading
from comms_exporter.model.records import TOTALS

# HTTP status codes that Twilio documents for these requests, and those that it returns without documenting them.
KNOWN_CODES = ("200", "400", "401", "403", "404", "429", "500", "503", "error")
UNKNOWN_FIELDS = ("status", "operation", "stats")


class Account(Protocol):
    """What the metrics of an account are read from."""

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
    @property
    def email_health(self) -> EmailHealth: ...  # noqa: D102
    @property
    def revision(self) -> object:
        """The same object as long as nothing but time changes the metrics; None while anything may change at any moment."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The index of this exporter, from 0, and the number of exporters that share the accounts."""

    index: int = 0
    total: int = 1


@dataclass(frozen=True, slots=True)
class AccountMetric:
    """One metric of every account.

    *read* takes the account and the time on the monotonic clock. If the metric has a *label* besides `account`, or several, it
    returns a mapping from label values to numbers. Those of *label_values* that the mapping lacks are exposed as 0. None stands for a
    metric that is absent.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    read: Callable[
        [Account, float],
        float
        | Mapping[str, float]
        | Mapping[Reading, float]
        | Mapping[LabelValue, float | WithExemplar]
        | Histogram
        | WithExemplar
        | None,
    ]
    label: LabelValue = ""
    label_values: Iterable[str] = ()

    def family(self, values: Iterable[tuple[str, Value]]) -> Metric:
        """Return the metric with the samples of *values*, pairs of account name and value."""
        family = Metric(self.name, self.help, self.type)
        for account, value in values:
            all_values = _complete(self.label_values, value) if isinstance(value, Mapping) else value
            add_samples(family, account, all_values, label=self.label)
        return family


def _complete(
    label_values: Iterable[LabelValue], numbers: Mapping[LabelValue, float | WithExemplar]
) -> dict[LabelValue, float | WithExemplar]:
    return {**dict.fromkeys(label_values, 0), **numbers}


# Health: these change at any time. In the order of the page, as are all tables here.
LIVE = (
    AccountMetric(
        "comms_up",
        "gauge",
        "1 if the last poll of the account succeeded, 0 otherwise.",
        lambda a, _: a.health.up,
    ),
    AccountMetric(
        "comms_exporter_polls",
        "counter",
        "Polls that finished, whether they succeeded or failed.",
        lambda a, _: a.health.polls,
    ),
    AccountMetric(
        "comms_exporter_poll_failures",
        "counter",
        "Polls that failed, by reason.",
        lambda a, _: a.health.failures,
        label="reason",
        label_values=REASONS,
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
        "Current poll interval; longer than --collect.interval while the API throttles requests.",
        lambda a, _: a.health.interval_seconds,
    ),
    AccountMetric(
        "comms_exporter_api_requests",
        "counter",
        'API requests by HTTP status code; "error" if no complete response arrived.',
        lambda a, _: a.request_stats.requests,
        label="code",
        label_values=KNOWN_CODES,
    ),
    AccountMetric(
        "comms_exporter_api_request_duration_seconds",
        "histogram",
        "Duration of API requests, including failed ones.",
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
        "Time spent waiting after the API responded with 429 or 503.",
        lambda a, _: a.request_stats.waited_seconds,
    ),
    AccountMetric(
        "comms_exporter_operations_tracked",
        "gauge",
        f"Operations whose counts the exporter tracks. {CACHED}",
        lambda a, _: a.view.tracked,
    ),
    AccountMetric(
        "comms_exporter_operations_listed",
        "gauge",
        f"Operations in the last listing that was not empty, or should not have been. {CACHED}",
        lambda a, _: a.view.listed,
    ),
    AccountMetric(
        "comms_exporter_operations_unlisted",
        "gauge",
        "Tracked operations that are missing from the same listing: 0, or a few for a moment, unless the API returns "
        f"incomplete or empty lists. {CACHED}",
        lambda a, _: a.view.unlisted,
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
        "Times that a counter of an operation was lower than in an earlier response.",
        lambda a, _: a.state.regressions,
        label="stat",
        label_values=REACHED,
    ),
    AccountMetric(
        "comms_exporter_unknown_values",
        "counter",
        "Values in API responses that the exporter does not recognize: statuses, fields of an operation, counters in stats.",
        lambda a, _: a.state.unknown,
        label="field",
        label_values=UNKNOWN_FIELDS,
    ),
    AccountMetric(
        "comms_exporter_malformed_operations",
        "counter",
        "Listed operations that were skipped because they could not be parsed.",
        lambda a, _: a.state.malformed,
    ),
    AccountMetric(
        "comms_exporter_operations_by_reading",
        "gauge",
        f"Tracked operations by how their counters are interpreted. {CACHED}",
        lambda a, _: a.view.by_reading,
        label="reading",
        label_values=[reading.value for reading in Reading],
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


def _total(name: str, total: str, what: str) -> AccountMetric:
    index = TOTALS.index(total)

    def read(account: Account, _: float) -> float | WithExemplar:
        value = account.view.totals[index]
        return WithExemplar(value, account.view.exemplars.get(total)) if total in TOTALS_WITH_EXEMPLARS else value

    return AccountMetric(name, "counter", f"{what} since the exporter's first look at the account. {CACHED}", read)


def _recent(name: str, stage: str, what: str) -> AccountMetric:
    index = STAGES.index(stage)
    text = (
        f"{what}, of all operations that began to be sent within the window: an absolute number, not an increase. All "
        f"comms_emails_*_recent of one window are about the same emails. {CACHED}"
    )
    return AccountMetric(
        name,
        "gauge",
        text,
        lambda a, _: {window: sums[index] for window, sums in a.view.recent.items()},
        label="window",
    )


# These change only when a poll publishes a new view.
PUBLISHED = (
    _total("comms_emails_created", "total", "Emails created (stats.total)"),
    _total("comms_email_recipients", "recipients", "Recipients targeted"),
    _total("comms_email_attempts", "attempts", "Send attempts by Twilio"),
    _total("comms_emails_sent", "sent", "Emails sent by Twilio"),
    _total("comms_emails_delivered", "delivered", "Emails delivered to the recipient's server"),
    _total("comms_emails_opened", "opened", "Emails opened (each recipient counts once)"),
    _total("comms_emails_undelivered", "undelivered", "Emails sent but not delivered"),
    _total("comms_emails_failed", "failed", "Emails that failed inside Twilio"),
    _total("comms_emails_canceled", "canceled", "Emails canceled by API request"),
    _total("comms_email_operations_created", "operations_created", "Operations created"),
    _total("comms_email_operations_completed", "operations_completed", "Operations that reached COMPLETED"),
    _total("comms_email_operations_canceled", "operations_canceled", "Operations that reached CANCELED"),
    AccountMetric(
        "comms_emails_queued",
        "gauge",
        f"Emails queued at Twilio, summed over all tracked operations. {CACHED}",
        lambda a, _: a.view.queued,
    ),
    AccountMetric(
        "comms_emails_scheduled",
        "gauge",
        f"Emails waiting for their scheduled time, summed over all tracked operations. {CACHED}",
        lambda a, _: a.view.scheduled,
    ),
    _recent("comms_emails_created_recent", "total", "Emails created (stats.total)"),
    _recent("comms_emails_sent_recent", "sent", "Emails sent by Twilio"),
    _recent("comms_emails_delivered_recent", "delivered", "Emails delivered to the recipient's server"),
    _recent("comms_emails_undelivered_recent", "undelivered", "Emails sent but not delivered"),
    _recent("comms_emails_failed_recent", "failed", "Emails that failed inside Twilio"),
    AccountMetric(
        "comms_email_operations",
        "gauge",
        f"Tracked operations by status. {CACHED}",
        lambda a, _: a.view.by_status,
        label="status",
        label_values=STATUSES,
    ),
    AccountMetric(
        "comms_email_oldest_unfinished_operation_created_timestamp_seconds",
        "gauge",
        f"Creation time of the oldest unfinished operation; absent if there is none. {CACHED}",
        lambda a, _: a.view.oldest_unfinished,
        label="status",
    ),
    AccountMetric(
        "comms_email_oldest_processing_operation_began_timestamp_seconds",
        "gauge",
        "When sending began for the operation that has been in PROCESSING the longest: its creation, or the end of its time in "
        f"SCHEDULED; absent if there is none. {CACHED}",
        lambda a, _: a.view.oldest_processing,
    ),
    AccountMetric(
        "comms_email_operation_duration_seconds",
        "histogram",
        "Time operations took from createdAt to COMPLETED (updatedAt when first seen as such). Accurate to one poll "
        "interval; includes only operations completed since the exporter's first look at the account.",
        lambda a, _: a.view.durations,
    ),
)


def exporter_families(reloads: Reloads, shard: Shard, shares: Shares | None = None) -> Iterator[Metric]:
    """Yield the metrics of the exporter itself: version, shard, the last reload, and how accounts in a database are shared."""
    build = GaugeMetricFamily(
        "comms_exporter_build_info",
        "Always 1; the labels are the versions of the exporter and of Python.",
        labels=["version", "python_version"],
    )
    build.add_metric([__version__, platform.python_version()], 1)
    yield build
    shards = GaugeMetricFamily(
        "comms_exporter_shard_info",
        "Always 1; the labels are the shard of accounts that this exporter polls and the number of shards.",
        labels=["shard_index", "shard_total"],
    )
    shards.add_metric([str(shard.index), str(shard.total)], 1)
    yield shards
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
    if shares is not None:
        accounts = GaugeMetricFamily(
            "comms_exporter_accounts",
            "Accounts in the database by who polls them: this exporter, another one, or nobody. Only with --state.url.",
            labels=["owner"],
        )
        for owner, count in (("self", shares.own), ("other", shares.other), ("nobody", shares.nobody)):
            accounts.add_metric([owner], count)
        yield accounts
        yield GaugeMetricFamily(
            "comms_exporter_members",
            "Exporters that share the accounts in the database, including this one. Only with --state.url.",
            value=shares.members,
        )
