"""The texts of alerts, filled in by promtool, which knows the language of their templates."""

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from alerts.judge.promstore import Server
from alerts.judge.rules import Firing
from prometheus import Binaries

_SUBJECT = "judge_subject"


def annotations(binaries: Binaries, server: Server, firings: Sequence[Firing], folder: Path) -> list[dict[str, str]]:
    """Return the annotations of each of *firings*, as they were when it began to fire."""
    return [_annotations(binaries, server, firing, folder) for firing in firings]


def _annotations(binaries: Binaries, server: Server, firing: Firing, folder: Path) -> dict[str, str]:
    own = {key: value for key, value in firing.labels.items() if key not in {"alertname", *firing.alert.labels}}
    subject = {**own, "__name__": _SUBJECT}
    # A template may ask for other series: these are what they were at that moment.
    around = server.query('{__name__=~".+",__name__!~".*_bucket"}', firing.begin)
    rule = {
        "alert": firing.alert.name,
        "expr": _SUBJECT,
        "labels": firing.alert.labels,
        "annotations": firing.alert.annotations,
    }
    rules = folder / "texts.rules.yml"
    rules.write_text(json.dumps({"groups": [{"name": "judge", "rules": [rule]}]}))
    test = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": _selector(labels), "values": f"{value!r}x5"}
                    for labels, value in [(subject, firing.value), *around]
                    if value == value  # noqa: PLR0124 - NaN is the only one that is not
                ],
                "alert_rule_test": [{"eval_time": "5m", "alertname": firing.alert.name, "exp_alerts": []}],
            }
        ],
    }
    file = folder / "texts.test.yml"
    file.write_text(json.dumps(test))
    # A test that expects nothing fails, and says what there is.
    done = subprocess.run(
        [binaries.promtool, "test", "rules", file], capture_output=True, encoding="utf-8", check=False
    )
    found = re.search(r"got:\[.*?Annotations:\{(.*?)\}\s*\]", done.stdout + done.stderr, re.DOTALL)
    if found is None:
        return {"description": f"(no text: {(done.stdout + done.stderr).strip()})"}
    return {name: json.loads(text) for name, text in re.findall(r'(\w+)=("(?:[^"\\]|\\.)*")', found[1])}


def _selector(labels: dict[str, str]) -> str:
    inner = ",".join(f"{key}={json.dumps(value)}" for key, value in labels.items() if key != "__name__")
    return f"{labels['__name__']}{{{inner}}}"
