"""Rules and alerts are valid, tested and documented, and stay silent in a week without incidents."""

import json
import re
import subprocess
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from alerts.judge.rules import seconds
from prometheus import error_output

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/comms-exporter.rules.yml"
ALERTS = ROOT / "deploy/prometheus/comms-exporter.alerts.yml"
TESTS = sorted((ROOT / "deploy/prometheus/tests").glob("*.test.yml"))
ALERTMANAGER = ROOT / "deploy/alertmanager/alertmanager.yml"
TABLE = (ROOT / "docs/alerts.md").read_text(encoding="utf-8")

# Metrics that the golden page lacks: that of Prometheus, and those of a state file and a configuration.
NOT_ON_THE_PAGE = {
    "up",
    "ALERTS",
    "process_start_time_seconds",
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
        abs absent avg_over_time bottomk changes clamp_min count count_over_time increase label_replace last_over_time max
        max_over_time min min_over_time quantile rate resets round scalar sqrt sum sum_over_time time topk vector
        """,
    )
)


def rules_of(path):
    return [rule for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def by_id(rule):
    return f"{rule['alert']}-{rule['labels']['severity']}"


def names_in(promql):
    """Return the metrics in an expression."""
    bare = re.sub(
        r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(by|without|on|ignoring|group_left|group_right) *\([^)]*\)', " ", promql
    )
    return set(re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*", bare)) - PROMQL


def queries_in(alert):
    """Return the queries in the templates of an alert, about an account that is called shop."""
    description = alert["annotations"]["description"]
    found = re.findall(r'printf "((?:\\.|[^"\\])*)"[^}|]*\| query', description)
    about = re.search(r'\$mine := printf "([^"]*)"', description)
    queries = [query.replace('\\"', '"') for query in found]
    return [query.replace("%s", about[1] if about else "").replace("%q", '"shop"') for query in queries]


def metrics_on_the_page():
    pages = [(ROOT / "tests/golden" / name).read_text(encoding="utf-8") for name in ("metrics.txt", "emails.txt")]
    return {re.match(r"\w+", line)[0] for page in pages for line in page.splitlines() if not line.startswith("#")}


recordings = rules_of(RULES)
alerts = rules_of(ALERTS)
known = metrics_on_the_page() | NOT_ON_THE_PAGE | {rule["record"] for rule in recordings}
every_alert = pytest.mark.parametrize("alert", alerts, ids=by_id)


# They are about nothing in particular, so nothing else can stay silent.
ALWAYS_THE_SAME = {"CommsRulesMissing", "CommsWatchdog"}


@cache
def promtool_tests():
    files = [yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader) for path in TESTS]
    return [{**test, "evaluation_interval": file["evaluation_interval"]} for file in files for test in file["tests"]]


def promtool_passes(binaries, file):
    """Run promtool without a timeout: thousands of evaluations can take minutes, and the test has its own."""
    done = subprocess.run([binaries.promtool, "test", "rules", file], capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout + done.stderr


@cache
def panel_queries():
    """Return the queries of all panels, without the variables of Grafana."""
    pages = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "grafana/dashboards").glob("*.json")]
    panels = [panel for page in pages for panel in page["panels"]]
    return [re.sub(r"\$\w+", "1m", target["expr"]) for panel in panels for target in panel.get("targets", ())]


def deciding(expr):
    """Return the series that *expr* compares with a limit: its own, and what those are made of, but not whether data is fresh."""
    names, more = (
        set(),
        {name for name in names_in(expr) if not re.match(r"threshold:|account:(threshold_|comms_data:)", name)},
    )
    while more:
        names |= more
        made_of = {name for rule in recordings if rule["record"] in more for name in names_in(rule["expr"])}
        # Counters and gauges of the exporter say nothing about a limit, but for an alert that compares them itself.
        more = {name for name in made_of if re.match(r"account:comms_email", name)} - names
    return {name for name in names if not name.endswith((":total", ":count"))} - {
        "comms_exporter_last_poll_success_timestamp_seconds"
    }


def limit_of(alert, test):
    """Return when *alert* begins to fire in *test*, None if the test lacks the moment before or has nothing that stays silent."""
    name, severity = alert["alert"], alert["labels"]["severity"]
    fires = {}
    ever = []
    for case in test.get("alert_rule_test", ()):
        if case["alertname"] == name:
            fires[seconds(case["eval_time"])] = [entity(each["exp_labels"]) for each in case["exp_alerts"]
                                                 if each["exp_labels"]["severity"] == severity]  # fmt: skip
    for query in test.get("promql_expr_test", ()):
        if f'alertname="{name}"' not in query["expr"]:
            continue
        labels = [dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"])) for sample in query["exp_samples"]]
        found = [entity(each) for each in labels if each.get("severity") == severity]
        if "max_over_time(" in query["expr"]:
            ever.append(found)
        else:
            fires.setdefault(seconds(query["eval_time"]), found)
    present = {entity(dict(re.findall(r'(\w+)="([^"]*)"', each["series"]))) for each in test["input_series"]}
    stays_silent = name in ALWAYS_THE_SAME or any(present - set(found) for found in ever)
    for before, now in pairwise(sorted(fires)):
        if (
            stays_silent
            and now - before <= 2 * seconds(test["evaluation_interval"])
            and set(fires[now]) - set(fires[before])
        ):
            return now
    return None


def entity(labels):
    """Return what an alert is about: an account, an instance or a job."""
    return labels.get("account") or labels.get("instance") or labels.get("job") or ""


class TestTools:
    @pytest.mark.parametrize("path", [RULES, ALERTS], ids=lambda path: path.name)
    def test_rules_pass_the_linter(self, prometheus_binaries, path):
        assert "" == error_output(prometheus_binaries.promtool, "check", "rules", "--lint=all", "--lint-fatal", path)

    # On a busy machine with two cores, the longest takes three minutes.
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
    def test_promtool_tests_pass(self, prometheus_binaries, path):
        promtool_passes(prometheus_binaries, path)

    def test_prometheus_configuration_is_valid(self, prometheus_binaries):
        config = ROOT / "deploy/prometheus/prometheus.yml"

        assert "" == error_output(prometheus_binaries.promtool, "check", "config", "--lint=all", "--lint-fatal", config)

    def test_alertmanager_configuration_is_valid(self, prometheus_binaries):
        assert "" == error_output(prometheus_binaries.amtool, "check-config", ALERTMANAGER)

    @pytest.mark.parametrize(
        ("severity", "receiver"),
        [("critical", "pager"), ("warning", "tickets"), ("info", "nowhere"), ("unheard-of", "tickets")],
    )
    def test_severities_reach_their_receivers(self, prometheus_binaries, severity, receiver):
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

    def test_inhibit_rules_match_existing_alerts(self):
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
    def test_name_has_the_form_level_metric_operations(self, rule):
        assert re.fullmatch(r"(account|job|threshold):[a-z_]+:[a-z0-9_]+", rule["record"])

    @pytest.mark.parametrize("rule", recordings, ids=lambda rule: rule["record"])
    def test_is_used(self, rule):
        users = [other["expr"] for other in recordings + alerts if other is not rule]
        users += [query for alert in alerts for query in queries_in(alert)]

        assert any(rule["record"] in names_in(expr) for expr in users)

    @pytest.mark.parametrize("rule", recordings, ids=lambda rule: rule["record"])
    def test_uses_existing_metrics(self, rule):
        assert names_in(rule["expr"]) <= known

    def test_aggregates_with_without(self):
        """Thresholds are given for an account, and have no other label."""
        by = {rule["record"] for rule in recordings if re.search(r"\bby\b", rule["expr"])}

        assert by == {rule["record"] for rule in recordings if rule["record"].startswith("account:threshold_")}

    def test_is_evaluated_often(self):
        """Prometheus drops samples that are older than five minutes: one evaluation may be missed. Alerts are evaluated every 30 s."""
        intervals = {
            group["name"]: group["interval"]
            for path in (RULES, ALERTS)
            for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
            if "interval" in group
        }

        assert {
            "comms-thresholds": "1m",
            "comms-thresholds-by-account": "1m",
            "comms-emails": "30s",
            "comms-usual": "2m",
            "comms-emails-by": "2m",
            "comms-shared": "30s",
            "comms-email": "30s",
            "comms-exporter": "30s",
        } == intervals

    def test_a_threshold_that_is_loaded_twice_counts_once(self):
        """Two rulers record it twice, which would break a comparison with it and scalar()."""
        for rule in recordings + alerts:
            for before in re.findall(r"(.{0,20})\bthreshold:", rule["expr"]):
                assert re.search(r"(max|max by \(account\) )\($", before), rule["expr"]

    def test_thresholds_are_documented(self):
        """docs/alerts.md lists every threshold with its value."""
        thresholds = [rule for rule in recordings if rule["record"].startswith("threshold:")]
        rows = re.findall(r"^\| `(comms_[\w:]+)` \| (•?) ?\| `([^`]+)` \| \S", TABLE, re.MULTILINE)
        values = {rule["record"]: rule["expr"].removeprefix("vector(").removesuffix(")") for rule in thresholds}
        by_account = {rule["record"].removeprefix("account:threshold_") for rule in recordings}

        assert values.pop("threshold:comms_rules:version")
        assert values == {f"threshold:{name}": value for name, _, value in rows}
        assert [] == [name for name, dot, _ in rows if bool(dot) != (name in by_account)]


class TestAlerts:
    def test_name_and_severity_are_unique(self):
        assert [] == [key for key, n in Counter(map(by_id, alerts)).items() if n > 1]

    @every_alert
    def test_name_has_a_prefix(self, alert):
        assert re.fullmatch(r"Comms([A-Z][a-z]+)+", alert["alert"])

    @every_alert
    def test_severity_is_the_only_label(self, alert):
        """A label that depends on the value would create a new alert at every evaluation."""
        assert {"severity"} == alert["labels"].keys()
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}

    @every_alert
    def test_waits_for_two_scrapes(self, alert):
        """At 30 seconds for the most urgent alert, at a minute for the others."""
        minutes = {"1h": 60, "1d": 1440}.get(alert["for"]) or int(alert["for"].removesuffix("m"))

        urgent = {"CommsEmailFailureSpike-critical", "CommsTwilioIncident-critical"}
        assert minutes >= (1 if by_id(alert) in urgent else 2)

    @every_alert
    def test_summary_is_one_sentence(self, alert):
        """It is the same for all severities of an alert."""
        summary = alert["annotations"]["summary"]

        assert re.fullmatch(r"[A-Z][^{}.]*\.", summary)
        assert {summary} == {other["annotations"]["summary"] for other in alerts if other["alert"] == alert["alert"]}

    @every_alert
    def test_description_names_account_or_instance(self, alert):
        description = alert["annotations"]["description"]

        about_all = {"CommsRulesMissing", "CommsWatchdog"}
        assert alert["alert"] in about_all or re.search(r"\$labels\.(account|instance|job)", description)
        assert not re.search(r"\$value(?! \| humanize)", description)
        assert description.endswith(".")

    @every_alert
    def test_has_a_runbook(self, alert):
        """The link leads to a heading with the alert's name, with the usual paragraphs and a query below it."""
        page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        text = (ROOT / page).read_text(encoding="utf-8")
        section = re.split(r"^## ", text.partition(f"\n## {alert['alert']}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]

        assert alert["alert"].lower() == anchor
        assert ["Meaning", "Impact", "Diagnosis", "Mitigation"] == re.findall(
            r"^\*\*(\w+)\.\*\*", section, re.MULTILINE
        )
        assert re.search(r"^    \S", section, re.MULTILINE), "no query to copy"

    @every_alert
    def test_links_to_a_dashboard(self, alert):
        url = alert["annotations"]["dashboard_url"]

        assert re.match(r"/d/comms-(overview|operations|deliverability|exporter-health)(\?|$)", url)
        assert ("$labels.account" in alert["annotations"]["description"]) == (
            "var-account={{ $labels.account | urlquery }}" in url
        )

    @every_alert
    def test_uses_existing_metrics(self, alert):
        assert names_in(alert["expr"]) <= known

    @every_alert
    def test_ignores_opens(self, alert):
        """Whether recipients open emails is no reason for an alert."""
        assert "opened" not in json.dumps(alert)

    @every_alert
    def test_has_promtool_tests(self, alert):
        """Tests cover when it fires, when it is silent, and every minute in between."""
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
    def test_is_tested_on_both_sides_of_its_limit(self, alert):
        """In one test, it is silent and fires at most two evaluations later, and something else never makes it fire."""
        moments = [found for test in promtool_tests() if (found := limit_of(alert, test))]

        assert moments, "no test with the last silent moment, the first firing one, and what stays silent"

    @pytest.mark.parametrize("alert", [each for each in alerts if "CommsEmail" in each["alert"]], ids=by_id)
    def test_dashboards_show_what_it_decides_on(self, alert):
        """A panel has the recorded series of the alert, or one that it is made of, or the same metric."""
        shown = {name for expr in panel_queries() for name in names_in(expr)}

        assert deciding(alert["expr"]) & shown

    @every_alert
    def test_is_documented(self, alert):
        """docs/alerts.md has a row for it."""
        assert re.search(rf"^\| \[{alert['alert']}\]\(\S+\) \| {alert['labels']['severity']} \|", TABLE, re.MULTILINE)

    def test_every_runbook_has_an_alert(self):
        pages = (ROOT / "docs/runbooks").glob("*.md")
        headings = [name for page in pages for name in re.findall(r"^## (.*)$", page.read_text("utf-8"), re.MULTILINE)]

        assert sorted({alert["alert"] for alert in alerts}) == sorted(headings)


def runbook_queries():
    pages = sorted((ROOT / "docs/runbooks").glob("*.md"))
    return [line.strip() for page in pages for line in page.read_text("utf-8").splitlines() if line.startswith("    ")]


class TestQueriesInDescriptions:
    def test_use_existing_metrics(self):
        queries = [query for alert in alerts for query in queries_in(alert)]

        assert set() == {name for query in queries for name in names_in(query)} - known

    def test_are_valid(self, prometheus_binaries, tmp_path):
        queries = [query for alert in alerts for query in queries_in(alert)]
        rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries)]
        file = tmp_path / "queries.yml"
        file.write_text(json.dumps({"groups": [{"name": "descriptions", "rules": rules}]}), encoding="utf-8")

        assert len(queries) == sum(alert["annotations"]["description"].count("| query") for alert in alerts)
        assert "" == error_output(prometheus_binaries.promtool, "check", "rules", file)


class TestRunbookQueries:
    def test_use_existing_metrics(self):
        assert set() == {name for query in runbook_queries() for name in names_in(query)} - known

    def test_are_valid(self, prometheus_binaries, tmp_path):
        rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(runbook_queries())]
        file = tmp_path / "queries.yml"
        file.write_text(json.dumps({"groups": [{"name": "runbooks", "rules": rules}]}), encoding="utf-8")

        assert "" == error_output(prometheus_binaries.promtool, "check", "rules", file)
