"""Runs real Prometheus and Alertmanager servers for tests, and the tools that come with them.

A server listens on a free port of 127.0.0.1. When its ``async with`` block ends, for whatever reason, it is stopped.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp

STARTING_SECONDS = 30
STOPPING_SECONDS = 10
POLLING_SECONDS = 0.05

TOOLS = Path(__file__).parents[1] / ".tools"

Labels = dict[str, str]
Sample = tuple[Labels, float]
T = TypeVar("T")


class MissingBinariesError(Exception):
    """A version of Prometheus is not installed; the message says how to install it."""


@dataclass(frozen=True)
class Binaries:
    """The programs of one version of Prometheus, and of an Alertmanager of the same age."""

    prometheus: Path
    promtool: Path
    alertmanager: Path
    amtool: Path

    @classmethod
    def find(cls, major: int, *, environ: Mapping[str, str] = os.environ, tools: Path = TOOLS) -> Self:
        """Find the programs in the folder named by PROMETHEUS_2 or PROMETHEUS_3, or where tools/fetch-prometheus installs them."""
        variable = f"PROMETHEUS_{major}"
        folder = Path(environ.get(variable) or tools / f"prometheus-{major}" / "bin")

        def program(*names: str) -> Path:
            for name in names:
                if os.access(folder / name, os.X_OK):
                    return (folder / name).absolute()
            raise MissingBinariesError(
                f"Prometheus {major}: no {names[0]} in {folder}: run tools/fetch-prometheus or set {variable}"
            )

        return cls(
            prometheus=program("prometheus"),
            promtool=program("promtool"),
            alertmanager=program("alertmanager", "prometheus-alertmanager"),
            amtool=program("amtool"),
        )


def find_victoria_metrics(program: str, *, environ: Mapping[str, str] = os.environ, tools: Path = TOOLS) -> Path:
    """Find *program* in the folder named by VICTORIA_METRICS, or where tools/fetch-prometheus installs it."""
    found = Path(environ.get("VICTORIA_METRICS") or tools / "victoria-metrics" / "bin") / program
    if not os.access(found, os.X_OK):
        raise MissingBinariesError(f"no {found}: run tools/fetch-prometheus or set VICTORIA_METRICS")
    return found.absolute()


def error_output(program: Path, *arguments: str | Path, text: str = "") -> str:
    """Return what *program* prints if it exits with an error, given *text* on stdin; "" if it succeeds."""
    done = subprocess.run(
        [program, *arguments],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    if done.returncode == 0:
        return ""
    return done.stdout.strip() or f"{program.name} exited with {done.returncode} and no output"


def check_metrics(binaries: Binaries, text: str) -> str:
    """Return what promtool finds wrong with an exposition in the text format; "" if nothing."""
    return error_output(binaries.promtool, "check", "metrics", text=text)


class PrometheusError(Exception):
    """A server did not start, reload or answer; the message contains its output."""


class _Server:
    """A program that serves HTTP on a free port while an ``async with`` block runs."""

    def __init__(self, program: Path, folder: Path, config: Mapping[str, Any], flags: Iterable[str]) -> None:
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self._program = program
        self._flags = [*flags]
        self._config_file = folder / f"{program.name}.yml"
        self._log_file = folder / f"{program.name}.log"
        self._write(config)
        self._process: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession | None = None
        self.address = ""

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("it runs only inside `async with`")
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything the server has logged so far."""
        return self._log_file.read_text(encoding="utf-8", errors="replace")

    async def get(self, path: str, params: Mapping[str, str] | Sequence[tuple[str, str]] = ()) -> Any:
        """Return the JSON that the server returns for *path*."""
        return await self._request("GET", path, params=params)

    async def reload(self, config: Mapping[str, Any] | None = None) -> None:
        """Reload the configuration; with *config*, replace it first."""
        if config is not None:
            self._write(config)
        await self._request("POST", "/-/reload")

    async def __aenter__(self) -> Self:
        # If the test run is killed, the kernel kills its servers, where setpriv is available.
        die_with_parent = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with self._log_file.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *die_with_parent,
                self._program,
                f"--config.file={self._config_file}",
                "--web.listen-address=127.0.0.1:0",
                *self._flags,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Debian's Alertmanager, as tools/fetch-prometheus unpacks it, looks for its templates from here.
                cwd=self._program.parent.parent,
            )
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        try:
            async with asyncio.timeout(STARTING_SECONDS):
                await self._listen()
                await self._become_ready()
        except BaseException as error:
            await self._stop()
            if isinstance(error, TimeoutError):
                raise PrometheusError(f"not ready after {STARTING_SECONDS} seconds:\n{self.log}") from None
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def _write(self, config: Mapping[str, Any]) -> None:
        # JSON is YAML.
        self._config_file.write_text(json.dumps(config, indent=2), encoding="utf-8")

    async def _listen(self) -> None:
        while not (listening := re.search(r'msg="?Listening on"? .*?address=(\S+)', self.log)):
            await self._pause()
        self.address = listening[1]

    async def _become_ready(self) -> None:
        while True:
            try:
                async with self._session.get(f"{self.url}/-/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass  # checked next: it may have exited
            await self._pause()

    async def _pause(self) -> None:
        if self._process.returncode is not None:
            raise PrometheusError(f"{self._program.name} exited with {self._process.returncode}:\n{self.log}")
        await asyncio.sleep(POLLING_SECONDS)

    async def _request(self, method: str, path: str, **options: Any) -> Any:
        async with self._session.request(method, f"{self.url}{path}", **options) as response:
            if response.status != 200:
                raise PrometheusError(f"{method} {path}: {response.status}: {await response.text()}")
            if response.content_type == "application/json":
                return await response.json()
            return await response.text()

    async def _stop(self) -> None:
        try:
            if self._process.returncode is None:
                self._process.terminate()
                async with asyncio.timeout(STOPPING_SECONDS):
                    await self._process.wait()
        except TimeoutError:
            pass  # it ignores SIGTERM and is killed below
        finally:
            # Also reached if this task is cancelled while it waits.
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            await self._session.close()


class Prometheus(_Server):
    """A Prometheus that scrapes *targets* ("host:port") as job "test", or one configured by *config*.

    The "global" section of *config* is completed with *interval*. Prometheus discovers its targets for five seconds after the
    start, whatever the interval: the first scrape and the first alert come afterwards. Tests should share a server.
    """

    def __init__(
        self,
        binaries: Binaries,
        folder: Path,
        *,
        targets: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        rule_files: Iterable[Path] = (),
        alertmanagers: Sequence[str] = (),
        interval: str = "1s",
        flags: Iterable[str] = (),
    ) -> None:
        self._defaults = {
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "scrape_configs": [{"job_name": "test", "static_configs": [{"targets": [*targets]}]}],
            "rule_files": [str(file.absolute()) for file in rule_files],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [*alertmanagers]}]}]},
        }
        super().__init__(
            binaries.prometheus,
            folder,
            config or {},
            [
                f"--storage.tsdb.path={(folder / 'tsdb').absolute()}",
                "--web.enable-lifecycle",
                # Otherwise an alert that fires before the Alertmanagers are discovered is sent a minute later.
                "--rules.alert.resend-delay=1s",
                *flags,
            ],
        )

    async def query(self, promql: str, at: float | None = None) -> list[Sample]:
        """Return the labels and the value of each series in the result of *promql*, now or at a Unix time."""
        data = await self._api("query", query=promql, **({} if at is None else {"time": str(at)}))
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(result["metric"], float(result["value"][1])) for result in data["result"]]

    async def query_range(
        self, promql: str, start: float, end: float, step: float = 1
    ) -> list[tuple[Labels, list[tuple[float, float]]]]:
        """Return the labels of each series in the result of *promql* from *start* to *end*, with (Unix time, value) pairs."""
        data = await self._api("query_range", query=promql, start=str(start), end=str(end), step=str(step))
        return [
            (result["metric"], [(time, float(value)) for time, value in result["values"]]) for result in data["result"]
        ]

    async def series(self, *selectors: str) -> list[Labels]:
        """Return the labels of all series that match any of *selectors*."""
        answer = await self.get("/api/v1/series", params=[("match[]", selector) for selector in selectors])
        return answer["data"]

    async def targets(self) -> list[dict[str, Any]]:
        """Return the active targets as in Prometheus' API: "health", "lastError", "labels" and more."""
        data = await self._api("targets", state="active")
        return data["activeTargets"]

    async def until(
        self, promql: str, predicate: Callable[[list[Sample]], object] = bool, within: float = 20
    ) -> list[Sample]:
        """Repeat the query *promql* until *predicate* accepts the result, and return it; fail after *within* seconds."""
        try:
            return await _until(lambda: self.query(promql), predicate, within)
        except AssertionError as error:
            problems = [target["lastError"] for target in await self.targets() if target["lastError"]]
            raise AssertionError(f"{promql}: {error}; failing targets: {problems}") from None

    async def _api(self, path: str, **params: str) -> Any:
        return (await self.get(f"/api/v1/{path}", params=params))["data"]

    def _write(self, config: Mapping[str, Any]) -> None:
        whole = {**self._defaults, **config}
        whole["global"] = {**self._defaults["global"], **whole["global"]}
        super()._write(whole)


