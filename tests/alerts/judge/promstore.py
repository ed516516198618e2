"""A Prometheus, or a VictoriaMetrics, that scrapes nothing: it is told samples of any time, and asked for expressions."""

import http.client
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time
import urllib.parse
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from alerts.judge.player import STALE, Key, Samples, Series
from prometheus import Binaries

# What Prometheus writes where a series ends: a NaN of its own.
_STALE_BITS = struct.pack("<Q", 0x7FF0000000000002)
# Samples in one request; a range query returns at most 11,000 points of a series.
_SAMPLES = 50_000
_POINTS = 10_000
# Everything stays in the head, in which samples up to half of this old may be written in any order of series.
_BLOCK = "400d"


class Server:
    """Runs while its ``with`` lasts."""

    def __init__(self, binaries: Binaries, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._command: list[str | Path] = [
            binaries.prometheus,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--storage.tsdb.min-block-duration={_BLOCK}",
            f"--storage.tsdb.max-block-duration={_BLOCK}",
            "--storage.tsdb.retention.time=20y",
            "--web.enable-remote-write-receiver",
            "--web.listen-address=127.0.0.1:0",
            "--query.max-samples=500000000",
            "--query.timeout=10m",
        ]

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "prometheus.yml").write_text("{}")
        log = self._folder / "server.log"
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [*leash, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=self._folder,
                env={"GOGC": "200", "GOMAXPROCS": "2"},
            )
        try:
            self._become_ready(log)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            # There is nothing worth saving.
            process.kill()
            process.wait()

    def write(self, series: Series) -> None:
        """Store the samples of *series*."""
        batch: list[bytes] = []
        size = 0
        for key, samples in series.items():
            for begin in range(0, len(samples.times), _SAMPLES):
                part = Samples(samples.times[begin : begin + _SAMPLES], samples.values[begin : begin + _SAMPLES])
                batch.append(_time_series(key, part))
                size += len(part.times)
                if size >= _SAMPLES:
                    self._post(b"".join(batch))
                    batch, size = [], 0
        if batch:
            self._post(b"".join(batch))

    def query_range(
        self, promql: str, start: float, end: float, step: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """Return the labels of each series that *promql* gives, with pairs of time and value.

        The metric's name is left out: what a rule takes now from one metric and now from another is one series.
        """
        found: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
        begin = start
        while begin <= end:
            last = min(end, begin + (_POINTS - 1) * step)
            data = self._get("query_range", query=promql, start=str(begin), end=str(last), step=str(step))
            for result in data["result"]:
                labels = {name: value for name, value in result["metric"].items() if name != "__name__"}
                points = found.setdefault(tuple(sorted(labels.items())), [])
                points += [(moment, float(value)) for moment, value in result["values"]]
            begin = last + step
        return [(dict(labels), sorted(points)) for labels, points in found.items()]

    def query(self, promql: str, at: float) -> list[tuple[dict[str, str], float]]:
        """Return the labels and value of each series that *promql* gives at one time."""
        data = self._get("query", query=promql, time=str(at))
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(result["metric"], float(result["value"][1])) for result in data["result"]]

    def configure(self, text: str) -> None:
        """Let it scrape and evaluate rules as the configuration *text* says."""
        (self._folder / "prometheus.yml").write_text(text)
        self._process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 60
        while not self.rule_groups():
            if time.monotonic() > until:
                raise RuntimeError(f"no rules:\n{(self._folder / 'server.log').read_text(errors='replace')}")
            time.sleep(0.02)

    def rule_groups(self) -> list[dict[str, Any]]:
        """Return the groups of rules, with what the last evaluation of each took."""
        return self._get("rules")["groups"]

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has taken so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _get(self, path: str, **params: str) -> Any:
        status, body = self._request(
            "POST" if params else "GET",
            f"/api/v1/{path}",
            urllib.parse.urlencode(params).encode(),
            {"Content-Type": "application/x-www-form-urlencoded"},
        )
        if status != 200:
            raise RuntimeError(f"{params.get('query', path)}: {status}: {body[:500].decode(errors='replace')}")
        return json.loads(body)["data"]

    def _post(self, request: bytes) -> None:
        headers = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "snappy",
            "X-Prometheus-Remote-Write-Version": "0.1.0",
        }
        status, body = self._request("POST", "/api/v1/write", _snappy(request), headers)
        if status != 204:
            raise RuntimeError(f"remote write: {status}: {body[:500].decode(errors='replace')}")

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=900)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _become_ready(self, log: Path) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            text = log.read_text(errors="replace")
            if self._process.poll() is not None:
                raise RuntimeError(f"the server exited with {self._process.returncode}:\n{text}")
            if self._is_ready(text):
                return
            time.sleep(0.02)
        raise RuntimeError(f"the server is not ready after a minute:\n{log.read_text(errors='replace')}")

    def _is_ready(self, log: str) -> bool:
        if not self._port and (address := re.search(r"Listening on.* address=\S+:(\d+)", log)):
            self._port = int(address[1])
        return bool(self._port) and "Server is ready" in log


