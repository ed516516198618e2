"""The helpers that run Prometheus for other tests, and the script that installs it."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import test_utils, web
from prometheus import (
    Alertmanager,
    Binaries,
    MissingBinariesError,
    Prometheus,
    PrometheusError,
    check_metrics,
    error_output,
    find_victoria_metrics,
)

EXPOSITION = """\
# HELP toy_emails_total Emails counted.
# TYPE toy_emails_total counter
toy_emails_total{status="sent"} 3
toy_emails_total{status="failed"} 1
# HELP toy_queued Emails waiting.
# TYPE toy_queued gauge
toy_queued 2
"""


def running(pid):
    """Whether the process exists, even as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exporter():
    """The address of a server with metrics."""

    async def metrics(request):
        return web.Response(text=EXPOSITION, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    async with test_utils.TestServer(app, host="127.0.0.1") as server:
        yield f"127.0.0.1:{server.port}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scraping(prometheus_binaries, exporter, tmp_path_factory):
    """A Prometheus that has scraped the exporter and failed to scrape a closed port."""
    folder = tmp_path_factory.mktemp("scraping")
    rules = folder / "rules.yml"
    rules.write_text("groups: [{name: toy, rules: [{record: toy:sum, expr: sum(toy_emails_total)}]}]")
    targets = [exporter, "127.0.0.1:1"]
    async with Prometheus(
        prometheus_binaries, folder, targets=targets, rule_files=[rules], interval="200ms"
    ) as prometheus:
        await prometheus.until("up", lambda answer: len(answer) == len(targets))
        yield prometheus


@pytest.mark.asyncio(loop_scope="module")
class TestScraping:
    async def test_query(self, scraping):
        assert [({}, 4.0)] == await scraping.query("sum(toy_emails_total)")
        assert [({"status": "sent"}, 3.0)] == await scraping.query('sum by (status) (toy_emails_total{status="sent"})')
        assert [({}, 7.0)] == await scraping.query("scalar(vector(3)) + 4")

    async def test_query_in_the_past(self, scraping):
        assert [] == await scraping.query("toy_queued", at=time.time() - 3600)

    async def test_raises_if_a_query_is_invalid(self, scraping):
        with pytest.raises(PrometheusError, match=r"400: .*parse error"):
            await scraping.query("sum(")

    async def test_query_range(self, scraping):
        [(_, scraped)] = await scraping.query("timestamp(toy_queued)")

        [(labels, points)] = await scraping.query_range("toy_queued", scraped, scraped + 2, step=0.5)
        assert "toy_queued" == labels["__name__"]
        assert [scraped + 0.5 * n for n in range(5)] == [at for at, _ in points]
        assert {2.0} == {value for _, value in points}

    async def test_series(self, scraping, exporter):
        assert [{"__name__": "toy_queued", "instance": exporter, "job": "test"}] == await scraping.series("toy_queued")

    async def test_targets(self, scraping, exporter):
        targets = {target["labels"]["instance"]: target["health"] for target in await scraping.targets()}

        assert {exporter: "up", "127.0.0.1:1": "down"} == targets

    async def test_rules(self, scraping):
        assert [({"__name__": "toy:sum"}, 4.0)] == await scraping.until("toy:sum")

    async def test_until_gives_up_and_says_why(self, scraping):
        with pytest.raises(
            AssertionError, match=r"toy:sum > 4: still \[\] after 0\.1 seconds; failing targets: .*connection refused"
        ):
            await scraping.until("toy:sum > 4", within=0.1)


class TestConfiguring:
    async def test_reload_replaces_the_configuration(self, prometheus_binaries, tmp_path):
        async with Prometheus(prometheus_binaries, tmp_path, config={"scrape_configs": []}) as prometheus:
            assert "job_name" not in (await prometheus.get("/api/v1/status/config"))["data"]["yaml"]

            await prometheus.reload({"scrape_configs": [{"job_name": "another"}]})
            assert "job_name: another" in (await prometheus.get("/api/v1/status/config"))["data"]["yaml"]

    async def test_raises_if_a_reload_fails(self, prometheus_binaries, tmp_path):
        async with Prometheus(prometheus_binaries, tmp_path) as prometheus:
            with pytest.raises(PrometheusError, match="couldn't load configuration"):
                await prometheus.reload({"scrape_config": []})

    async def test_raises_at_once_if_the_server_does_not_start(self, prometheus_binaries, tmp_path):
        """The message contains the server's output."""
        with pytest.raises(PrometheusError, match="field scrape_config not found"):
            async with Prometheus(prometheus_binaries, tmp_path, config={"scrape_config": []}):
                pass


class TestStopping:
    async def test_stops(self, prometheus_binaries, tmp_path):
        async with Prometheus(prometheus_binaries, tmp_path) as prometheus:
            assert running(prometheus.pid)

        assert not running(prometheus.pid)

    async def test_stops_when_the_test_fails(self, prometheus_binaries, tmp_path):
        with pytest.raises(KeyError, match="oops"):
            async with Prometheus(prometheus_binaries, tmp_path) as prometheus:
                raise KeyError("oops")

        assert not running(prometheus.pid)

    async def test_stops_when_cancelled(self, prometheus_binaries, tmp_path):
        prometheus = Prometheus(prometheus_binaries, tmp_path)
        started = asyncio.Event()

        async def wait():
            async with prometheus:
                started.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(wait())
        await started.wait()
        task.cancel()
        await asyncio.wait([task])

        assert task.cancelled()
        assert not running(prometheus.pid)

    async def test_stops_when_cancelled_before_it_is_ready(self, prometheus_binaries, tmp_path, monkeypatch):
        prometheus = Prometheus(prometheus_binaries, tmp_path)
        listening = asyncio.Event()

        async def never_ready():
            listening.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(prometheus, "_become_ready", never_ready)
        task = asyncio.create_task(prometheus.__aenter__())
        await listening.wait()
        task.cancel()
        await asyncio.wait([task])

        assert task.cancelled()
        assert not running(prometheus.pid)

    async def test_kills_a_server_that_ignores_sigterm(self, tmp_path, monkeypatch):
        monkeypatch.setattr("prometheus.STARTING_SECONDS", 0.5)
        monkeypatch.setattr("prometheus.STOPPING_SECONDS", 0.2)
        deaf = tmp_path / "bin" / "deaf"
        deaf.parent.mkdir()
        deaf.write_text("#!/bin/sh\ntrap '' TERM\necho hello\nwhile :; do :; done\n")
        deaf.chmod(0o755)
        server = Prometheus(Binaries(deaf, deaf, deaf, deaf), tmp_path)

        with pytest.raises(PrometheusError, match=r"not ready after 0\.5 seconds:\nhello"):
            await server.__aenter__()

        assert not running(server.pid)


class TestAlertmanager:
    async def test_receives_an_alert(self, prometheus_binaries, tmp_path):
        rules = tmp_path / "rules.yml"
        rules.write_text("groups: [{name: toy, rules: [{alert: Toy, expr: vector(1), labels: {severity: page}}]}]")
        config = {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}
        async with (
            Alertmanager(prometheus_binaries, tmp_path, config) as alertmanager,
            Prometheus(
                prometheus_binaries,
                tmp_path,
                rule_files=[rules],
                alertmanagers=[alertmanager.address],
                interval="200ms",
            ),
        ):
            [alert] = await alertmanager.until()
            assert {"alertname": "Toy", "severity": "page"} == alert["labels"]

        assert not running(alertmanager.pid)

    async def test_raises_if_it_does_not_start(self, prometheus_binaries, tmp_path):
        with pytest.raises(PrometheusError, match="undefined receiver"):
            async with Alertmanager(prometheus_binaries, tmp_path, {"route": {"receiver": "nobody"}}):
                pass


class TestCheckMetrics:
    def test_returns_nothing_for_a_clean_page(self, prometheus_binaries):
        assert "" == check_metrics(prometheus_binaries, EXPOSITION)

    def test_returns_lint_errors(self, prometheus_binaries):
        text = "# HELP toy_queued_total Emails waiting.\n# TYPE toy_queued_total gauge\ntoy_queued_total 2\n"

        assert 'toy_queued_total non-counter metrics should not have "_total" suffix' == check_metrics(
            prometheus_binaries, text
        )

    def test_returns_parse_errors(self, prometheus_binaries):
        assert "error while linting" in check_metrics(prometheus_binaries, "toy_queued two\n")


def test_error_output_of_amtool(prometheus_binaries, tmp_path):
    config = tmp_path / "alertmanager.yml"
    config.write_text("route: {receiver: nobody}\n")

    assert 'undefined receiver "nobody"' in error_output(prometheus_binaries.amtool, "check-config", config)


class TestBinaries:
    PROGRAMS = ("prometheus", "promtool", "prometheus-alertmanager", "amtool")

    @pytest.fixture
    def debian(self, tmp_path):
        """A folder with the programs, under the names they have in Debian."""
        for name in self.PROGRAMS:
            (tmp_path / name).touch(0o755)
        return tmp_path

    def test_finds_the_folder_in_the_environment(self, debian):
        found = Binaries.find(3, environ={"PROMETHEUS_3": str(debian)})

        assert found == Binaries(*(debian / name for name in self.PROGRAMS))

    def test_finds_what_was_fetched(self, tmp_path, debian):
        (tmp_path / "tools" / "prometheus-2").mkdir(parents=True)
        (tmp_path / "tools" / "prometheus-2" / "bin").symlink_to(debian)

        assert "promtool" == Binaries.find(2, environ={}, tools=tmp_path / "tools").promtool.name

    def test_names_the_missing_program(self, debian):
        (debian / "amtool").unlink()

        with pytest.raises(MissingBinariesError) as missing:
            Binaries.find(3, environ={"PROMETHEUS_3": str(debian)})
        assert f"Prometheus 3: no amtool in {debian}: run tools/fetch-prometheus or set PROMETHEUS_3" == str(
            missing.value
        )


class TestVictoriaMetrics:
    def test_finds_the_program_in_the_folder_in_the_environment(self, tmp_path):
        (tmp_path / "vmalert").touch(0o755)

        assert tmp_path / "vmalert" == find_victoria_metrics("vmalert", environ={"VICTORIA_METRICS": str(tmp_path)})

    def test_the_judge_names_the_missing_program_in_one_line(self, tmp_path):
        judge = [sys.executable, "-m", "alerts.judge", "--victoria-metrics", "canceled"]
        done = subprocess.run(
            judge, cwd=Path(__file__).parent, env={**os.environ, "VICTORIA_METRICS": str(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

        problem = f"no {tmp_path}/victoria-metrics: run tools/fetch-prometheus or set VICTORIA_METRICS"
        assert (1, f"judge: {problem}\n") == (done.returncode, done.stderr)


class TestFetch:
    @pytest.fixture
    def fetch(self, tmp_path):
        """Run the script on a machine without apt-get, but with *programs* on PATH."""
        script = Path(__file__).parents[1] / "tools" / "fetch-prometheus"
        (tmp_path / "tools").mkdir()
        shutil.copy(script, tmp_path / "tools")
        path = tmp_path / "path"
        path.mkdir()
        for name in ("sh", "dirname", "sed", "mkdir", "ln", "rm"):
            (path / name).symlink_to(shutil.which(name))

        def fetch(programs=(), version="", **environ):
            for name in programs:
                (path / name).write_text(f"#!/bin/sh\necho 'prometheus, version {version} (branch: here)'\n")
                (path / name).chmod(0o755)
            done = subprocess.run(
                [tmp_path / "tools" / "fetch-prometheus"],
                env={"PATH": str(path), **environ},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                check=False,
            )
            return done.returncode, done.stdout + done.stderr

        return fetch

    SKIPPED = "Prometheus: it is downloaded with apt-get, which is missing; the tests that need it will be skipped\n"

    def test_skips_without_apt_get(self, fetch):
        """The other tests can run there."""
        assert (0, self.SKIPPED) == fetch()

    def test_fails_in_ci(self, fetch):
        assert (1, "Prometheus: it is downloaded with apt-get, which is missing\n") == fetch(CI="true")

    def test_fetches_nothing_if_the_environment_names_all(self, fetch):
        assert (0, "") == fetch(PROMETHEUS_2="/opt/2", PROMETHEUS_3="/opt/3", VICTORIA_METRICS="/opt/vm", CI="true")

    def test_links_a_suitable_version_on_path(self, fetch, tmp_path):
        assert (0, "") == fetch(
            TestBinaries.PROGRAMS, "3.5.0", PROMETHEUS_2="/opt/2", VICTORIA_METRICS="/opt/vm", CI="true"
        )
        assert (
            "prometheus-alertmanager"
            == Binaries.find(3, environ={}, tools=tmp_path / ".tools").alertmanager.resolve().name
        )

    @pytest.mark.parametrize("version", ["2.53.0", "3.4.9"])
    def test_ignores_other_versions_on_path(self, fetch, version):
        assert (0, self.SKIPPED) == fetch(TestBinaries.PROGRAMS, version)

    def test_ignores_an_incomplete_set_on_path(self, fetch):
        assert (0, self.SKIPPED) == fetch(TestBinaries.PROGRAMS[:3], "3.5.0")
