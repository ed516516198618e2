"""Lets a real Alertmanager render and send our messages, and records what arrives."""

import asyncio
import email
import email.policy
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus import Alertmanager, Binaries

CONFIG = Path(__file__).parents[1] / "deploy/alertmanager/alertmanager.yml"
TEMPLATES = CONFIG.with_name("comms-exporter.tmpl")
# What docs/messages.md says about webhooks. Alertmanager 0.31 and older have no payload.
PAYLOAD = {"title": '{{ template "comms.string.title" . }}', "text": '{{ template "comms.string.text" . }}'}


@dataclass(frozen=True)
class Message:
    """One notification, as each receiver got it."""

    mail: EmailMessage
    slack: dict[str, Any]
    pagerduty: dict[str, Any]
    webhook: dict[str, Any]

    @property
    def subject(self) -> str:
        return self.mail["Subject"]

    @property
    def text(self) -> str:
        return self._part("plain")

    @property
    def html(self) -> str:
        return self._part("html")

    @property
    def attachment(self) -> dict[str, Any]:
        (attachment,) = self.slack["attachments"]
        return attachment

    def _part(self, kind: str) -> str:
        part = self.mail.get_body((kind,))
        assert part is not None
        return part.get_content().replace("\r\n", "\n")


class Sinks:
    """An SMTP server and a web server that keep what they get, in order."""

    def __init__(self) -> None:
        self.got: dict[str, asyncio.Queue] = {
            name: asyncio.Queue() for name in ("mail", "slack", "pagerduty", "webhook")
        }

    async def next(self, *, webhook: bool) -> Message:
        """Return the next message, once every receiver has it."""
        async with asyncio.timeout(30):
            return Message(
                mail=await self.got["mail"].get(),
                slack=await self.got["slack"].get(),
                pagerduty=await self.got["pagerduty"].get(),
                webhook=await self.got["webhook"].get() if webhook else {},
            )

    async def post(self, request: web.Request) -> web.Response:
        self.got[request.match_info["receiver"]].put_nowait(await request.json())
        # PagerDuty answers 202, and Slack "ok".
        return web.Response(text="ok", status=202 if request.match_info["receiver"] == "pagerduty" else 200)

    async def smtp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())
            await writer.drain()

        await say("220 sink")
        while line := await reader.readline():
            match line.split()[0].upper():
                case b"EHLO":
                    await say("250 8BITMIME")
                case b"DATA":
                    await say("354 go on")
                    text = await reader.readuntil(b"\r\n.\r\n")
                    mail = text.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n.")
                    self.got["mail"].put_nowait(email.message_from_bytes(mail, policy=email.policy.default))
                    await say("250 kept")
                case b"QUIT":
                    await say("221 bye")
                    break
                case _:
                    await say("250 ok")
        writer.close()


@asynccontextmanager
async def delivering(binaries: Binaries, folder: Path, *, external_url: str = "https://alertmanager.example.org"):
    """Run an Alertmanager whose alerts all go to the receivers of our example; yields a function that sends alerts.

    The function posts alerts as in Alertmanager's API, and returns the next message.
    """
    sinks = Sinks()
    app = web.Application()
    app.router.add_post("/{receiver}", sinks.post)
    smtp = await asyncio.start_server(sinks.smtp, "127.0.0.1", 0)
    webhook = await _has_payloads(binaries)
    async with smtp, TestServer(app) as server:
        config = _config(folder, smtp.sockets[0].getsockname()[1], server.port, webhook=webhook)
        async with Alertmanager(binaries, folder, config, flags=[f"--web.external-url={external_url}"]) as alertmanager:

            async def send(*alerts: Mapping[str, Any]) -> Message:
                async with (
                    aiohttp.ClientSession() as session,
                    session.post(f"{alertmanager.url}/api/v2/alerts", json=alerts) as answer,
                ):
                    assert 200 == answer.status, await answer.text()
                return await sinks.next(webhook=webhook)

            yield send


async def _has_payloads(binaries: Binaries) -> bool:
    process = await asyncio.create_subprocess_exec(
        binaries.amtool, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return int(said.decode().split("version 0.")[1].split(".")[0]) >= 32


def _config(folder: Path, smtp: int, http: int, *, webhook: bool) -> dict[str, Any]:
    """Return our example, with addresses of this machine, and a route to every receiver that has messages for people."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    receivers = {each["name"]: each for each in config["receivers"] if each["name"] in {"pagerduty", "slack", "email"}}
    (folder / "slack").write_text(f"http://127.0.0.1:{http}/slack")
    (folder / "key").write_text("key")
    receivers["slack"]["slack_configs"][0]["api_url_file"] = str(folder / "slack")
    receivers["pagerduty"]["pagerduty_configs"][0] |= {
        "routing_key_file": str(folder / "key"),
        "url": f"http://127.0.0.1:{http}/pagerduty",
    }
    receivers["email"]["email_configs"][0]["smarthost"] = f"127.0.0.1:{smtp}"
    if webhook:
        receivers["webhook"] = {
            "name": "webhook",
            "webhook_configs": [{"url": f"http://127.0.0.1:{http}/webhook", "payload": PAYLOAD}],
        }
    return {
        "templates": [str(TEMPLATES)],
        "receivers": list(receivers.values()),
        "route": {
            "receiver": "email",
            "group_by": config["route"]["group_by"],
            "group_wait": "1s",
            "group_interval": "1s",
            "routes": [{"receiver": name, "matchers": ['alertname=~".+"'], "continue": True} for name in receivers],
        },
    }
