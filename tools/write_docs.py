"""Write docs/configuration.md and docs/metrics.md, which say what the code says.

Usage: .venv/bin/python tools/write_docs.py [--check]; with --check it writes nothing, and exits with 1 where a page is not what it should be.
"""

import argparse
import asyncio
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

from comms_exporter import config
from comms_exporter.exposition import Exposition
from comms_exporter.health import PollHealth, Reloads, Traffic
from comms_exporter.metrics import CACHED
from comms_exporter.models import STATS, Operation, pack
from comms_exporter.slices import whole
from comms_exporter.state import EXEMPLIFIED, AccountState, Listing

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deploy/prometheus/comms-exporter.rules.yml"
ALERTS = ROOT / "deploy/prometheus/comms-exporter.alerts.yml"
DASHBOARDS = ROOT / "grafana/dashboards"
NOTICE = "<!-- Written by tools/write_docs.py from the code: change that, and run it. -->"


def main():
    parser = argparse.ArgumentParser(description="Write the pages of docs/ that follow from the code.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where there is something to write"
    )
    check = parser.parse_args().check
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(
            f"{path.relative_to(ROOT)} {'is not what the code says: run .venv/bin/python tools/write_docs.py' if check else 'written'}"
        )
        if not check:
            path.write_text(pages()[path], encoding="utf-8")
    return int(check and bool(stale))


def pages():
    """Return what each page should be."""
    return {ROOT / "docs/configuration.md": configuration(), ROOT / "docs/metrics.md": metrics()}


# Settings.

CONFIGURATION = """\
# Configuration

{notice}

How flags, environment and file go together is in the [README](../README.md#settings). A reload, by SIGHUP or
`POST /-/reload`, reads the file again; flags and environment are those that the process was started with. Files of
secrets and the web config file need no reload: they are read again when they change. In the file, `collect.interval: 1m`
and an `interval: 1m` below `collect:` are the same. A path in the file is relative to the file.

{areas}
## Credentials

From the environment, or from entries of `accounts` in the file, not from both. An account needs the first two or the
last two; beside an API key, the account SID only gives the account its name. The value itself and a file that holds it
exclude each other.

| variable | variable with the path of a file | key of an account | key with the path of a file |
| --- | --- | --- | --- |
{credentials}

An account in the file may also have {others}.

## Other variables

| variable | |
| --- | --- |
| `HTTP_PROXY` `HTTPS_PROXY` `NO_PROXY` | how Twilio is reached, see [Proxies](operating.md#proxies) |
| `XDG_STATE_HOME` | where the state is by default |

A `COMMS_EXPORTER_` variable that is not on this page ends the start, but for those that Kubernetes makes up for a
Service of that name.
"""


def configuration():
    settings = list(config.describe())
    areas = []
    for area, sentence in config.areas().items():
        entries = [setting(each) for each in settings if each.area == area]
        areas.append(f"## {area}\n\n{sentence}\n\n" + "\n".join(entries))
    rows = [
        f"| `TWILIO_{part.upper()}` | `TWILIO_{part.upper()}_FILE` | `{part}` | `{part}_file` |"
        for part in config.PARTS
    ]
    others = [f"`{key}`" for key in config.ACCOUNT_KEYS if key.removesuffix("_file") not in config.PARTS]
    return CONFIGURATION.format(
        notice=NOTICE, areas="\n".join(areas), credentials="\n".join(rows), others=" and ".join(others)
    )


def setting(described):
    default = described.default
    # What depends on where it runs is told in words.
    written = default if " " in default else f"`{default}`" if default else "off" if not described.values else "none"
    facts = [
        f"Values: {described.values}." if described.values else "A flag without a value.",
        f"Default: {written}.",
        *([f"Variable: `{described.variable}`."] if described.variable else []),
        *([f"Key: `{described.key}`."] if described.key else []),
    ]
    if described.name != "config_check":
        facts.append("Needs a restart." if described.restart else "Changes with a reload.")
    return f"### {described.flag}\n\n{described.description}\n\n{' '.join(facts)}\n"


# Metrics.

METRICS = """\
# Metrics

{notice}

*{cached}* stands for: {sentence}

Series of single operations are there for what is unfinished or has changed within
[`--collect.active-window`](configuration.md#--collectactive-window), and vanish when five polls, and five minutes, have
passed without success. In OpenMetrics, {exemplified} and the
buckets of `comms_email_operation_duration_seconds` have exemplars, whose `operation_id` names who moved them last.

{groups}
## Values of labels

What is listed here exists from the start, mostly with 0. A status, code, field or counter that nobody has heard of is
added when Twilio says it.

| label | values |
| --- | --- |
{labels}

`account` is [the account's name](configuration.md#--accountname), `operation_id` is Twilio's. What each `reason` asks for
is under [troubleshooting](operating.md#troubleshooting).

## Who uses what

Alerts directly or by way of a recording rule. What nobody uses is for your own questions: the [cookbook](cookbook.md).

| metric | alerts | dashboards |
| --- | --- | --- |
{uses}
"""
GROUPS = ("Accounts", "Single operations", "The exporter", "The process")
SHORTER = "As of the last poll."
LISTED = ("status", "reason", "code", "stat", "field", "reading")


