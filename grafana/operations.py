"""Details of single operations: one that is selected, or the largest ones."""

from collections.abc import Iterator

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana import panels
from grafana.overview import DELIVERED, NONE, OPERATION_LINK, UNDELIVERED
from grafana.panels import COLORS, STATUSES, Column, Panel, Query
from grafana.promql import account, age, once, operation

FUNNEL = ("emails", "scheduled", "queued", "sent", "delivered", "opened", "undelivered", "failed", "canceled")
STATES = {"0": ("OTHER", COLORS["opened"])} | {
    str(number): (status, color) for number, (status, color) in enumerate(STATUSES.items(), start=1)
}
# Ids are long, but differ at their end.
SHORT = (".*(.{8})$", "…$1")

_PROCESSING = (
    "and on (job, account, operation_id) "
    + once(operation("comms_email_operation_status", 'status="PROCESSING"'), "operation_id")
    + " == 1"
)

INTRO = """Select an operation above, or click one in the table. With *All*, graphs show the ten operations with the most \
emails. The numbers are those of Twilio, the last ones within the time range. One hour after the last change of a finished \
operation, its series end."""


def dashboard() -> Dashboard:
    """Return the dashboard of single operations."""
    builder = panels.dashboard(
        "comms-operations",
        "Comms email / Operations",
        "Single email operations: their emails, status and age.",
        operations=True,
    )
    builder.with_panel(panels.prose(INTRO))
    for panel in (*_numbers(), *_current(), *_history(), *_lines(), _duration()):
        builder.with_panel(panel)
    return builder


def _numbers() -> Iterator[Panel]:
    yield panels.number(
        "Operations",
        "Number of selected operations with data in the time range.",
        Query(f"count({_last('emails')})"),
    )
    yield panels.number(
        "Emails", "Emails that these operations created.", Query(f"sum({_last('emails')})"), unit="locale"
    )
    yield panels.number(
        "Waiting",
        "Emails of these operations that are queued or scheduled.",
        Query(f"sum({_last('queued')}) + sum({_last('scheduled')})"),
        unit="locale",
    )
    yield panels.number(
        "Delivered",
        "Share of delivered emails among the delivered, undelivered and failed ones of these operations.",
        Query(f"sum({_last('delivered')}) / ({_ended()} > 0)"),
        unit="percentunit",
        steps=DELIVERED,
        decimals=1,
        no_value="none yet",
    )
    yield panels.number(
        "Lost",
        "Share of undelivered and failed emails among the delivered, undelivered and failed ones of these operations.",
        Query(f"(sum({_last('undelivered')}) + sum({_last('failed')})) / ({_ended()} > 0)"),
        unit="percentunit",
        steps=UNDELIVERED,
        decimals=1,
        no_value="none yet",
    )
    yield panels.number(
        "Opened",
        "Opened emails per delivered email of these operations.",
        Query(f"sum({_last('opened')}) / (sum({_last('delivered')}) > 0)"),
        unit="percentunit",
        decimals=1,
        no_value="none yet",
    )
    yield panels.number(
        "Oldest unfinished",
        "Age of the oldest of these operations with status PROCESSING.",
        Query(f"max({age(_one('created_timestamp_seconds'))} {_PROCESSING}) or 0 * count({_last('emails')})"),
        unit="s",
        decimals=1,
        mapping=NONE,
    )
    yield panels.number(
        "Last change",
        "Time since any of these operations last changed.",
        Query(f"min({age(_last('updated_timestamp_seconds'))})"),
        unit="s",
        decimals=0,
        no_value="none",
    )


def _current() -> Iterator[Panel]:
    yield panels.bars(
        "Funnel",
        "Emails of these operations at each stage, as counted by Twilio. Depending on the account, a delivered email still "
        "counts as sent, or no longer does.",
        *(Query(f"sum({_last(name)})", name, COLORS[name]) for name in FUNNEL),
        width=8,
        height=9,
    )
    yield panels.graph(
        "Emails by stage",
        "Emails of these operations at each stage, added up. Best for a single operation: with many, the lines fall whenever "
        "the series of an operation end.",
        *(
            Query(f"sum({_one(name)})", name, COLORS[name])
            for name in ("emails", "queued", "sent", "delivered", "opened", "undelivered", "failed")
        ),
        width=16,
        height=9,
    )
    largest = f"topk(50, {_last('emails')})"
    in_ranking = f"and on (job, account, operation_id) {largest}"
    lost = f"({_last('undelivered')} + {_last('failed')}) / ({_last('emails')} > 0)"
    yield panels.rows(
        "Operations",
        "The 50 operations with the most emails. Click one to select it. Click a column to sort.",
        Column("operation_id", properties=(("links", [OPERATION_LINK]),), width=370),
        Column("account", width=130),
        Column("Status", f"{_status('[$__range]')} {in_ranking}", properties=panels.mapped(STATES), width=115),
        Column("Emails", largest),
        Column("Share lost", f"{lost} {in_ranking}", "percentunit", (("decimals", 1), *panels.colored(UNDELIVERED))),
        *(
            Column(name.capitalize(), f"{_last(name)} {in_ranking}")
            for name in ("queued", "delivered", "opened", "failed")
        ),
        Column("Age", f"{age(_last('created_timestamp_seconds'))} {in_ranking}", "s", (("decimals", 1),)),
        Column("Last change", f"{age(_last('updated_timestamp_seconds'))} {in_ranking}", "s", (("decimals", 1),)),
        sort="Emails",
        no_value="No operation was active within the time range",
    )


