"""Shows what has become of one operation, or of the largest ones."""

from collections.abc import Iterator

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana import panels
from grafana.overview import DELIVERED, NONE, OPERATION_LINK, UNDELIVERED
from grafana.panels import COLOURS, STATUSES, Column, Panel, Query
from grafana.promql import account, age, once, operation

FUNNEL = ("emails", "scheduled", "queued", "sent", "delivered", "opened", "undelivered", "failed", "canceled")
STATES = {"0": ("OTHER", COLOURS["opened"])} | {
    str(number): (status, colour) for number, (status, colour) in enumerate(STATUSES.items(), start=1)
}
# Ids are long; their ends tell them apart.
SHORT = (".*(.{8})$", "…$1")

_PROCESSING = (
    "and on (job, account, operation_id) "
    + once(operation("comms_email_operation_status", 'status="PROCESSING"'), "operation_id")
    + " == 1"
)

INTRO = """**What has become of it?** Choose an operation above, or click one in the table; with *All*, lines show the ten \
operations with most emails. Numbers are Twilio's own. They are the last that were seen within the time range: an \
operation has no series of its own any more an hour after its last change."""


def dashboard() -> Dashboard:
    """Return the drill-down into single operations."""
    made = panels.dashboard(
        "comms-operations",
        "Comms email / Operations",
        "What has become of single email operations: their emails, their status, their age.",
        operations=True,
    )
    made.with_panel(panels.prose(INTRO))
    for panel in (*_numbers(), *_present(), *_history(), *_lines(), _duration()):
        made.with_panel(panel)
    return made


def _numbers() -> Iterator[Panel]:
    yield panels.number(
        "Operations",
        "How many operations are chosen, of those seen within the time range.",
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
        "Of the emails of these operations that came to an end (delivered, undelivered or failed), the share delivered.",
        Query(f"sum({_last('delivered')}) / ({_ended()} > 0)"),
        unit="percentunit",
        steps=DELIVERED,
        decimals=1,
        nothing="none yet",
    )
    yield panels.number(
        "Lost",
        "Of the emails of these operations that came to an end, the share that failed or was not delivered.",
        Query(f"(sum({_last('undelivered')}) + sum({_last('failed')})) / ({_ended()} > 0)"),
        unit="percentunit",
        steps=UNDELIVERED,
        decimals=1,
        nothing="none yet",
    )
    yield panels.number(
        "Opened",
        "Of the delivered emails of these operations, the share opened.",
        Query(f"sum({_last('opened')}) / (sum({_last('delivered')}) > 0)"),
        unit="percentunit",
        decimals=1,
        nothing="none yet",
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
        nothing="none",
    )


def _present() -> Iterator[Panel]:
    yield panels.bars(
        "Funnel",
        "Emails of these operations at each stage, as Twilio counts them. Depending on the account, Twilio counts a "
        "delivered email as sent, too, or no longer.",
        *(Query(f"sum({_last(name)})", name, COLOURS[name]) for name in FUNNEL),
        width=8,
        height=9,
    )
    yield panels.graph(
        "Emails by stage",
        "Emails of all these operations together at each stage. Most telling for one operation; with many, the lines "
        "fall whenever an operation has been quiet for an hour and leaves.",
        *(
            Query(f"sum({_one(name)})", name, COLOURS[name])
            for name in ("emails", "queued", "sent", "delivered", "opened", "undelivered", "failed")
        ),
        width=16,
        height=9,
    )
    largest = f"topk(50, {_last('emails')})"
    among = f"and on (job, account, operation_id) {largest}"
    lost = f"({_last('undelivered')} + {_last('failed')}) / ({_last('emails')} > 0)"
    yield panels.rows(
        "Operations",
        "The 50 operations with most emails. Click one to see it alone; sort by clicking a column.",
        Column("operation_id", properties=(("links", [OPERATION_LINK]),), width=370),
        Column("account", width=130),
        Column("Status", f"{_status('[$__range]')} {among}", properties=panels.mapped(STATES), width=115),
        Column("Emails", largest),
        Column("Share lost", f"{lost} {among}", "percentunit", (("decimals", 1), *panels.coloured(UNDELIVERED))),
        *(Column(name.capitalize(), f"{_last(name)} {among}") for name in ("queued", "delivered", "opened", "failed")),
        Column("Age", f"{age(_last('created_timestamp_seconds'))} {among}", "s", (("decimals", 1),)),
        Column("Last change", f"{age(_last('updated_timestamp_seconds'))} {among}", "s", (("decimals", 1),)),
        sort="Emails",
        nothing="No operation was active within the time range",
    )


def _history() -> Iterator[Panel]:
    yield panels.states(
        "Status",
        "Status of each operation over time. A bar ends when the operation has been finished and quiet for an hour.",
        Query(_top(_status()), "{{operation_id}}"),
        mapping=STATES,
        rename=SHORT,
    )


def _lines() -> Iterator[Panel]:
    lines = (
        (
            "Delivered, share of emails",
            "How far each operation has come: delivered emails of all it created.",
            "delivered",
        ),
        (
            "Lost, share of emails",
            "Emails of each operation that failed or were not delivered, of all it created.",
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
            most=1 if what == "delivered" else None,
            side=True,
            decimals=1,
        ).with_transformation(panels.renamed(*SHORT))
    yield panels.graph(
        "Queued emails by operation",
        "Emails that wait at Twilio. A line that does not fall is an operation that does not move.",
        Query(_top(_one("queued")), "{{operation_id}}"),
        side=True,
    ).with_transformation(panels.renamed(*SHORT))
    yield panels.graph(
        "Age of unfinished operations",
        "Of the operations with status PROCESSING, the longest time since one was created, and since one last changed. A "
        "scheduled one brings the time that it waited along. Lines that only grow: an operation does not end.",
        *(
            Query(f"max({age(_one(when))} {_PROCESSING}) or 0 * count({_one('emails')})", name, colour)
            for when, name, colour in (
                ("created_timestamp_seconds", "since created", "light-blue"),
                ("updated_timestamp_seconds", "since changed", "yellow"),
            )
        ),
        unit="s",
        width=6,
    )


def _duration() -> Panel:
    buckets = f"increase({account('comms_email_operation_duration_seconds_bucket')}[1h])"
    shares = ((0.5, "half", "light-blue"), (0.95, "95 %", "blue"))
    return panels.graph(
        "Time to completion, over 1 hour",
        "From creation to COMPLETED for half of them and for 95 %, of all operations of the chosen accounts that completed within an hour, whichever "
        "are chosen above. A gap: none did.",
        *(
            Query(f"histogram_quantile({share}, sum by (le) ({once(buckets, 'le')}))", legend, colour)
            for share, legend, colour in shares
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
    # One series of every operation is 1 and tells which; a status that we do not know leaves 0.
    return " + ".join(f"{number} * {_in(status, window)}" for number, status in enumerate(STATUSES, start=1))


def _top(expr: str) -> str:
    # The same ten at every moment of the picture.
    ranked = once(f"max_over_time({operation('comms_email_operation_emails')}[$__range] @ end())", "operation_id")
    return f"({expr}) and on (job, account, operation_id) topk(10, {ranked})"
