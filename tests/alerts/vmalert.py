"""The real vmalert, which replays rules over samples of the past in a VictoriaMetrics, or evaluates them now."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from alerts.judge.player import Series
from alerts.judge.promstore import VictoriaMetrics
from alerts.judge.rules import levels
from process import unused_port


def fired(
    programs: tuple[Path, Path],
    folder: Path,
    rule_files: Iterable[Path],
    series: Series,
    *,
    begin: int,
    end: int,
    step: int,
) -> set[tuple[str, str]]:
    """Return the (alert, severity) pairs that fired between *begin* and *end*, Unix times; *programs* are the database and vmalert."""
    victoria_metrics, vmalert = programs
    groups = [group for path in rule_files for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    rules = [rule for group in groups for rule in group["rules"]]
    # A replay evaluates a rule at all times before the next one: what rules are made of has to be there.
    turns = [*levels([rule for rule in rules if "record" in rule]), [rule for rule in rules if "alert" in rule]]
    # A replay does not say where a recorded series ends, so nothing may last until the next step.
    with VictoriaMetrics(victoria_metrics, folder / "victoria-metrics", lookback=f"{step - 1}s") as database:
        database.write(series)
        for turn, some in enumerate(turns):
            _replay(vmalert, database, folder / f"turn-{turn}.yml", some, begin=begin, end=end, step=step)
        firing = f'group by (alertname, severity) (max_over_time(ALERTS{{alertstate="firing"}}[{end - begin + step}s]))'
        return {(labels["alertname"], labels["severity"]) for labels, _ in database.query(firing, end)}


def said(
    vmalert: Path, database: VictoriaMetrics, file: Path, alerts: Path
) -> list[tuple[str, dict[str, str], dict[str, str]]]:
    """Return the name, the labels and the annotations of every alert whose expression is true now, without any wait."""
    groups = yaml.safe_load(alerts.read_text(encoding="utf-8"))["groups"]
    for group in groups:
        group["rules"] = [
            {key: value for key, value in rule.items() if key not in {"for", "keep_firing_for"}}
            for rule in group["rules"]
        ]
    file.write_text(json.dumps({"groups": groups}), encoding="utf-8")
    address = f"127.0.0.1:{unused_port()}"
    with file.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [
                vmalert,
                f"-rule={file}",
                f"-datasource.url={database.url}",
                "-notifier.blackhole",
                f"-httpListenAddr={address}",
                "-evaluationInterval=1s",
                "-rule.evalDelay=0s",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        until = time.monotonic() + 30
        while not _evaluated(address):
            assert time.monotonic() < until, file.with_suffix(".log").read_text()
            time.sleep(0.1)
        found = _get(address, "alerts")["alerts"]
    finally:
        process.terminate()
        process.wait(10)
    return [
        (
            each["name"],
            {key: value for key, value in each["labels"].items() if key not in {"alertname", "alertgroup"}},
            each["annotations"],
        )
        for each in found
    ]


def _evaluated(address: str) -> bool:
    """Return whether every rule has been evaluated; none may have failed."""
    try:
        rules = [rule for group in _get(address, "rules")["groups"] for rule in group["rules"]]
    except OSError:
        return False
    assert not [rule for rule in rules if rule.get("lastError")]
    return bool(rules) and not any(rule["lastEvaluation"].startswith("0001") for rule in rules)


def _get(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://{address}/api/v1/{path}", timeout=10) as response:
        return json.load(response)["data"]


def _replay(
    vmalert: Path,
    database: VictoriaMetrics,
    file: Path,
    rules: Sequence[Mapping[str, Any]],
    *,
    begin: int,
    end: int,
    step: int,
) -> None:
    # The queries in descriptions are not replayed, and fail.
    group = {
        "name": file.stem,
        "interval": f"{step}s",
        "concurrency": 8,
        "rules": [{key: value for key, value in rule.items() if key != "annotations"} for rule in rules],
    }
    file.write_text(json.dumps({"groups": [group]}), encoding="utf-8")
    done = subprocess.run(
        [
            vmalert,
            f"-rule={file}",
            f"-datasource.url={database.url}",
            f"-remoteWrite.url={database.url}",
            f"-replay.timeFrom={_written(begin)}",
            f"-replay.timeTo={_written(end)}",
            "-replay.maxDatapointsPerQuery=10000",
            "-replay.rulesDelay=0",
            "-replay.ruleRetryAttempts=1",
            "-replay.disableProgressBar",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    database.flush()


def _written(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
