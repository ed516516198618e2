"""`comms-exporter operation ID` shows what became of an operation, who is lost, and addresses only on request."""

import asyncio
import json
import sys

import pytest
from commands.fake_api import ID, RECEIPTS, entry
from operations import as_json, operation
from process import CREDENTIALS, run_to_end, unused_port
from process import run as run_process
from simulated_api import SENT, ConfigFile, SimulatedApi

from comms_exporter.commands.ids import why_not_found
from comms_exporter.commands.operation import Report, losses_as_text
from comms_exporter.model.emails import Email

# What the id says.
CREATED = 1795700642.0


async def run(api, *arguments, **environ):
    return await run_to_end("operation", f"--api.base-url={api.url}", *arguments, environ={**CREDENTIALS, **environ})


def section(stdout, title):
    """Return the rows of the table below *title*, as words."""
    block = next(block for block in stdout.split("\n\n") if title in block)
    return [line.split() for line in block.splitlines()[1:]]


class TestReport:
    async def test_says_who_is_lost_and_why(self, api):
        code, stdout, stderr = await run(api, ID)

        assert (0, "") == (code, stderr)
        assert stdout.startswith(f"operation  {ID}\naccount    ACtest\nstatus     COMPLETED\n")
        assert ["undelivered", "2", "50.0", "%"] in section(stdout, "STAGE")
        assert [["1", "2", "other"]] == section(stdout, "LOST BY PROVIDER")
        assert [["1", "1", "a.example"], ["0", "1", "b.example"]] == section(stdout, "RECIPIENT DOMAIN")
        assert [["1", "1", "shop.example"], ["0", "1", "other.example"]] == section(stdout, "SENDER DOMAIN")
        assert [["1", "0", "campaign:spring"]] == section(stdout, "LOST BY TAG")
        assert ["2026-11-21T12:01:30+00:00", "+1m", "first", "email", "FAILED"] in section(stdout, "EVENT")
        assert [["1", "550", "no", "such", "user:", "***@a.example"]] == section(stdout, "CODE")

    async def test_asks_only_for_lost_emails(self, api):
        await run(api, ID)

        listing = f"/v1/Emails?operationId={ID}&status="
        of_operation = f"/v1/Emails/Operations/{ID}"
        assert [of_operation, f"{listing}FAILED", f"{listing}UNDELIVERED", f"{of_operation}/Errors"] == api.requests

    async def test_asks_nothing_more_where_nothing_is_lost(self, api):
        api.responses[f"/v1/Emails/Operations/{ID}"] = as_json(operation(ID, total=4, sent=4))
        code, stdout, _ = await run(api, ID)

        assert (0, [f"/v1/Emails/Operations/{ID}"]) == (code, api.requests)
        assert "LOST" not in stdout

    async def test_lists_every_email_lost_ones_first(self, api):
        _, stdout, _ = await run(api, ID, "--emails")

        assert [
            ["FAILED", "***@a.example", "e1"],
            ["UNDELIVERED", "***@b.example", "e2"],
            ["UNDELIVERED", "***@a.example", "e3"],
            ["DELIVERED", "***@a.example", "e4"],
        ] == [[row[0], row[3], row[2]] for row in section(stdout, "STATUS ")]
        assert "***@b.example and 1 more" in stdout
        assert [["UNDELIVERED", "30003", "b.example", "full", "e2"]] == section(stdout, "RECEIPT")
        # One email has several recipients.
        assert 1 == sum(path.endswith("/Receipts") for path in api.requests)

    async def test_json_has_the_lost_emails_or_all(self, api):
        lost = json.loads((await run(api, ID, "--json"))[1])
        everything = json.loads((await run(api, ID, "--json", "--emails"))[1])

        assert ["e1", "e2", "e3"] == [each["id"] for each in lost["emails"]]
        assert ["e1", "e2", "e3", "e4"] == sorted(each["id"] for each in everything["emails"])
        assert (3, True, {"campaign": "spring"}) == (lost["lost"], lost["complete"], lost["emails"][0]["tags"])
        assert [{"code": "550", "message": "no such user: ***@a.example"}] == lost["errors"]

    async def test_json_is_printed_while_others_are_read(self, api):
        """So a million emails do not take more memory than a page."""
        api.pages = 2
        flags = (f"--api.base-url={api.url}", ID, "--emails", "--json")
        async with run_process("operation", *flags, environ=CREDENTIALS) as process:
            await process.until('"id": "e3"')

            # The last entry of a page follows with the next one, or with the end.
            assert '"id": "e4"' not in process.stdout

    @pytest.mark.parametrize("flags", [(), ("--emails",), ("--emails", "--json")], ids=" ".join)
    async def test_a_reader_that_has_seen_enough_is_no_error(self, api, flags):
        """Such as `| head`: when the process writes its second page, nobody reads it."""
        api.gate = asyncio.Event()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comms_exporter", "operation", f"--api.base-url={api.url}", ID, *flags),
            env=CREDENTIALS,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(20):
                await process.stdout.readline()
                process._transport.get_pipe_transport(1).close()
                api.gate.set()

                assert b"" == await process.stderr.read()
                assert 0 == await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def test_receipts_that_fail_do_not_end_the_listing(self, api):
        api.responses["/v1/Emails/e2/Receipts"] = 403
        code, stdout, stderr = await run(api, ID, "--emails", "--json")
        report = json.loads(stdout)

        assert (1, 1, False) == (code, stderr.count("\n"), report["complete"])
        assert ["e1", "e2", "e3", "e4"] == sorted(each["id"] for each in report["emails"])
        assert [None] == [each["receipts"] for each in report["emails"] if each["id"] == "e2"]

    async def test_json_without_emails_is_valid(self, api):
        api.emails = []
        report = json.loads((await run(api, ID, "--emails", "--json"))[1])

        assert ([], True, 0) == (report["emails"], report["complete"], report["malformed"])

    async def test_what_the_api_does_not_offer_is_no_error(self, api):
        api.responses |= {f"/v1/Emails/Operations/{ID}/Errors": 405, "/v1/Emails/e2/Receipts": 404}
        code, stdout, stderr = await run(api, ID, "--emails")

        assert (0, "") == (code, stderr)
        assert "it does not have /Errors of this operation." in stdout
        assert "The API does not have /Receipts of emails with several recipients." in stdout

    async def test_receipts_that_one_email_lacks_are_missing_only_there(self, api):
        several = ("canary@b.example", "canary@c.example")
        api.emails = [entry(f"e{n}", "DELIVERED", to=several) for n in range(9)]
        api.responses |= {f"/v1/Emails/e{n}/Receipts": RECEIPTS if n in {1, 8} else 404 for n in range(9)}
        _, stdout, _ = await run(api, ID, "--emails")
        everything = json.loads((await run(api, ID, "--emails", "--json"))[1])

        assert ["e1", "e8"] == [row[-1] for row in section(stdout, "RECEIPT")]
        assert "The API does not have the receipts of 7 of 9 emails." in stdout
        assert ["e1", "e8"] == [each["id"] for each in everything["emails"] if each["receipts"]]
        assert 7 == sum(each["receipts"] is None for each in everything["emails"])

    async def test_receipts_that_no_email_has_are_not_asked_for_again_and_again(self, api):
        several = ("canary@b.example", "canary@c.example")
        api.emails = [entry(f"e{n}", "DELIVERED", to=several) for n in range(9)]
        api.responses["/v1/Emails/e2/Receipts"] = 404
        _, stdout, _ = await run(api, ID, "--emails")

        assert 3 == sum(path.endswith("/Receipts") for path in api.requests)
        assert "The API does not have /Receipts of emails with several recipients." in stdout

    async def test_emails_are_printed_while_others_are_read(self, api):
        """The first page is on the terminal although the second one never comes."""
        api.pages = 2
        flags = (f"--api.base-url={api.url}", ID, "--emails")
        async with run_process("operation", *flags, environ=CREDENTIALS) as process:
            await process.until("DELIVERED .* e4 ")

            assert "LOST BY PROVIDER" in process.stdout
            # That is known only at the end.
            assert "operation created" not in process.stdout

    async def test_the_providers_of_the_config_file_count(self, api, tmp_path):
        config = tmp_path / "comms.yml"
        config.write_text("emails:\n  providers:\n    acme: [a.example]\n")
        _, stdout, _ = await run(api, ID, f"--config.file={config}")
        report = json.loads((await run(api, ID, f"--config.file={config}", "--json"))[1])

        assert [["1", "1", "acme"], ["0", "1", "other"]] == section(stdout, "LOST BY PROVIDER")
        assert {"e1": "acme", "e2": "other", "e3": "acme"} == {
            each["id"]: each["provider"] for each in report["emails"]
        }

    async def test_shows_what_it_has_when_a_request_fails(self, api):
        api.responses[f"/v1/Emails/Operations/{ID}/Errors"] = 403
        code, stdout, stderr = await run(api, ID)

        assert (1, 1) == (code, stderr.count("\n"))
        assert stderr.startswith("comms-exporter: account ACtest: 403: ")
        assert "LOST BY RECIPIENT DOMAIN" in stdout

    async def test_says_that_the_listing_is_incomplete(self, api):
        api.responses[f"/v1/Emails/Operations/{ID}"] = as_json(operation(ID, total=4, failed=1, undelivered=3))

        assert "The operation counts 4 lost emails, and the API lists 3." in (await run(api, ID))[1]

    async def test_fits_a_narrow_terminal(self, api):
        _, stdout, _ = await run(api, ID, "--emails", COLUMNS="60")

        assert 60 >= max(map(len, stdout.splitlines()))


