"""Shows whether the exporter sees what Twilio says."""

from collections.abc import Iterator

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana import panels
from grafana.overview import STALE_SECONDS
from grafana.panels import BAD, GOOD, WARNING, Column, Panel, Query
from grafana.promql import EXPORTER, account, age, exporter, once, total

BUILD = f"comms_exporter_build_info{{{EXPORTER}}}"
RELOADED = age(f"comms_exporter_config_last_reload_success_timestamp_seconds{{{EXPORTER}}}")
YES_NO = {"0": ("no", BAD), "1": ("yes", GOOD)}
# Red: only a person can mend it.
REASONS = {
    "auth": "red",
    "forbidden": "semi-dark-red",
    "rate_limited": "orange",
    "server": "purple",
    "timeout": "yellow",
    "connection": "light-yellow",
    "tls": "dark-red",
    "not_found": "light-blue",
    "bad_request": "blue",
    "bad_payload": "light-purple",
}
CODES = {
    "200": "green",
    "400": "blue",
    "401": "red",
    "403": "semi-dark-red",
    "404": "light-blue",
    "429": "orange",
    "500": "purple",
    "503": "light-purple",
    "error": "yellow",
}
REQUESTS = account("comms_exporter_api_requests_total")

INTRO = """**Can we see?** *Exporters down*: nothing answers scrapes. *Accounts down*: Twilio does not answer us; the reasons \
are below (auth, forbidden: the credentials; rate_limited: too many requests; the rest: network or Twilio). \
*Hidden*, *drift* and *save* are no emergencies."""


def dashboard() -> Dashboard:
    """Return the dashboard about the watcher itself."""
    made = panels.dashboard(
        "comms-exporter-health",
        "Comms email / Exporter health",
        "Whether the exporter polls Twilio, understands what it gets, and keeps it.",
    )
    made.with_panel(panels.prose(INTRO, height=2))
    for panel in _numbers():
        made.with_panel(panel)
    for title, part in (
        ("Polls", _polls),
        ("Twilio's API", _api),
        ("What we know", _knowledge),
        ("The exporter itself", _process),
    ):
        made.with_row(panels.section(title))
        for panel in part():
            made.with_panel(panel)
    return made


def _numbers() -> Iterator[Panel]:
    yield panels.number(
        "Exporters down",
        "Exporters that Prometheus cannot scrape.",
        Query(f"sum({exporter(f'(1 - up{{{EXPORTER}}})')})"),
        steps=((None, GOOD), (1, BAD)),
    )
    yield panels.number(
        "Accounts down",
        "Accounts whose last poll failed.",
        Query(f"sum(1 - {once(account('comms_up'))})"),
        steps=((None, GOOD), (1, BAD)),
    )
    yield panels.number(
        "Data age",
        "Time since the last successful poll, of the account that waits longest.",
        Query(f"max({_data_age()})"),
        unit="s",
        steps=STALE_SECONDS,
        decimals=0,
        nothing="no poll yet",
    )
    yield panels.number(
        "Poll interval",
        "The longest present interval between polls. Throttling by Twilio stretches it up to eight times.",
        Query(f"max({account('comms_exporter_poll_interval_seconds')})"),
        unit="s",
    )
    yield panels.number(
        "Requests a day",
        "Requests to Twilio in a day, if all hours were like the last.",
        Query(f"{total(f'increase({REQUESTS}[1h])', 'code')} * 24"),
        unit="locale",
        decimals=0,
    )
    yield panels.number(
        "Hidden operations",
        "Recently active operations without series of their own, because of --collect.max-operations. Totals count them.",
        Query(total(account("comms_exporter_operations_hidden"))),
        steps=((None, GOOD), (1, WARNING)),
    )
    yield panels.number(
        "State saved",
        "Time since the totals were last saved, of the account that waits longest. Saving follows every poll. Never: nothing is "
        "kept over a restart.",
        Query(f"max({age(account('comms_exporter_state_last_save_timestamp_seconds'))})"),
        unit="s",
        steps=((None, GOOD), (300, WARNING), (900, BAD)),
        decimals=0,
        nothing="never",
    )
    yield panels.number(
        "Config reload",
        "Whether the last reload of the configuration succeeded, in every exporter.",
        Query(f"min(comms_exporter_config_last_reload_successful{{{EXPORTER}}})"),
        unit="none",
        mapping={"0": ("failed", BAD), "1": ("good", GOOD)},
    )


def _polls() -> Iterator[Panel]:
    failures = account("comms_exporter_poll_failures_total")
    yield panels.graph(
        "Failed polls per minute, by reason",
        "Polls that ended early. auth and forbidden will not heal by themselves; most others do.",
        Query(f"sum by (reason) (rate({failures}[$__rate_interval])) * 60", "{{reason}}"),
        side=True,
        colours=REASONS,
    )
    yield panels.graph(
        "Data age",
        "Time since the last successful poll. A saw-tooth below the poll interval is normal; a ramp is blindness.",
        Query(f"max by (account) ({_data_age()})", "{{account}}"),
        unit="s",
    )
    yield panels.graph(
        "Polls per minute",
        "Polls that came to an end, well or not. With the usual interval of 30 s there are two.",
        Query(
            f"sum by (account) (rate({account('comms_exporter_polls_total')}[$__rate_interval])) * 60", "{{account}}"
        ),
        width=8,
    )
    yield panels.graph(
        "Poll interval",
        "The interval between polls as it is: doubled when Twilio throttles us, halved with every success after that.",
        Query(f"max by (account) ({account('comms_exporter_poll_interval_seconds')})", "{{account}}"),
        unit="s",
        width=8,
    )
    yield panels.graph(
        "Poll duration",
        "How long the last poll took. Near the poll interval, there is no room left: see the latency below.",
        Query(f"max by (account) ({account('comms_exporter_last_poll_duration_seconds')})", "{{account}}"),
        unit="s",
        width=8,
    )


