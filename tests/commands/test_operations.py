"""`comms-exporter operations` lists the operations that lost the most emails, for people and for programs."""

import asyncio
import json
import os
import sys
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from operations import NOW, as_json, operation
from process import CREDENTIALS, run_to_end, unused_port
from simulated_api import ConfigFile

from comms_exporter.commands.operations import Row, as_text, worst_first
from comms_exporter.commands.progress import Progress
from comms_exporter.commands.tables import age, table

# As long as a real id.
WORST, BAD, GOOD = (f"comms_operation_01h9krwprkeee8fzqspvwy6nq{n}" for n in "123")


def listed(*operations, following=None):
    return web.json_response({"operations": [as_json(each) for each in operations], "pagination": {"next": following}})


@pytest.fixture
async def api_url():
    """An API that ignores all filters."""
    now = time.time()
    operations = [
        operation(GOOD, created=now - 60, total=1000, sent=1000, status="COMPLETED"),
        operation(WORST, created=now - 7200, total=1000, failed=20, undelivered=10),
        operation(BAD, created=now - 60, total=10, failed=9),
        operation("old", created=now - 3 * 86400, total=10, failed=10),
    ]

    async def answer(_):
        return listed(*operations)

    app = web.Application()
    app.router.add_get("/v1/Emails/Operations", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("/v1"))


async def run(api_url, *flags, **environ):
    return await run_to_end("operations", f"--api.base-url={api_url}", *flags, environ={**CREDENTIALS, **environ})


class TestOutput:
    async def test_the_worst_of_the_last_day_comes_first(self, api_url):
        code, stdout, stderr = await run(api_url)

        assert (0, "") == (code, stderr)
        assert [
            ["LOST", "SHARE", "EMAILS", "STATUS", "AGE", "OPERATION"],
            ["30", "3.0", "%", "1,000", "PROCESSING", "2h", WORST],
            ["9", "90.0", "%", "10", "PROCESSING", "1m", BAD],
            ["0", "0.0", "%", "1,000", "COMPLETED", "1m", GOOD],
        ] == [line.split() for line in stdout.splitlines()]

    async def test_filters(self, api_url):
        assert [BAD, GOOD] == [each["id"] for each in json.loads((await run(api_url, "--since=1h", "--json"))[1])]
        assert [GOOD] == [each["id"] for each in json.loads((await run(api_url, "--status=completed", "--json"))[1])]
        assert (0, "no operations\n", "") == await run(api_url, "--status=SCHEDULED")

    async def test_json_has_all_counters(self, api_url):
        code, stdout, _ = await run(api_url, "--json")
        worst = json.loads(stdout)[0]

        assert (0, "ACtest", WORST, "PROCESSING", 30) == (
            code, worst["account"], worst["id"], worst["status"], worst["lost"],
        )  # fmt: skip
        assert (1000, 20, 10) == tuple(worst["stats"][name] for name in ("total", "failed", "undelivered"))

    async def test_fits_a_narrow_terminal(self, api_url):
        _, stdout, _ = await run(api_url, COLUMNS="50")

        assert 50 >= max(map(len, stdout.splitlines()))
        assert f"\n    {WORST}\n" in stdout

    async def test_ends_quietly_when_its_reader_does(self, api_url):
        program = f"{sys.executable} -m comms_exporter operations --json --api.base-url={api_url}"
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", f"{program} | true; echo ${{PIPESTATUS[0]}}",
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **CREDENTIALS},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

        assert (b"0\n", b"") == await process.communicate()


class TestAccounts:
    async def test_shows_what_it_can_read(self, api_url, tmp_path):
        config = ConfigFile(tmp_path / "comms.yml")
        config.write({"name": "good"}, {"name": "away", "base_url": f"http://127.0.0.1:{unused_port()}/v1"})
        code, stdout, stderr = await run_to_end(
            "operations", f"--config.file={config.path}", f"--api.base-url={api_url}"
        )

        assert 1 == code
        assert ["good", WORST] == stdout.splitlines()[1].split()[-2:]
        assert stderr.startswith("comms-exporter: account away: Cannot connect to host 127.0.0.1")
        assert 1 == stderr.count("\n")

    async def test_may_be_one(self, api_url, tmp_path):
        config = ConfigFile(tmp_path / "comms.yml")
        config.write({"name": "good"}, {"name": "away", "base_url": f"http://127.0.0.1:{unused_port()}/v1"})
        flags = ("operations", f"--config.file={config.path}", f"--api.base-url={api_url}")

        assert 0 == (await run_to_end(*flags, "--account=good"))[0]
        assert (2, "", "comms-exporter: --account: there is no account bad; there is good, away\n") == (
            await run_to_end(*flags, "--account=bad")
        )


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("--since=7", '--since: "7" has no unit; write 7s'),
        ("--status=LOST", "--status: must be one of SCHEDULED, PROCESSING, COMPLETED, CANCELED"),
        ("--jsno", "--jsno: unknown flag"),
    ],
)
async def test_a_wrong_flag_is_one_line(flag, problem):
    assert (2, "", f"comms-exporter: {problem}\n") == await run_to_end("operations", flag, environ=CREDENTIALS)


def test_as_many_lost_emails_are_ordered_by_age():
    rows = [Row("a", operation(name, created=created)) for name, created in (("old", NOW - 9), ("new", NOW))]

    assert ["new", "old"] == [row.operation.id for row in worst_first(rows)]


def test_a_missing_counter_is_not_lost():
    assert "0" == as_text([Row("a", operation())], now=NOW, width=80, several_accounts=False)[1].split()[0]


def test_progress_is_shown_only_when_it_takes_long():
    shown, now = [], [0.0]
    progress = Progress(shown.append, monotonic=lambda: now[0])
    for now[0] in (0.5, 1.9, 2.0, 3.0, 4.5):
        progress(f"{now[0]}")

    assert ["2.0", "4.5"] == shown


class TestTable:
    def test_a_long_last_cell_is_wrapped(self):
        assert [
            "N  WHY",
            "1  no such user at the",
            "   provider",
        ] == table(["N", "WHY"], [["1", "no such user at the provider"]], width=24)

    def test_numbers_are_aligned_to_the_right(self):
        assert ["  N  NAME", "  1  a", "100  b"] == table(["N", "NAME"], [["1", "a"], ["100", "b"]], width=80)

    @pytest.mark.parametrize(("seconds", "text"), [(-1, "0s"), (59, "59s"), (60, "1m"), (86399, "23h"), (86400, "1d")])
    def test_an_age_has_one_unit(self, seconds, text):
        assert text == age(seconds)
