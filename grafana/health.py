"""The health of the exporter: polls, API requests, parsing, saving, resources."""

from collections.abc import Iterator

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana import panels
from grafana.overview import STALE_SECONDS
from grafana.panels import BAD, GOOD, WARNING, Column, Panel, Query
from grafana.promql import EXPORTER, account, age, exporter, once, total

BUILD = f"comms_exporter_build_info{{{EXPORTER}}}"
RELOADED = age(f"comms_exporter_config_last_reload_success_timestamp_seconds{{{EXPORTER}}}")
YES_NO = {"0": ("no", BAD), "1": ("yes", GOOD)}
# Red reasons need action.
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

INTRO = """*Exporters down*: scrapes fail. *Accounts down*: polls fail. *Failed polls* shows the reasons: auth and forbidden \
need other credentials, rate_limited means too many requests, most others are network errors or errors of Twilio. \
*Hidden* operations, *unexpected API responses* and *state saves* are not urgent."""


def dashboard() -> Dashboard:
    """Return the dashboard of the exporter's health."""
    builder = panels.dashboard(
        "comms-exporter-health",
        "Comms email / Exporter health",
        "The exporter: polls, API requests, parsing, saving and resources.",
    )
    builder.with_panel(panels.prose(INTRO, height=2))
    for panel in _numbers():
        builder.with_panel(panel)
    for title, part in (
        ("Polls", _polls),
        ("Twilio's API", _api),
        ("Operations", _operations),
        ("The exporter itself", _process),
    ):
        builder.with_row(panels.section(title))
        for panel in part():
            builder.with_panel(panel)
    return builder


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
        "Time since the last successful poll, of the account with the oldest data.",
        Query(f"max({_data_age()})"),
        unit="s",
        steps=STALE_SECONDS,
        decimals=0,
        no_value="no poll yet",
    )
    yield panels.number(
        "Poll interval",
        "The longest current interval between polls. While Twilio throttles, it grows up to eightfold.",
        Query(f"max({account('comms_exporter_poll_interval_seconds')})"),
        unit="s",
    )
    yield panels.number(
        "Requests per day",
        "API requests per day, extrapolated from the last hour.",
        Query(f"{total(f'increase({REQUESTS}[1h])', 'code')} * 24"),
        unit="locale",
        decimals=0,
    )
    yield panels.number(
        "Hidden",
        "Active operations without their own series, because of --collect.max-operations. Totals include them.",
        Query(total(account("comms_exporter_operations_hidden"))),
        steps=((None, GOOD), (1, WARNING)),
    )
    yield panels.number(
        "State saved",
        'Time since the last save, of the account with the oldest one. Every poll saves. "never": without a state file, totals '
        "start at 0 after a restart.",
        Query(f"max({age(account('comms_exporter_state_last_save_timestamp_seconds'))})"),
        unit="s",
        steps=((None, GOOD), (300, WARNING), (900, BAD)),
        decimals=0,
        no_value="never",
    )
    yield panels.number(
        "Config reload",
        'Result of the last configuration reload: "failed" if it failed in any exporter.',
        Query(f"min(comms_exporter_config_last_reload_successful{{{EXPORTER}}})"),
        unit="none",
        mapping={"0": ("failed", BAD), "1": ("ok", GOOD)},
    )


def _polls() -> Iterator[Panel]:
    failures = account("comms_exporter_poll_failures_total")
    yield panels.graph(
        "Failed polls per minute, by reason",
        "auth and forbidden need action; most others resolve themselves.",
        Query(f"sum by (reason) (rate({failures}[$__rate_interval])) * 60", "{{reason}}"),
        side=True,
        colors=REASONS,
    )
    yield panels.graph(
        "Data age",
        "Time since the last successful poll. A saw-tooth below the poll interval is normal. A ramp means that polls fail.",
        Query(f"max by (account) ({_data_age()})", "{{account}}"),
        unit="s",
    )
    yield panels.graph(
        "Polls per minute",
        "Finished polls, successful or not. With the default interval of 30 s there are two.",
        Query(
            f"sum by (account) (rate({account('comms_exporter_polls_total')}[$__rate_interval])) * 60", "{{account}}"
        ),
        width=8,
    )
    yield panels.graph(
        "Poll interval",
        "The current interval between polls. It doubles when Twilio throttles, and halves with every successful poll afterwards.",
        Query(f"max by (account) ({account('comms_exporter_poll_interval_seconds')})", "{{account}}"),
        unit="s",
        width=8,
    )
    yield panels.graph(
        "Poll duration",
        "Duration of the last poll. If it is close to the poll interval, look at the API latency below.",
        Query(f"max by (account) ({account('comms_exporter_last_poll_duration_seconds')})", "{{account}}"),
        unit="s",
        width=8,
    )


