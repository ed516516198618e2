"""The overview: volume, failures, bounces and backlog of all email."""

from collections.abc import Iterator

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana import panels
from grafana.panels import BAD, COLORS, GOOD, STATUSES, WARNING, Column, Panel, Query
from grafana.promql import account, age, increased, once, opened, per_minute, recorded, share, total

# Thresholds for colors. They only draw attention; alert rules use longer windows.
DELIVERED = ((None, BAD), (0.9, WARNING), (0.95, GOOD))
FAILED = ((None, GOOD), (0.02, WARNING), (0.05, BAD))
UNDELIVERED = ((None, GOOD), (0.05, WARNING), (0.1, BAD))
STALE_SECONDS = ((None, GOOD), (150, WARNING), (300, BAD))

NONE = {"0": ("none", GOOD)}

STAGES = ("sent", "delivered", "undelivered", "failed")
OPERATION_LINK = {
    "title": "Show this operation",
    # Keeps the selection of this dashboard and selects the clicked operation.
    "url": "/d/comms-operations/comms-operations?${__url_time_range}&${datasource:queryparam}&${job:queryparam}"
    "&${instance:queryparam}&${account:queryparam}&var-operation_id=${__value.raw:percentencode}",
}

INTRO = """**Does email flow?** Read the numbers from left to right.
If **Accounts down** or **Data age** is colored, the other numbers are out of date: go to \
[Exporter health](d/comms-exporter-health). \
If **Failed** or **Undelivered** is colored, look for the cause in the table of worst operations, and click one; \
[Deliverability](d/comms-deliverability) shows whose emails are lost. \
If **Sent** is near 0 while the backlog grows, email is stuck at Twilio."""


def dashboard() -> Dashboard:
    """Return the overview."""
    builder = panels.dashboard(
        "comms-overview",
        "Comms email / Overview",
        "Email through Twilio's Comms API: volume, failures, bounces and backlog.",
    )
    builder.with_panel(panels.prose(INTRO))
    for panel in (*_numbers(), *_flow(), *_tables()):
        builder.with_panel(panel)
    builder.with_row(panels.section("What the alerts decide on"))
    for panel in _decisions():
        builder.with_panel(panel)
    return builder


def _numbers() -> Iterator[Panel]:
    yield panels.number(
        "Accounts down",
        "Accounts whose last poll failed. While an account is down, its other numbers are not updated.",
        Query(f"sum(1 - {once(account('comms_up'))})"),
        steps=((None, GOOD), (1, BAD)),
    )
    yield panels.number(
        "Data age",
        "Time since the last successful poll, of the account with the oldest data. Normally below a minute.",
        Query(f"max({age(once(account('comms_exporter_last_poll_success_timestamp_seconds')))})"),
        unit="s",
        steps=STALE_SECONDS,
        decimals=0,
        no_value="no poll yet",
    )
    yield panels.number(
        "Sent, 1 h",
        "Emails that Twilio sent within the last hour.",
        Query(increased("comms_emails_sent_total", "1h")),
        unit="locale",
        decimals=0,
    )
    yield panels.number(
        "Delivered, 6 h",
        "Of the emails whose sending began within the last 6 hours, the share delivered among those delivered, undelivered or failed.",
        Query(share("delivered", "6h")),
        unit="percentunit",
        steps=DELIVERED,
        decimals=1,
        no_value="no email",
    )
    yield panels.number(
        "Failed, 1 h",
        "Share of failed emails among those that Twilio sent or failed to send within the last hour.",
        Query(share("failed", "1h")),
        unit="percentunit",
        steps=FAILED,
        decimals=1,
        no_value="no email",
    )
    yield panels.number(
        "Undelivered, 6 h",
        "Share of bounced emails among those sent that began to be sent within the last 6 hours.",
        Query(share("undelivered", "6h")),
        unit="percentunit",
        steps=UNDELIVERED,
        decimals=1,
        no_value="no email",
    )
    yield panels.number(
        "Waiting now",
        "Emails that are queued at Twilio now, without those scheduled for later.",
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
        "Rate at which emails reach each stage. Deliveries follow sent emails; the gap between them should stay small.",
        *(Query(per_minute(f"comms_emails_{stage}_total"), stage, COLORS[stage]) for stage in STAGES),
        height=9,
    )
    yield panels.graph(
        "Failed over 1 hour, undelivered over 6 hours",
        "Failed: share of the emails that Twilio sent or failed to send. Undelivered: share of the emails sent that began to be sent "
        "within 6 hours. Shown only for more than 50 emails, because shares of a few mean nothing; the alerts judge the evidence, as "
        "shown below.",
        Query(share("failed", "1h", by=("account",), least=50), "failed, {{account}}", COLORS["failed"]),
        Query(share("undelivered", "6h", by=("account",), least=50), "undelivered, {{account}}", COLORS["undelivered"]),
        unit="percentunit",
        height=9,
    )
    yield panels.graph(
        "Delivered and opened, share over 6 hours",
        "Delivered: share of the finished emails among those whose sending began within 6 hours. Opened: opened emails per delivered email. "
        "Recipients open emails late, so it "
        "can exceed 100 % long after a campaign; do not alert on it.",
        Query(share("delivered", "6h"), "delivered", COLORS["delivered"]),
        Query(opened("6h"), "opened", COLORS["opened"]),
        unit="percentunit",
        maximum=1,
        width=8,
    )
    yield panels.graph(
        "Backlog",
        "Waiting emails: queued at Twilio to be sent now, or scheduled for later. Queued should fall after each send.",
        Query(total(account("comms_emails_queued")), "queued", COLORS["queued"]),
        Query(total(account("comms_emails_scheduled")), "scheduled", COLORS["scheduled"]),
        width=8,
    )
    yield panels.graph(
        "Unfinished operations",
        "Tracked operations that are not COMPLETED or CANCELED, by status.",
        Query(
            total(account("comms_email_operations", 'status!~"COMPLETED|CANCELED"'), "status", by=("status",)),
            "{{status}}",
        ),
        colors=STATUSES,
        width=8,
    )