class VictoriaMetrics(Server):
    """The database that vmalert asks: the same rules, in a language that is almost PromQL."""

    def __init__(self, program: Path, folder: Path, *, lookback: str = "5m") -> None:
        """Run *program*; without an end, a series lasts for *lookback*. vmalert asks for 5 minutes, by default."""
        self._folder = folder
        self._process = None
        self._port = 0
        self._command = [
            program,
            f"-storageDataPath={folder / 'data'}",
            "-httpListenAddr=127.0.0.1:0",
            "-retentionPeriod=20y",
            # What is written can be read at once, and is not remembered from before it was written.
            "-search.latencyOffset=0s",
            "-search.disableCache",
            f"-search.minStalenessInterval={lookback}",
            f"-search.maxStalenessInterval={lookback}",
            "-search.maxQueryDuration=10m",
            "-memory.allowedBytes=1GB",
        ]

    def write(self, series: Series) -> None:
        """Store the samples of *series*, and wait until they can be read."""
        super().write(series)
        self.flush()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def flush(self) -> None:
        """Wait until what others wrote can be read."""
        status, _ = self._request("GET", "/internal/force_flush", b"", {})
        assert status == 200

    def _is_ready(self, log: str) -> bool:
        address = re.search(r"http://127\.0\.0\.1:(\d+)/", log)
        self._port = int(address[1]) if address else 0
        return bool(self._port) and self._request("GET", "/health", b"", {})[0] == 200


def _time_series(key: Key, samples: Samples) -> bytes:
    """Return *samples* as one TimeSeries of a WriteRequest, which is its field 1."""
    parts = [_field(1, _field(1, name.encode()) + _field(2, value.encode())) for name, value in sorted(key)]
    append = parts.append
    pack = struct.Struct("<d").pack
    for moment, value in zip(samples.times, samples.values, strict=True):
        stamp = _varint(moment)
        number = _STALE_BITS if value == STALE else pack(value)
        append(b"\x12" + bytes((10 + len(stamp),)) + b"\x09" + number + b"\x10" + stamp)
    return _field(1, b"".join(parts))


def _field(number: int, content: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + _varint(len(content)) + content


@lru_cache(maxsize=200_000)
def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _snappy(content: bytes) -> bytes:
    """Return *content* in the Snappy format, as one literal: nothing here is worth compressing."""
    return _varint(len(content)) + b"\xfc" + (len(content) - 1).to_bytes(4, "little") + content


def samples_of(points: Iterable[tuple[float, float]], step: float, end: float) -> Samples:
    """Return *points* of a range query as a recording rule stores them: with an end wherever a step is missing."""
    samples = Samples()
    before = None
    for moment, value in points:
        if before is not None and moment - before > 1.5 * step:
            samples.add(before + step, STALE)
        samples.add(moment, value)
        before = moment
    if before is not None and end - before > 0.5 * step:
        samples.add(before + step, STALE)
    return samples
