"""The check command: what it tests, and the advice when something fails."""

import json
import re

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from process import CREDENTIALS, run_to_end, unused_port
from simulated_api import SENT, ConfigFile, SimulatedApi


@pytest.fixture
async def api():
    async with SimulatedApi() as api:
        yield api


@pytest.fixture
def config_file(tmp_path):
    return ConfigFile(tmp_path / "comms.yml")


class TestCheck:
    async def test_reports_success_and_the_number_of_requests(self, api):
        api.world.send(fates=SENT)
        code, stdout, stderr = await run_to_end("check", f"--api.base-url={api.url}", environ=CREDENTIALS)

        assert (0, "") == (code, stderr)
        assert stdout.startswith("account ACtest\n")
        assert 10 == stdout.count("  ok    ")
        assert f"settings     valid; polls {api.url} every 30 s" in stdout
        assert re.search(r"requests +about 2,8\d\d requests a day for 1 operations a week", stdout)
        assert re.search(r"emails +--emails.collect is off; lost takes about \d+ more requests", stdout)

    @pytest.mark.parametrize(
        ("kind", "step", "advice"),
        [
            ("401", "credentials", "compare the account SID and auth token"),
            ("403", "permission", "no permission to read operations"),
            ("404", "page", "--api.base-url ends in /v1"),
            ("429", "page", "--api.max-requests-per-second"),
            ("500", "page", "a problem at Twilio"),
            ("502", "page", "a problem at Twilio"),
            ("truncated", "page", "not a response of the API"),
            ("reset", "connection", "proxies and firewalls"),
        ],
    )
    async def test_reports_what_fails_and_how_to_fix_it(self, api, kind, step, advice):
        api.faults.add(kind)
        flags = (f"--api.base-url={api.url}", "--json", "--api.timeout=2s")
        code, stdout, _ = await run_to_end("check", *flags, environ=CREDENTIALS)

        (report,) = json.loads(stdout)
        (failed,) = [each for each in report["steps"] if not each["good"]]
        assert (1, False, step) == (code, report["good"], failed["name"])
        assert advice in failed["advice"]
        assert CREDENTIALS["TWILIO_AUTH_TOKEN"] not in stdout

    @pytest.mark.parametrize("flags", [(), ("--json",)], ids=["text", "json"])
    async def test_escapes_what_the_api_returns_for_the_terminal(self, flags):
        """No control, bidirectional or invisible character is printed."""
        hostile = "\x1b]0;owned\x07\x1b[2J\0\x7f\x9b31m\u202emoc.elpmaxe\u2066\u200b"

        async def refuse(_):
            return web.json_response({"message": f"no: {hostile}"}, status=401)

        app = web.Application()
        app.router.add_get("/v1/Emails/Operations", refuse)
        async with TestServer(app) as server:
            base_url = f"--api.base-url={server.make_url('/v1')}"
            code, stdout, stderr = await run_to_end("check", base_url, *flags, environ=CREDENTIALS)

        assert (1, True) == (code, "moc.elpmaxe" in stdout)
        assert "" == "".join(c for c in stdout + stderr if c != "\n" and not c.isprintable())
        if flags:
            (report,) = json.loads(stdout)
            (failed,) = [each for each in report["steps"] if not each["good"]]
            assert f"401: no: {hostile}" == failed["found"]

    async def test_escapes_characters_that_the_terminal_cannot_encode(self):
        async def refuse(_):
            return web.json_response({"message": "très " * 100}, status=401)

        app = web.Application()
        app.router.add_get("/v1/Emails/Operations", refuse)
        async with TestServer(app) as server:
            environ = {**CREDENTIALS, "PYTHONIOENCODING": "ascii"}
            code, stdout, stderr = await run_to_end(
                "check", f"--api.base-url={server.make_url('/v1')}", environ=environ
            )

        assert (1, "") == (code, stderr)
        assert r"401: tr\xe8s tr\xe8s" in stdout

    async def test_reports_a_host_that_does_not_exist(self):
        code, stdout, _ = await run_to_end(
            "check", "--api.base-url=http://no-such-host.invalid/v1", environ=CREDENTIALS
        )

        assert 1 == code
        assert re.search("FAIL +DNS +no-such-host.invalid", stdout)

    async def test_reports_clock_skew(self):
        async def page(_):
            headers = {"Date": "Sat, 21 Nov 2020 12:00:00 GMT"}
            return web.json_response({"operations": [], "pagination": {"next": None}}, headers=headers)

        app = web.Application()
        app.router.add_get("/v1/Emails/Operations", page)
        async with TestServer(app) as server:
            flag = f"--api.base-url={server.make_url('/v1')}"
            code, stdout, _ = await run_to_end("check", flag, environ=CREDENTIALS)

        assert 1 == code
        assert re.search(r"FAIL +clock +\d+ s ahead of the API", stdout)

    async def test_of_many_accounts_only_what_failed_is_shown(self, config_file, api):
        good = [{"name": f"good{number}"} for number in range(20)]
        nowhere = f"http://127.0.0.1:{unused_port()}/v1"
        config_file.write({"name": "bad1", "base_url": nowhere}, *good, {"name": "bad2", "base_url": nowhere})
        flags = (f"--config.file={config_file.path}", f"--api.base-url={api.url}")
        code, stdout, _ = await run_to_end("check", *flags)

        assert 1 == code
        assert ["account bad1", "account bad2"] == re.findall("^account .*", stdout, re.MULTILINE)
        assert 2 == stdout.count("FAIL  connection")
        assert "ok  " not in stdout
        assert stdout.endswith("\n22 accounts: 20 ok, 2 failed (connection 2)\n")

        code, stdout, _ = await run_to_end("check", *flags, "--account=good7")
        assert (0, True) == (code, stdout.startswith("account good7\n"))
        code, _, stderr = await run_to_end("check", *flags, "--account=god7")
        assert (2, "comms-exporter: --account: there is no account god7; did you mean good7?\n") == (code, stderr)

    async def test_tests_each_account(self, config_file, api):
        config_file.write({"name": "good"}, {"name": "bad", "base_url": f"http://127.0.0.1:{unused_port()}/v1"})
        flags = (f"--config.file={config_file.path}", f"--api.base-url={api.url}", "--json")
        code, stdout, _ = await run_to_end("check", *flags)

        assert (1, [True, False]) == (code, [report["good"] for report in json.loads(stdout)])
