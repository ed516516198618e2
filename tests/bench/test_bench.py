"""`make bench` runs completely and leaves nothing behind. People judge the figures."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench import page
from bench.collect.operations import changed, make
from bench.expose import million, nginx, samples
from bench.expose.samples import same
from bench.expose.scraper import Steady
from bench.tables import Table, quantile

ROOT = Path(__file__).parents[2]
MILLION = "A million series in one scrape"
TITLES = [
    "Scrapes",
    "Event loop latency",
    "Polls",
    "Saving",
    "Databases",
    "Memory",
    "Emails",
    MILLION,
    "By operations",
    "By share of changes",
    "By accounts",
    "By concurrent scrapers",
    "Many accounts",
]


def start(folder, *arguments):
    """Start the benchmark with *folder* as TMPDIR, which also identifies its children."""
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def running(folder):
    """Return the processes with *folder* as TMPDIR."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMPDIR={folder}\0".encode() in environ.read_bytes():
                found.append(environ.parent.name)
        except OSError:
            continue  # it has exited, or belongs to another user
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The output of a quick run, the page it wrote, and the processes and files it left behind."""
    folder = tmp_path_factory.mktemp("bench")
    written = tmp_path_factory.mktemp("page") / "performance.md"
    shutil.copy(page.PAGE, written)
    bench = start(folder, "--quick", "--into", str(written))
    try:
        printed, log = bench.communicate(timeout=240)
    finally:
        bench.kill()
        bench.wait()
    assert 0 == bench.returncode, log
    return printed, written.read_text(encoding="utf-8"), running(folder), list(folder.iterdir())


def tables(text):
    """Return {title: (columns, rows, text of the section)}."""
    found = {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0]
        lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
        found[title] = (lines[0], lines[2:], section)
    return found


def need(name, available):
    """Skip the test if *name* is not available; fail in CI."""
    if not available:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{name} is not installed")


def has_nginx():
    try:
        nginx.find()
    except nginx.MissingError:
        return False
    return True


@pytest.mark.timeout(300)
class TestQuickRun:
    def test_prints_every_table(self, run):
        printed, *_ = run

        assert TITLES == list(tables(printed))

    @pytest.mark.parametrize("title", [title for title in TITLES if title not in {"Scrapes", MILLION}])
    def test_fills_every_cell(self, run, title):
        columns, rows, _ = tables(run[0])[title]

        assert rows
        assert [] == [
            row for row in rows if len(row) != len(columns) or not all(re.search(r"\w", cell) for cell in row)
        ]

    def test_fills_the_table_of_scrapes(self, run):
        """Except for nginx, which may be missing, and prometheus_client's OpenMetrics, which is not measured."""
        columns, rows, section = tables(run[0])["Scrapes"]
        ours = [index for index, name in enumerate(columns) if "nginx" not in name]
        blank = [row for row in rows for index in ours if row[index] == "-" and row[1] in {"identity", "gzip"}]

        assert len(rows) >= 6
        assert [] == blank
        assert "prometheus_client returned the same samples as the exporter, with and without gzip" in section

    def test_compares_with_nginx(self, run):
        need("nginx", has_nginx())
        columns, rows, section = tables(run[0])["Scrapes"]

        assert [] == [
            row for row in rows for name, cell in zip(columns, row, strict=True) if "nginx" in name and cell == "-"
        ]
        assert "nginx returned the same bytes" in section

    def test_measures_prometheus(self, run):
        need("Prometheus 3", million.find())
        columns, rows, _ = tables(run[0])[MILLION]

        assert ["first", "next 2, median"] == [row[0] for row in rows]
        assert {"1"} == {row[columns.index("up")] for row in rows}
        assert all(int(row[columns.index("series")].replace(",", "")) >= 1700 for row in rows)

    def test_updates_only_the_text_between_the_markers(self, run):
        printed, written, *_ = run
        before = page.PAGE.read_text(encoding="utf-8")

        assert list(tables(printed)) == list(tables(written[written.index(page.BEGIN) : written.index(page.END)]))
        assert before.partition(page.BEGIN)[0] == written.partition(page.BEGIN)[0]
        assert before.partition(page.END)[2] == written.partition(page.END)[2]
        assert re.search(r"^Measured on .* commit \w+.* cores, .* GiB, Linux .*; Python 3", written, re.MULTILINE)

    def test_leaves_nothing_behind(self, run):
        *_, processes, files = run

        assert [] == processes
        assert [] == files


