"""The rules record and fire the same in VictoriaMetrics, whose language is almost PromQL: over the series of promtool's tests."""

import math
import re
from time import time as clock

import pytest
import yaml
from alerts import vmalert
from alerts.judge.player import STALE, Played, Samples
from alerts.judge.promstore import Server, VictoriaMetrics, samples_of
from alerts.judge.rules import Rules, levels, seconds
from alerts.judge.run import RULE_FILES
from prometheus import Binaries

MESSAGES = RULE_FILES[0].parent / "tests/messages.test.yml"
TESTS = sorted((RULE_FILES[0].parent / "tests").glob("*.test.yml"))
# To VictoriaMetrics, the first sample of a series is a change: of a new exporter, one restart less is a crash loop. And what
# happens from the last sample before a window to the first in it belongs to the window: it lasts for one sample longer.
DIFFERENT = {
    "CommsExporterCrashLooping",
    "account:comms_email_operations_scheduled:left",
    "account:comms_email_operations_scheduled:usual_left",
}
# Midnight, because subqueries are aligned with the clock. Time begins at 0 in promtool's tests.
BEGIN = 1_790_000_000 // 86400 * 86400


def samples(series, interval, begin=BEGIN):
    """Return the key and the samples, from *begin* on, of a series in the notation of promtool."""
    name, labels = parsed(series["series"])
    # A poll at 0 is none, but an operation can be as old as the test.
    of_operation, at = name.startswith("comms_email_"), begin if name.endswith("_timestamp_seconds") else 0
    values = []
    for word in series["values"].split():
        number, step, times = re.fullmatch(r"(_|stale|-?[\d.]+)([+-][\d.]+)?(?:x(\d+))?", word).groups()
        # `_x2` are two missing samples, but `1+1x2` are three samples.
        turns = range(int(times or 0) + (number != "_" or not times))
        values += [number if number in {"_", "stale"} else float(number) + turn * float(step or 0) for turn in turns]
    found = Samples()
    for turn, value in enumerate(values):
        if value != "_":
            found.add(
                begin + turn * interval, STALE if value == "stale" else value + (at if value or of_operation else 0)
            )
    return tuple(sorted({**labels, "__name__": name}.items())), found


