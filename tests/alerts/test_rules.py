"""The rules as Prometheus reads them, the alerts as people read them, and the way from one to the other."""

import json
import re
import subprocess
from collections import Counter
from itertools import accumulate
from pathlib import Path

import pytest
import yaml
from operations import NOW
from prometheus import error_output

from comms_exporter.simulator import World

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/comms-exporter.rules.yml"
ALERTS = ROOT / "deploy/prometheus/comms-exporter.alerts.yml"
TESTS = sorted((ROOT / "deploy/prometheus/tests").glob("*.test.yml"))
ALERTMANAGER = ROOT / "deploy/alertmanager/alertmanager.yml"
TABLE = (ROOT / "docs/alerts.md").read_text(encoding="utf-8")
RUNBOOKS = "https://example.com/comms-exporter/docs/runbooks/"

# Beyond the page that two accounts give: what Prometheus adds, and what only a configuration file brings.
NOT_ON_THE_PAGE = {
    "up",
    "comms_exporter_state_last_save_timestamp_seconds",
    "comms_exporter_state_save_failures_total",
    "comms_exporter_config_last_reload_successful",
    "comms_exporter_config_last_reload_success_timestamp_seconds",
}
PROMQL = set(
    re.findall(
        r"\w+",
        """
        and or unless offset bool by without on ignoring group_left group_right
        absent avg_over_time clamp_min count increase last_over_time max max_over_time min min_over_time
        rate scalar sum sum_over_time time topk vector
        """,
    )
)


def rules_of(path):
    return [rule for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def by_id(rule):
    return f"{rule['alert']}-{rule['labels']['severity']}"


def names_in(promql):
    """The metrics that an expression names."""
    bare = re.sub(
        r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(by|without|on|ignoring|group_left|group_right) *\([^)]*\)', " ", promql
    )
    return set(re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*", bare)) - PROMQL


def metrics_on_the_page():
    page = (ROOT / "tests/golden/metrics.txt").read_text(encoding="utf-8")
    return {re.match(r"\w+", line)[0] for line in page.splitlines() if not line.startswith("#")}


recordings = rules_of(RULES)
alerts = rules_of(ALERTS)
known = metrics_on_the_page() | NOT_ON_THE_PAGE | {rule["record"] for rule in recordings}
every_alert = pytest.mark.parametrize("alert", alerts, ids=by_id)


def promtool_tests():
    return [test for path in TESTS for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]]