def _api() -> Iterator[Panel]:
    buckets = f"sum by (le) (rate({account('comms_exporter_api_request_duration_seconds_bucket')}[$__rate_interval]))"
    shares = ((0.5, "half", "light-blue"), (0.95, "95 %", "blue"), (0.99, "99 %", "purple"))
    yield panels.graph(
        "API requests per minute, by answer",
        'Requests by HTTP status code; "error" where no complete answer came.',
        Query(f"sum by (code) (rate({REQUESTS}[$__rate_interval])) * 60", "{{code}}"),
        side=True,
        colours=CODES,
    )
    yield panels.graph(
        "API latency",
        "How long Twilio took to answer a request, or to fail to: so many of them within that time.",
        *(Query(f"histogram_quantile({part}, {buckets})", name, colour) for part, name, colour in shares),
        unit="s",
        width=6,
    )
    retries = account("comms_exporter_api_retries_total")
    waits = account("comms_exporter_rate_limit_wait_seconds_total")
    yield panels.graph(
        "Retries and waits",
        "Requests made again, per minute, and the share of time that Twilio made us wait with 429 or 503.",
        Query(f"sum(rate({retries}[$__rate_interval])) * 60", "retries per minute", WARNING),
        Query(
            f"max(rate({waits}[$__rate_interval]))",
            "time waited",
            "purple",
            (("unit", "percentunit"), ("custom.axisPlacement", "right"), ("max", 1)),
        ),
        width=6,
    )


def _knowledge() -> Iterator[Panel]:
    gauge = "comms_exporter_operations_"
    yield panels.graph(
        "Operations",
        "Tracked: all that Twilio still returns. Exposed: with series of their own. Hidden: active, but beyond the limit.",
        *(
            Query(total(account(f"{gauge}{name}")), name, colour)
            for name, colour in (("tracked", "light-blue"), ("exposed", "blue"), ("hidden", "orange"))
        ),
        width=8,
    )
    yield panels.graph(
        "Drift of the API, in an hour",
        "What Twilio said and the exporter did not expect: unknown words, unreadable operations, counters that fell. "
        "Anything but 0: see the log, and perhaps for a newer version.",
        Query(f"sum by (field) (increase({account('comms_exporter_unknown_values_total')}[1h]))", "unknown {{field}}"),
        Query(f"sum(increase({account('comms_exporter_malformed_operations_total')}[1h]))", "malformed"),
        Query(f"sum(increase({account('comms_exporter_stat_regressions_total')}[1h]))", "fallen counters"),
        width=8,
    )
    yield panels.graph(
        "Tracked operations by reading",
        "Whether sent includes delivered (cumulative) or not (exclusive), as decided per operation from its own numbers.",
        Query(total(account("comms_exporter_operations_by_reading"), "reading", by=("reading",)), "{{reading}}"),
        stacked=True,
        width=8,
    )


def _process() -> Iterator[Panel]:
    yield panels.graph(
        "State saves",
        "Time since the last save, of the account that waits longest, and how many saves failed within an hour.",
        Query(f"max({age(account('comms_exporter_state_last_save_timestamp_seconds'))})", "age", "light-blue"),
        Query(
            f"sum(increase({account('comms_exporter_state_save_failures_total')}[1h]))",
            "failures",
            BAD,
            (("unit", "short"), ("custom.axisPlacement", "right")),
        ),
        unit="s",
        width=6,
    )
    yield panels.graph(
        "Memory",
        "Resident memory of the exporter.",
        Query(exporter(f"process_resident_memory_bytes{{{EXPORTER}}}"), "{{instance}}"),
        unit="bytes",
        width=6,
    )
    yield panels.graph(
        "CPU",
        "Processor time that the exporter takes, 100 % being one core.",
        Query(exporter(f"rate(process_cpu_seconds_total{{{EXPORTER}}}[$__rate_interval])"), "{{instance}}"),
        unit="percentunit",
        width=6,
    )
    yield panels.graph(
        "Restarts, in an hour",
        "How often each exporter was started anew within an hour.",
        Query(exporter(f"changes(process_start_time_seconds{{{EXPORTER}}}[1h])"), "{{instance}}"),
        width=6,
    )
    yield panels.rows(
        "Exporters",
        "Versions of every exporter and of its Python, and when its configuration was last read.",
        Column("instance"),
        Column("version"),
        Column("python_version"),
        Column("Running", f"max by (instance, version, python_version) ({BUILD})", properties=panels.mapped(YES_NO)),
        Column("Configuration read", f"max by (instance) ({RELOADED})", "s", (("decimals", 0),)),
        sort="Running",
        height=4,
        nothing="No exporter",
    )


def _data_age() -> str:
    return age(once(account("comms_exporter_last_poll_success_timestamp_seconds")))
