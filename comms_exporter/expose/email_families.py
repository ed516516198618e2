"""The metrics of single emails, which exist only where emails are collected."""

from collections.abc import Callable, Mapping

from comms_exporter.collect.emails.view import EmailsView
from comms_exporter.expose.families import Account, AccountMetric
from comms_exporter.expose.samples import LabelValue, WithExemplar
from comms_exporter.model.email_records import CODE, PROVIDER, SENDER_DOMAIN, STAGES, TAG_PREFIX, Counts, Series
from comms_exporter.model.histogram import Histogram
from comms_exporter.model.providers import OTHER

# Appended to the HELP of what does not change between two rounds.
CACHED = "As of the last round of listing emails; see comms_exporter_emails_last_success_timestamp_seconds."
OUTCOMES = ("failed", "undelivered")
_NOTHING: Counts = (0,) * len(STAGES)
_WHAT = {
    "failed": "Emails that failed inside Twilio",
    "undelivered": "Emails sent but not delivered",
    "sent": "Emails sent by Twilio",
    "delivered": "Emails delivered to the recipient's server",
    "opened": "Emails opened",
}

ByLabel = Mapping[LabelValue, float | WithExemplar]


def _emails(account: Account) -> EmailsView:
    emails = account.view.emails
    if emails is None:
        raise ValueError("emails are not collected")
    return emails


def _with_exemplar(emails: EmailsView, series: Series, stage: int) -> WithExemplar:
    return WithExemplar(emails.counts.get(series, _NOTHING)[stage], emails.exemplars.get((series, stage)))


def _by(label: str, values: Callable[[EmailsView], tuple[str, ...]], stage: int) -> Callable[[Account, float], ByLabel]:
    """Return a reader of one stage by *label*; *values* are always there, others once they were counted."""

    def read(account: Account, _: float) -> ByLabel:
        emails = _emails(account)
        counted = sorted(value for each, value in emails.counts if each == label)
        return {
            value: _with_exemplar(emails, (label, value), stage) for value in dict.fromkeys((*values(emails), *counted))
        }

    return read


def _by_tag(stage: int) -> Callable[[Account, float], ByLabel]:
    def read(account: Account, _: float) -> ByLabel:
        emails = _emails(account)
        counted = sorted(emails.counts)
        return {
            (key, value): _with_exemplar(emails, (TAG_PREFIX + key, value), stage)
            for key in emails.tag_keys
            for value in dict.fromkeys((OTHER, *(value for label, value in counted if label == TAG_PREFIX + key)))
        }

    return read


def _by_label(stage: str) -> tuple[AccountMetric, ...]:
    index = STAGES.index(stage)
    since = f"since the exporter's first look at the account. {CACHED}"
    return (
        AccountMetric(
            f"comms_emails_{stage}_by_provider",
            "counter",
            f"{_WHAT[stage]}, by mailbox provider of the first recipient, {since}",
            _by(PROVIDER, lambda emails: tuple(emails.providers), index),
            label="provider",
        ),
        AccountMetric(
            f"comms_emails_{stage}_by_sender",
            "counter",
            f"{_WHAT[stage]}, by sender domain (up to --emails.max-values of them, and other), {since}",
            _by(SENDER_DOMAIN, lambda _: (OTHER,), index),
            label="sender_domain",
        ),
        AccountMetric(
            f"comms_emails_{stage}_by_tag",
            "counter",
            f"{_WHAT[stage]}, by tag (the keys in --emails.tags, up to --emails.max-values values of each, and other), {since}",
            _by_tag(index),
            label=("tag", "value"),
        ),
    )


def _inbound(account: Account, _: float) -> float:
    return _emails(account).inbound


def _delays(account: Account, _: float) -> Histogram:
    return _emails(account).delays


def _unattributed(account: Account, _: float) -> Mapping[str, float]:
    return _emails(account).unattributed


def _errors(account: Account, _: float) -> Mapping[str, float]:
    counts = _emails(account).counts
    return {OTHER: 0, **{value: counts[label, value][0] for label, value in sorted(counts) if label == CODE}}


# In the order of the page.
EMAIL_LOSSES = (
    AccountMetric(
        "comms_exporter_emails_up",
        "gauge",
        "1 if the last round listed all emails that it asked for, 0 if it did not, and before the first round. Does not affect comms_up.",
        lambda a, _: a.email_health.up,
    ),
    AccountMetric(
        "comms_exporter_emails_last_success_timestamp_seconds",
        "gauge",
        "Time of the last round that listed all emails that it asked for; 0 before the first.",
        lambda a, _: a.email_health.last_success,
    ),
    AccountMetric(
        "comms_exporter_emails_tracked",
        "gauge",
        f"Emails of the last 7 days that were counted, or existed before the first look. {CACHED}",
        lambda a, _: _emails(a).tracked,
    ),
    AccountMetric(
        "comms_exporter_emails_unattributed",
        "gauge",
        "Lost emails that operations count but that were not found among the listed emails; returns to 0 within a day, unless "
        f"the API does not list them. {CACHED}",
        _unattributed,
        label="outcome",
        label_values=OUTCOMES,
    ),
    *_by_label("failed"),
    *_by_label("undelivered"),
    AccountMetric(
        "comms_emails_inbound",
        "counter",
        f"Inbound emails since the exporter's first look at the account. {CACHED}",
        _inbound,
    ),
    AccountMetric(
        "comms_email_undelivered_delay_seconds",
        "histogram",
        "Time from createdAt to UNDELIVERED (updatedAt when first seen as such) of the emails that were counted.",
        _delays,
    ),
)
# Only with --emails.collect=all.
EMAIL_DELIVERIES = tuple(metric for stage in ("sent", "delivered", "opened") for metric in _by_label(stage))
# Only with --emails.errors.
EMAIL_ERRORS = (
    AccountMetric(
        "comms_email_errors",
        "counter",
        "Errors that Twilio lists for operations with failed emails, by code (up to 20 codes, and other), of operations created "
        f"since errors have been collected. {CACHED}",
        _errors,
        label="code",
    ),
)