def promtool_passes(binaries, file):
    """Thousands of evaluations may take longer than the minute that error_output() gives: the test's own timeout holds."""
    done = subprocess.run([binaries.promtool, "test", "rules", file], capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout + done.stderr


class TestProgramsAgree:
    @pytest.mark.parametrize("path", [RULES, ALERTS], ids=lambda path: path.name)
    def test_lint(self, prometheus_binaries, path):
        assert "" == error_output(prometheus_binaries.promtool, "check", "rules", "--lint=all", "--lint-fatal", path)

    @pytest.mark.timeout(300)
    @pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
    def test_rules(self, prometheus_binaries, path):
        promtool_passes(prometheus_binaries, path)

    def test_prometheus_config(self, prometheus_binaries):
        config = ROOT / "deploy/prometheus/prometheus.yml"

        assert "" == error_output(prometheus_binaries.promtool, "check", "config", "--lint=all", "--lint-fatal", config)

    def test_alertmanager_config(self, prometheus_binaries):
        assert "" == error_output(prometheus_binaries.amtool, "check-config", ALERTMANAGER)

    @pytest.mark.parametrize(
        ("severity", "receiver"),
        [("critical", "pager"), ("warning", "tickets"), ("info", "nowhere"), ("unheard-of", "tickets")],
    )
    def test_routes(self, prometheus_binaries, severity, receiver):
        assert "" == error_output(
            prometheus_binaries.amtool,
            "config",
            "routes",
            "test",
            f"--config.file={ALERTMANAGER}",
            f"--verify.receivers={receiver}",
            f"severity={severity}",
            "alertname=CommsEmailFailureSpike",
            "account=shop",
        )

    def test_inhibits_what_exists(self):
        """Every matcher of an alert's name still meets one."""
        for rule in yaml.safe_load(ALERTMANAGER.read_text(encoding="utf-8"))["inhibit_rules"]:
            for matcher in rule["source_matchers"] + rule["target_matchers"]:
                label, _, pattern = re.fullmatch(r'(\w+)(!?=~?)"(.*)"', matcher).groups()
                if label == "alertname":
                    for name in re.sub(r"(\w+)\(([\w|]+)\)", lambda m: _spread(m[1], m[2]), pattern).split("|"):
                        assert any(re.fullmatch(name, alert["alert"]) for alert in alerts), name


def _spread(prefix, suffixes):
    return "|".join(prefix + suffix for suffix in suffixes.split("|"))


class TestRecordings:
    @pytest.mark.parametrize("rule", recordings, ids=lambda rule: rule["record"])
    def test_name(self, rule):
        """level:metric:operations; the level says whose number it is."""
        assert re.fullmatch(r"(account|threshold):[a-z_]+:[a-z0-9_]+", rule["record"])

    @pytest.mark.parametrize("rule", recordings, ids=lambda rule: rule["record"])
    def test_used(self, rule):
        users = [other["expr"] for other in recordings + alerts if other is not rule]

        assert any(rule["record"] in names_in(expr) for expr in users)

    @pytest.mark.parametrize("rule", recordings, ids=lambda rule: rule["record"])
    def test_made_of_what_exists(self, rule):
        assert names_in(rule["expr"]) <= known

    def test_aggregates_without(self):
        assert [] == [rule["record"] for rule in recordings if re.search(r"\bby\b", rule["expr"])]

    def test_evaluated_often(self):
        """What is older than five minutes is gone for Prometheus."""
        for path in (RULES, ALERTS):
            for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
                assert "interval" not in group

    def test_thresholds_are_explained(self):
        """The table in docs/alerts.md has every threshold, with its value."""
        thresholds = [rule for rule in recordings if rule["record"].startswith("threshold:")]
        rows = dict(re.findall(r"^\| `(threshold:[\w:]+)` \| `([^`]+)` \| \S", TABLE, re.MULTILINE))

        assert {rule["record"]: rule["expr"].removeprefix("vector(").removesuffix(")") for rule in thresholds} == rows


class TestAlerts:
    def test_unique(self):
        """Two severities of one condition, yes; the same twice, no."""
        assert [] == [key for key, n in Counter(map(by_id, alerts)).items() if n > 1]

    @every_alert
    def test_name(self, alert):
        assert re.fullmatch(r"Comms(Email|Exporter)([A-Z][a-z]+)+", alert["alert"])

    @every_alert
    def test_labels(self, alert):
        """A label that changes with the value would make a new alert at every evaluation."""
        assert {"severity"} == alert["labels"].keys()
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}

    @every_alert
    def test_waits(self, alert):
        """At least two scrapes of 30 seconds; two of a minute, where not every second counts."""
        minutes = {"1m": 1, "1h": 60}.get(alert["for"]) or int(alert["for"].removesuffix("m"))

        assert minutes >= (1 if by_id(alert) == "CommsEmailFailureSpike-critical" else 2)

    @every_alert
    def test_summary(self, alert):
        """One sentence, the same for all who share the name."""
        summary = alert["annotations"]["summary"]

        assert re.fullmatch(r"[A-Z][^{}.]*\.", summary)
        assert {summary} == {other["annotations"]["summary"] for other in alerts if other["alert"] == alert["alert"]}

    @every_alert
    def test_description(self, alert):
        description = alert["annotations"]["description"]

        assert re.search(r"\$labels\.(account|instance)", description)
        assert not re.search(r"\$value(?! \| humanize)", description)
        assert description.endswith(".")

    @every_alert
    def test_runbook(self, alert):
        """The link ends at a heading with the alert's name, and below it stands what to know and do."""
        page, _, anchor = alert["annotations"]["runbook_url"].removeprefix(RUNBOOKS).partition("#")
        text = (ROOT / "docs/runbooks" / page).read_text(encoding="utf-8")
        section = re.split(r"^## ", text.partition(f"\n## {alert['alert']}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]

        assert alert["alert"].lower() == anchor
        assert ["Meaning", "Impact", "Diagnosis", "Mitigation"] == re.findall(
            r"^\*\*(\w+)\.\*\*", section, re.MULTILINE
        )
        assert re.search(r"^    \S", section, re.MULTILINE), "no query to copy"

    @every_alert
    def test_dashboard(self, alert):
        url = alert["annotations"]["dashboard_url"]

        assert re.match(r"/d/comms-(overview|operations|exporter-health)(\?|$)", url)
        assert ("account" in alert["annotations"]["description"]) == (
            "var-account={{ $labels.account | urlquery }}" in url
        )

    @every_alert
    def test_made_of_what_exists(self, alert):
        assert names_in(alert["expr"]) <= known

    @every_alert
    def test_ignores_opens(self, alert):
        """Whether people read is not ours to alert on."""
        assert "opened" not in json.dumps(alert)

    @every_alert
    def test_tested(self, alert):
        """promtool sees it fire, sees it silent, and has looked at every minute between."""
        cases = [
            [each["exp_labels"]["severity"] for each in case["exp_alerts"]]
            for test in promtool_tests()
            for case in test.get("alert_rule_test", ())
            if case["alertname"] == alert["alert"]
        ]
        always = f'max_over_time(ALERTS{{alertname="{alert["alert"]}",alertstate="firing"'
        severity = alert["labels"]["severity"]

        assert any(severity in case for case in cases)
        assert any(severity not in case for case in cases)
        assert any(always in query["expr"] for test in promtool_tests() for query in test.get("promql_expr_test", ()))

    @every_alert
    def test_listed(self, alert):
        """docs/alerts.md has a row for it."""
        assert re.search(rf"^\| \[{alert['alert']}\]\(\S+\) \| {alert['labels']['severity']} \|", TABLE, re.MULTILINE)

    def test_no_runbook_without_alert(self):
        pages = (ROOT / "docs/runbooks").glob("*.md")
        headings = [name for page in pages for name in re.findall(r"^## (.*)$", page.read_text("utf-8"), re.MULTILINE)]

        assert sorted({alert["alert"] for alert in alerts}) == sorted(headings)


def runbook_queries():
    pages = sorted((ROOT / "docs/runbooks").glob("*.md"))
    return [line.strip() for page in pages for line in page.read_text("utf-8").splitlines() if line.startswith("    ")]


class TestRunbookQueries:
    def test_made_of_what_exists(self):
        assert set() == {name for query in runbook_queries() for name in names_in(query)} - known

    def test_parse(self, prometheus_binaries, tmp_path):
        rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(runbook_queries())]
        file = tmp_path / "queries.yml"
        file.write_text(json.dumps({"groups": [{"name": "runbooks", "rules": rules}]}), encoding="utf-8")

        assert "" == error_output(prometheus_binaries.promtool, "check", "rules", file)


WEEK = 7 * 86400
STEP = 120
STEPS = WEEK // STEP


@pytest.fixture(scope="module")
def week():
    """What the exporter counts in a week of the simulator's ordinary sender, step by step from the first look on."""
    world = World(seed="calm", clock=lambda: NOW, rate=12, history_seconds=2 * WEEK, retention="thin")
    stages = ("sent", "delivered", "undelivered", "failed", "queued")
    moments = {name: [] for name in (*stages, "created", "canceled")}
    for operation in world._operations:
        moments["created"].append(operation.created)
        if operation.status(NOW) == "CANCELED":
            moments["canceled"].append(operation._ends)
        for stage in stages:
            moments[stage].extend(operation._reached.get(stage, ()))
    return {name: accumulated(each) for name, each in moments.items()}


def accumulated(moments):
    """How many of *moments* have come by the end of each step; what came before the first look is not counted."""
    steps = Counter(STEPS - 1 - int((NOW - moment) // STEP) for moment in moments if moment <= NOW)
    return list(accumulate(steps[n] for n in range(STEPS)))


@pytest.mark.timeout(300)
def test_calm_week(week, prometheus_binaries, tmp_path):
    """Where nothing is wrong no condition is met, not even for a moment."""
    gone = [sent + failed for sent, failed in zip(week["sent"], week["failed"], strict=True)]
    series = {
        **{f"comms_emails_{name}_total": week[name] for name in ("sent", "delivered", "undelivered", "failed")},
        "comms_email_operations_created_total": week["created"],
        "comms_email_operations_canceled_total": week["canceled"],
        # Those that were queued before the first look are missing.
        "comms_emails_queued": [max(0, came - left) for came, left in zip(week["queued"], gone, strict=True)],
        "comms_exporter_last_poll_success_timestamp_seconds": range(STEP, WEEK + STEP, STEP),
        "comms_exporter_poll_interval_seconds": [30] * STEPS,
        "comms_up": [1] * STEPS,
    }
    target = 'instance="exporter:10067",job="comms-exporter"'
    test = {
        "interval": f"{STEP}s",
        "input_series": [
            {"series": f"up{{{target}}}", "values": f"1x{STEPS}"},
            *(
                {"series": f'{name}{{account="calm",{target}}}', "values": " ".join(map(str, values))}
                for name, values in series.items()
            ),
        ],
        "promql_expr_test": [
            {"expr": "count_over_time(ALERTS[8d])", "eval_time": "167h", "exp_samples": []},
            # Lest nothing be measured.
            {
                "expr": "account:comms_emails_finished:increase3d > bool 10000",
                "eval_time": "4d",
                "exp_samples": [{"labels": '{account="calm",job="comms-exporter"}', "value": 1}],
            },
        ],
    }
    file = tmp_path / "calm.test.yml"
    whole = {"rule_files": [str(RULES), str(ALERTS)], "evaluation_interval": "10m", "tests": [test]}
    file.write_text(json.dumps(whole), encoding="utf-8")

    promtool_passes(prometheus_binaries, file)