class Alertmanager(_Server):
    """A single Alertmanager with the configuration *config*."""

    def __init__(
        self, binaries: Binaries, folder: Path, config: Mapping[str, Any], *, flags: Iterable[str] = ()
    ) -> None:
        super().__init__(
            binaries.alertmanager,
            folder,
            config,
            [f"--storage.path={(folder / 'alertmanager').absolute()}", "--cluster.listen-address=", *flags],
        )

    async def post(self, alerts: Iterable[Labels]) -> None:
        """Let alerts with these labels, and the job of the exporter, begin to fire."""
        body = [{"labels": {"job": "comms-exporter", **labels}} for labels in alerts]
        async with aiohttp.ClientSession() as session, session.post(f"{self.url}/api/v2/alerts", json=body) as answer:
            assert answer.status == 200, await answer.text()

    async def alerts(self) -> list[dict[str, Any]]:
        """Return its alerts as in its API: "labels", "annotations", "status" and more."""
        return await self.get("/api/v2/alerts")

    async def until(
        self, predicate: Callable[[list[dict[str, Any]]], object] = bool, within: float = 20
    ) -> list[dict[str, Any]]:
        """Wait until *predicate* accepts the alerts, and return them; fail after *within* seconds."""
        return await _until(self.alerts, predicate, within)


async def _until(ask: Callable[[], Awaitable[T]], predicate: Callable[[T], object], within: float) -> T:
    answer = "nothing"
    try:
        async with asyncio.timeout(within):
            while True:
                answer = await ask()
                if predicate(answer):
                    return answer
                await asyncio.sleep(POLLING_SECONDS)
    except TimeoutError:
        raise AssertionError(f"still {answer} after {within} seconds") from None
