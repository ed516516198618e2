"""Shows whether mail is flowing."""

from collections.abc import Iterator

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana import panels
from grafana.panels import BAD, COLOURS, GOOD, STATUSES, WARNING, Column, Panel, Query
from grafana.promql import account, age, grown, once, opened, per_minute, share, total

# Where colours change. The alert rules judge over longer windows; these only say where to look.
DELIVERED = ((None, BAD), (0.9, WARNING), (0.95, GOOD))
FAILED = ((None, GOOD), (0.02, WARNING), (0.05, BAD))
UNDELIVERED = ((None, GOOD), (0.05, WARNING), (0.1, BAD))
STALE_SECONDS = ((None, GOOD), (150, WARNING), (300, BAD))

NONE = {"0": ("none", GOOD)}

STAGES = ("sent", "delivered", "undelivered", "failed")
OPERATION_LINK = {
    "title": "Look at this operation",
    # What is chosen here stays chosen there; the operation is the one that was clicked.
    "url": "/d/comms-operations/comms-operations?${__url_time_range}&${datasource:queryparam}&${job:queryparam}"
    "&${instance:queryparam}&${account:queryparam}&var-operation_id=${__value.raw:percentencode}",
}

INTRO = """**Is mail flowing?** Read the numbers from left to right.
**Accounts down** or **Data age** in colour: we cannot see, so believe nothing else here and go to \
[Exporter health](d/comms-exporter-health). \
**Failed** or **Undelivered** in colour: the table of worst operations names them; click one. \
**Sent** near 0 while the backlog grows: mail waits at Twilio."""


def dashboard() -> Dashboard:
    """Return the dashboard to open first."""
    made = panels.dashboard(
        "comms-overview",
        "Comms email / Overview",
        "Whether email flows through Twilio's Comms API, and where it does not.",
    )
    made.with_panel(panels.prose(INTRO))
    for panel in (*_numbers(), *_flow(), *_tables()):
        made.with_panel(panel)
    return made


def _numbers() -> Iterator[Panel]:
    yield panels.number(
        "Accounts down",
        "Accounts whose last poll failed. While an account is down, its other numbers stand still.",
        Query(f"sum(1 - {once(account('comms_up'))})"),
        steps=((None, GOOD), (1, BAD)),
    )
    yield panels.number(
        "Data age",
        "Time since the last successful poll, of the account that waits longest. Normally below a minute.",
        Query(f"max({age(once(account('comms_exporter_last_poll_success_timestamp_seconds')))})"),
        unit="s",
        steps=STALE_SECONDS,
        decimals=0,
        nothing="no poll yet",
    )
    yield panels.number(
        "Sent, 1 h",
        "Emails that Twilio sent within the last hour.",
        Query(grown("comms_emails_sent_total", "1h")),
        unit="locale",
        decimals=0,
    )
    yield panels.number(
        "Delivered, 6 h",
        "Of the emails that came to an end within the last 6 hours (delivered, undelivered or failed), the share delivered.",
        Query(share("delivered", "6h")),
        unit="percentunit",
        steps=DELIVERED,
        decimals=1,
        nothing="no mail",
    )
    yield panels.number(
        "Failed, 1 h",
        "Of the emails that Twilio sent or failed to send within the last hour, the share that failed.",
        Query(share("failed", "1h")),
        unit="percentunit",
        steps=FAILED,
        decimals=1,
        nothing="no mail",
    )
    yield panels.number(
        "Undelivered, 6 h",
        "Of the emails that came to an end within the last 6 hours, the share that the other side did not take (bounces). "
        "Shorter windows catch late bounces without the mail they belong to.",
        Query(share("undelivered", "6h")),
        unit="percentunit",
        steps=UNDELIVERED,
        decimals=1,
        nothing="no mail",
    )
    yield panels.number(
        "Waiting now",
        "Emails queued at Twilio at this moment, without those scheduled for later.",
        Query(total(account("comms_emails_queued"))),
        unit="locale",
        decimals=0,
    )
    yield panels.number(
        "Oldest unfinished",
        "Age of the oldest operation with status PROCESSING. Late bounces keep an operation open for hours or days.",
        Query(f"max({age(_oldest('PROCESSING'))}) or 0 * max({account('comms_up')})"),
        unit="s",
        decimals=1,
        mapping=NONE,
    )


