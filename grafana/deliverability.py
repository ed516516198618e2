"""Deliverability: whose emails are lost, by mailbox provider, sender domain, tag and reason."""

from collections.abc import Iterator

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana import panels
from grafana.overview import NONE, UNDELIVERED
from grafana.panels import BAD, COLORS, GOOD, WARNING, Column, Panel, Query
from grafana.promql import account, age, lost, once, recorded, total

PROVIDERS = "account:comms_emails_undelivered_by_provider"
SENDERS = "account:comms_emails_lost_by_sender"
TAGS = "account:comms_emails_lost_by_tag"
HOUR, DAY = 'window="1h"', 'window="1d"'
COLORS_BY_PROVIDER = {
    "gmail": "blue",
    "microsoft": "light-blue",
    "yahoo": "purple",
    "apple": "light-purple",
    "gmx": "yellow",
    "comcast": "light-yellow",
    "orange": "light-orange",
    "other": "#8e8e8e",
}
# A row without this number, as with --emails.collect=lost.
UNKNOWN = (("noValue", "-"),)
LISTED = ((None, GOOD), (900, WARNING), (3600, BAD))

INTRO = """**Whose emails are lost?** A provider far above the others refuses you, a sender domain far above the others has lost \
its DNS records or its verification, a tag far above the others is a campaign with a bad list. \
With `--emails.collect=lost` only the losses are known: compare their parts. Shares of what was sent need `all`."""


def dashboard() -> Dashboard:
    """Return the dashboard of lost emails."""
    builder = panels.dashboard(
        "comms-deliverability",
        "Comms email / Deliverability",
        "Lost emails by mailbox provider, sender domain, tag and reason. Needs --emails.collect.",
    )
    builder.with_panel(panels.prose(INTRO))
    for panel in (*_numbers(), *_providers(), *_tables(), *_details()):
        builder.with_panel(panel)
    return builder


def _numbers() -> Iterator[Panel]:
    yield panels.number(
        "Lost, 1 h",
        "Emails that failed or bounced within the last hour, as counted by operations.",
        Query(
            f"{total(_increase('comms_emails_failed_total'))} + {total(_increase('comms_emails_undelivered_total'))}"
        ),
        unit="locale",
        decimals=0,
    )
    yield panels.number(
        "Share lost, 6 h",
        "Share of undelivered and failed emails among those handled that began to be sent within the last 6 hours.",
        Query(lost("6h")),
        unit="percentunit",
        steps=UNDELIVERED,
        decimals=1,
        no_value="no email",
    )
    for title, what, name in (
        ("Bad providers", "Mailbox providers that bounce", PROVIDERS),
        ("Bad senders", "Sender domains that lose", SENDERS),
    ):
        yield panels.number(
            title,
            f"{what} far more emails than the others and than usual, as the alerts see it.",
            Query(f"count({recorded(f'{name}:high')} > 0) or 0 * sum({account('comms_up')})"),
            steps=((None, GOOD), (1, BAD)),
        )
    yield panels.number(
        "Time to bounce",
        "Median time from the creation of an email to its bounce, of those that bounced within the last 6 hours.",
        Query(_delay(0.5)),
        unit="s",
        decimals=1,
        no_value="no bounce",
    )
    yield panels.number(
        "Inbound, 1 h",
        "Emails that arrived at Twilio for you within the last hour, such as replies.",
        Query(total(_increase("comms_emails_inbound_total"))),
        unit="locale",
        decimals=0,
        no_value="not collected",
    )
    yield panels.number(
        "Not found",
        "Lost emails that operations count and that were not found among the emails yet. The numbers below are too low by that number. "
        "It returns to 0 within a day.",
        Query(total(account("comms_exporter_emails_unattributed"), "outcome")),
        mapping=NONE,
        no_value="not collected",
    )
    yield panels.number(
        "Listed",
        "Time since the emails could last be listed, of the account where it is longest. Emails are listed only where some are missing.",
        Query(f"max({age(once(account('comms_exporter_emails_last_success_timestamp_seconds')))})"),
        unit="s",
        steps=LISTED,
        decimals=0,
        no_value="not collected",
    )


def _providers() -> Iterator[Panel]:
    ratio = recorded(f"{PROVIDERS}:ratio", HOUR)
    worst = f"topk(8, max by (provider) (max_over_time({ratio}[$__range] @ end())) > 0)"
    yield panels.graph(
        "Share bounced by provider, over 1 hour",
        "Bounced emails as a share of those with an outcome, of the eight providers with the highest share. Needs "
        "--emails.collect=all. CommsEmailProviderRefuses starts at the dashed line, 20 %, if the others are far below and there are "
        "enough emails.",
        Query(f"max by (provider) ({ratio}) and on (provider) {worst}", "{{provider}}"),
        unit="percentunit",
        side=True,
        height=9,
        steps=((None, "transparent"), (0.2, BAD)),
        colors=COLORS_BY_PROVIDER,
    ).no_value("needs --emails.collect=all")
    yield panels.graph(
        "Bounced per hour, by provider",
        "Emails that bounced within an hour, by mailbox provider. One color that grows while the others do not is a provider that refuses.",
        Query(
            f"{total(_increase('comms_emails_undelivered_by_provider_total'), 'provider', by=('provider',))} > 0",
            "{{provider}}",
        ),
        stacked=True,
        side=True,
        height=9,
        colors=COLORS_BY_PROVIDER,
    )


