"""`comms-exporter email ID` shows one email, such as one that the log names, and its addresses only on request."""

import json

import pytest
from commands.fake_api import ID
from process import CREDENTIALS, run_to_end, unused_port
from simulated_api import ConfigFile

from comms_exporter.commands.ids import why_not_found

EMAIL_ID = "comms_email_01m8c1jmw9jymnx7fqazzj74pw"
# What the id says.
CREATED = 1795700642.0


async def run(api, *arguments, **environ):
    return await run_to_end("email", f"--api.base-url={api.url}", *arguments, environ={**CREDENTIALS, **environ})


async def test_shows_one_email_and_its_receipts(api):
    code, stdout, stderr = await run(api, "e2")
    described, receipts = stdout.split("\n\n")

    assert (0, "") == (code, stderr)
    assert ["/v1/Emails/e2", "/v1/Emails/e2/Receipts"] == api.requests
    values = dict(line.split(None, 1) for line in described.splitlines())
    assert {
        "email": "e2",
        "account": "ACtest",
        "operation": ID,
        "status": "UNDELIVERED",
        "to": "***@b.example and 1 more",
        "provider": "other",
        "sender": "shop.example",
    } == {name: value for name, value in values.items() if name not in {"created", "updated"}}
    assert values["updated"].startswith("2026-11-21T12:01:30+00:00 (")
    assert ["UNDELIVERED", "30003", "b.example", "full", "e2"] == receipts.splitlines()[1].split()


async def test_json_has_the_same(api):
    report = json.loads((await run(api, "e2", "--json"))[1])

    assert ("ACtest", ID, "e2", True) == tuple(report[name] for name in ("account", "operation", "id", "complete"))
    assert [{"recipient_domain": "b.example", "status": "UNDELIVERED", "code": "30003", "message": "full"}] == (
        report["receipts"]
    )


async def test_tags_are_shown_and_missing_receipts_are_no_error(api):
    code, stdout, stderr = await run(api, "e1")

    assert (0, "") == (code, stderr)
    assert "tag        campaign:spring\n" in stdout
    assert "it does not have /Receipts of this email." in stdout
    assert json.loads((await run(api, "e1", "--json"))[1])["receipts"] is None


async def test_receipts_that_fail_are_one_line(api):
    api.responses["/v1/Emails/e2/Receipts"] = 403
    code, stdout, stderr = await run(api, "e2")

    assert (1, 1) == (code, stderr.count("\n"))
    assert stdout.startswith("email      e2\n")
    assert "Receipts" not in stdout


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=" ".join)
async def test_nothing_personal_is_shown(api, flags):
    _, stdout, stderr = await run(api, "e2", "--log.level=debug", *flags)

    assert "b.example" in stdout
    assert "canary" not in (stdout + stderr).lower()


async def test_addresses_are_shown_on_request(api):
    _, stdout, _ = await run(api, "e2", "--show-addresses")

    assert "to         canary.local@b.example, canary.other@c.example\n" in stdout
    assert "Canary Name" not in stdout


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("wrong", 'there is no email "wrong": ids look like comms_email_01h9krwprkeee8fzqspvwy6nq8'),
        ("..", 'there is no email "..": ids look like comms_email_01h9krwprkeee8fzqspvwy6nq8'),
        (ID, f"{ID} is the id of an operation, not of an email; use `comms-exporter operation {ID}`"),
    ],
)
async def test_a_wrong_id_is_one_line(api, name, why):
    assert (1, "", f"comms-exporter: {why}\n") == await run(api, name)


async def test_an_id_is_required(api):
    code, stdout, stderr = await run(api)

    assert (2, "", 1) == (code, stdout, stderr.count("\n"))
    assert "`comms-exporter operation ID --emails` lists" in stderr


def test_an_email_may_have_expired_or_be_of_another_account():
    assert f"{EMAIL_ID} has expired: it is from 2026-11-26T13:44:02+00:00, and Twilio keeps emails for 7 days" == (
        why_not_found("email", EMAIL_ID, ["a"], now=CREATED + 8 * 86400)
    )
    assert f"account a does not have {EMAIL_ID}: it may belong to another account" == (
        why_not_found("email", EMAIL_ID, ["a"], now=CREATED + 6 * 86400)
    )


async def test_without_a_network_it_is_one_line(api):
    api.url = f"http://127.0.0.1:{unused_port()}/v1"
    code, stdout, stderr = await run(api, "e1")

    assert (1, "", 1) == (code, stdout, stderr.count("\n"))
    assert stderr.startswith("comms-exporter: account ACtest: Cannot connect to host 127.0.0.1")


async def test_every_account_is_asked(api, tmp_path):
    config = ConfigFile(tmp_path / "comms.yml")
    config.write({"name": "away", "base_url": f"http://127.0.0.1:{unused_port()}/v1"}, {"name": "shop"})
    code, stdout, stderr = await run_to_end("email", "e1", f"--config.file={config.path}", f"--api.base-url={api.url}")

    assert (0, "") == (code, stderr)
    assert "account    shop\n" in stdout


async def test_fits_a_narrow_terminal(api):
    _, stdout, _ = await run(api, "e2", COLUMNS="60")

    assert 60 >= max(map(len, stdout.splitlines()))


async def test_an_email_that_cannot_be_read_is_one_line(api):
    api.responses["/v1/Emails/e1"] = {"id": "e1", "status": 7}
    code, stdout, stderr = await run(api, "e1")

    assert (1, "") == (code, stdout)
    assert "status is a JSON number, not a string" in stderr
