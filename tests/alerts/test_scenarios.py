"""Each scenario of the simulator fires exactly the alerts that docs/alerts.md lists for it."""

import json
import re
from pathlib import Path

import pytest
from alerts import vmalert
from alerts.judge.player import STALE, Samples
from harness import simulator_harness
from operations import NOW, page_of
from prometheus import Binaries, error_output

from comms_exporter.collect.emails.state import EmailOptions
from comms_exporter.collect.health import Reloads
from comms_exporter.expose.exposition import Exposition
from comms_exporter.simulator.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
RULES = [ROOT / "deploy" / "prometheus" / f"comms-exporter.{kind}.yml" for kind in ("rules", "alerts")]
NAMES = set(re.findall(r"\bcomms_\w+", "".join(path.read_text() for path in RULES)))
JOB = 'instance="exporter:10067",job="comms-exporter"'
MINUTE, HOUR = 60, 3600


def documented(scenario):
    """Return the (alert, severity) pairs that docs/alerts.md lists for *scenario*."""
    table = (ROOT / "docs" / "alerts.md").read_text().partition("## What each scenario fires")[2]
    found, current = set(), None
    for row in re.findall(r"^\|(.*)\|$", table, re.MULTILINE):
        name, fires, _ = (cell.strip() for cell in row.split("|"))
        current = name.strip("`") or current
        if current == scenario:
            found |= {
                (alert, severity)
                for alert, rest in re.findall(r"(Comms\w+)([^|]*)", fires)
                for severity in re.findall("critical|warning|info", rest)
            }
    return found


def scraped(page):
    """Yield (series, value) for every sample of *page* that rules use, as Prometheus stores it."""
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", page, re.MULTILINE):
        if name in NAMES:
            number = float(value)
            # Time starts at 0 in promtool's tests. A timestamp of 0 means never.
            if name.endswith("_timestamp_seconds") and number:
                number -= NOW
            yield f"{name}{{{','.join(filter(None, (labels, JOB)))}}}", number


async def history(scenario, *, before, lasting, step, rate):
    """Return the samples of an exporter over *before* calm seconds and *lasting* seconds of *scenario*: by series and turn."""
    series = {}

    async def save(_):
        """Succeed at once."""

    # A short active window keeps the page small and the test fast.
    async with simulator_harness(
        page_size=1000,
        interval=float(step),
        active_window=600,
        rate=rate,
        emails=EmailOptions(all_stages=True, tags=("campaign",)),
        save=save,
    ) as harness:
        page = Exposition(lambda: [harness.poller], reloads=Reloads(NOW), monotonic=harness.clock)
        turns = range(0, before + lasting, step)
        waiting_until = 0.0
        for turn, seconds in enumerate(turns):
            harness.clock.now = NOW + seconds
            if seconds == before:
                SCENARIOS[scenario].begin(harness.world, harness.faults)
            if seconds >= waiting_until:
                harness.clock.waits.clear()
                await harness.poller.poll()
                await harness.poller.collect_emails(float(step))
                harness.clock.now = NOW + seconds
                waiting_until = seconds + harness.poller.health.interval_seconds if harness.poller.health.problem else 0
            for name, value in [(f"up{{{JOB}}}", 1.0), *scraped(page_of(page).decode())]:
                series.setdefault(name, {})[turn] = value
    return series


def promtool_disagrees(folder, series, rules=RULES, *, lasting, step, expected):
    """Return promtool's output if anything but *expected* fired at any time."""
    every, turns = f"{step}s", range(lasting // step)
    test = {
        "rule_files": [str(path) for path in rules],
        "evaluation_interval": every,
        "tests": [
            {
                "interval": every,
                "input_series": [
                    {
                        "series": name,
                        "values": " ".join(format(values[n], ".16g") if n in values else "_" for n in turns),
                    }
                    for name, values in series.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": "group by (alertname, severity) "
                        f'(max_over_time(ALERTS{{alertstate="firing",alertname!="CommsWatchdog"}}[{lasting + step}s]))',
                        "eval_time": f"{lasting - step}s",
                        "exp_samples": [
                            {"labels": f'{{alertname="{alert}",severity="{severity}"}}', "value": 1}
                            for alert, severity in sorted(expected)
                        ],
                    }
                ],
            }
        ],
    }
    file = folder / "scenario.test.yml"
    file.write_text(json.dumps(test))
    return "".join(error_output(Binaries.find(major).promtool, "test", "rules", file) for major in (2, 3))


def vmalert_fired(programs, folder, series, rules=RULES, *, lasting, step):
    """Return the (alert, severity) pairs that vmalert fires, but for the watchdog."""
    stored = {}
    for name, values in series.items():
        metric, labels = re.fullmatch(r"(\w+){(.*)}", name).groups()
        found = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)
        samples = stored[tuple(sorted([("__name__", metric), *found]))] = Samples()
        # Time goes on from NOW, not from 0 as in promtool's tests.
        shift = NOW if metric.endswith("_timestamp_seconds") else 0
        before = None
        for turn, value in sorted(values.items()):
            if before is not None and turn > before + 1:
                samples.add(NOW + (before + 1) * step, STALE)
            samples.add(NOW + turn * step, value + (shift if value else 0))
            before = turn
        if before is not None and before + 1 < lasting // step:
            samples.add(NOW + (before + 1) * step, STALE)
    fired = vmalert.fired(programs, folder, rules, stored, begin=int(NOW), end=int(NOW) + lasting - step, step=step)
    return {(alert, severity) for alert, severity in fired if alert != "CommsWatchdog"}


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("prometheus_three")
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_fires_exactly_the_documented_alerts(scenario, tmp_path, victoria_metrics):
    """In Prometheus 2.42 and 3, and in vmalert."""
    before, lasting = 2 * HOUR, 3 * HOUR
    series = await history(scenario, before=before, lasting=lasting, step=MINUTE, rate=60)
    expected = documented(scenario)

    assert expected or scenario == "calm"
    assert "" == promtool_disagrees(tmp_path, series, lasting=before + lasting, step=MINUTE, expected=expected)
    programs = victoria_metrics("victoria-metrics"), victoria_metrics("vmalert")
    assert expected == vmalert_fired(programs, tmp_path, series, lasting=before + lasting, step=MINUTE)


def test_every_scenario_is_documented():
    table = (ROOT / "docs" / "alerts.md").read_text().partition("## What each scenario fires")[2]

    assert set(SCENARIOS) == set(re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE))
