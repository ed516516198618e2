"""`comms-exporter rules` prints the rule files with a configuration, and compares them with those that are deployed."""

import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from prometheus import error_output
from rules.configurations import CHANGED, INVALID

from comms_exporter import cli
from comms_exporter.config import SettingsError
from comms_exporter.rules import config, source
from comms_exporter.rules.render import render

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy/prometheus"
LABELS_IN_USE = r"\$labels\.(\w+)"


def groups(text):
    return [group for document in yaml.load_all(text, Loader=yaml.CSafeLoader) for group in document["groups"]]


def rules(texts):
    return [rule for text in texts.values() for group in groups(text) for rule in group["rules"]]


def run(capsys, *arguments):
    """Run the command, and return its exit code, its output, and its errors."""
    code = cli.main(["rules", *map(str, arguments)])
    done = capsys.readouterr()
    return code, done.out, done.err


def shipped():
    return {name: (SHIPPED / name).read_text(encoding="utf-8") for name in source.FILES}


def changed():
    return render(config.load(CHANGED))


class TestDefaults:
    def test_prints_what_is_committed(self, capsys):
        """Byte for byte, the files after each other."""
        assert (0, "---\n".join(shipped().values()), "") == run(capsys)

    @pytest.mark.parametrize(("only", "name"), [("rules", source.RECORDINGS), ("alerts", source.ALERTS)])
    def test_prints_a_single_file(self, capsys, only, name):
        assert (0, shipped()[name], "") == run(capsys, "--only", only)

    def test_writes_what_is_committed(self, capsys, tmp_path):
        code, out, _ = run(capsys, "--output", tmp_path / "new")

        assert (0, [str(tmp_path / "new" / name) for name in source.FILES]) == (code, out.splitlines())
        assert {name: (SHIPPED / name).read_bytes() for name in source.FILES} == {
            path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()
        }
        assert {0o644} == {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}

    def test_an_empty_configuration_changes_nothing(self, tmp_path):
        file = tmp_path / "rules.yml"
        file.write_text("thresholds:\naccounts: {shop: }\n")

        assert shipped() != render(config.load(CHANGED))
        assert {name: groups(text) for name, text in shipped().items()} == {
            name: groups(text) for name, text in render(config.load(file)).items()
        }

    def test_there_is_one_copy_of_every_rule(self):
        """The files of the package are links."""
        folder = ROOT / "comms_exporter/rules"

        assert [(SHIPPED / name).resolve() for name in source.FILES] == [
            (folder / name).resolve() for name in source.FILES
        ]

    def test_the_wheel_contains_the_rules(self, tmp_path):
        builder = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
        done = subprocess.run(
            [sys.executable, "-c", builder, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        )
        with zipfile.ZipFile(tmp_path / done.stdout.strip()) as wheel:
            packed = {name: wheel.read(f"comms_exporter/rules/{name}").decode() for name in source.FILES}

        assert shipped() == packed


class TestChanges:
    def test_thresholds(self):
        expected = {
            "threshold:comms_emails_failed:ratio_critical": ("vector(0.5)", {}),
            "threshold:comms_emails_undelivered:least": ("vector(7)", {}),
            "threshold:comms_email_operation_unfinished:seconds": ("vector(172800)", {}),
            "threshold:comms_emails_lost:ratio_budget": ("vector(0.02)", {}),
        }
        found = {
            rule["record"]: (rule["expr"], rule.get("labels", {}))
            for rule in rules(changed())
            if rule.get("record") in expected and "labels" not in rule
        }

        assert expected == found

    def test_thresholds_of_an_account_are_recorded_again_with_its_name(self):
        assert [
            ("threshold:comms_emails_failed:ratio_critical", "vector(0.05)", {"account": "newsletter"}),
            ("threshold:comms_emails_undelivered:ratio_warning", "vector(0.08)", {"account": "newsletter"}),
            ("threshold:comms_emails_lost:ratio_budget", "vector(0.1)", {"account": "newsletter"}),
            ("threshold:comms_emails_queued:least", "vector(20)", {"account": 'Müller & "Söhne"'}),
        ] == [
            (rule["record"], rule["expr"], rule["labels"])
            for rule in rules(changed())
            if rule.get("record", "").startswith("threshold:") and "labels" in rule
        ]

    def test_the_job(self):
        texts = changed()

        assert 2 == texts[source.ALERTS].count('up{job="mail exporter"}')
        assert 'job="comms-exporter"' not in texts[source.ALERTS] + texts[source.RECORDINGS]

    def test_links(self):
        alerts = [rule["annotations"] for rule in rules(changed()) if "alert" in rule]
        runbook = r"https://git\.acme\.example/comms-exporter/docs/runbooks/(email|exporter)\.md#comms[a-z]+"

        assert all(re.fullmatch(runbook, each["runbook_url"]) for each in alerts)
        assert all(each["dashboard_url"].startswith("https://grafana.acme.example/mail/d/comms-") for each in alerts)

    def test_labels_of_every_alert(self):
        for rule in rules(changed()):
            if "alert" in rule:
                assert {"team": "mail", "on_call": 'a "quoted" name: #1'} == {
                    name: value for name, value in rule["labels"].items() if name != "severity"
                }

    def test_disabled_alerts(self):
        """With every severity; nothing else is gone."""
        left = {rule["alert"] for rule in rules(changed()) if "alert" in rule}

        assert {"CommsEmailQueueStuck", "CommsExporterThrottled"} == set(source.alerts()) - left
        assert "QueueStuck" not in changed()[source.ALERTS]

    def test_nothing_else(self):
        """Rules that nothing in the configuration is about are as they were."""
        untouched = [rule for rule in rules(shipped()) if not rule.get("record", "threshold:").startswith("threshold:")]

        assert untouched == [
            rule for rule in rules(changed()) if not rule.get("record", "threshold:").startswith("threshold:")
        ]
        assert [
            (rule["alert"], rule["expr"].replace("comms-exporter", "mail exporter"), rule["for"], rule["annotations"]["summary"])
            for rule in rules(shipped())
            if "alert" in rule and rule["alert"] not in {"CommsEmailQueueStuck", "CommsExporterThrottled"}
        ] == [
            (rule["alert"], rule["expr"], rule["for"], rule["annotations"]["summary"])
            for rule in rules(changed())
            if "alert" in rule
        ]  # fmt: skip

    def test_a_changed_file_says_where_it_comes_from(self):
        assert all(text.startswith("# Written by `comms-exporter rules`") for text in changed().values())

    @pytest.mark.parametrize("alert", [("CommsRulesMissing", "CommsWatchdog"), source.alerts()], ids=["group", "all"])
    def test_a_group_without_alerts_is_left_out(self, prometheus_binaries, tmp_path, alert):
        text = render(config.parse({"disabled": [*alert]}))[source.ALERTS]
        (tmp_path / "alerts.yml").write_text(text, encoding="utf-8")

        assert all(group["rules"] for group in groups(text))
        assert "comms-alerts" not in {group["name"] for group in groups(text)}
        assert "" == error_output(prometheus_binaries.promtool, "check", "rules", tmp_path / "alerts.yml")


class TestValidation:
    @pytest.mark.parametrize(
        ("written", "problem"), [*INVALID, ("job: a\njob: b", ", line 2: not valid YAML; duplicate key")]
    )
    def test_says_what_is_wrong_in_one_line(self, capsys, tmp_path, written, problem):
        file = tmp_path / "rules.yml"
        file.write_text(written)
        code, out, err = run(capsys, "--config", file)

        (line,) = err.splitlines()
        assert (2, "") == (code, out)
        assert line.removeprefix(f"comms-exporter: {file}").removeprefix(": ").startswith(problem)

    def test_names_everything_that_is_wrong(self):
        with pytest.raises(SettingsError) as caught:
            config.parse({"objective": 2, "disabled": ["x"], "accounts": {"a": {"objective": 2}}})

        assert 3 == len(caught.value.problems)

    @pytest.mark.parametrize("name", [*source.thresholds()])
    def test_every_threshold_accepts_its_own_value(self, name):
        """So a new one needs a kind of value, and by account if the rules look at it by account."""
        shipped_value = re.search(rf"record: threshold:{name}\n +expr: vector\((.+)\)", shipped()[source.RECORDINGS])[1]
        value = eval(shipped_value)  # `6 * 3600`, too
        content = {"objective": 1 - value} if name == source.BUDGET else {"thresholds": {name: value}}
        by_account = name in source.thresholds_by_account()
        parsed = config.parse({**content, "accounts": {"shop": content if by_account else {}}})

        assert {name: value} == pytest.approx(dict(parsed.thresholds))
        assert ({name: value} if by_account else {}) == pytest.approx(dict(parsed.accounts["shop"]))

    def test_labels_of_alerts_cannot_be_replaced(self):
        """Those that descriptions show, and those that inhibition compares."""
        inhibitions = yaml.safe_load((ROOT / "deploy/alertmanager/alertmanager.yml").read_text())["inhibit_rules"]
        used = {label for rule in inhibitions for label in rule["equal"]}
        used |= set(re.findall(LABELS_IN_USE, shipped()[source.ALERTS]))

        assert set() == used - set(config.RESERVED_LABELS)

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (["--chek", "x"], "--chek: unknown argument; did you mean --check?"),
            (["x"], "x: unknown argument"),
            (["--config"], "argument --config: expected one argument"),
            (["--only", "both"], "argument --only: invalid choice: 'both'"),
            (["--config", "/nonexistent"], "--config: cannot read /nonexistent: No such file or directory"),
            (["--check", "/nonexistent"], "--check: cannot read /nonexistent: No such file or directory"),
            (["--check", "x", "--output", "y"], "--output: cannot be used with --check"),
            (["--output", "/dev/null"], "--output: cannot write /dev/null/comms-exporter.rules.yml:"),
        ],
    )
    def test_rejects_wrong_flags(self, capsys, arguments, problem):
        code, out, err = run(capsys, *arguments)

        assert (2, "") == (code, out)
        assert err.splitlines()[0].startswith(f"comms-exporter: {problem}")