def _history() -> Iterator[Panel]:
    yield panels.states(
        "Status",
        "Status of each operation over time. A bar ends one hour after the last change of a finished operation.",
        Query(_top(_status()), "{{operation_id}}"),
        mapping=STATES,
        rename=SHORT,
    )


def _lines() -> Iterator[Panel]:
    lines = (
        (
            "Delivered, share of emails",
            "Progress of each operation: delivered emails as a share of all its emails.",
            "delivered",
        ),
        (
            "Lost, share of emails",
            "Undelivered and failed emails of each operation as a share of all its emails.",
            "lost",
        ),
    )
    for title, description, what in lines:
        counted = _one("delivered") if what == "delivered" else f"({_one('undelivered')} + {_one('failed')})"
        yield panels.graph(
            title,
            description,
            Query(_top(f"{counted} / ({_one('emails')} > 0)"), "{{operation_id}}"),
            unit="percentunit",
            maximum=1 if what == "delivered" else None,
            side=True,
            decimals=1,
        ).with_transformation(panels.renamed(*SHORT))
    yield panels.graph(
        "Queued emails by operation",
        "Emails waiting at Twilio. A line that does not fall means that the operation is stuck.",
        Query(_top(_one("queued")), "{{operation_id}}"),
        side=True,
    ).with_transformation(panels.renamed(*SHORT))
    yield panels.graph(
        "Age of unfinished operations",
        "Longest time since the creation and since the last change of an operation with status PROCESSING. The time that it "
        "was scheduled is included. If the lines only grow, an operation is stuck.",
        *(
            Query(f"max({age(_one(when))} {_PROCESSING}) or 0 * count({_one('emails')})", name, color)
            for when, name, color in (
                ("created_timestamp_seconds", "since created", "light-blue"),
                ("updated_timestamp_seconds", "since changed", "yellow"),
            )
        ),
        unit="s",
        width=6,
    )


def _duration() -> Panel:
    buckets = f"increase({account('comms_email_operation_duration_seconds_bucket')}[1h])"
    shares = ((0.5, "p50", "light-blue"), (0.95, "p95", "blue"))
    return panels.graph(
        "Time to completion, over 1 hour",
        "Time from creation to COMPLETED, median and 95th percentile, of all operations of the selected accounts that completed "
        "within an hour, regardless of the selected operations. A gap means that none completed.",
        *(
            Query(f"histogram_quantile({share}, sum by (le) ({once(buckets, 'le')}))", legend, color)
            for share, legend, color in shares
        ),
        unit="s",
        width=6,
    )


def _one(name: str) -> str:
    return once(operation(f"comms_email_operation_{name}"), "operation_id")


def _last(name: str) -> str:
    return once(f"last_over_time({operation(f'comms_email_operation_{name}')}[$__range])", "operation_id")


def _ended() -> str:
    return " + ".join(f"sum({_last(name)})" for name in ("delivered", "undelivered", "failed"))


def _in(status: str, window: str = "") -> str:
    selected = operation("comms_email_operation_status", f'status="{status}"')
    return once(f"last_over_time({selected}{window})" if window else selected, "operation_id")


def _status(window: str = "") -> str:
    # One series of each operation is 1, that of its status. An unknown status results in 0.
    return " + ".join(f"{number} * {_in(status, window)}" for number, status in enumerate(STATUSES, start=1))


def _top(expr: str) -> str:
    # The same ten over the whole time range.
    ranked = once(f"max_over_time({operation('comms_email_operation_emails')}[$__range] @ end())", "operation_id")
    return f"({expr}) and on (job, account, operation_id) topk(10, {ranked})"
