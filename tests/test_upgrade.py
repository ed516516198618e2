"""What belongs to 0.1.0 works with this version, or CHANGELOG.md says what to use instead; golden/0.1.0 has its files."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from alerts.test_rules import names_in
from process import exporter, until
from prometheus import Prometheus, error_output
from simulated_api import SENT, SimulatedApi, sample

from comms_exporter.config import build_parser, load
from comms_exporter.model.records import TOTALS
from comms_exporter.store.sqlite import SqliteStore

ROOT = Path(__file__).parents[1]
OLD = ROOT / "tests/golden/0.1.0"
RULES = [OLD / "comms-exporter.rules.yml", OLD / "comms-exporter.alerts.yml"]
NEW_RULES = [ROOT / "deploy/prometheus" / path.name for path in RULES]
CHART = ROOT / "deploy/helm/comms-exporter"
HELM = ROOT / ".tools/helm-3/helm"

CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
ADVICE = re.split(r"^#{2,3} ", CHANGELOG.partition("### Upgrading from 0.1.0\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
# Metrics of Prometheus itself, and labels and words in queries.
NOT_OURS = {"up", "ALERTS"}
# As in the environment of 0.1.0: each of its variables but the one of a file that has to exist.
VARIABLES = {
    "ACCOUNT_NAME": ("account_name", "shop", "shop"),
    "API_BASE_URL": ("api_base_url", "http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1"),
    "API_TIMEOUT": ("api_timeout", "20s", 20),
    "API_PAGE_SIZE": ("api_page_size", "500", 500),
    "API_MAX_REQUESTS_PER_SECOND": ("api_max_requests_per_second", "2.5", 2.5),
    "API_CA_FILE": ("api_ca_file", "/ca.pem", Path("/ca.pem")),
    "COLLECT_INTERVAL": ("collect_interval", "1m", 60),
    "COLLECT_ACTIVE_WINDOW": ("collect_active_window", "2h", 7200),
    "COLLECT_MAX_OPERATIONS": ("collect_max_operations", "200", 200),
    "COLLECT_STATS_READING": ("collect_stats_reading", "cumulative", "cumulative"),
    "STATE_PATH": ("state_path", "/state.db", Path("/state.db")),
    "SHARD_TOTAL": ("shard_total", "2", 2),
    "SHARD_INDEX": ("shard_index", "1", 1),
    "WEB_SYSTEMD_SOCKET": ("web_systemd_socket", "true", True),
    "WEB_TELEMETRY_PATH": ("web_telemetry_path", "/exposed", "/exposed"),
    "WEB_CONFIG_FILE": ("web_config_file", "/web.yml", Path("/web.yml")),
    "LOG_LEVEL": ("log_level", "warn", "warn"),
    "LOG_FORMAT": ("log_format", "json", "json"),
}


def rules_of(paths):
    groups = [group for path in paths for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def names(rules, key):
    return {rule[key] for rule in rules if key in rule}


def read_page(text):
    """Return {metric: type} and {series: {sets of its labels}} of a page."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    labels = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, found = re.match(r"(\w+)(?:\{(.*)\})?", line).groups()
            labels.setdefault(name, set()).add(frozenset(re.findall(r'(\w+)="', found or "")))
    return types, labels


class TestState:
    async def test_counting_continues_with_the_totals_of_its_state_file(self, tmp_path):
        path = shutil.copy(OLD / "state.db", tmp_path / "state.db")
        async with SimulatedApi() as api:
            api.world.send(fates=SENT)
            flags = ("--account.name=shop", f"--state.path={path}", "--collect.interval=100ms")
            async with exporter(api.url, *flags) as process:
                page = await until(process.url, "^comms_up.* 1.0$")
        store = SqliteStore(Path(path), emails=False, deadline=lambda: float("inf"), on_damage=pytest.fail)
        try:
            saved = store.load(["shop"])["shop"]
        finally:
            store.close()

        # What the file has, and the email that was delivered since.
        expected = {"created": 8 + 1, "sent": 5 + 1, "delivered": 2 + 1, "opened": 1, "failed": 0}
        assert expected == {name: sample(page, f'comms_emails_{name}_total{{account="shop"}}') for name in expected}
        assert expected == {
            name: saved.totals[TOTALS.index("total" if name == "created" else name)] for name in expected
        }


