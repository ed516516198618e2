"""A real Alertmanager renders our templates, and sends them as mail, to Slack, to PagerDuty and to a webhook."""

import json
import re
import subprocess
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import yaml
from messages import TEMPLATES, delivering

from tools import write_messages

ROOT = Path(__file__).parents[2]
TESTS = sorted((ROOT / "deploy/prometheus/tests").glob("*.test.yml"))
BEGAN, ENDED = "2026-11-27T08:31:00Z", "2026-11-27T12:01:00Z"
# Slack's commands and links, markup, a line and a header of its own, template syntax, and a character that turns text around.
HOSTILE = "<!channel> <script>alert(1)</script> <https://evil.example|x> \"a\" 'b' & {{ .ExternalURL }}\nBcc: x\r\n\u202ereversed"
SHOWN = (
    "[!channel] [script]alert(1)[/script] [https://evil.example|x] \"a\" 'b' & {{ .ExternalURL }} Bcc: x reversed"
).translate({ord("["): "\u2039", ord("]"): "\u203a"})


def alert(description="", *, labels=None, **annotations):
    return {
        "labels": {
            "alertname": "CommsEmailFailureSpike",
            "severity": "critical",
            "job": "comms-exporter",
            **(labels or {}),
        },
        "annotations": {"summary": "Emails fail before they are sent.", "description": description, **annotations},
        "startsAt": BEGAN,
    }


