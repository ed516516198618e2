"""The dashboards are up to date, follow the rules of Grafana's linter, and show data of a real Prometheus."""

import asyncio
import json
import random
import re
import subprocess
import sys
import warnings
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from harness import simulator_harness
from operations import NOW, page_of
from prometheus import Binaries, Prometheus, error_output

from comms_exporter.collect.emails.state import EmailOptions
from comms_exporter.collect.health import Reloads
from comms_exporter.expose.exposition import Exposition

with warnings.catch_warnings():
    # The SDK deprecates this schema, but every version of Grafana reads it.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.models.dashboard import Dashboard

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "grafana" / "dashboards"
UIDS = ("comms-overview", "comms-deliverability", "comms-operations", "comms-exporter-health")
POLL_SECONDS, SCRAPE_SECONDS = 30, 60
MINUTE, HOUR = 60, 3600


# A history: the exporter's real output at every scrape of some hours.


async def history(file, *, start=NOW, hours=4.0, incident=None, api_errors=None):
    """Write the scrapes of an exporter with two busy accounts to *file*, as OpenMetrics.

    During *incident*, from and to in hours, many emails of the first account fail or bounce. At the hour *api_errors*, its API
    requests fail and are throttled.
    """
    rng = random.Random(4)
    emails = EmailOptions(all_stages=True, tags=("campaign",), errors=True)
    async with AsyncExitStack() as stack:
        shop, news = [
            await stack.enter_async_context(simulator_harness(page_size=500, save=_save, emails=emails))
            for _ in range(2)
        ]
        shop.poller.name, news.poller.name = "shop", "newsletter"
        page = Exposition(lambda: [shop.poller, news.poller], reloads=Reloads(start), monotonic=shop.clock)
        with file.open("w", encoding="utf-8") as out:
            for seconds in range(0, round(hours * HOUR) + 1, POLL_SECONDS):
                for each in (shop, news):
                    each.clock.now = start + seconds
                _simulate(shop, seconds, incident, api_errors, rng, campaign=2.5 * HOUR)
                _simulate(news, seconds, None, None, rng, campaign=1.5 * HOUR)
                await asyncio.gather(shop.poller.poll(), news.poller.poll())
                await asyncio.gather(*(each.poller.collect_emails(POLL_SECONDS) for each in (shop, news)))
                if seconds % SCRAPE_SECONDS == 0:
                    scraped = page_of(page).decode()
                    out.writelines(_samples(scraped, start + seconds + 1))
            out.write("# EOF\n")


async def _save(_):
    """Succeed at once."""


def _simulate(account, seconds, incident, api_errors, rng, *, campaign):
    if incident and seconds in {round(hour * HOUR) for hour in incident}:
        began = seconds == round(incident[0] * HOUR)
        account.world.set_conditions(failed=0.3 if began else 0.004, undelivered=0.15 if began else 0.025)
    if api_errors and seconds == round(api_errors * HOUR):
        account.faults.add("500", times=6)
        account.faults.add("429", times=6, retry_after=60)
    if rng.random() < 0.25:
        account.world.send(recipients=rng.choice((1, 1, 1, 2, 5)))
    if seconds % campaign == 15 * MINUTE:
        account.world.send(recipients=rng.randrange(800, 2000))
    if seconds % campaign == 40 * MINUTE:
        account.world.send(recipients=300, schedule=account.clock.now + 2 * HOUR)


def _samples(page, at):
    """Yield the samples of *page* with the labels and the time that a scrape gives them."""
    scraped = 'job="comms-exporter",instance="exporter:10067"'
    yield f"up{{{scraped}}} 1 {at}\n"
    for line in page.splitlines():
        if not line.startswith("#"):
            name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()
            yield f"{name}{{{','.join(filter(None, (labels, scraped)))}}} {value} {at}\n"


# Dashboards as Grafana reads them.


def load(uid):
    return json.loads((FOLDER / f"{uid}.json").read_text(encoding="utf-8"))


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def variables(dashboard, kind="query"):
    return [each for each in dashboard["templating"]["list"] if each["type"] == kind]


def expanded(text, *, seconds=3 * HOUR, everything=".+"):
    """Return *text* as Grafana sends it if All is selected, with a step of one minute."""
    values = {"__rate_interval": "4m", "__interval": "1m", "__range": f"{seconds}s"}
    return re.sub(r"\$(\w+)", lambda match: values.get(match[1], everything), text)


def targets(dashboard):
    return [(panel, target) for panel in panels(dashboard) for target in panel.get("targets", [])]


def selectors(promql):
    """Return every (name, matchers) in *promql*, with empty matchers for names without braces."""
    bare = re.sub(r'"(?:\\.|[^"\\])*"', lambda text: '"' + "_" * (len(text[0]) - 2) + '"', promql)
    found = [(match[1], promql[match.start(2) : match.end(2)]) for match in re.finditer(r"([\w:]+)\{([^}]*)\}", bare)]
    without = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|without|ignoring)\s*\([^)]*\)", "", bare)
    names = {name for name, _ in found}
    found += [
        (match[0], "")
        for match in re.finditer(r"(?<![\w:])(?:comms_|process_|\w+:)[\w:]+", without)
        if match[0] not in names
    ]
    return found


