"""The rule files with a configuration: text is replaced in the shipped files, so that layout and comments remain.

Without a configuration, they are byte for byte those that are shipped.
"""

import json
import re

from comms_exporter.rules import source
from comms_exporter.rules.config import RulesConfig

_NOTICE = "# Written by `comms-exporter rules`: change its configuration and not this file.\n"


def render(config: RulesConfig) -> dict[str, str]:
    """Return the text of each rule file by its name."""
    texts = {
        source.RECORDINGS: _recordings(source.shipped(source.RECORDINGS), config),
        source.ALERTS: _alerts(source.shipped(source.ALERTS), config),
    }
    if config == RulesConfig():
        return texts
    return {name: _NOTICE + text for name, text in texts.items()}


def written(number: float) -> str:
    """Return *number* as it stands in a rule; chart and mixin write it the same way."""
    return re.sub(r"\.?0+$", "", f"{number:.10f}")


def _recordings(text: str, config: RulesConfig) -> str:
    def changed(match: re.Match[str]) -> str:
        name, expr = match["name"], match["expr"]
        if name in config.thresholds:
            expr = f"vector({written(config.thresholds[name])})"
        record = f"{match['record']}{match['before']}{expr}\n"
        for account, thresholds in sorted(config.accounts.items()):
            if name in thresholds:
                record += f"{match['record']}{match['before']}vector({written(thresholds[name])})\n"
                record += f"        labels: {{account: {_quoted(account)}}}\n"
        return record

    return re.sub(r"(?P<record> +- record: threshold:(?P<name>\S+)\n)(?P<before> +expr: )(?P<expr>.+)\n", changed, text)


def _alerts(text: str, config: RulesConfig) -> str:
    text = _without(config.disabled, text)
    text = text.replace(f'job="{source.JOB}"', f'job="{config.job}"')
    if config.runbooks:
        text = text.replace(f"runbook_url: {source.RUNBOOKS}", f"runbook_url: {config.runbooks}/")
    if config.dashboards:
        text = text.replace("dashboard_url: /d/", f"dashboard_url: {config.dashboards}/d/")
    labels = "".join(f"          {name}: {_quoted(value)}\n" for name, value in sorted(config.labels.items()))
    return re.sub(r"^ +severity: \w+\n", lambda match: match[0] + labels, text, flags=re.MULTILINE)


def _without(disabled: frozenset[str], text: str) -> str:
    """Return *text* without the alerts that are *disabled* and the comments above them, and without empty groups."""
    alert = r"^(?:      # .*\n)*      - alert: (?P<name>\w+)\n(?:        .*\n)*"
    kept = re.sub(alert, lambda match: "" if match["name"] in disabled else match[0], text, flags=re.MULTILINE)
    kept = re.sub(
        r"^\n?(?:  # .*\n)*  - name: .*\n(?:    interval: .*\n)?    rules:\n(?!      )", "", kept, flags=re.MULTILINE
    )
    return kept if "  - name: " in kept else kept.replace("groups:\n", "groups: []\n")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
