"""The documentation is up to date, names only what exists, and its queries work."""

import re
import runpy
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from operations import NOW, apply, listing, operation
from prometheus import Binaries, MissingBinariesError, Prometheus, error_output

from comms_exporter import simulator
from comms_exporter.check import ADVICE
from comms_exporter.collect.state import AccountState
from comms_exporter.config import build_parser
from comms_exporter.store.sqlite import SqliteStore

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {path: path.read_text(encoding="utf-8") for path in sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])}
GOLDEN = (ROOT / "tests/golden/metrics.txt").read_text(encoding="utf-8").splitlines()
SAMPLES = [line for line in GOLDEN if not line.startswith("#")]
# Of emails, which are not collected by default, and of accounts in a database.
MORE = [
    line
    for name in ("emails.txt", "shared.txt")
    for line in (ROOT / "tests/golden" / name).read_text(encoding="utf-8").splitlines()
]
DAY = 86400

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def page(name):
    return PAGES[DOCS / name]


def rules(file):
    groups = yaml.safe_load((ROOT / "deploy/prometheus" / file).read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED = {rule["record"]: rule["expr"] for rule in rules("comms-exporter.rules.yml")}
RECORDED_BEFORE = set(
    re.findall(r"record: (\S+)", (ROOT / "tests/golden/0.1.0/comms-exporter.rules.yml").read_text(encoding="utf-8"))
)
FAMILIES = {line.split()[2] for line in (*GOLDEN, *MORE) if line.startswith("# TYPE")}
NAMES = FAMILIES | {re.match(r"\w+", line)[0] for line in (*SAMPLES, *MORE) if not line.startswith("#")} | set(RECORDED)
# The names of thresholds in the configuration of the rules.
NAMES |= {name.removeprefix("threshold:") for name in RECORDED}


def flags(parser):
    return set(re.findall(r"--[a-z][\w.-]*\w", parser.format_help()))


def prose(text):
    """Return *text* without code blocks."""
    return re.sub(r"^```.*?^```|^ {4}[^\n]*$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text):
    """Return the anchors of the headings of *text*, as on GitHub."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(text):
    """Return (heading, block) for the indented blocks of *text*."""
    heading, found = "", []
    for part in re.findall(r"^#+ .+$|(?:^ {4}.+\n)+", text, re.MULTILINE):
        if part.startswith("#"):
            heading = part.lstrip("# ")
        else:
            found.append((heading, part.strip()))
    return found


class TestGenerated:
    def test_pages_are_up_to_date(self):
        written = runpy.run_path(str(ROOT / "tools/write_docs.py"))["pages"]()

        assert {path: path.read_text(encoding="utf-8") for path in written} == written

    def test_check_passes(self):
        done = subprocess.run(
            [sys.executable, ROOT / "tools/write_docs.py", "--check"], capture_output=True, check=False
        )

        assert (0, b"") == (done.returncode, done.stdout + done.stderr)


class TestComplete:
    def test_every_setting_is_documented(self):
        assert flags(build_parser()) - {"--help", "--version"} == set(
            re.findall(r"^### (--\S+)", page("configuration.md"), re.MULTILINE)
        )

    def test_every_metric_is_documented(self):
        rows = re.findall(r"^\| `(\w+)` \| (?:gauge|counter|histogram)", page("metrics.md"), re.MULTILINE)

        assert FAMILIES == {name for name in rows if name.startswith("comms_")}
        assert len(rows) == len(set(rows))

    def test_every_alert_is_documented(self):
        """With a row for each severity."""
        listed = re.findall(r"^\| \[(\w+)\]\(runbooks\S+\) \| (\w+) \|", page("alerts.md"), re.MULTILINE)

        assert {(rule["alert"], rule["labels"]["severity"]) for rule in rules("comms-exporter.alerts.yml")} == set(
            listed
        )

    def test_every_reason_is_documented(self):
        rows = re.findall(r"^\| `(\w+)` \|", page("operating.md"), re.MULTILINE)

        assert ["reason", *ADVICE] == rows

    def test_every_page_is_linked(self):
        """Directly or indirectly from the README."""
        found, queue = set(), [ROOT / "README.md"]
        while queue:
            path = queue.pop()
            if path in PAGES and path not in found:
                found.add(path)
                queue += [(path.parent / target).resolve() for target, _ in links(PAGES[path])]
        assert set() == {path for path in PAGES if DOCS in path.parents} - found


def links(text):
    """Return (path, anchor) of every relative link and image."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(text))
    return [(path, anchor) for path, _, anchor in (target.partition("#") for target in targets) if ":" not in path]


class TestTrue:
    @every_page
    def test_links_lead_to_existing_files_and_headings(self, page):
        missing = []
        for path, anchor in links(PAGES[page]):
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
                missing.append((path, anchor))
        assert [] == missing

    @every_page
    def test_metrics_exist(self, page):
        named = re.findall(r"(?<![\w/.-])(?:\w+:)?comms_(?:up|emails?|exporter)(?:_\w+|\b)(?::\w+)?", PAGES[page])

        # The changelog says what to use instead of what is gone.
        gone = RECORDED_BEFORE if page.name == "CHANGELOG.md" else set()
        unknown = {name for name in named if name not in NAMES | gone and not name.endswith("_")}
        assert set() == unknown - {"comms_exporter"}

    @every_page
    def test_flags_exist(self, page):
        """Those with a dot are ours."""
        named = set(re.findall(r"(?<![\w-])--[a-z]+(?:\.[a-z-]+)+", PAGES[page]))

        assert set() == named - flags(build_parser()) - flags(simulator.build_parser())

    @every_page
    def test_variables_exist(self, page):
        named = set(re.findall(r"\b(?:COMMS_EXPORTER|TWILIO)_\w*[A-Z]\b", PAGES[page]))

        assert set() == named - set(re.findall(r"`([A-Z_]+)`", PAGES[DOCS / "configuration.md"]))

    @pytest.mark.parametrize(
        "command",
        [text for _, text in blocks(page("operating.md")) if "backup.db" in text],
        ids=lambda text: text.split()[0],
    )
    def test_backup(self, tmp_path, command):
        """The commands copy a state file that is in use, including its write-ahead log."""
        if not shutil.which(command.split()[0]):
            pytest.skip(f"{command.split()[0]} is not installed")
        state = AccountState()
        apply(state, listing(sweep=True))
        apply(state, listing(operation("a", created=NOW + 1, total=5)))
        store = SqliteStore(tmp_path / "state.db")
        store.save("shop", state.snapshot())
        subprocess.run(command, shell=True, cwd=tmp_path, check=True, timeout=30)
        store.save("shop", state.snapshot())
        store.close()

        with sqlite3.connect(tmp_path / "backup.db") as backup:
            assert [("shop", "a")] == backup.execute("SELECT account, id FROM operations").fetchall()
        backup.close()
        (tmp_path / "state.db").rename(tmp_path / "old.db")
        (tmp_path / "backup.db").rename(tmp_path / "state.db")
        saved = SqliteStore(tmp_path / "state.db").load(["shop"])["shop"]
        assert tuple(state.totals) == saved.totals


QUERIES = [(heading, " ".join(text.split())) for heading, text in blocks(page("cookbook.md"))]


def expanded(promql):
    """Return *promql* with recording rules replaced by their expressions."""
    return re.sub(r"\b(?:account|threshold):[\w:]+", lambda match: f"({expanded(RECORDED[match[0]])})", promql)


def history():
    """Yield a history of the golden page as OpenMetrics: every half hour for nine days, then every minute for two hours."""
    times = [*range(-9 * DAY, -7200, 1800), *range(-7200, 1, 60)]
    for line in SAMPLES:
        name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()
        labels = ",".join(filter(None, (labels, 'job="comms-exporter",instance="exporter:10067"')))
        grows = name.endswith(("_total", "_bucket", "_sum", "_count"))
        for at in times:
            now = float(value) * (1 + at / (10 * DAY)) if grows else float(value)
            yield f"{name}{{{labels}}} {now} {NOW + at:.0f}\n"
    yield "# EOF\n"


@pytest.fixture(scope="module")
def week(tmp_path_factory):
    folder = tmp_path_factory.mktemp("week")
    with (folder / "history.om").open("w", encoding="utf-8") as file:
        file.writelines(history())
    try:
        promtool = Binaries.find(3).promtool
    except MissingBinariesError as error:
        pytest.skip(str(error))
    blocks_from = ("tsdb", "create-blocks-from", "--max-block-duration=240h", "openmetrics")
    assert "" == error_output(promtool, *blocks_from, folder / "history.om", folder / "tsdb")
    return folder


class TestCookbook:
    def test_has_many_different_queries(self):
        assert 15 <= len(QUERIES) == len(set(QUERIES))
        assert len(QUERIES) == len({heading for heading, _ in QUERIES if heading.endswith("?")})

    async def test_every_query_has_a_result(self, prometheus_binaries, week, tmp_path):
        """For an account with a week of email, they are numbers, not NaN."""
        shutil.copytree(week / "tsdb", tmp_path / "server/tsdb")
        wrong = []
        kept = ["--storage.tsdb.retention.time=10y"]
        async with Prometheus(
            prometheus_binaries, tmp_path / "server", config={"scrape_configs": []}, flags=kept
        ) as server:
            for heading, promql in QUERIES:
                found = await server.query(expanded(promql), NOW + 30)
                values = [value for labels, value in found if labels["account"] == "shop"]
                if not values or not all(abs(value) < float("inf") for value in values):
                    wrong.append((heading, found))
        assert [] == wrong

    def test_every_query_is_valid(self, prometheus_binaries, tmp_path):
        rule = [{"record": f"r{number}", "expr": promql} for number, (_, promql) in enumerate(QUERIES)]
        (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "cookbook", "rules": rule}]}))

        assert "" == error_output(prometheus_binaries.promtool, "check", "rules", tmp_path / "rules.yml")
