"""`make bench`: all of it works, and nothing of it stays behind. What the figures say is for people to judge."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from bench import page
from bench.collect.operations import changed, make
from bench.expose import million, nginx, samples
from bench.expose.samples import same
from bench.tables import Table, quantile

ROOT = Path(__file__).parents[2]
TITLES = [
    "Scrapes",
    "The loop's worst moments",
    "A whole poll",
    "Saving",
    "Memory",
    "A million series in one scrape",
    "More operations",
    "More change",
    "More accounts",
    "More scrapers at a time",
]


def start(folder, *arguments):
    """Start the benchmark; *folder* is where it and its children put what is temporary, which is how they are known."""
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def running(folder):
    """Return the processes that know *folder*."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMPDIR={folder}\0".encode() in environ.read_bytes():
                found.append(environ.parent.name)
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a quick run printed and wrote, and what it left behind."""
    folder = tmp_path_factory.mktemp("bench")
    written = tmp_path_factory.mktemp("page") / "performance.md"
    shutil.copy(page.PAGE, written)
    bench = start(folder, "--quick", "--into", str(written))
    try:
        printed, said = bench.communicate(timeout=240)
    finally:
        bench.kill()
        bench.wait()
    assert 0 == bench.returncode, said
    return printed, written.read_text(encoding="utf-8"), running(folder), list(folder.iterdir())


def tables(text):
    """Return {title: (columns, rows, all of the section)}."""
    found = {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0]
        lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
        found[title] = (lines[0], lines[2:], section)
    return found


def need(name, there):
    """Skip where this machine has no *name*; in CI it has."""
    if not there:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"there is no {name} here")


def has_nginx():
    try:
        nginx.find()
    except nginx.MissingError:
        return False
    return True


@pytest.mark.timeout(300)
class TestQuickRun:
    def test_has_every_table(self, run):
        printed, *_ = run

        assert TITLES == list(tables(printed))

    @pytest.mark.parametrize("title", [title for title in TITLES if title not in {"Scrapes", TITLES[5]}])
    def test_every_figure(self, run, title):
        columns, rows, _ = tables(run[0])[title]

        assert rows
        assert [] == [
            row for row in rows if len(row) != len(columns) or not all(re.search(r"\w", cell) for cell in row)
        ]

    def test_scrapes(self, run):
        """But for nginx, which not every machine has, and prometheus_client's OpenMetrics, which is not measured."""
        columns, rows, section = tables(run[0])["Scrapes"]
        ours = [index for index, name in enumerate(columns) if "nginx" not in name]
        blank = [row for row in rows for index in ours if row[index] == "-" and row[1] in {"identity", "gzip"}]

        assert len(rows) >= 6
        assert [] == blank
        assert "held the same samples as the exporter's, plain and compressed" in section

    def test_nginx(self, run):
        need("nginx", has_nginx())
        columns, rows, section = tables(run[0])["Scrapes"]

        assert [] == [
            row for row in rows for name, cell in zip(columns, row, strict=True) if "nginx" in name and cell == "-"
        ]
        assert "nginx's were the same bytes" in section

    def test_prometheus(self, run):
        need("Prometheus 3", million.find())
        columns, rows, _ = tables(run[0])[TITLES[5]]

        assert ["first", "later, median of 2"] == [row[0] for row in rows]
        assert {"1"} == {row[columns.index("up")] for row in rows}
        assert all(int(row[columns.index("series")].replace(",", "")) >= 1700 for row in rows)

    def test_writes_the_page(self, run):
        """What it prints stands between the marks, and around them nothing has changed."""
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted(tmp_path, number):
    """Its children end with it, and where it is asked to end, so do its files."""
    bench = start(tmp_path, "--quick", "stall")
    try:
        assert "the loop" in bench.stderr.readline()
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
    def test_has_its_marks(self, tmp_path):
        copy = tmp_path / "performance.md"
        shutil.copy(page.PAGE, copy)
        for figures in ("first", "second"):
            page.write(copy, figures)

        assert f"{page.BEGIN}\nsecond\n{page.END}" in copy.read_text(encoding="utf-8")

    @pytest.mark.parametrize("text", ["", page.BEGIN, page.END + page.BEGIN, page.BEGIN * 2 + page.END])
    def test_without_them(self, tmp_path, text):
        other = tmp_path / "other.md"
        other.write_text(text)

        with pytest.raises(page.MarksError, match="lacks its marks"):
            page.write(other, "figures")
        assert text == other.read_text()


