"""Chart and mixin make the same rules of a configuration as `comms-exporter rules`."""

import importlib
import json

import pytest
import yaml
from deploy.test_deploy import CHART, DASHBOARDS, both_helms, fetched, missing, one, output
from rules.configurations import CHANGED, CONFIGURATIONS, INVALID

from comms_exporter import cli
from comms_exporter.rules import config, source
from comms_exporter.rules.render import render

MIXIN = CHART.parents[1] / "mixin/mixin.libsonnet"

every_configuration = pytest.mark.parametrize("content", CONFIGURATIONS.values(), ids=CONFIGURATIONS)


def expected(content, name):
    """Return the groups that the command prints."""
    return yaml.load(render(config.parse(content))[name], Loader=yaml.CSafeLoader)["groups"]


def helm_template(helm, folder, rules, *flags, code=0):
    """Run Helm with *rules* as the configuration of the rules."""
    values = folder / "values.yaml"
    content = {"existingSecret": "twilio", "prometheusRule": {"enabled": True, "config": rules}}
    values.write_text(yaml.safe_dump(content), encoding="utf-8")
    return output(fetched("helm", f"helm-{helm}"), "template", "rel", CHART, "--values", values, *flags, code=code)


def chart_groups(helm, folder, rules, *flags):
    text = helm_template(helm, folder, rules, *flags)
    objects = [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]
    return one(objects, "PrometheusRule")["spec"]["groups"]


class TestChart:
    @both_helms
    @every_configuration
    def test_renders_the_same_rules(self, helm, content, tmp_path):
        both = expected(content, source.ALERTS) + expected(content, source.RECORDINGS)

        assert both == chart_groups(helm, tmp_path, content)

    @both_helms
    def test_the_job_is_that_of_the_service_monitor(self, helm, tmp_path):
        both = expected({"job": "mail"}, source.ALERTS) + expected({"job": "mail"}, source.RECORDINGS)

        assert both == chart_groups(helm, tmp_path, {}, "--set", "nameOverride=mail")

    @both_helms
    def test_without_alerts(self, helm, tmp_path):
        content = {"disabled": [*source.alerts()]}

        assert expected(content, source.RECORDINGS) == chart_groups(helm, tmp_path, content)

    @both_helms
    def test_an_empty_configuration_changes_nothing(self, helm, tmp_path):
        content = {"accounts": {"shop": {}}, "thresholds": {}, "labels": {}, "disabled": []}

        assert chart_groups(helm, tmp_path, {}) == chart_groups(helm, tmp_path, content)

    def test_its_object_can_be_checked(self, capsys, tmp_path):
        """As kubectl prints it."""
        file = tmp_path / "objects.yml"
        file.write_text(helm_template(4, tmp_path, CONFIGURATIONS["changed"]), encoding="utf-8")

        assert 0 == cli.main(["rules", "--config", str(CHANGED), "--check", str(file)])
        assert "no differences\n" == capsys.readouterr().out

    # Helm makes texts of the keys in its values.
    @pytest.mark.parametrize("written", [written for written, _ in INVALID if not written.startswith("accounts: {7:")])
    def test_rejects_what_the_command_rejects(self, tmp_path, written):
        error_message = helm_template(4, tmp_path, yaml.safe_load(written), code=1)

        assert "schema" in error_message or ".nan" in written or ".inf" in written


class TestMixin:
    def mixin(self, content, field="prometheusRules"):
        """Return a field of the mixin with *content* as its configuration."""
        try:
            jsonnet = importlib.import_module("_jsonnet")
        except ModuleNotFoundError:
            missing("jsonnet", "it is in the development lock")
        changed = f"((import '{MIXIN}') + {{ _config+:: {json.dumps(content)} }}).{field}"
        return json.loads(jsonnet.evaluate_snippet("test", changed))

    @every_configuration
    def test_has_the_same_rules(self, content):
        assert {"groups": expected(content, source.RECORDINGS)} == self.mixin(content)
        assert {"groups": expected(content, source.ALERTS)} == self.mixin(content, "prometheusAlerts")

    def test_without_alerts(self):
        assert {"groups": []} == self.mixin({"disabled": [*source.alerts()]}, "prometheusAlerts")

    def test_has_the_dashboards(self):
        assert {path.name: json.loads(path.read_text("utf-8")) for path in DASHBOARDS} == self.mixin(
            {}, "grafanaDashboards"
        )

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ({"treshold": {}}, "_config: unknown name treshold"),
            ({"thresholds": {"comms_up:ratio": 0.5}}, "thresholds: unknown name comms_up:ratio"),
            ({"thresholds": {source.BUDGET: 0.5}}, f"thresholds: unknown name {source.BUDGET}"),
            ({"accounts": {"shop": {"threshold": {}}}}, "accounts.shop: unknown name threshold"),
            (
                {"accounts": {"shop": {"thresholds": {"comms_up:ratio_seen": 0.5}}}},
                "accounts.shop.thresholds: unknown name comms_up:ratio_seen",
            ),
        ],
    )
    def test_rejects_unknown_names(self, content, problem):
        with pytest.raises(RuntimeError, match=f"^RUNTIME ERROR: {problem}\n"):
            self.mixin(content)

    def test_rejects_unknown_alerts(self):
        with pytest.raises(RuntimeError, match=r"^RUNTIME ERROR: disabled: unknown name CommsEmailSurg\n"):
            self.mixin({"disabled": ["CommsEmailSurg"]}, "prometheusAlerts")
