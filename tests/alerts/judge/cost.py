"""What the rules cost: the CPU time of a real Prometheus that scrapes many accounts, each with a month behind it."""

import bisect
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from alerts.judge.cases import calm_months
from alerts.judge.player import STALE, Key, Player, Samples, Series
from alerts.judge.promstore import Server
from alerts.judge.rules import Rules, seconds
from alerts.judge.senders import DAY, HOUR
from prometheus import Binaries

# Samples of the last hours are as dense as scrapes and evaluations, older ones as sparse as a lookback of five minutes allows.
DENSE = 3 * HOUR
SPARSE = 240.0
SCRAPED, RECORDED = 15.0, 30.0
# A name of a series with what it is read with: matchers, a range and an offset.
_READ = re.compile(r"([a-z_]+[\w:]*)(?:{[^}]*})?(?:\[(\w+)(?::\w*)?\])?(?: offset (\w+))?")
_POLLED = "comms_exporter_last_poll_success_timestamp_seconds"


@dataclass(frozen=True)
class Cost:
    """What Prometheus needed for *accounts*: *share* of a core; *groups* are milliseconds of an evaluation and seconds between two."""

    accounts: int
    scraped: int
    recorded: int
    share: float
    lasted: float
    groups: dict[str, tuple[float, float]]
    errors: list[str]

    def __str__(self) -> str:
        series = f"{self.scraped} series scraped every {SCRAPED:g} s, {self.recorded} recorded"
        lines = [f"{self.accounts} accounts, {series}: {self.share:.2%} of a core in {self.lasted:.0f} s"]
        for name, (spent, interval) in self.groups.items():
            lines.append(f"  {name}: {spent:.0f} ms every {interval:.0f} s")
        lines += self.errors
        return "\n".join(lines)


def cost(
    accounts: int, rule_files: Sequence[Path], binaries: Binaries, *, days: float = 29, lasting: float = 300
) -> Cost:
    """Return the cost of evaluating *rule_files* and scraping, measured for *lasting* seconds after *days* of history."""
    rules = Rules(rule_files)
    end, month = _month(rules, binaries, days)
    reach = _reach(rules)
    with tempfile.TemporaryDirectory(prefix="judge-") as name, Server(binaries, Path(name) / "store") as server:
        shift = time.time() - end
        for key, samples in month.items():
            needed = _thinned(samples, end, reach.get(dict(key)["__name__"], 0.0), key)
            moved = Samples()
            for moment, value in needed:
                moved.add(moment + shift, value)
            if moved.times:
                server.write(dict.fromkeys(_copies(key, accounts), moved))
        present = {
            key: samples.values[-1]
            for key, samples in month.items()
            if ":" not in dict(key)["__name__"] and dict(key)["__name__"] != "up"
            if samples.times[-1] >= (end - 60) * 1000 and samples.values[-1] != STALE
        }
        with _exporter(present, accounts) as target:
            server.configure(_configuration(rules.files, target, next(iter(present))))
            while any(group["lastEvaluation"].startswith("0001") for group in server.rule_groups()):
                time.sleep(0.2)
            began, spent = time.monotonic(), server.cpu_seconds()
            time.sleep(lasting)
            lasted, spent = time.monotonic() - began, server.cpu_seconds() - spent
            groups = server.rule_groups()
            recorded = server.query('count({__name__=~"account:.*"})', time.time())[0][1]
    return Cost(
        accounts,
        len(present) * accounts,
        int(recorded),
        spent / lasted,
        lasted,
        {group["name"]: (group["evaluationTime"] * 1000, group["interval"]) for group in groups},
        sorted({rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")}),
    )


class _Remembering(Server):
    """A server that also keeps what it is told."""

    def __init__(self, binaries: Binaries, folder: Path) -> None:
        super().__init__(binaries, folder)
        self.series: Series = {}

    def write(self, series: Series) -> None:
        super().write(series)
        for key, samples in series.items():
            self.series.setdefault(key, Samples()).extend(samples)


def _month(rules: Rules, binaries: Binaries, days: float) -> tuple[float, Series]:
    """Return the end of a calm time of one account, and all that was scraped and recorded."""
    case = next(each for each in calm_months() if each.name.startswith("calm-mid5k"))
    history, _, _ = case.make(1, days / 2 * DAY)
    played = Player(history, rules.names).play()
    with tempfile.TemporaryDirectory(prefix="judge-") as name, _Remembering(binaries, Path(name) / "store") as server:
        server.write(played.series)
        rules.record(server, played, [(history.start, history.end, history.scrape_interval)])
        return history.end, server.series


def _reach(rules: Rules) -> dict[str, float]:
    """Return how many seconds back each series is read."""
    reach: dict[str, float] = {}
    for file in rules.files:
        for name, range_, offset in _READ.findall(file.read_text(encoding="utf-8")):
            back = seconds(range_ or "0s") + seconds(offset or "0s")
            reach[name] = max(reach.get(name, 0.0), back)
    return reach


def _thinned(samples: Samples, end: float, reach: float, key: Key) -> Iterator[tuple[float, float]]:
    """Yield the samples that are read, as dense as they are in the last hours and sparse before."""
    step = RECORDED if ":" in dict(key)["__name__"] else SCRAPED
    last = 0.0
    first = bisect.bisect_left(samples.times, (end - max(reach, HOUR) - 2 * HOUR) * 1000)
    for stamp, value in zip(samples.times[first:], samples.values[first:], strict=True):
        moment = stamp / 1000
        if moment < end - DENSE or value == STALE:
            if value == STALE or moment - last >= SPARSE:
                yield moment, value
                last = moment
            continue
        for turn in range(int(60 / step)):
            if moment + turn * step <= end:
                yield moment + turn * step, value


def _copies(key: Key, accounts: int) -> list[Key]:
    if "account" not in dict(key):
        return [key]
    return [tuple(sorted({**dict(key), "account": f"account{number}"}.items())) for number in range(accounts)]


@contextmanager
def _exporter(present: dict[Key, float], accounts: int) -> Iterator[str]:
    """Serve *present* for each account; yield the address."""
    lines: list[str] = []
    for key, value in sorted(present.items(), key=lambda each: dict(each[0])["__name__"]):
        for copy in _copies(key, accounts):
            labels = ",".join(f'{k}="{v}"' for k, v in copy if k not in {"__name__", "instance", "job"})
            lines.append(f"{dict(key)['__name__']}{{{labels}}} {value!r}")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            now = repr(time.time())
            page = "\n".join(f"{each.rpartition(' ')[0]} {now}" if each.startswith(_POLLED) else each for each in lines)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(f"{page}\n".encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def _configuration(rule_files: Sequence[Path], target: str, key: Key) -> str:
    """Return a configuration that scrapes *target* under the names that *key* has."""
    labels = dict(key)
    files = ", ".join(f'"{file.resolve()}"' for file in rule_files)
    return f"""\
global: {{scrape_interval: {SCRAPED:g}s, evaluation_interval: {SCRAPED:g}s}}
rule_files: [{files}]
scrape_configs:
  - job_name: {labels["job"]}
    static_configs: [{{targets: ["{target}"]}}]
    relabel_configs: [{{target_label: instance, replacement: "{labels["instance"]}"}}]
"""
