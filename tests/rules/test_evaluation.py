"""Rules with a configuration do what it says, in Prometheus and in vmalert; the scenarios fire what they fired before, or not."""

import pytest
from alerts.test_scenarios import HOUR, MINUTE, history, promtool_disagrees, vmalert_fired
from prometheus import error_output
from rules.configurations import CONFIGURATIONS

from comms_exporter.rules import config
from comms_exporter.rules.render import render

FAILURES_PAGE = {("CommsEmailFailureSpike", "critical")}
FAILURES_WARN = {("CommsEmailFailureSpike", "warning")}
QUEUE_PAGES = {("CommsEmailQueueStuck", "critical")}
REFUSED = {("CommsExporterCredentialsRefused", "critical"), ("CommsExporterDataStale", "critical")}
NO_TARGET = {("CommsExporterDown", "critical")}

CHANGED = CONFIGURATIONS["changed"]
HALF = {"comms_emails_failed:ratio_critical": 0.5}
USUAL = {"comms_emails_failed:ratio_critical": 0.05}


def written(folder, content):
    folder.mkdir()
    for name, text in render(config.parse(content)).items():
        (folder / name).write_text(text, encoding="utf-8")
    return sorted(folder.iterdir())


def renamed(series, job):
    return {name.replace('job="comms-exporter"', f'job="{job}"'): values for name, values in series.items()}


class TestTools:
    def test_promtool_accepts_the_changed_rules(self, prometheus_binaries, tmp_path):
        files = written(tmp_path / "rules", CHANGED)

        assert "" == error_output(prometheus_binaries.promtool, "check", "rules", "--lint=all", "--lint-fatal", *files)

    def test_vmalert_accepts_the_changed_rules(self, victoria_metrics, tmp_path):
        files = [f"-rule={path}" for path in written(tmp_path / "rules", CHANGED)]

        assert "" == error_output(victoria_metrics("vmalert"), "-dryRun", *files)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("prometheus_three")
class TestScenarios:
    async def check(self, folder, victoria_metrics, scenario, job, *cases):
        """Replay *scenario* for each of *cases*: a configuration, and what it fires."""
        before, lasting = HOUR // 2, HOUR
        series = renamed(await history(scenario, before=before, lasting=lasting, step=MINUTE, rate=60), job)
        times = {"lasting": before + lasting, "step": MINUTE}
        programs = victoria_metrics("victoria-metrics"), victoria_metrics("vmalert")
        for number, (content, expected) in enumerate(cases):
            case = folder / str(number)
            case.mkdir()
            files = written(case / "rules", content)

            assert "" == promtool_disagrees(case, series, files, **times, expected=expected)
            assert expected == vmalert_fired(programs, case, series, files, **times)

    async def test_a_threshold_decides_for_all_accounts_or_for_one(self, tmp_path, victoria_metrics):
        """A third of the emails fails; the account is called test."""
        await self.check(
            tmp_path, victoria_metrics, "failure-spike", "comms-exporter",
            ({"thresholds": HALF}, FAILURES_WARN),
            ({"thresholds": HALF, "accounts": {"test": {"thresholds": USUAL}}}, FAILURES_PAGE),
            ({"accounts": {"test": {"thresholds": HALF}}}, FAILURES_WARN),
        )  # fmt: skip

    async def test_a_disabled_alert_is_silent(self, tmp_path, victoria_metrics):
        await self.check(
            tmp_path, victoria_metrics, "stuck", "mail exporter",
            ({"job": "mail exporter"}, QUEUE_PAGES),
            (CHANGED, set()),
        )  # fmt: skip

    async def test_the_rest_is_as_before(self, tmp_path, victoria_metrics):
        """Under the job of the configuration; without one, there seems to be no target."""
        await self.check(
            tmp_path, victoria_metrics, "revoked-key", "mail exporter", (CHANGED, REFUSED), ({}, REFUSED | NO_TARGET)
        )