class TestPrivacy:
    @pytest.mark.parametrize("flags", [(), ("--emails",), ("--json",), ("--emails", "--json")], ids=" ".join)
    async def test_nothing_personal_is_shown(self, api, flags):
        _, stdout, stderr = await run(api, ID, "--log.level=debug", *flags)

        assert "a.example" in stdout
        assert "canary" not in (stdout + stderr).lower()

    async def test_addresses_are_shown_on_request(self, api):
        _, stdout, _ = await run(api, ID, "--emails", "--show-addresses")

        assert "canary.local@b.example, canary.other@c.example" in stdout
        # Only recipients: neither names nor content.
        assert "Canary Name" not in stdout
        assert "canary subject" not in stdout

    async def test_addresses_need_emails(self, api):
        problem = "comms-exporter: --show-addresses: needs --emails\n"

        assert (2, "", problem) == await run(api, ID, "--show-addresses")


class TestNotFound:
    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("wrong", 'there is no operation "wrong": ids look like comms_operation_01h9krwprkeee8fzqspvwy6nq8'),
            ("..", 'there is no operation "..": ids look like comms_operation_01h9krwprkeee8fzqspvwy6nq8'),
            (
                "comms_email_1",
                "comms_email_1 is the id of an email, not of an operation; use `comms-exporter email comms_email_1`",
            ),
        ],
    )
    async def test_a_wrong_id_is_one_line(self, api, name, why):
        assert (1, "", f"comms-exporter: {why}\n") == await run(api, name)

    async def test_an_id_is_required(self, api):
        code, stdout, stderr = await run(api)

        assert (2, "", 1) == (code, stdout, stderr.count("\n"))
        assert "`comms-exporter operations` lists them" in stderr

    def test_an_old_id_has_expired(self):
        assert f"{ID} has expired: it is from 2026-11-26T13:44:02+00:00, and Twilio keeps operations for 7 days" == (
            why_not_found("operation", ID, ["a"], now=CREATED + 8 * 86400)
        )

    def test_a_recent_one_may_be_of_another_account(self):
        now = CREATED + 6 * 86400

        assert f"account a does not have {ID}: it may belong to another account" == why_not_found(
            "operation", ID, ["a"], now=now
        )
        assert f"no account (a, b) has {ID}: it may belong to another account" == (
            why_not_found("operation", ID, ["a", "b"], now=now)
        )

    async def test_without_a_network_it_is_one_line(self, api):
        api.url = f"http://127.0.0.1:{unused_port()}/v1"
        code, stdout, stderr = await run(api, ID)

        assert (1, "", 1) == (code, stdout, stderr.count("\n"))
        assert stderr.startswith("comms-exporter: account ACtest: Cannot connect to host 127.0.0.1")

    async def test_every_account_is_asked(self, api, tmp_path):
        config = ConfigFile(tmp_path / "comms.yml")
        config.write({"name": "away", "base_url": f"http://127.0.0.1:{unused_port()}/v1"}, {"name": "shop"})
        code, stdout, stderr = await run_to_end(
            "operation", ID, f"--config.file={config.path}", f"--api.base-url={api.url}"
        )

        assert (0, "") == (code, stderr)
        assert "account    shop\n" in stdout


async def test_a_simulated_operation_adds_up():
    async with SimulatedApi() as api:
        sent = api.world.send(fates=[*SENT, *SENT])
        code, stdout, stderr = await run(api, sent.id, "--emails", "--json")

    report = json.loads(stdout)
    assert (0, "", 2) == (code, stderr, len(report["emails"]))
    assert {sent.id} == {report["id"]}


def test_a_breakdown_is_bounded():
    report = Report(account="a", operation=operation(ID, total=13, failed=13), errors=[])
    report.lost |= {str(n): Email(str(n), "FAILED", ID, None, None, f"d{n:02}.example", 1, "", ()) for n in range(13)}
    text = "\n\n".join("\n".join(section) for section in losses_as_text(report, width=80))

    assert ["3", "0", "(3", "others)"] == section(text, "RECIPIENT DOMAIN")[-1]
    assert [["13", "0", "(unknown)"]] == section(text, "SENDER DOMAIN")