class TestGenerated:
    def test_json_is_up_to_date(self, tmp_path):
        """`make dashboards` changes nothing, and there are no other files."""
        subprocess.run([sys.executable, "-m", "grafana.build", tmp_path], cwd=ROOT, check=True)

        made = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
        assert {f"{uid}.json" for uid in UIDS} == set(made)
        assert {file.name: file.read_text(encoding="utf-8") for file in FOLDER.iterdir()} == made

    @pytest.mark.parametrize("uid", UIDS)
    def test_has_only_keys_that_grafana_knows(self, uid):
        """A misspelled key is lost on a round trip through Grafana's types."""
        register_default_plugins()
        before = load(uid)
        after = json.loads(json.dumps(Dashboard.from_json(before), cls=JSONEncoder))

        assert [] == list(_lost(before, after))

    @pytest.mark.parametrize("uid", UIDS)
    def test_is_ready_for_provisioning(self, uid):
        """It has a fixed uid, no version or id, and panels that do not overlap."""
        dashboard = load(uid)

        assert uid == dashboard["uid"]
        assert not {"id", "version", "__inputs"} & set(dashboard)
        assert ("browser", 1, "1m") == (dashboard["timezone"], dashboard["graphTooltip"], dashboard["refresh"])
        assert {"from": "now-6h", "to": "now"} == dashboard["time"]
        assert len(dashboard["panels"]) == len({panel["id"] for panel in dashboard["panels"]})
        places = [
            (x, y)
            for grid in (panel["gridPos"] for panel in dashboard["panels"])
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        ]
        assert len(places) == len(set(places))
        assert 23 == max(x for x, _ in places)

    @pytest.mark.parametrize("uid", UIDS)
    def test_links_are_valid(self, uid):
        """Every link leads to one of our dashboards and sets only variables that it has."""
        text = json.dumps(load(uid))

        for target, arguments in re.findall(r"/?\bd/(comms-[\w-]+)(?:/[\w-]+)?(\?[^\"\\]*)?", text):
            known = {each["name"] for each in load(target)["templating"]["list"]}
            named = re.findall(r"var-(\w+)=|\$\{(\w+):queryparam\}", arguments)
            assert {either or other for either, other in named} <= known

    def test_provisioning_files_are_valid(self):
        (provider,) = yaml.safe_load((FOLDER.parent / "provisioning/dashboards/comms-exporter.yml").read_text())[
            "providers"
        ]
        (source,) = yaml.safe_load((FOLDER.parent / "provisioning/datasources/prometheus.yml").read_text())[
            "datasources"
        ]

        assert ("file", False) == (provider["type"], provider["allowUiUpdates"])
        assert "prometheus" == source["type"]


def _lost(before, after, path=""):
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from _lost(value, after[key], f"{path}.{key}") if key in after else [f"{path}.{key}"]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from _lost(*pair, f"{path}[{number}]")
    elif before != after:
        yield path