def _flow() -> Iterator[Panel]:
    yield panels.graph(
        "Emails per minute",
        "How fast emails reach each stage. Deliveries follow what is sent; the gap between them should stay small.",
        *(Query(per_minute(f"comms_emails_{stage}_total"), stage, COLOURS[stage]) for stage in STAGES),
        height=9,
    )
    yield panels.graph(
        "Failed over 1 hour, undelivered over 6 hours",
        "Failed: of the emails that Twilio sent or failed to send. Undelivered: of the emails that came to an end; over 6 "
        "hours, for bounces come late. Drawn where these are more than 50, for shares of a few say nothing. The dashed line "
        "at 5 % is where alerts begin.",
        Query(share("failed", "1h", by=("account",), least=50), "failed, {{account}}", COLOURS["failed"]),
        Query(
            share("undelivered", "6h", by=("account",), least=50), "undelivered, {{account}}", COLOURS["undelivered"]
        ),
        unit="percentunit",
        height=9,
        steps=((None, "transparent"), (0.05, BAD)),
    )
    yield panels.graph(
        "Delivered and opened, share over 6 hours",
        "Delivered: of the emails that came to an end within 6 hours. Opened: emails opened per email delivered within the "
        "same time; people read late, so it may pass 100 % long after a campaign, and nobody should be woken by it.",
        Query(share("delivered", "6h"), "delivered", COLOURS["delivered"]),
        Query(opened("6h"), "opened", COLOURS["opened"]),
        unit="percentunit",
        most=1,
        width=8,
    )
    yield panels.graph(
        "Backlog",
        "Emails that wait: queued at Twilio to be sent now, or scheduled for later. Queued should fall back after each send.",
        Query(total(account("comms_emails_queued")), "queued", COLOURS["queued"]),
        Query(total(account("comms_emails_scheduled")), "scheduled", COLOURS["scheduled"]),
        width=8,
    )
    yield panels.graph(
        "Unfinished operations",
        "Tracked operations that are not COMPLETED or CANCELED, by status.",
        Query(
            total(account("comms_email_operations", 'status!~"COMPLETED|CANCELED"'), "status", by=("status",)),
            "{{status}}",
        ),
        colours=STATUSES,
        width=8,
    )


def _tables() -> Iterator[Panel]:
    lost = _lost()
    recently = f"({lost} - ({_lost('offset 1h')} or 0 * {lost}))"
    worst = f"topk(10, {recently})"
    among = f"and on (job, account, operation_id) {worst}"
    emails = _one("emails")
    yield panels.rows(
        "Worst operations now",
        "The active operations that lost most emails, failed or undelivered, within the last hour. Click one to follow it.",
        Column("operation_id", properties=(("links", [OPERATION_LINK]),), width=370),
        Column("account", width=130),
        Column("Lost, 1 h", worst),
        Column("Lost in all", f"{lost} {among}"),
        Column("Share", f"{lost} / ({emails} > 0) {among}", "percentunit", (("decimals", 1),)),
        *(Column(name.capitalize(), f"{_one(name)} {among}") for name in ("failed", "undelivered", "emails")),
        Column("Age", f"{age(_one('created_timestamp_seconds'))} {among}", "s", (("decimals", 1),)),
        sort="Lost, 1 h",
        height=10,
        nothing="No operation was active recently",
    )
    by = ("account",)
    yield panels.rows(
        "Accounts",
        "Every account on its own: whether we see it, how much it sent, and how that ended.",
        Column("account"),
        Column(
            "Polls",
            f"min by (account) ({once(account('comms_up'))})",
            properties=panels.mapped({"0": ("down", BAD), "1": ("up", GOOD)}),
        ),
        Column(
            "Data age",
            f"max by (account) ({age(once(account('comms_exporter_last_poll_success_timestamp_seconds')))})",
            "s",
            (("decimals", 0), *panels.coloured(STALE_SECONDS)),
        ),
        Column("Sent, 1 h", grown("comms_emails_sent_total", "1h", by=by), properties=(("decimals", 0),)),
        *(
            Column(
                f"{name.capitalize()}, {window} h",
                share(name, f"{window}h", by=by),
                "percentunit",
                (("decimals", 1), *panels.coloured(steps)),
            )
            for name, window, steps in (
                ("failed", 1, FAILED),
                ("delivered", 6, DELIVERED),
                ("undelivered", 6, UNDELIVERED),
            )
        ),
        Column("Queued", total(account("comms_emails_queued"), by=by)),
        Column("Scheduled", total(account("comms_emails_scheduled"), by=by)),
        sort="Failed, 1 h",
        height=6,
        nothing="No account",
    )
    yield panels.graph(
        "Operations by status",
        "All tracked operations (a week of them) by status. Slices, not lines: the height is their number.",
        Query(total(account("comms_email_operations"), "status", by=("status",)), "{{status}}"),
        stacked=True,
        colours=STATUSES,
    )
    yield panels.graph(
        "Age of the oldest unfinished operation",
        "For each unfinished status, how long ago its oldest operation was created. SCHEDULED may wait for days by design; "
        "PROCESSING that only grows while emails are queued is stuck.",
        Query(f"max by (status) ({age(_oldest())})", "{{status}}"),
        unit="s",
        colours=STATUSES,
    )


def _oldest(status: str = "") -> str:
    name = "comms_email_oldest_unfinished_operation_created_timestamp_seconds"
    return once(account(name, status and f'status="{status}"'), "status")


def _one(name: str, offset: str = "") -> str:
    return once(f"{account(f'comms_email_operation_{name}')} {offset}".rstrip(), "operation_id")


def _lost(offset: str = "") -> str:
    # An answer may lack a counter; then it counts as 0 here.
    nothing = f"0 * {_one('emails', offset)}"
    return f"(({_one('failed', offset)} or {nothing}) + ({_one('undelivered', offset)} or {nothing}))"