@pytest.mark.timeout(300)
class TestChurn:
    """What the series of operations cost, for docs/operating.md."""

    def test_fewer_operations_with_series_make_fewer_new_series(self, tmp_path):
        need("Prometheus 3", million.find())
        bench = start(tmp_path, "--quick", "churn")
        try:
            printed, log = bench.communicate(timeout=240)
        finally:
            bench.kill()
            bench.wait()
        assert 0 == bench.returncode, log
        columns, rows, _ = tables(printed)["What series of operations cost"]

        assert ["`active`", "`troubled`", "`none`"] == [row[1] for row in rows]
        for name in ("operations with series", "new series per hour", "samples per hour", "series in the head"):
            figures = [int(row[columns.index(name)].replace(",", "")) for row in rows]
            assert figures == sorted(figures, reverse=True)
            assert figures[0] > figures[2]
        assert [] == list(tmp_path.iterdir())
        assert [] == running(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_stops_all_children(tmp_path, number):
    """Unless it is killed, temporary files are removed, too."""
    bench = start(tmp_path, "--quick", "stall")
    try:
        assert "loop latency" in bench.stderr.readline()
        assert len(running(tmp_path)) > 2
        bench.send_signal(number)
        bench.communicate(timeout=30)
    finally:
        bench.kill()
        bench.wait()
    if number == signal.SIGKILL:
        need("setpriv", shutil.which("setpriv"))
        time.sleep(1)
    else:
        assert 128 + signal.SIGINT == bench.returncode
        assert [] == list(tmp_path.iterdir())
    assert [] == running(tmp_path)


class TestPage:
    def test_can_be_updated_repeatedly(self, tmp_path):
        copy = tmp_path / "performance.md"
        shutil.copy(page.PAGE, copy)
        for figures in ("first", "second"):
            page.write(copy, figures)

        assert f"{page.BEGIN}\nsecond\n{page.END}" in copy.read_text(encoding="utf-8")

    @pytest.mark.parametrize("text", ["", page.BEGIN, page.END + page.BEGIN, page.BEGIN * 2 + page.END])
    def test_is_unchanged_if_markers_are_missing(self, tmp_path, text):
        other = tmp_path / "other.md"
        other.write_text(text)

        with pytest.raises(page.PageError, match="has no markers"):
            page.write(other, "figures")
        assert text == other.read_text()


class TestSteady:
    def test_a_window_without_scrapes_ends_with_the_next_one(self):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Empty)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        steady = Steady()
        try:
            steady.begin({"url": f"http://127.0.0.1:{server.server_port}/", "headers": {}}, clients=1, every=0.2)
            assert [len(steady.taken()) > 0 for _ in range(3)] == [True, True, True]
        finally:
            steady.end()
            server.shutdown()
            thread.join()
            server.server_close()


class Empty(BaseHTTPRequestHandler):
    """Answers with nothing."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class TestSamples:
    PAGE = b'# HELP a b\na{x="1",y="2"} 1.0\nb 2.0\n'

    @pytest.mark.parametrize("other", [PAGE, b'b 2\na{y="2",x="1"} 1\n', b'b 2e0\na{x="1",y="2"} 1.0\n'])
    def test_same_samples_in_another_format(self, other):
        assert same(self.PAGE, other)

    @pytest.mark.parametrize("other", [b"", b"b 2.0\n", PAGE + b"c 3\n", b'a{x="1",y="2"} 1.1\nb 2.0\n'])
    def test_missing_additional_or_different_samples(self, other):
        assert not same(self.PAGE, other)

    def test_restricted_to_a_prefix(self):
        assert same(self.PAGE, b"b 2.0\nc 3\n", b"b")
        assert not same(self.PAGE, self.PAGE, b"nothing")

    def test_plain_pages_are_returned_unchanged(self):
        assert b"text" == samples.page_of(b"text")


class TestOperations:
    def test_are_unique_sorted_and_recent(self):
        """None is older than the exporter's narrowest window."""
        now = 1_800_000_000
        made = [read(entry) for entry in make(500, now=now)]

        assert [each["id"] for each in made] == sorted({each["id"] for each in made}, reverse=True)
        assert all(re.fullmatch("comms_operation_01[0-9a-hjkmnp-tv-z]{24}", each["id"]) for each in made)
        assert all(now - 2400 <= epoch(each["createdAt"]) <= epoch(each["updatedAt"]) <= now for each in made)
        assert {"SCHEDULED", "PROCESSING", "COMPLETED", "CANCELED"} == {each["status"] for each in made}

    def test_changes_are_plausible(self):
        """However often an operation changes, its counters stay consistent."""
        for entry in make(300, now=1_800_000_000):
            before = entry
            for _ in range(30):
                after = changed(before, now=1_800_000_001)
                assert after != before
                assert adds_up(read(after)["stats"])
                before = after


def read(entry):
    return json.loads(entry)


def epoch(timestamp):
    return datetime.fromisoformat(timestamp).timestamp()


def adds_up(stats):
    everything = sum(stats[name] for name in ("scheduled", "queued", "sent", "failed", "canceled"))
    in_order = stats["opened"] <= stats["delivered"] <= stats["sent"] - stats["undelivered"]
    return everything == stats["total"] and in_order and min(stats.values()) >= 0


@pytest.mark.parametrize(
    ("arguments", "error_message"),
    [(["nonsense"], "unknown part: nonsense"), (["--into", "/nowhere/page.md"], "/nowhere/page.md cannot be updated")],
)
def test_invalid_arguments_are_reported_before_measuring(arguments, error_message):
    bench = subprocess.run(
        [sys.executable, "-m", "bench", *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )

    assert 2 == bench.returncode
    assert error_message in bench.stderr.splitlines()[-1]
    assert "" == bench.stdout


def test_table_in_markdown():
    table = Table("Title", "Note.", ["what", "ms"])
    table.add("a", 0.012345)
    table.add("b", 12345.6)
    table.add("c", float("nan"))

    assert "| what | ms |\n| --- | --: |\n| a | 0.0123 |\n| b | 12,346 |\n| c | - |\n" in table.markdown()


def test_quantile():
    assert 99 == quantile(range(1, 101), 0.99)
    assert 100 == quantile(range(1, 101), 0.999)
