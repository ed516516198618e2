"""Update the examples in docs/messages.md, and the picture of the mail, with what a real Alertmanager sends.

Usage: PYTHONPATH=tests:. .venv/bin/python tools/write_messages.py. It needs the servers in .tools, and chromium if the mail changed.
"""

import asyncio
import hashlib
import json
import re
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import yaml
from browser import browsing
from messages import delivering
from prometheus import Binaries

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/messages.md"
PICTURE = ROOT / "docs/images/mail.png"
ALERTS = ROOT / "deploy/prometheus/tests/messages.test.yml"
# What `comms-exporter rules` puts before the paths in annotations, if its configuration says so.
LINKS = {"runbook_url": "https://git.acme.example/comms-exporter/", "dashboard_url": "https://grafana.acme.example"}
BEGAN, ENDED = "2026-11-27T08:31:00Z", "2026-11-27T09:14:00Z"


def main():
    with tempfile.TemporaryDirectory() as folder:
        examples, html = asyncio.run(rendered(Path(folder)))
        text = updated(PAGE.read_text(encoding="utf-8"), examples)
        if text != PAGE.read_text(encoding="utf-8"):
            PAGE.write_text(text, encoding="utf-8")
            print(f"{PAGE.relative_to(ROOT)} written")
        if not PICTURE.exists() or source_of(PICTURE.read_bytes()) != digest(html):
            PICTURE.write_bytes(asyncio.run(picture(html, Path(folder))))
            print(f"{PICTURE.relative_to(ROOT)} written")
    return 0


async def rendered(folder):
    """Return the examples by the headings of the page, and the HTML of the first mail."""
    spike, block, down, refused = map(as_posted, expected_alerts())
    async with delivering(Binaries.find(3), folder) as send:
        first = await send(spike)
        blocked, stopped, failed = [await send(each) for each in (block, down, refused)]
        resolved = await send({**spike, "endsAt": ENDED})
    return {
        "A failure spike": as_mail(first),
        "In Slack": as_json(first.slack),
        "In PagerDuty": as_json(first.pagerduty),
        "To a webhook": as_json(first.webhook),
        "A provider blocks you": as_mail(blocked),
        "The exporter is down": as_mail(stopped),
        "Twilio refuses the credentials": as_mail(failed),
        "The failure spike is over": as_mail(resolved),
    }, first.html


def expected_alerts():
    """Yield the first alert that each test of promtool expects: promtool proves that the rules say this."""
    for test in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["tests"]:
        for case in test["alert_rule_test"]:
            alert = case["exp_alerts"][0]
            yield {"alertname": case["alertname"], **alert["exp_labels"]}, alert["exp_annotations"]


def as_posted(alert):
    labels, annotations = alert
    linked = {name: LINKS.get(name, "") + text for name, text in annotations.items()}
    return {"labels": labels, "annotations": linked, "startsAt": BEGAN}


def as_mail(message):
    return f"Subject: {message.subject}\n\n{message.text.strip()}"


def as_json(sent):
    return json.dumps(sent, indent=2, ensure_ascii=False)


def updated(page, examples):
    """Return *page* with the examples in the block below each of their headings."""
    for heading, example in examples.items():
        page, found = re.subn(
            rf"(^#+ {heading}$.*?^```\w+\n).*?(^```$)",
            lambda match, example=example: f"{match[1]}{example}\n{match[2]}",
            page,
            count=1,
            flags=re.MULTILINE | re.DOTALL,
        )
        assert found, f"{PAGE.name} has no block below {heading}"
    return page


async def picture(html, folder):
    """Return a PNG of the mail that knows which HTML it shows."""
    (folder / "mail.html").write_text(html, encoding="utf-8")
    async with browsing(folder) as tab:
        await tab.resize(width=720, height=440)
        await tab.open((folder / "mail.html").as_uri())
        await tab.screenshot(folder / "mail.png")
    png = (folder / "mail.png").read_bytes()
    body = b"tEXtsource\0" + digest(html).encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    # Before the last chunk, whose length, type and checksum are 12 bytes.
    return png[:-12] + chunk + png[-12:]


def digest(html):
    return hashlib.sha256(html.encode()).hexdigest()


def source_of(png):
    """Return the digest of the HTML that a picture shows."""
    return png.partition(b"tEXtsource\0")[2][:64].decode()


if __name__ == "__main__":
    sys.exit(main())