class TestSamples:
    PAGE = b'# HELP a b\na{x="1",y="2"} 1.0\nb 2.0\n'

    @pytest.mark.parametrize("other", [PAGE, b'b 2\na{y="2",x="1"} 1\n', b'b 2e0\na{x="1",y="2"} 1.0\n'])
    def test_same(self, other):
        assert same(self.PAGE, other)

    @pytest.mark.parametrize("other", [b"", b"b 2.0\n", PAGE + b"c 3\n", b'a{x="1",y="2"} 1.1\nb 2.0\n'])
    def test_other(self, other):
        """A contender that leaves something out, or says something else, is found out."""
        assert not same(self.PAGE, other)

    def test_of_one_name(self):
        assert same(self.PAGE, b"b 2.0\nc 3\n", b"b")
        assert not same(self.PAGE, self.PAGE, b"nothing")

    def test_page_of(self):
        assert b"text" == samples.page_of(b"text")


class TestOperations:
    def test_make(self):
        """All ids differ and tell the order; nothing is older than the exporter's narrowest window."""
        now = 1_800_000_000
        made = [read(entry) for entry in make(500, now=now)]

        assert [each["id"] for each in made] == sorted({each["id"] for each in made}, reverse=True)
        assert all(re.fullmatch("comms_operation_01[0-9a-hjkmnp-tv-z]{24}", each["id"]) for each in made)
        assert all(now - 2400 <= epoch(each["createdAt"]) <= epoch(each["updatedAt"]) <= now for each in made)
        assert {"SCHEDULED", "PROCESSING", "COMPLETED", "CANCELED"} == {each["status"] for each in made}

    def test_changed(self):
        """However often it changes, its counters can be true, and it is never what it was."""
        for entry in make(300, now=1_800_000_000):
            before = entry
            for _ in range(30):
                after = changed(before, now=1_800_000_001)
                assert after != before
                assert adds_up(read(after)["stats"])
                before = after


def read(entry):

    return json.loads(entry)


def epoch(word):

    return datetime.fromisoformat(word).timestamp()


def adds_up(stats):
    everything = sum(stats[name] for name in ("scheduled", "queued", "sent", "failed", "canceled"))
    in_order = stats["opened"] <= stats["delivered"] <= stats["sent"] - stats["undelivered"]
    return everything == stats["total"] and in_order and min(stats.values()) >= 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["nonsense"], "there is no part nonsense"), (["--into", "/nowhere/page.md"], "/nowhere/page.md is no page")],
)
def test_what_is_wrong_is_said_before_anything_is_measured(arguments, complaint):
    bench = subprocess.run(
        [sys.executable, "-m", "bench", *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )

    assert 2 == bench.returncode
    assert complaint in bench.stderr.splitlines()[-1]
    assert "" == bench.stdout


def test_table():
    table = Table("Title", "Note.", ["what", "ms"])
    table.add("a", 0.012345)
    table.add("b", 12345.6)
    table.add("c", float("nan"))

    assert "| what | ms |\n| --- | --: |\n| a | 0.0123 |\n| b | 12,346 |\n| c | - |\n" in table.markdown()


def test_quantile():
    assert 99 == quantile(range(1, 101), 0.99)
    assert 100 == quantile(range(1, 101), 0.999)