class Elements(HTMLParser):
    """The tags and the targets of links of an HTML page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links = set(), []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [value for name, value in attributes if name in {"href", "src"}]


class TestMessages:
    async def test_the_examples_in_the_docs_are_what_arrives(self, tmp_path, prometheus_three):
        examples, html = await write_messages.rendered(tmp_path)
        page = write_messages.PAGE.read_text(encoding="utf-8")

        assert write_messages.updated(page, examples) == page
        assert write_messages.digest(html) == write_messages.source_of(write_messages.PICTURE.read_bytes())

    async def test_names_what_happened_since_when_and_what_to_do(self, tmp_path, prometheus_binaries):
        async with delivering(prometheus_binaries, tmp_path) as send:
            message = await send(
                alert(
                    "5 of 5 emails (100%) of account shop failed in the last 20m. The worst operation is op_1: 5 emails "
                    "failed. First run `comms-exporter check`.",
                    labels={"account": "shop"},
                    runbook_url="https://git.example.org/x#y",
                    dashboard_url="https://grafana.example.org/d/x?var-account=shop&y=z",
                )
            )

        title = "[CRITICAL] 5 of 5 emails (100%) of account shop failed in the last 20m."
        text = (
            "Emails fail before they are sent.\n"
            "The worst operation is op_1: 5 emails failed.\n"
            "Since: 2026-11-27 08:31 UTC\n"
            "First run: comms-exporter check\n"
            "Runbook: https://git.example.org/x#y\n"
            "Dashboard: https://grafana.example.org/d/x?var-account=shop&y=z"
        )
        incident = message.pagerduty["payload"]
        assert (title, f"{title}\n\n{text}") == (message.subject, message.text.strip())
        assert (title, text) == (message.attachment["title"], message.attachment["text"])
        assert (title, text) == (incident["summary"], incident["custom_details"]["firing"].strip())
        assert ("critical", "shop") == (incident["severity"], incident["group"])
        assert message.webhook in ({}, {"title": f"\t{title}", "text": f"\t{text}"})
        assert [
            "https://git.example.org/x#y",
            "https://grafana.example.org/d/x?var-account=shop&y=z",
            "https://alertmanager.example.org/#/alerts?receiver=email",
        ] == Elements(message.html).links

    async def test_says_when_it_is_over(self, tmp_path, prometheus_binaries):
        firing = alert(
            "5 of 5 emails of account shop failed. First run `comms-exporter check`.", labels={"account": "shop"}
        )
        async with delivering(prometheus_binaries, tmp_path) as send:
            await send(firing)
            message = await send({**firing, "endsAt": ENDED})

        assert "[RESOLVED] shop: Emails fail before they are sent. It lasted 3.5 h." == message.subject
        assert (
            "Resolved: shop: Emails fail before they are sent.\n"
            "From 2026-11-27 08:31 UTC to 2026-11-27 12:01 UTC: 3.5 h\n"
            "The last message was: 5 of 5 emails of account shop failed."
        ) == message.attachment["text"]
        assert ("resolve", "#1a7f37") == (message.pagerduty["event_action"], message.attachment["color"])
        assert "First run" not in message.text + message.html

    async def test_values_of_labels_stay_text(self, tmp_path, prometheus_binaries):
        firing = alert(
            f"5 of 5 emails of account {HOSTILE} failed. Of the lost emails, 100% have the tag x=First run `rm -rf /`. "
            "First run `comms-exporter check`.",
            labels={"account": HOSTILE},
            runbook_url="javascript:alert(1)",
            dashboard_url="https://grafana.example.org/<!channel>",
        )
        async with delivering(prometheus_binaries, tmp_path) as send:
            messages = [await send(firing), await send({**firing, "endsAt": ENDED})]

        assert f"[CRITICAL] 5 of 5 emails of account {SHOWN} failed." == messages[0].subject
        assert f"[RESOLVED] {SHOWN}: Emails fail before they are sent. It lasted 3.5 h." == messages[1].subject
        assert (
            "Emails fail before they are sent.\n"
            "Of the lost emails, 100% have the tag x=First run `rm -rf /`.\n"
            "Since: 2026-11-27 08:31 UTC\n"
            "First run: comms-exporter check"
        ) == messages[0].attachment["text"]
        for message in messages:
            assert message.subject == message.attachment["title"] == message.pagerduty["payload"]["summary"]
            assert "<" not in message.attachment["title"] + message.attachment["text"] + message.attachment["fallback"]
            assert {"Subject", "To", "From", "Date", "Message-Id", "Content-Type", "MIME-Version"} >= {
                name for name in message.mail if not name.startswith(("References", "In-Reply-To", "X-"))
            }
            elements = Elements(message.html)
            assert "script" not in elements.tags
            assert ["https://alertmanager.example.org/#/alerts?receiver=email"] == elements.links
            assert all(isinstance(text, str) for text in message.webhook.values())

    async def test_works_without_annotations(self, tmp_path, prometheus_binaries):
        bare = {"labels": {"alertname": "CommsWatchdog"}, "startsAt": BEGAN}
        async with delivering(prometheus_binaries, tmp_path) as send:
            messages = [await send(bare), await send({**bare, "endsAt": ENDED})]

        assert ["[ALERT] CommsWatchdog", "[RESOLVED] CommsWatchdog It lasted 3.5 h."] == [
            each.subject for each in messages
        ]
        assert "CommsWatchdog\nSince: 2026-11-27 08:31 UTC" == messages[0].attachment["text"]
        assert "error" == messages[0].pagerduty["payload"]["severity"]

    async def test_alerts_of_one_group_are_one_message(self, tmp_path, prometheus_binaries):
        # Alertmanager waits for others only if an alert is younger than its group_wait.
        began = datetime.now(UTC).isoformat()
        alerts = [
            alert(
                f"Prometheus gets no metrics from exporter-{number:02}: no email alert can fire.",
                labels={"alertname": "CommsExporterDown", "instance": f"exporter-{number:02}"},
            )
            | {"startsAt": began}
            for number in range(12)
        ]
        async with delivering(prometheus_binaries, tmp_path) as send:
            message = await send(*alerts)

        assert message.subject.endswith("no email alert can fire. (12 alerts)")
        assert 10 == message.attachment["text"].count("Since: ")
        assert message.attachment["text"].endswith("12 alerts are firing. Alertmanager shows the others.")
        assert 10 == message.html.count("Since</td>")

    def test_every_description_of_the_rules_is_split_into_its_sentences(self, tmp_path, prometheus_binaries):
        """The first has the account, and the command is apart."""
        expected = [
            (case["alertname"], alert["exp_labels"], alert["exp_annotations"]["description"])
            for path in TESTS
            for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
            for case in test.get("alert_rule_test", [])
            for alert in case["exp_alerts"]
        ]
        (tmp_path / "data.json").write_text(
            json.dumps({"alerts": [{"annotations": {"description": said}} for *_, said in expected]})
        )
        parts = [f'{{{{ template "comms.{part}" .Annotations.description }}}}' for part in ("what", "more", "command")]
        command = [
            *(prometheus_binaries.amtool, "template", "render"),
            *(f"--template.glob={TEMPLATES}", f"--template.data={tmp_path / 'data.json'}"),
            f"--template.text={{{{ range .Alerts }}}}{'|'.join(parts)}\x1e{{{{ end }}}}",
        ]
        rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\x1e")[:-1]

        assert len(expected) == len(rendered)
        for (name, labels, said), (what, more, command) in zip(
            expected, (each.split("|") for each in rendered), strict=True
        ):
            for sentence in (what, *more.split("\n")[1:]):
                assert re.fullmatch(r"[^`]*\S\.", sentence), f"{name}: {sentence}"
                assert not re.search(r"\. [A-Z]", sentence), f"{name}: {sentence}"
            assert labels.get("account", "") in what, f"{name}: {what}"
            assert said.endswith(f"First run `{command}`.") or command == said