def _api() -> Iterator[Panel]:
    buckets = f"sum by (le) (rate({account('comms_exporter_api_request_duration_seconds_bucket')}[$__rate_interval]))"
    shares = ((0.5, "p50", "light-blue"), (0.95, "p95", "blue"), (0.99, "p99", "purple"))
    yield panels.graph(
        "API requests per minute, by status code",
        'API requests by HTTP status code; "error" if no complete response arrived.',
        Query(f"sum by (code) (rate({REQUESTS}[$__rate_interval])) * 60", "{{code}}"),
        side=True,
        colors=CODES,
    )
    yield panels.graph(
        "API latency",
        "Percentiles of the duration of API requests, including failed ones.",
        *(Query(f"histogram_quantile({part}, {buckets})", name, color) for part, name, color in shares),
        unit="s",
        width=6,
    )
    retries = account("comms_exporter_api_retries_total")
    waits = account("comms_exporter_rate_limit_wait_seconds_total")
    yield panels.graph(
        "Retries and backoff",
        "Retried requests per minute, and the share of time spent backing off after 429 or 503.",
        Query(f"sum(rate({retries}[$__rate_interval])) * 60", "retries per minute", WARNING),
        Query(
            f"max(rate({waits}[$__rate_interval]))",
            "time backing off",
            "purple",
            (("unit", "percentunit"), ("custom.axisPlacement", "right"), ("max", 1)),
        ),
        width=6,
    )


def _operations() -> Iterator[Panel]:
    gauge = "comms_exporter_operations_"
    yield panels.graph(
        "Operations",
        "Tracked: all that Twilio still returns. Exposed: active, with their own series. Hidden: active, but beyond the limit. "
        "Unlisted: left out of Twilio's last list, although they should be in it.",
        *(
            Query(total(account(f"{gauge}{name}")), name, color)
            for name, color in (
                ("tracked", "light-blue"),
                ("exposed", "blue"),
                ("hidden", "orange"),
                ("unlisted", BAD),
            )
        ),
        width=8,
    )
    yield panels.graph(
        "Unexpected API responses, 1 h",
        "Unknown values, operations that could not be parsed, and counters that fell, within an hour. If it is not 0, check the log "
        "and look for a newer version of the exporter.",
        Query(f"sum by (field) (increase({account('comms_exporter_unknown_values_total')}[1h]))", "unknown {{field}}"),
        Query(f"sum(increase({account('comms_exporter_malformed_operations_total')}[1h]))", "malformed"),
        Query(f"sum(increase({account('comms_exporter_stat_regressions_total')}[1h]))", "counters that fell"),
        width=8,
    )
    yield panels.graph(
        "Tracked operations by reading",
        "Whether sent includes delivered (cumulative) or not (exclusive), as detected from the counters of each operation.",
        Query(total(account("comms_exporter_operations_by_reading"), "reading", by=("reading",)), "{{reading}}"),
        stacked=True,
        width=8,
    )


def _process() -> Iterator[Panel]:
    yield panels.graph(
        "State saves",
        "Time since the last save, of the account with the oldest one, and failed saves within an hour.",
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
        "CPU usage of the exporter; 100 % is one core.",
        Query(exporter(f"rate(process_cpu_seconds_total{{{EXPORTER}}}[$__rate_interval])"), "{{instance}}"),
        unit="percentunit",
        width=6,
    )
    yield panels.graph(
        "Restarts, 1 h",
        "Restarts of each exporter within an hour.",
        Query(exporter(f"changes(process_start_time_seconds{{{EXPORTER}}}[1h])"), "{{instance}}"),
        width=6,
    )
    yield panels.rows(
        "Exporters",
        "Versions of each exporter and its Python, and the time since its configuration was last loaded.",
        Column("instance"),
        Column("version"),
        Column("python_version"),
        Column("Running", f"max by (instance, version, python_version) ({BUILD})", properties=panels.mapped(YES_NO)),
        Column("Configuration loaded", f"max by (instance) ({RELOADED})", "s", (("decimals", 0),)),
        sort="Running",
        height=4,
        no_value="No exporter",
    )


def _data_age() -> str:
    return age(once(account("comms_exporter_last_poll_success_timestamp_seconds")))
