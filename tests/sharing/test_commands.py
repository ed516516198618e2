"""What somebody sees who starts an exporter with a database that cannot be used, and who looks at the status page."""

import subprocess
import sys

import pytest
from postgres import needs_postgres
from process import CREDENTIALS, exporter, run_to_end, scrape, until, unused_port

pytestmark = needs_postgres

# Nobody listens there.
API = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("comms@", "nobody:canary@"), 'role "nobody" does not exist'),
        (("/postgres", "/nothing"), 'database "nothing" does not exist'),
    ],
)
async def test_a_database_that_refuses_is_reported_in_one_line(server, change, problem):
    code, stdout, stderr = await run_to_end(f"--state.url={server.url.replace(*change)}", environ=CREDENTIALS)

    assert (1, "", 1) == (code, stdout, stderr.count("\n"))
    assert stderr.startswith("comms-exporter: PostgreSQL at 127.0.0.1: ")
    assert problem in stderr
    assert "canary" not in stderr


def test_without_psycopg_it_says_what_to_install(server):
    """As where only the base package is installed."""
    hidden = "import sys, importlib.util as util; find = util.find_spec; "
    hidden += "util.find_spec = lambda name, *rest: None if name == 'psycopg' else find(name, *rest); "
    start = "from comms_exporter.cli import main; sys.exit(main())"

    ended = subprocess.run(
        [sys.executable, "-c", f"{hidden}sys.modules['psycopg'] = None; {start}", f"--state.url={server.url}"],
        env={**CREDENTIALS, "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )

    expected = "comms-exporter: --state.url: needs the package psycopg: pip install 'comms-exporter[postgres]'\n"
    assert (2, "", expected) == (ended.returncode, ended.stdout, ended.stderr)


async def test_a_database_that_is_away_at_the_start_is_waited_for(server, schema):
    away = server.url.replace(str(server.port), str(unused_port()))
    async with exporter(API, environ={"COMMS_EXPORTER_STATE_URL": away}) as process:
        page = await scrape(process.url)
        assert "comms_exporter_members 0.0" in page
        assert "comms_up{" not in page
        await process.until("the database does not answer.*Connection refused")


async def test_the_status_page_says_who_shares_the_accounts(server, schema):
    environ = {"COMMS_EXPORTER_STATE_URL": server.url, "COMMS_EXPORTER_STATE_SCHEMA": schema}
    async with exporter(API, environ=environ) as process:
        await until(process.url, r'^comms_exporter_accounts{owner="self"} 1')
        page = await until(process.url, "^This exporter has owned the account for", path="/")

    assert "1 exporter polls the accounts" in page
    assert f"(process {process.pid})</bdi> (this one): 1 account, running for" in page