def metrics():
    found = list(families())
    groups = []
    for title in GROUPS:
        rows = [row(*each) for each in found if title == group(each[0], each[3])]
        groups.append(
            "\n".join([f"## {title}", "", "| metric | type | labels | HELP |", "| --- | --- | --- | --- |", *rows, ""])
        )
    labels = {label: dict.fromkeys(value for *_, named in found for value in named.get(label, ())) for label in LISTED}
    listed = [f"| `{label}` | {' '.join(f'`{value}`' for value in seen)} |" for label, seen in labels.items()]
    names = [name for name, *_ in found if name.startswith("comms_")]
    exemplified = " and ".join(f"`comms_emails_{name}_total`" for name in EXEMPLIFIED)
    return METRICS.format(
        notice=NOTICE,
        cached=SHORTER,
        sentence=CACHED,
        exemplified=exemplified,
        groups="\n".join(groups),
        labels="\n".join(listed),
        uses="\n".join(uses(names)),
    )


def group(name, labels):
    if name.startswith("comms_email"):
        return "Single operations" if "operation_id" in labels else "Accounts"
    return "The exporter" if name.startswith("comms_") else "The process"


def row(name, kind, text, labels):
    text = text.replace(CACHED, f"*{SHORTER}*").replace("|", r"\|")
    return f"| `{name}` | {kind} | {' '.join(f'`{label}`' for label in labels if label != 'le')} | {text} |"


def families():
    """Yield (name, type, HELP, values of its labels) of everything on the page of an account with one operation."""
    now = 1e9
    state = AccountState()
    whole(state.apply(Listing({}, started=now, ended=now, sweep=True)))
    operation = Operation("...", "PROCESSING", now, now, pack((1,) * len(STATS)))
    whole(state.apply(Listing({operation.id: operation}, started=now, ended=now)))
    account = SimpleNamespace(
        name="...",
        state=state,
        view=whole(state.view(now=now, active_window=1, limit=1)),
        health=PollHealth(interval_seconds=30, last_success=now, last_success_monotonic=now),
        traffic=Traffic(),
    )
    exposition = Exposition(lambda: [account], reloads=Reloads(now), monotonic=lambda: now)
    page = b"".join(asyncio.run(exposition.body(openmetrics=False)).chunks)
    for family in parse(page.decode()):
        labels = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                labels.setdefault(label, []).append(value)
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield name, family.type, family.documentation, labels


def uses(names):
    """Yield a row for each of *names*."""
    recorded, alerted = rules(RULES), rules(ALERTS)
    boards = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(DASHBOARDS.glob("*.json"))]
    asked = {
        (each["title"], each["uid"]): {name for expr in expressions(each) for name in words(expr)} for each in boards
    }
    for name in names:
        sources = {name, f"{name}_bucket", f"{name}_sum", f"{name}_count"}
        while more := {record for record, exprs in recorded.items() if words(*exprs) & sources} - sources:
            sources |= more
        alerts = [link(alert) for alert, exprs in alerted.items() if words(*exprs) & sources]
        shown = [
            f"[{title.rpartition(' / ')[2]}](../grafana/dashboards/{uid}.json)"
            for (title, uid), used in asked.items()
            if used & sources
        ]
        yield f"| `{name}` | {', '.join(alerts)} | {', '.join(shown)} |"


def rules(path):
    """Return the expressions behind every name that the rules in *path* give."""
    found = {}
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            found.setdefault(rule.get("record") or rule["alert"], []).append(rule["expr"])
    return found


def expressions(node):
    """Yield every query of a dashboard."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key in {"expr", "query"} and isinstance(value, str))
        node = node.values()
    if isinstance(node, dict | list) or not isinstance(node, str | int | float | type(None)):
        for each in node:
            yield from expressions(each)


def words(*exprs):
    return {name for expr in exprs for name in re.findall(r"[a-zA-Z_:][\w:]*", expr)}


def link(alert):
    page = "email" if alert.startswith("CommsEmail") else "exporter"
    return f"[{alert}](runbooks/{page}.md#{alert.lower()})"


if __name__ == "__main__":
    sys.exit(main())