class TestCheck:
    def deploy(self, folder, texts):
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return folder

    def test_finds_no_difference_in_what_it_wrote(self, capsys, tmp_path):
        folder = self.deploy(tmp_path / "rules", changed())

        assert (0, "no differences\n", "") == run(capsys, "--config", CHANGED, "--check", folder)

    @pytest.mark.parametrize("name", source.FILES)
    def test_compares_a_single_file(self, capsys, name):
        assert (0, "no differences\n", "") == run(capsys, "--check", SHIPPED / name)

    def test_compares_a_file_that_has_everything(self, capsys, tmp_path, monkeypatch):
        """From the standard input, too, and with the groups of others."""
        objects = [
            {"kind": "PrometheusRule", "spec": {"groups": groups(text)}}
            for text in (*changed().values(), 'groups: [{"name": "ours", "rules": []}]')
        ]
        file = tmp_path / "prometheusrules.yml"
        file.write_text(yaml.safe_dump({"kind": "List", "items": objects}), encoding="utf-8")
        monkeypatch.setattr("sys.stdin", io.StringIO("---\n".join(changed().values())))

        assert (0, "no differences\n", "") == run(capsys, "--config", CHANGED, "--check", file)
        assert (0, "no differences\n", "") == run(capsys, "--config", CHANGED, "--check", "-")

    def test_two_places_are_one(self, capsys, tmp_path):
        first, second = (
            self.deploy(tmp_path / folder, {"x.yml": shipped()[name]})
            for folder, name in (("a", source.RECORDINGS), ("b", source.ALERTS))
        )

        assert (0, "no differences\n", "") == run(capsys, "--check", first / "x.yml", "--check", second / "x.yml")

    def test_says_what_differs(self, capsys):
        """In one line for each difference."""
        code, out, err = run(capsys, "--config", CHANGED, "--check", SHIPPED)
        lines = out.splitlines()

        assert (1, "") == (code, err)
        assert {
            'threshold:comms_emails_failed:ratio_critical: expr is "vector(0.05)" and should be "vector(0.5)"',
            "threshold:comms_emails_undelivered:ratio_warning{account=newsletter}: is missing",
            "CommsEmailQueueStuck warning: should not be there",
            'CommsExporterDown critical: labels: team is nothing and should be "mail"',
        } <= set(lines)
        assert len(set(lines)) == len(lines)

    def test_shows_where_long_texts_begin_to_differ(self, capsys, tmp_path):
        texts = shipped()
        texts[source.ALERTS] = texts[source.ALERTS].replace("the account is not monitored", "nobody sees them")
        code, out, _ = run(capsys, "--check", self.deploy(tmp_path / "rules", texts))

        assert 1 == code
        assert (
            'CommsExporterCredentialsRefused critical: annotations: description is "...minutes): nobody sees them. First run '
            '`comms-exporter ..." and should be "...minutes): the account is not monitored. First run `com..."\n'
        ) == out

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ("interval: 2m", "interval: 1m", 'group comms-usual: interval is "1m" and should be "2m"'),
            ("    interval: 2m\n", "", 'group comms-usual: interval is nothing and should be "2m"'),
            ("- name: comms-data", "- name: comms-date", "group comms-data: is missing"),
            ("- record: job:", "- record: jab:", "job:comms_accounts:troubled{problem=polls}: is missing"),
            (
                "- record: account:comms_emails_sent:total",
                "- record: account:comms_emails_sent:totals",
                "account:comms_emails_sent:totals: should not be there",
            ),
        ],
    )
    def test_finds_a_small_difference(self, capsys, tmp_path, old, new, expected):
        texts = shipped()
        texts[source.RECORDINGS] = texts[source.RECORDINGS].replace(old, new, 1)
        code, out, _ = run(capsys, "--check", self.deploy(tmp_path / "rules", texts))

        assert 1 == code
        assert expected in out.splitlines()

    def test_finds_another_order(self, capsys, tmp_path):
        """Rules of a group are evaluated one after the other."""
        found = groups(shipped()[source.RECORDINGS])
        found[2]["rules"].reverse()
        texts = {source.RECORDINGS: json.dumps({"groups": found}), source.ALERTS: shipped()[source.ALERTS]}
        code, out, _ = run(capsys, "--check", self.deploy(tmp_path / "rules", texts))

        assert (1, ["group comms-data: the rules are in a different order"]) == (code, out.splitlines())

    def test_white_space_is_no_difference(self, capsys, tmp_path):
        texts = {name: json.dumps({"groups": groups(text)}).replace(r"\n", " ") for name, text in shipped().items()}

        assert (0, "no differences\n", "") == run(capsys, "--check", self.deploy(tmp_path / "rules", texts))

    @pytest.mark.parametrize(
        "rules", ["7", "[7]", "{}", "[{}]", "[{alert: [x], labels: 7}]", "[{record: x, labels: {1: a, b: c}, 7: d}]"]
    )
    def test_what_is_no_rule_is_a_difference(self, capsys, tmp_path, rules):
        file = tmp_path / source.RECORDINGS
        file.write_text(f"groups: [{{name: comms-data, 1: x, rules: {rules}}}]")
        code, out, err = run(capsys, "--check", file)

        assert (1, "") == (code, err)
        assert 'group comms-data: 1 is "x" and should be nothing' in out.splitlines()
        assert "account:comms_data:fresh: is missing" in out.splitlines()

    def test_finds_files_and_groups_that_should_be_there_or_should_not(self, capsys, tmp_path):
        file = tmp_path / "rules.yml"
        file.write_text("disabled: [CommsRulesMissing, CommsWatchdog]")
        folder = self.deploy(tmp_path / "rules", {source.ALERTS: shipped()[source.ALERTS]})
        code, out, _ = run(capsys, "--config", file, "--check", folder)

        assert (1, [f"{folder}/{source.RECORDINGS}: is missing", "group comms-alerts: should not be there"]) == (
            code,
            out.splitlines(),
        )

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("a: b: c", "not valid YAML; see line 1"),
            ("a: b", "there are no rule groups in it"),
            ("", "there are no rule groups in it"),
            ("groups: [7]", "there are no rule groups in it"),
            ("groups: [{name: [a]}]", "there are no rule groups in it"),
            ("groups: [{name: !!int x}]", "not valid YAML"),
            ("&a [*a]", "not valid YAML"),
        ],
    )
    def test_says_what_is_no_rule_file(self, capsys, tmp_path, text, problem):
        file = tmp_path / "x.yml"
        file.write_text(text)
        code, out, err = run(capsys, "--check", file)

        assert (2, "", f"comms-exporter: {file}: {problem}\n") == (code, out, err)