@pytest.mark.parametrize("uid", UIDS)
class TestLinter:
    """The rules of https://github.com/grafana/dashboard-linter under their names, without exceptions.

    target-logql-rule and target-logql-auto-rule are about Loki, which these dashboards do not query.
    """

    LINTED = frozenset({"stat", "table", "timeseries", "gauge", "bargauge", "state-timeline"})
    # The units that we use, a subset of the linter's list.
    UNITS = frozenset({"none", "short", "locale", "percentunit", "s", "bytes"})

    def linted(self, uid):
        return [panel for panel in panels(load(uid)) if panel["type"] in self.LINTED]

    def test_template_datasource_rule(self, uid):
        (variable,) = variables(load(uid), "datasource")
        assert ("datasource", "Data source", "prometheus") == tuple(variable[key] for key in ("name", "label", "query"))

    @pytest.mark.parametrize("name", ["job", "instance"])
    def test_template_job_rule_and_template_instance_rule(self, uid, name):
        (variable,) = [each for each in variables(load(uid)) if each["name"] == name]
        assert "${datasource}" == variable["datasource"]["uid"]
        assert (name.capitalize(), True, ".+") == tuple(variable[key] for key in ("label", "multi", "allValue"))

    def test_template_label_promql_rule(self, uid):
        for variable in variables(load(uid)):
            assert re.fullmatch(r"label_values\((.+), \w+\)", variable["query"])

    def test_template_on_time_change_reload_rule(self, uid):
        assert {2} == {variable["refresh"] for variable in variables(load(uid))}

    def test_panel_datasource_rule(self, uid):
        assert {"${datasource}"} == {panel["datasource"]["uid"] for panel in self.linted(uid)}

    def test_panel_title_description_rule(self, uid):
        assert [] == [panel for panel in self.linted(uid) if not panel["title"] or not panel["description"]]

    def test_panel_units_rule(self, uid):
        # Stricter than the linter, which exempts panels with value mappings.
        assert {panel["fieldConfig"]["defaults"].get("unit") for panel in self.linted(uid)} <= self.UNITS

    def test_panel_no_targets_rule(self, uid):
        assert [] == [panel["title"] for panel in self.linted(uid) if not panel["targets"]]
        assert {"text"} == {panel["type"] for panel in panels(load(uid))} - self.LINTED

    def test_target_promql_rule(self, uid):
        """promtool parses every query, and the selectors of variables and annotations."""
        dashboard = load(uid)
        expressions = [target["expr"] for _, target in targets(dashboard)]
        expressions += [
            variable["query"].removeprefix("label_values(").rpartition(",")[0] for variable in variables(dashboard)
        ]
        expressions += [each["expr"] for each in dashboard["annotations"]["list"]]
        rules = [{"record": f"r{number}", "expr": expanded(expr)} for number, expr in enumerate(expressions)]

        groups = json.dumps({"groups": [{"name": uid, "rules": rules}]})
        assert "" == error_output(Binaries.find(3).promtool, "check", "rules", "/dev/stdin", text=groups)

    def test_target_rate_interval_rule(self, uid):
        for _, target in targets(load(uid)):
            assert set(re.findall(r"\bi?rate\([^\[]*\[([^\]]*)\]", target["expr"])) <= {"$__rate_interval"}

    def test_target_job_rule_and_target_instance_rule(self, uid):
        for _, target in targets(load(uid)):
            assert selectors(target["expr"])
            for name, matchers in selectors(target["expr"]):
                if ":" in name:
                    continue
                assert 'job=~"$job", instance=~"$instance"' in matchers

    def test_recorded_series_exist(self, uid):
        """They are an exception to the rule about instances, because they belong to none."""
        rules = yaml.safe_load((ROOT / "deploy/prometheus/comms-exporter.rules.yml").read_text(encoding="utf-8"))
        known = {rule["record"] for group in rules["groups"] for rule in group["rules"]}

        for _, target in targets(load(uid)):
            for name, matchers in selectors(target["expr"]):
                assert ":" not in name or (name in known and matchers.startswith('job=~"$job", account=~"$account"'))

    def test_target_counter_agg_rule(self, uid):
        """Stricter than the linter, which exempts counters with matchers."""
        for _, target in targets(load(uid)):
            for match in re.finditer(r"(\w+\()\s*\w+_total\b", target["expr"]):
                assert match[1] in {"rate(", "increase("}
            assert len(re.findall(r"\w+_total\b", target["expr"])) == len(
                re.findall(r"\(\s*\w+_total\b", target["expr"])
            )

    def test_uneditable_dashboard(self, uid):
        assert load(uid)["editable"] is False


@pytest.mark.parametrize("uid", UIDS)
def test_rates_work_with_a_scrape_interval_of_a_minute(uid):
    """Grafana makes $__rate_interval at least four times the minimum interval of the query."""
    assert {"1m"} == {target["interval"] for _, target in targets(load(uid))}


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    """Blocks of two histories: one without events, one with an incident and API errors."""
    promtool = Binaries.find(3).promtool
    folders = {}
    for name, events in {"calm": {}, "incident": {"incident": (2.4, 9), "api_errors": 1.5}}.items():
        folders[name] = tmp_path_factory.mktemp(name)
        text = folders[name] / "history.om"
        asyncio.run(history(text, hours=3, **events))
        blocks = ("tsdb", "create-blocks-from", "openmetrics", text, folders[name] / "tsdb")
        assert "" == error_output(promtool, *blocks)
        text.unlink()
    return folders


@pytest.mark.parametrize("name", ["calm", "incident"])
async def test_every_query_has_data(histories, prometheus_binaries, tmp_path, name):
    """Every query and every variable of every dashboard has a result in three hours of scrapes."""
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "tsdb").symlink_to(histories[name] / "tsdb")
    end, empty = NOW + 3 * HOUR + 5, []
    async with Prometheus(prometheus_binaries, folder, flags=["--storage.tsdb.retention.time=10y"]) as prometheus:
        for where, panel, target in [(uid, *each) for uid in UIDS for each in targets(load(uid))]:
            expr = expanded(target["expr"])
            if ":" in "".join(name for name, _ in selectors(expr)):
                continue  # Nobody evaluates recording rules here; tests/alerts does.
            if target.get("instant"):
                values = [value for _, value in await prometheus.query(expr, end)]
            else:
                found = await prometheus.query_range(expr, NOW, end, 60)
                values = [value for _, samples in found for _, value in samples]
            # NaN and infinity look like noise in a graph.
            if not values or not all(abs(value) < float("inf") for value in values):
                empty.append((where, panel["title"], target["refId"], values[:3]))
        for where, variable in [(uid, each) for uid in UIDS for each in variables(load(uid))]:
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", expanded(variable["query"])).groups()
            window = {"match[]": selector, "start": str(NOW), "end": str(end)}
            if not (await prometheus.get(f"/api/v1/label/{label}/values", window))["data"]:
                empty.append((where, variable["name"]))
    assert [] == empty
