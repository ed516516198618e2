"""Messages name the worst operation where operations have series of their own, and are complete where they have none."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus import Binaries, error_output

FOLDER = Path(__file__).parents[2] / "deploy/prometheus"
TARGET = 'instance="exporter:10067",job="comms-exporter"'

every_alert_with_one = pytest.mark.parametrize(
    ("file", "name", "alert", "metric", "what"),
    [
        ("email", "failures", "CommsEmailFailureSpike", "failed", "300 emails failed"),
        ("email", "bounces", "CommsEmailBounceSpike", "undelivered", "300 emails bounced"),
        ("email", "queue", "CommsEmailQueueStuck", "queued", "300 emails queued"),
        ("email-slow", "traffic", "CommsEmailSurge", "emails", "300 emails"),
    ],
)


def test_every_alert_with_one_is_tested():
    named = re.findall(
        r"- alert: (\w+)(?:(?!- alert:).)*The worst operation is",
        (FOLDER / "comms-exporter.alerts.yml").read_text(encoding="utf-8"),
        re.DOTALL,
    )

    assert {mark[2] for mark in every_alert_with_one.args[1]} == set(named)


@every_alert_with_one
def test_the_message_of_a_promtool_test_without_such_series_names_it_with_them(
    tmp_path, file, name, alert, metric, what
):
    """The promtool tests prove the messages for --collect.operations=none, this one those for troubled and active."""
    given = yaml.safe_load((FOLDER / f"tests/{file}.test.yml").read_text(encoding="utf-8"))
    test = next(each for each in given["tests"] if each["name"] == name)
    case = next(each for each in test["alert_rule_test"] if each["alertname"] == alert and each["exp_alerts"])
    accounts = {each["exp_labels"]["account"] for each in case["exp_alerts"]}
    assert not any("comms_email_operation_" in each["series"] for each in test["input_series"])

    # The others would only take time.
    series = [each for each in test["input_series"] if any(f'account="{name}"' in each["series"] for name in accounts)]
    for account in accounts:
        for operation, count in (("worst", 300), ("other", 299)):
            labels = f'account="{account}",operation_id="{account}-{operation}",{TARGET}'
            series.append({"series": f"comms_email_operation_{metric}{{{labels}}}", "values": f"{count}x30000"})
    for each in case["exp_alerts"]:
        annotations = each["exp_annotations"]
        sentence = f"The worst operation is {each['exp_labels']['account']}-worst: {what}."
        annotations["description"] = re.sub(r"(?=First run)", f"{sentence} ", annotations["description"])
    rules = [str(FOLDER / each) for each in ("comms-exporter.rules.yml", "comms-exporter.alerts.yml")]
    tests = [{**test, "input_series": series, "alert_rule_test": [case], "promql_expr_test": []}]
    changed = tmp_path / "changed.test.yml"
    changed.write_text(json.dumps({**given, "rule_files": rules, "tests": tests}), encoding="utf-8")

    assert "" == error_output(Binaries.find(3).promtool, "test", "rules", changed)