class TestSettings:
    def test_its_config_file_means_the_same(self):
        settings = load([f"--config.file={OLD / 'config.yml'}"], {"HOME": "/home/me"}, parser=build_parser())

        expected = {name: value for name, _, value in VARIABLES.values() if name != "account_name"}
        expected |= {"web_systemd_socket": False, "web_config_file": None, "api_ca_file": None}
        expected["state_path"] = Path("/tmp/comms-exporter-0.1.0/state.db")
        assert expected == {name: getattr(settings, name) for name in expected}
        assert [":10067", "[::1]:10068"] == [str(each) for each in settings.web_listen_address]
        assert [("shop", "http://127.0.0.1:1/v1"), ("newsletter", "http://127.0.0.1:2/v1")] == [
            (account.name, account.base_url) for account in settings.accounts
        ]

    def test_its_environment_means_the_same(self):
        environ = {f"COMMS_EXPORTER_{name}": text for name, (_, text, _) in VARIABLES.items()}
        environ |= {"HOME": "/home/me", "TWILIO_ACCOUNT_SID": "AC", "TWILIO_AUTH_TOKEN": "not-a-secret"}
        environ["COMMS_EXPORTER_WEB_LISTEN_ADDRESS"] = ":10067, [::1]:10068"
        settings = load([], environ, parser=build_parser())

        assert {name: value for name, _, value in VARIABLES.values()} == {
            name: getattr(settings, name) for name, _, _ in VARIABLES.values()
        }
        assert 2 == len(settings.web_listen_address)

    def test_the_values_of_its_chart_are_valid(self):
        """Except for those that have a successor."""
        if not os.access(HELM, os.X_OK):
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("helm is not installed: run make tools")
        values = yaml.safe_load((OLD / "values.yaml").read_text(encoding="utf-8"))
        for gone in ("runbookUrl", "grafanaUrl"):
            del values["prometheusRule"][gone]
            assert f"`prometheusRule.{gone}`" in ADVICE
        values["existingSecret"] = "twilio"
        for part in ("prometheusRule", "dashboards", "serviceMonitor"):
            values[part]["enabled"] = True
        done = subprocess.run(
            [HELM, "template", "x", CHART, "--values=-"],
            input=yaml.safe_dump(values),
            capture_output=True,
            text=True,
            check=False,
        )

        assert 0 == done.returncode, done.stderr


class TestPage:
    types, labels = read_page((ROOT / "tests/golden/metrics.txt").read_text(encoding="utf-8"))
    old_types, old_labels = read_page((OLD / "metrics.txt").read_text(encoding="utf-8"))

    def test_has_every_metric_with_its_type(self):
        assert self.old_types == {name: self.types.get(name) for name in self.old_types}

    def test_every_series_has_the_same_labels(self):
        """Old rules and dashboards aggregate and join by them."""
        assert self.old_labels == {name: self.labels.get(name, set()) & kept for name, kept in self.old_labels.items()}


class TestRules:
    def test_its_rules_use_only_what_exists(self):
        old, known = rules_of(RULES), set(TestPage.labels) | NOT_OURS
        known |= {f"{name}_total" for name, kind in TestPage.types.items() if kind == "counter"}
        # Of a configuration, which the golden page lacks.
        known |= {name for name in names_in(" ".join(rule["expr"] for rule in old)) if "config_last_reload" in name}
        known |= {"comms_exporter_state_last_save_timestamp_seconds", "comms_exporter_state_save_failures_total"}
        used = {name for rule in old for name in names_in(rule["expr"])}

        assert set() == used - known - names(old, "record")

    async def test_its_rules_are_evaluated_beside_this_exporter(self, prometheus_binaries, tmp_path):
        for path in RULES:
            assert "" == error_output(prometheus_binaries.promtool, "check", "rules", path)
        async with SimulatedApi() as api, exporter(api.url, "--collect.interval=200ms") as process:
            config = {
                "scrape_configs": [
                    {
                        "job_name": "comms-exporter",
                        "static_configs": [{"targets": [process.url.removeprefix("http://")]}],
                    }
                ]
            }
            async with Prometheus(prometheus_binaries, tmp_path, config=config, rule_files=RULES) as server:
                await server.until("sum(scrape_samples_scraped) > 100", lambda samples: samples)
                groups = []
                while not groups or any(rule["health"] == "unknown" for group in groups for rule in group["rules"]):
                    groups = (await server.get("/api/v1/rules"))["data"]["groups"]

        assert [] == [rule["name"] for group in groups for rule in group["rules"] if rule["health"] != "ok"]

    def test_its_alerts_exist_or_have_a_successor(self):
        gone = names(rules_of(RULES), "alert") - names(rules_of(NEW_RULES), "alert")

        assert set() == {name for name in gone if name not in ADVICE}

    def test_recorded_series_that_are_gone_have_a_successor(self):
        gone = names(rules_of(RULES), "record") - names(rules_of(NEW_RULES), "record")
        # The same series of several windows are in one row.
        gone = {re.sub(r"\d+[mhd]$", "", name) for name in gone if not name.startswith("threshold:")}
        rows = dict(
            re.findall(r"^  \| `(account:[a-z_]+:[a-z]+)[^|]*` \|.*`(account:[a-z0-9_:]+)` \|$", ADVICE, re.MULTILINE)
        )

        assert gone == rows.keys()
        assert set(rows.values()) <= names(rules_of(NEW_RULES), "record")

    def test_its_dashboards_use_only_what_exists(self):
        used = set((OLD / "dashboards.txt").read_text(encoding="utf-8").split())
        # The golden page leaves out what differs from machine to machine.
        known = set(TestPage.labels) | {name for name in used if name.startswith(("process_", "python_"))}

        assert len(used) > 40
        assert set() == {name for name in used - known if f"`{name}`" not in ADVICE}