def _tables() -> Iterator[Panel]:
    lost = _lost()
    recently = f"({lost} - ({_lost('offset 1h')} or 0 * {lost}))"
    worst = f"topk(10, {recently})"
    in_ranking = f"and on (job, account, operation_id) {worst}"
    emails = _one("emails")
    yield panels.rows(
        "Worst operations now",
        "The active operations that lost the most emails (failed or undelivered) within the last hour. Click one to show it.",
        Column("operation_id", properties=(("links", [OPERATION_LINK]),), width=370),
        Column("account", width=130),
        Column("Lost, 1 h", worst),
        Column("Lost, total", f"{lost} {in_ranking}"),
        Column("Share", f"{lost} / ({emails} > 0) {in_ranking}", "percentunit", (("decimals", 1),)),
        *(Column(name.capitalize(), f"{_one(name)} {in_ranking}") for name in ("failed", "undelivered", "emails")),
        Column("Age", f"{age(_one('created_timestamp_seconds'))} {in_ranking}", "s", (("decimals", 1),)),
        sort="Lost, 1 h",
        height=10,
        no_value="No operation was active recently",
    )
    by = ("account",)
    yield panels.rows(
        "Accounts",
        "Per account: polls, sent emails and their results.",
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
            (("decimals", 0), *panels.colored(STALE_SECONDS)),
        ),
        Column("Sent, 1 h", increased("comms_emails_sent_total", "1h", by=by), properties=(("decimals", 0),)),
        *(
            Column(
                f"{name.capitalize()}, {window} h",
                share(name, f"{window}h", by=by),
                "percentunit",
                (("decimals", 1), *panels.colored(steps)),
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
        no_value="No account",
    )
    yield panels.graph(
        "Operations by status",
        "All tracked operations of the last week by status. Stacked: the height is the total.",
        Query(total(account("comms_email_operations"), "status", by=("status",)), "{{status}}"),
        stacked=True,
        colors=STATUSES,
    )
    yield panels.graph(
        "Age of the oldest unfinished operation",
        "Time since the creation of the oldest operation in each unfinished status. SCHEDULED can wait for days by design. If "
        "PROCESSING only grows while emails are queued, an operation is stuck.",
        Query(f"max by (status) ({age(_oldest())})", "{{status}}"),
        unit="s",
        colors=STATUSES,
    )


def _decisions() -> Iterator[Panel]:
    least = "the lowest share that may have led to this count by chance, in the window where it is highest"
    yield panels.graph(
        "Failed, at least",
        f"Of the emails handled, {least}. CommsEmailFailureSpike warns above 1 % for hours, and pages above 5 %.",
        Query(f"max by (account) ({recorded('account:comms_emails_failed:lower')})", "{{account}}", COLORS["failed"]),
        unit="percentunit",
        width=8,
        steps=((None, "transparent"), (0.01, WARNING), (0.05, BAD)),
    ).no_value("fewer than 5 failures")
    yield panels.graph(
        "Undelivered, at least",
        f"Of the emails sent, {least}. CommsEmailBounceSpike warns above 5 %, and pages above 10 %.",
        Query(
            f"max by (account) ({recorded('account:comms_emails_undelivered:lower')})",
            "{{account}}",
            COLORS["undelivered"],
        ),
        unit="percentunit",
        width=8,
        steps=((None, "transparent"), (0.05, WARNING), (0.1, BAD)),
    ).no_value("fewer than 5 bounces")
    yield panels.graph(
        "Without an outcome, at least",
        "Of the emails sent that began to be sent within the window, the lowest share that may be meant, allowing for chance. "
        "Empty while most of them were sent in the last ten minutes. "
        "CommsEmailDeliveryStalled pages above 35 % of an hour, and warns above 20 % of 6 hours.",
        *(
            Query(
                f"max by (account) ({recorded('account:comms_emails_waiting:steady_lower', matcher)})",
                f"{window}, {{{{account}}}}",
                colour,
            )
            for window, matcher, colour in (("1h", 'window="1h"', "yellow"), ("6h", 'window="6h"', "blue"))
        ),
        unit="percentunit",
        width=8,
        steps=((None, "transparent"), (0.2, WARNING), (0.35, BAD)),
    )
    created = "account:comms_email_operations_created"
    hour = 'window="1h"'
    yield panels.graph(
        "Operations in an hour",
        "Operations created, as many as are usual at this hour, and as many as in the busiest hour of two weeks. "
        "CommsEmailTrafficFlat and CommsEmailSurge compare them.",
        *(
            Query(f"max by (account) ({recorded(f'{created}:{name}', hour)})", f"{legend}, {{{{account}}}}", colour)
            for name, legend, colour in (
                ("count", "created", COLORS["created"]),
                ("usual", "usual", "green"),
                ("busiest", "busiest", "orange"),
            )
        ),
        width=8,
    )
    yield panels.graph(
        "Campaigns",
        "Emails handled in 62 hours, and those of a single day of them that are usual in the weeks before. "
        "CommsEmailCampaignMissing warns if the first number is less than 20 % of the second.",
        *(
            Query(
                f"max by (account) ({recorded(f'account:comms_emails_handled:{name}')})",
                f"{legend}, {{{{account}}}}",
                colour,
            )
            for name, legend, colour in (
                ("count62h", "62 hours", COLORS["sent"]),
                ("usual_past_day", "usual day", "green"),
            )
        ),
        width=8,
    ).no_value("known for less than 16 days")
    yield panels.graph(
        "Time to clear the queue",
        "How long the queue lasts at the pace of the last 20 minutes, and the longest of that in the two weeks before "
        "yesterday. CommsEmailQueueStuck compares them.",
        Query(
            f"1200 * max by (account) ({recorded('account:comms_emails_queued:turns')})",
            "{{account}}",
            COLORS["queued"],
        ),
        Query(
            f"1200 * max by (account) ({recorded('account:comms_emails_queued:usual_turns')})",
            "longest, {{account}}",
            "green",
        ),
        unit="s",
        width=8,
    )
    days = 'window=~"1d|3d"'
    yield panels.graph(
        "Lost, at least",
        f"Of the emails that began to be sent within 1 or 3 days, {least}. CommsEmailDeliveryBudgetBurn warns above 5 %.",
        Query(
            f"max by (account) ({recorded('account:comms_emails_lost:lower', days)})",
            "{{account}}",
            COLORS["undelivered"],
        ),
        unit="percentunit",
        steps=((None, "transparent"), (0.05, WARNING)),
    )
    yield panels.graph(
        "Canceled operations, at least",
        "Of the operations created or canceled in an hour, the lowest share that may be meant, allowing for chance. "
        "CommsEmailBulkCancellation warns above 10 %, from 10 operations on.",
        Query(
            f"max by (account) ({recorded('account:comms_email_operations_canceled:lower1h')})",
            "{{account}}",
            COLORS["canceled"],
        ),
        unit="percentunit",
        steps=((None, "transparent"), (0.1, WARNING)),
    )
    scheduled = "account:comms_email_operations_scheduled"
    window = 'window="90m"'
    yield panels.graph(
        "Scheduled operations that left",
        "How often the number of scheduled operations fell in 90 minutes, and the least of that on the last days. "
        "CommsEmailScheduleStuck warns if none left where 10 or more are usual.",
        Query(f"max by (account) ({recorded(f'{scheduled}:left', window)})", "{{account}}", COLORS["created"]),
        Query(f"max by (account) ({recorded(f'{scheduled}:usual_left', window)})", "usual, {{account}}", "green"),
    )
    yield panels.graph(
        "Age of the oldest operation that is being sent",
        "Time since the oldest operation in PROCESSING began to be sent. CommsEmailOperationOld warns after a day.",
        Query(
            age(once(account("comms_email_oldest_processing_operation_began_timestamp_seconds"))),
            "{{account}}",
            COLORS["queued"],
        ),
        unit="s",
        steps=((None, "transparent"), (86400, WARNING)),
    )


def _oldest(status: str = "") -> str:
    name = "comms_email_oldest_unfinished_operation_created_timestamp_seconds"
    return once(account(name, status and f'status="{status}"'), "status")


def _one(name: str, offset: str = "") -> str:
    return once(f"{account(f'comms_email_operation_{name}')} {offset}".rstrip(), "operation_id")


def _lost(offset: str = "") -> str:
    # A counter that the API does not report counts as 0.
    nothing = f"0 * {_one('emails', offset)}"
    return f"(({_one('failed', offset)} or {nothing}) + ({_one('undelivered', offset)} or {nothing}))"
