"""The program as users run it: its output, its pages, and its exit codes."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import time
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from operations import as_json, operation
from process import CREDENTIALS, exporter, run, run_to_end, scrape, until, unused_port

from comms_exporter import __version__
from comms_exporter.simulator import Fate, Faults, World, make_app
from comms_exporter.simulator.demo import STORY


@pytest.fixture
async def world():
    return World(clock=time.time)


@pytest.fixture
async def faults():
    return Faults()


@pytest.fixture
async def api(world, faults):
    async with TestServer(make_app(world, faults)) as server:
        yield str(server.make_url("/v1"))


class TestServing:
    async def test_every_operation_and_counter_equals_the_api(self, api, world):
        """200 operations in progress, on 5 pages; when they change, so do the series."""
        now = time.time()
        for n in range(200):
            world.send(at=now - n, fates=[Fate(sent=n, delivered=n + 3600, opened=n + 7200)] * (n % 3 + 1))
        world.freeze()
        async with exporter(api, "--api.page-size=40", "--collect.interval=200ms") as process:
            page = await until(process.url, "^comms_up.* 1.0$")
            await self.compare(api, page, 200)
            assert re.search(r'^comms_exporter_api_requests_total{.*code="200"} ([5-9]|\d\d)', page, re.MULTILINE)

            world.thaw()
            for _ in range(10):
                world.send(recipients=3)
            world.freeze()
            page = await until(process.url, "^comms_exporter_operations_tracked.* 210.0$")
            await self.compare(api, page, 210)

    async def compare(self, api, page, count):
        listed = {}
        async with aiohttp.ClientSession(headers={"Authorization": aiohttp.encode_basic_auth("AC", "x")}) as session:
            token = None
            while token is not False:
                query = {"pageSize": "1000", **({"pageToken": token} if token else {})}
                async with session.get(f"{api}/Emails/Operations", params=query) as response:
                    payload = await response.json()
                listed |= {each["id"]: each for each in payload["operations"]}
                token = payload["pagination"]["next"] or False
        assert count == len(listed)
        for operation_id, each in listed.items():
            labels = f'account="ACtest",operation_id="{operation_id}"'
            assert f'comms_email_operation_status{{{labels},status="{each["status"]}"}} 1.0' in page
            for name, value in each["stats"].items():
                family = f"comms_email_operation_{'emails' if name == 'total' else name}"
                assert f"{family}{{{labels}}} {float(value)}\n" in page

    async def test_pages_respond_at_once_while_the_api_is_unreachable(self):
        began = time.monotonic()
        async with exporter(f"http://127.0.0.1:{unused_port()}/v1", "--collect.interval=100ms") as process:
            first = await scrape(process.url)
            assert "comms_up{" in first
            assert 'comms_emails_sent_total{account="ACtest"} 0.0' in first
            assert time.monotonic() - began < 20
            await until(process.url, r'^comms_exporter_poll_failures_total.*reason="connection"} [1-9]')
            page = await until(process.url, r'^comms_exporter_poll_failures_total.*reason="connection"} [2-9]')
            assert 'comms_up{account="ACtest"} 0.0' in page
            assert 1 == process.stderr.count('msg="poll failed"')
            assert "Healthy" in await scrape(process.url, "/-/healthy")
            assert "Ready" in await scrape(process.url, "/-/ready")

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_stops_on_a_signal_even_while_the_api_hangs(self, api, faults, number):
        faults.add("hang")
        async with exporter(api) as process:
            await scrape(process.url)
            process.send(number)

            assert 0 == await process.ended(5)
            assert "Traceback" not in process.stderr

    async def test_stops_despite_a_slow_client(self, api):
        async with exporter(api) as process:
            host, port = process.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
            await writer.drain()
            process.send(signal.SIGTERM)

            assert 0 == await process.ended(5)
            writer.close()
            del reader

    async def test_logs_one_line_per_poll(self, api):
        async with exporter(api, "--collect.interval=100ms", "--log.format=json") as process:
            await process.until(r'(?s)"polled".*"polled".*"polled"')
            process.send(signal.SIGTERM)
            await process.ended()

        messages = [json.loads(line)["msg"] for line in process.stderr.splitlines()]
        assert ["no state file: counters are lost at a restart", "listening"] == messages[:2]
        assert {"polled", "stopping"} == set(messages[2:])

    async def test_the_account_name_can_be_set(self, api):
        async with exporter(api, "--account.name=shop") as process:
            assert 'comms_up{account="shop"}' in await scrape(process.url)

    async def test_listens_on_the_given_addresses_and_path(self, api):
        async with exporter(api, "--web.listen-address=127.0.0.1:0", "--web.telemetry-path=/m") as process:
            await process.until("(?s)msg=listening.*msg=listening")
            addresses = re.findall(r"address=(\S+)", process.stderr)

            assert 2 == len(set(addresses))
            for address in addresses:
                assert "comms_up" in await scrape(address, "/m")

    async def test_exposes_the_operations_that_are_wanted(self, api, world):
        lost = world.send(fates=[Fate(sent=0, undelivered=0)]).id
        delivered = world.send(fates=[Fate(sent=0, delivered=0)]).id
        world.freeze()

        for wanted, exposed in (("active", {lost, delivered}), ("troubled", {lost}), ("none", set())):
            async with exporter(api, f"--collect.operations={wanted}") as process:
                page = await until(process.url, "^comms_up.* 1.0$")
                assert exposed == set(re.findall('operation_id="(.*?)"', page))
                assert 'comms_email_operations{account="ACtest",status="COMPLETED"} 2.0' in page

    async def test_can_exclude_the_metrics_of_its_process(self, api):
        async with exporter(api) as process:
            page = await scrape(process.url)
        async with exporter(api, "--web.disable-exporter-metrics") as process:
            without = await scrape(process.url)

        assert {"process", "python"} == prefixes(page) - {"comms"}
        assert {"comms"} == prefixes(without)
        assert "comms_exporter_build_info{" in without


def prefixes(page):
    return {line.partition("_")[0] for line in page.splitlines() if not line.startswith("#")}


class TestState:
    async def test_a_restart_continues_the_counters(self, api, world, tmp_path):
        flags = (f"--state.path={tmp_path / 'state.db'}", "--collect.interval=100ms")
        async with exporter(api, *flags) as process:
            await process.until("msg=polled")
            world.send(fates=[Fate(sent=0, delivered=0)] * 7)
            await until(process.url, "^comms_emails_delivered_total.* 7.0$")
            page = await until(process.url, r"^comms_exporter_state_last_save_timestamp_seconds.* 1\.")
            process.send(signal.SIGTERM)
            await process.ended()
        world.send(fates=[Fate(sent=0, delivered=0)] * 4)
        async with exporter(f"http://127.0.0.1:{unused_port()}/v1", *flags) as process:
            assert "comms_emails_delivered_total" in page
            assert 'comms_emails_delivered_total{account="ACtest"} 7.0' in await scrape(process.url)
        async with exporter(api, *flags) as process:
            await until(process.url, "^comms_emails_delivered_total.* 11.0$")

    async def test_two_processes_cannot_share_a_state_file(self, api, tmp_path):
        flag = f"--state.path={tmp_path / 'state.db'}"
        async with exporter(api, flag):
            code, _, stderr = await run_to_end("--web.listen-address=127.0.0.1:0", flag, environ=CREDENTIALS)

        problem = f"{tmp_path / 'state.db'} is in use by another process; each process needs its own state file"
        assert (1, f"comms-exporter: {problem}\n") == (code, stderr)

    async def test_an_unreadable_file_is_renamed_and_logged(self, api, tmp_path):
        path = tmp_path / "state.db"
        path.write_text("precious")
        async with exporter(api, f"--state.path={path}", "--collect.interval=100ms") as process:
            await process.until("msg=polled")
            assert "level=error" in process.stderr
            assert "renamed_to=" in process.stderr

        (aside,) = tmp_path.glob("state.db.corrupt-*")
        assert "precious" == aside.read_text()

    async def test_an_unwritable_path_is_reported(self, tmp_path):
        (tmp_path / "file").touch()
        code, _, stderr = await run_to_end(f"--state.path={tmp_path}/file/state.db", environ=CREDENTIALS)

        assert (2, 1) == (code, stderr.count("\n"))
        assert "--state.path" in stderr


class TestRecording:
    async def test_has_what_the_api_returned(self, api, world, faults, tmp_path):
        file = tmp_path / "week.jsonl"
        flags = (f"--record.file={file}", "--collect.interval=100ms", f"--state.path={tmp_path / 'state.db'}")
        world.send(at=time.time() - 7200, fates=[Fate(queued=0)])
        async with exporter(api, *flags) as process:
            await process.until("msg=polled")
            world.send(fates=[Fate(sent=0, delivered=0)] * 7)
            await until(process.url, "^comms_emails_delivered_total.* 7.0$")
            faults.add("503", retry_after=0)
            await until(process.url, "^comms_up.* 0.0$")
            faults.clear()
            await until(process.url, "^comms_up.* 1.0$")
            process.send(signal.SIGTERM)
            await process.ended()
        async with exporter(api, *flags) as process:
            await process.until("msg=polled")
            process.send(signal.SIGTERM)
            await process.ended()

        entries = [json.loads(line) for line in file.read_text().splitlines()]
        assert ["poll_interval", "exporter"] == [next(key for key in entry if key != "time") for entry in entries[:2]]
        assert ["up", "down", "up", "down"] == [entry["exporter"] for entry in entries if "exporter" in entry]
        assert ["ok", 503, "ok", "ok"] == [entry["api"] for entry in entries if "api" in entry]
        latest = {e["operation"]["id"]: e["operation"] for e in entries if "operation" in e}
        assert [1, 7] == sorted(each["stats"]["total"] for each in latest.values())
        assert 7 == sum(each["stats"]["delivered"] for each in latest.values())
        assert {"ACtest"} == {entry["account"] for entry in entries if "account" in entry}

    async def test_a_new_one_begins_with_what_is_known(self, api, world, tmp_path):
        flags = ("--collect.interval=100ms", f"--state.path={tmp_path / 'state.db'}")
        world.send(fates=[Fate(sent=0, delivered=0)] * 7)
        for more in ((), (f"--record.file={tmp_path / 'week.jsonl'}",)):
            async with exporter(api, *flags, *more) as process:
                await process.until("msg=polled")
                process.send(signal.SIGTERM)
                await process.ended()

        entries = [json.loads(line) for line in (tmp_path / "week.jsonl").read_text().splitlines()]
        assert [7] == [entry["operation"]["stats"]["delivered"] for entry in entries if "operation" in entry]

    async def test_two_processes_cannot_share_a_file(self, api, tmp_path):
        flag = f"--record.file={tmp_path / 'week.jsonl'}"
        async with exporter(api, flag):
            code, _, stderr = await run_to_end("--web.listen-address=127.0.0.1:0", flag, environ=CREDENTIALS)

        problem = f"{tmp_path / 'week.jsonl'} is in use by another process; each process needs its own recording"
        assert (1, f"comms-exporter: {problem}\n") == (code, stderr)

    @pytest.mark.parametrize("flags", [(), ("--config.check",)])
    async def test_an_unwritable_path_is_reported(self, tmp_path, flags):
        (tmp_path / "file").touch()
        code, _, stderr = await run_to_end(f"--record.file={tmp_path}/file/week.jsonl", *flags, environ=CREDENTIALS)

        assert (2, 1) == (code, stderr.count("\n"))
        assert "--record.file" in stderr


class TestSecrets:
    async def test_are_never_shown(self, tmp_path):
        """Even if the API returns them."""
        canary = "canary-5ecret-0f-the-account"
        basic = aiohttp.encode_basic_auth("ACtest", canary).removeprefix("Basic ")
        named = [
            {**as_json(operation("y", created=time.time())), field: value}
            for field in ("id", "status")
            for value in (canary, f"op-{canary}", quote(canary).replace("-", "%2D"), basic, canary.upper())
        ]
        responses = iter(
            [
                web.json_response({"message": f"bad token {canary}"}, status=401),
                web.json_response({"message": f"Authorization was Basic {basic}"}, status=403),
                web.Response(text=f"<html>{canary}", status=502),
                web.json_response({"operations": [as_json(operation("x", created=time.time())), canary]}),
                web.json_response({"operations": named}),
                web.json_response({"operations": [], "pagination": {"next": canary}}),
            ]
        )

        async def refuse(request):
            return next(responses, web.Response(status=500, text=canary))

        app = web.Application()
        app.router.add_get("/v1/Emails/Operations", refuse)
        secret = tmp_path / "token"
        secret.write_text(canary)
        environ = {"TWILIO_AUTH_TOKEN": "", "TWILIO_AUTH_TOKEN_FILE": str(secret)}
        async with TestServer(app) as server:
            flags = (
                "--log.level=debug",
                "--collect.interval=50ms",
                f"--state.path={tmp_path}/state.db",
                f"--record.file={tmp_path}/week.jsonl",
            )
            async with exporter(str(server.make_url("/v1")), *flags, environ=environ) as process:
                await until(process.url, r'^comms_exporter_polls_total\{account="ACtest"\} ([7-9]|\d\d)')
                seen = [await scrape(process.url, path) for path in ("/", "/metrics", "/-/healthy", "/-/ready", "/x")]
                process.send(signal.SIGTERM)
                await process.ended()

        everything = "".join(seen) + process.stderr + process.stdout
        everything += "".join(path.read_bytes().decode("latin-1") for path in tmp_path.glob("state.db*"))
        everything += (tmp_path / "week.jsonl").read_text()
        assert '"api":401' in everything
        assert "poll failed" in everything
        assert 'comms_exporter_malformed_operations_total{account="ACtest"} 11.0' in everything
        assert "SQLite format 3" in everything
        assert "anary" not in everything.lower()
        assert canary not in everything
        assert basic not in everything


COMMANDS = {
    "serve": ("serve", "--web.listen-address=127.0.0.1:0"),
    "check": ("check",),
    "--config.check": ("--config.check",),
}


class TestInvalidSettings:
    """One line each, and exit code 2."""

    @pytest.mark.parametrize(
        ("arguments", "environ", "names"),
        [
            pytest.param([], {}, ["TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"], id="no credentials"),
            pytest.param(
                [],
                {**CREDENTIALS, "TWILIO_AUTH_TOKEN_FILE": "/x"},
                ["TWILIO_AUTH_TOKEN", "TWILIO_AUTH_TOKEN_FILE"],
                id="duplicate secret",
            ),
            pytest.param(
                [],
                {**CREDENTIALS, "TWILIO_API_KEY": "SKx", "TWILIO_API_SECRET": "canary-y"},
                ["TWILIO_AUTH_TOKEN", "TWILIO_API_KEY"],
                id="auth token and API key",
            ),
            pytest.param(["--collect.interval=30"], CREDENTIALS, ["--collect.interval", "30s"], id="invalid duration"),
            pytest.param(["--nonsense"], CREDENTIALS, ["--nonsense"], id="unknown flag"),
            pytest.param(
                [],
                {"TWILIO_ACCOUNT_SID": "AC", "TWILIO_AUTH_TOKEN_FILE": "/nonexistent/token"},
                ["TWILIO_AUTH_TOKEN_FILE", "/nonexistent/token"],
                id="unreadable secret file",
            ),
            pytest.param(
                [],
                {**CREDENTIALS, "COMMS_EXPORTER_COLECT_INTERVAL": "30s"},
                ["COMMS_EXPORTER_COLECT_INTERVAL", "COMMS_EXPORTER_COLLECT_INTERVAL"],
                id="misspelled variable",
            ),
        ],
    )
    async def test_are_reported(self, arguments, environ, names):
        code, stdout, stderr = await run_to_end(*arguments, environ=environ)

        assert (2, "", 1) == (code, stdout, stderr.count("\n"))
        for name in names:
            assert name in stderr
        assert "canary" not in stderr

    async def test_an_unknown_key_in_the_file_is_reported(self, tmp_path):
        file = tmp_path / "comms.yml"
        file.write_text("collect:\n  intervall: 30s\n")

        code, _, stderr = await run_to_end(f"--config.file={file}", environ=CREDENTIALS)

        assert (2, 1) == (code, stderr.count("\n"))
        assert "collect.intervall" in stderr

    async def test_a_port_in_use_is_reported(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"

            code, _, stderr = await run_to_end(f"--web.listen-address={address}", "--state.path=", environ=CREDENTIALS)

        assert 1 == code
        assert [f"comms-exporter: cannot listen on {address}: address already in use"] == stderr.splitlines()[-1:]

    async def test_valid_settings_can_be_checked(self):
        assert (0, "The settings are valid: 1 account(s).\n", "") == await run_to_end(
            "--config.check", environ=CREDENTIALS
        )

    @pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("HTTPS_PROXY", "http://me:canary@[::1"),
            ("https_proxy", "socks5://me:canary@proxy:1080"),
        ],
    )
    async def test_an_invalid_proxy_is_reported_by_every_command(self, command, name, text):
        environ = {**CREDENTIALS, "COMMS_EXPORTER_STATE_PATH": "", name: text}
        expected = (
            f"comms-exporter: {name}: is not the URL of an HTTP proxy; write one such as http://proxy.example:3128\n"
        )

        assert (2, "", expected) == await run_to_end(*command, environ=environ)

    @pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (None, "No such file or directory"),
            ("nonsense", "NO_CERTIFICATE_OR_CRL_FOUND"),
            ("a revocation list", "it contains no certificate"),
        ],
    )
    async def test_an_unusable_ca_file_is_reported_by_every_command(self, command, content, why, tmp_path):
        file = tmp_path / "ca.pem"
        if content == "a revocation list":
            revocation_list(file, tmp_path)
        elif content is not None:
            file.write_text(content)

        code, stdout, stderr = await run_to_end(*command, "--state.path=", f"--api.ca-file={file}", environ=CREDENTIALS)

        assert (2, "", 1) == (code, stdout, stderr.count("\n"))
        assert stderr.startswith(f"comms-exporter: --api.ca-file: {file}: ")
        assert why in stderr

    @pytest.mark.parametrize(
        "command", [COMMANDS["serve"], COMMANDS["--config.check"]], ids=["serve", "--config.check"]
    )
    @pytest.mark.parametrize(
        ("path", "why"),
        [
            ("directory", "is a directory"),
            ("file/state.db", "not a directory"),
            ("file/directory/state.db", "not a directory"),
        ],
    )
    async def test_an_impossible_state_path_is_reported(self, command, path, why, tmp_path):
        (tmp_path / "file").touch()
        (tmp_path / "directory").mkdir()

        code, stdout, stderr = await run_to_end(*command, f"--state.path={tmp_path / path}", environ=CREDENTIALS)

        assert (2, "", 1) == (code, stdout, stderr.count("\n"))
        assert stderr.startswith(f"comms-exporter: --state.path: {tmp_path / path}: {why}")

    async def test_all_problems_are_reported_at_once_and_no_file_is_created(self, tmp_path):
        environ = {**CREDENTIALS, "HTTPS_PROXY": "canary"}
        flags = (f"--api.ca-file={tmp_path}/none", f"--web.config.file={tmp_path}/none", f"--state.path={tmp_path}/a/b")
        code, _, stderr = await run_to_end("--config.check", *flags, environ=environ)

        names = ["--web.config.file", "--api.ca-file", "HTTPS_PROXY"]
        assert (2, names) == (code, [line.split(": ")[1] for line in stderr.splitlines()])
        assert [] == list(tmp_path.iterdir())


def openssl(*arguments, **given):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, **given)


def revocation_list(file, folder):
    """Write only a certificate revocation list to *file*."""
    (folder / "index").touch()
    (folder / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=it\n[it]\ndatabase={folder}/index\ndefault_md=sha256\ndefault_crl_days=1\n"
    )
    name, key = folder / "its.pem", folder / "its.key"
    openssl("req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=it", "-keyout", key, "-out", name)
    openssl("ca", "-gencrl", "-config", folder / "ca.cnf", "-cert", name, "-keyfile", key, "-out", file)


class TestCommands:
    async def test_version(self):
        code, stdout, _ = await run_to_end("--version")

        assert (0, True) == (code, stdout.startswith(f"comms-exporter, version {__version__} (python 3."))

    async def test_help_lists_every_command_and_flag(self):
        code, stdout, _ = await run_to_end("--help")

        assert 0 == code
        for word in ("demo", "simulator", "--collect.interval", "COMMS_EXPORTER_COLLECT_INTERVAL", "30s"):
            assert word in stdout

    async def test_demo_shows_every_state_and_increasing_counters_without_an_account(self):
        async with run("demo", "--web.listen-address=127.0.0.1:0") as process:
            await process.until("Ctrl-C")
            assert STORY.splitlines()[0] in process.stdout
            url = re.search(r"Status page: (\S+)/\n", process.stdout)[1]
            await until(url, r"^comms_emails_sent_total\S+ [1-9]", seconds=15)
            await until(
                url, r'^comms_emails_sent_by_tag_total{account="demo",tag="language",value="en"} [1-9]', seconds=20
            )
            page = await scrape(url, "/")
            process.send(signal.SIGINT)

            assert 0 == await process.ended(5)
            assert "" == process.stderr
        assert {"scheduled", "processing", "completed", "canceled"} <= set(re.findall(r'"badge (\w+)"', page))
        assert "All emails were listed" in page

    async def test_the_simulator_runs_alone(self):
        async with run("simulator", "--web.listen-address=127.0.0.1:0") as process:
            url = (await process.until(r"http://\S+[0-9]"))[0]
            assert '"operations"' in await self.list(url)
            process.send(signal.SIGTERM)

            assert 0 == await process.ended(5)

    @pytest.mark.parametrize(
        "command",
        [("check",), ("operations",), ("operation", "comms_operation_1"), ("email", "comms_email_1")],
        ids=" ".join,
    )
    async def test_a_command_that_is_interrupted_reports_no_success(self, command):
        asked = asyncio.Event()

        async def hang(_):
            asked.set()
            await asyncio.sleep(60)

        app = web.Application()
        app.router.add_get("/{path:.*}", hang)
        async with (
            asyncio.timeout(20),
            TestServer(app) as server,
            run(*command, f"--api.base-url={server.make_url('/v1')}", environ=CREDENTIALS) as process,
        ):
            await asked.wait()
            process.send(signal.SIGINT)

            assert 130 == await process.ended(5)
            assert ("", "") == (process.stdout, process.stderr)

    async def list(self, url):
        headers = {"Authorization": aiohttp.encode_basic_auth("AC", "x")}
        async with aiohttp.ClientSession(headers=headers) as session:
            return await (await session.get(f"{url}/v1/Emails/Operations")).text()