def _tables() -> Iterator[Panel]:
    yield _ranking(
        "Providers, 1 day",
        "Bounces of the last day by mailbox provider. Part: of the bounces, in the last hour if there were ten. Share and usual share "
        "need --emails.collect=all.",
        PROVIDERS,
        "settled_by_provider",
        "provider",
        bounced=True,
    )
    yield _ranking(
        "Sender domains, 1 day",
        "Failed and bounced emails of the last day by sender domain. Part: of the losses, in the last hour if there were ten. Share "
        "and usual share need --emails.collect=all.",
        SENDERS,
        "settled_by_sender",
        "sender_domain",
    )
    yield _ranking(
        "Tags, 1 day",
        "Failed and bounced emails of the last day by tag, for the keys in --emails.tags. Part: of the losses, in the last hour if "
        "there were ten. The share needs --emails.collect=all.",
        TAGS,
        "delivered_by_tag",
        "tag",
        "value",
    )


def _ranking(title: str, description: str, name: str, of: str, *labels: str, bounced: bool = False) -> Panel:
    """Return a table of the values of *labels* that lost emails."""
    by = ", ".join(("account", *labels))
    counted = f"max by ({by}) ({recorded(f'{name}:count', DAY)})"
    in_ranking = f"and {counted}"
    tags = of.startswith("delivered")
    columns = [
        *(Column(label, width=170 if label == "sender_domain" else 0) for label in labels),
        Column("account"),
        Column("Bounced" if bounced else "Lost", counted),
        Column(
            "Part",
            f"max by ({by}) ({recorded(f'{name}:part')}) {in_ranking}",
            "percentunit",
            (("decimals", 0), *UNKNOWN),
        ),
        Column(
            "Delivered" if tags else "Of",
            f"max by ({by}) ({recorded(f'account:comms_emails_{of}:count', DAY)}) {in_ranking}",
            properties=UNKNOWN,
        ),
        Column(
            "Share",
            f"max by ({by}) ({recorded(f'{name}:ratio', DAY)}) {in_ranking}",
            "percentunit",
            (("decimals", 1), *panels.colored(UNDELIVERED), *UNKNOWN),
        ),
    ]
    if not tags:
        columns.append(
            Column(
                "Usual",
                f"max by ({by}) ({recorded(f'{name}:usual')}) {in_ranking}",
                "percentunit",
                (("decimals", 1), *UNKNOWN),
            )
        )
    return panels.rows(
        title,
        description,
        *columns,
        sort=columns[len(labels) + 1].name,
        width=12,
        height=9,
        no_value="No email was lost",
    )


def _details() -> Iterator[Panel]:
    yield panels.graph(
        "Time to bounce, over 6 hours",
        "Time from the creation of an email to its bounce. Seconds: the address does not exist, or the provider refuses. Hours: the "
        "provider deferred until Twilio gave up.",
        *(
            Query(_delay(part), name, color)
            for part, name, color in ((0.5, "p50", "light-blue"), (0.95, "p95", "blue"))
        ),
        unit="s",
        height=9,
    )
    yield panels.graph(
        "Reasons of failures per hour",
        "Errors that Twilio lists for operations with failed emails, by code. Needs --emails.errors.",
        Query(f"{total(_increase('comms_email_errors_total'), 'code', by=('code',))}", "{{code}}"),
        stacked=True,
        width=8,
    )
    yield panels.graph(
        "Inbound per hour",
        "Emails that arrived at Twilio for you, such as replies.",
        Query(total(_increase("comms_emails_inbound_total"), by=("account",)), "{{account}}"),
        width=8,
    )
    yield panels.graph(
        "Not found",
        "Lost emails that operations count and that were not found among the emails yet. It returns to 0 with every round of listing, "
        "within a day at most.",
        *(
            Query(
                total(account("comms_exporter_emails_unattributed", f'outcome="{outcome}"'), "outcome"), outcome, color
            )
            for outcome, color in (("failed", COLORS["failed"]), ("undelivered", COLORS["undelivered"]))
        ),
        width=8,
    )


def _increase(metric: str) -> str:
    return f"increase({account(metric)}[1h])"


def _delay(part: float) -> str:
    buckets = f"increase({account('comms_email_undelivered_delay_seconds_bucket')}[6h])"
    # Not a number if nothing bounced.
    return f"histogram_quantile({part}, sum by (le) ({once(buckets, 'le')})) >= 0"