def parsed(series):
    """Return the name and the labels in `name{label="value"}`."""
    name, inner = re.fullmatch(r"\s*([\w:]*)\s*(?:{(.*)})?\s*", series, re.DOTALL).groups()
    return name, dict(re.findall(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']", inner or ""))


def recorded_by(server, rules, series, step, begin, end):
    """Return what the recording rules record, each as often as its group says."""
    groups = [group for path in rules.files for group in yaml.safe_load(path.read_text("utf-8"))["groups"]]
    steps = {id(rule): max(step, seconds(group.get("interval", "0s"))) for group in groups for rule in group["rules"]}
    recorded = {}
    server.write(series)
    for level in levels([rule for group in groups for rule in group["rules"] if "record" in rule]):
        found = {}
        for rule in level:
            every = steps[id(rule)]
            for labels, points in server.query_range(rule["expr"], begin, end, every):
                own = {**labels, **rule.get("labels", {}), "__name__": rule["record"]}
                # VictoriaMetrics does not store it, and nothing is above or below it.
                present = [(moment, value) for moment, value in points if not math.isnan(value)]
                found.setdefault(tuple(sorted(own.items())), Samples()).extend(samples_of(present, every, end))
        server.write(found)
        recorded |= {key: each for key, each in found.items() if each.times}
    return recorded


def evaluated(server, rules, series, step, end):
    """Return what the recording rules record, and what the alerts fire."""
    recorded = recorded_by(server, rules, series, step, BEGIN, end)
    return recorded, rules.fire(server, Played({}, []), BEGIN, end, step)


def approximately(values):
    """Return *values* to compare with; sums are formed in another order."""
    return pytest.approx(values, rel=1e-9)


def exact(firings):
    """Return what fired, from when to when."""
    return sorted(
        (each.alert.name, sorted(each.labels.items()), each.begin - BEGIN, -1 if each.end is None else each.end - BEGIN)
        for each in firings
        if each.alert.name not in DIFFERENT
    )


def within(firings, step):
    """Return the same to compare with; a window of VictoriaMetrics may hold a sample more."""
    return [(*who, pytest.approx(begin, abs=step), pytest.approx(end, abs=step)) for *who, begin, end in exact(firings)]


def content_of(path):
    """Return the file at *path*, with every value as it is written: to YAML, `0x20` is a number."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def cases():
    for path in TESTS:
        content = content_of(path)
        files = [(path.parent / name).resolve() for name in content["rule_files"]]
        for number, test in enumerate(content["tests"]):
            name = f"{path.name.removesuffix('.test.yml')}-{test.get('name', number)}"
            yield pytest.param(files, seconds(content.get("evaluation_interval", "1m")), test, id=name)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prometheus_three")
@pytest.mark.parametrize(("files", "step", "test"), [*cases()])
def test_records_and_fires_the_same(victoria_metrics, tmp_path, files, step, test):
    interval = seconds(test.get("interval", "1m"))
    series = dict(samples(each, interval) for each in test.get("input_series", ()))
    times = [
        seconds(case["eval_time"]) for kind in ("alert_rule_test", "promql_expr_test") for case in test.get(kind, ())
    ]
    with (
        Server(Binaries.find(3), tmp_path / "prometheus") as prometheus,
        VictoriaMetrics(victoria_metrics("victoria-metrics"), tmp_path / "victoria-metrics") as database,
    ):
        (recorded, firings), (also_recorded, also_firings) = (
            evaluated(server, Rules(files), series, step, BEGIN + max(times)) for server in (prometheus, database)
        )

    assert recorded.keys() == also_recorded.keys()
    assert {} == {
        key: (found, also_recorded[key])
        for key, found in recorded.items()
        if dict(key)["__name__"] not in DIFFERENT
        and (found.times != also_recorded[key].times or found.values != approximately(also_recorded[key].values))
    }
    assert exact(firings) == within(also_firings, step)


def messages():
    """Yield the tests of what alerts say, each with one of its times and the alerts that are expected then."""
    for test in content_of(MESSAGES)["tests"]:
        for time in {case["eval_time"]: None for case in test["alert_rule_test"]}:
            cases = [case for case in test["alert_rule_test"] if case["eval_time"] == time]
            yield pytest.param(test, time, cases, id=f"{test['name']} {time}")


@pytest.mark.parametrize(("test", "time", "cases"), [*messages()])
def test_vmalert_says_the_same(victoria_metrics, tmp_path, test, time, cases):
    """vmalert evaluates now, so the history of the test ends now."""
    end = int(clock()) // 60 * 60
    begin = end - int(seconds(time))
    series = dict(samples(each, seconds(test["interval"]), begin) for each in test["input_series"])
    # What the test expects later has not happened yet.
    until_now = {key: Samples() for key in series}
    for key, found in series.items():
        for moment, value in zip(found.times, found.values, strict=True):
            if moment <= end * 1000:
                until_now[key].add(moment / 1000, value)
    with VictoriaMetrics(victoria_metrics("victoria-metrics"), tmp_path / "store") as database:
        recorded_by(database, Rules(RULE_FILES), until_now, 60.0, begin, end)
        said = vmalert.said(victoria_metrics("vmalert"), database, tmp_path / "alerts.yml", RULE_FILES[1])

    for case in cases:
        # Those after the first are no longer true, and only kept.
        alert = case["exp_alerts"][0]
        found = [
            annotations
            for name, labels, annotations in said
            if (name, labels) == (case["alertname"], alert["exp_labels"])
        ]
        assert [alert["exp_annotations"]] == found
