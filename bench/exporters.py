"""The exporter under test, started as a user starts it or in a harness that measures its event loop."""

import json
import re
import sys
import time
from statistics import median

from bench.processes import Child

CREDENTIALS = {"TWILIO_ACCOUNT_SID": "ACbench", "TWILIO_AUTH_TOKEN": "not-a-secret"}
POLLED = r'msg="?polled'
# The log line precedes the last work of a poll.
AFTER_POLL_SECONDS = 0.1


class Exporter(Child):
    """A `python -m comms_exporter` that polls the API at *api*; with *harness*, the same in bench/harness.py."""

    def __init__(self, *flags, api=None, harness=False):
        base_url = [] if api is None else [f"--api.base-url={api}/0/v1"]
        super().__init__(
            sys.executable,
            "-m",
            "bench.harness" if harness else "comms_exporter",
            *base_url,
            "--web.listen-address=127.0.0.1:0",
            "--api.max-requests-per-second=1000000",
            "--collect.max-tracked-operations=1000000000",
            "--log.level=info",
            *flags,
            environ=CREDENTIALS if api else {},
        )
        self.url = ""

    def started(self):
        self.url = re.search(r"address=(\S+)", self.until(r"msg=listening"))[1]

    @property
    def polls(self):
        """The number of successful polls of all accounts."""
        return len(self.times(POLLED))

    def wait_for_first_polls(self, count=1):
        """Wait until each of *count* accounts has been polled."""
        self.until(POLLED, count)
        time.sleep(AFTER_POLL_SECONDS)

    def wait_for_polls(self, count):
        """Wait until *count* more polls have finished."""
        self.until(POLLED, self.polls + count)
        time.sleep(AFTER_POLL_SECONDS)

    def since(self, moments, count=1):
        """Return the seconds from the last of *moments* before the end of a poll to that end: the median of the last *count* polls."""
        ends = self.times(POLLED)[-count:]
        return median(end - max(each for each in moments if each < end) for end in ends)

    def cpu_of_polls(self, count):
        """Return the CPU seconds per poll over the next *count* polls, including scrapes in the meantime."""
        self.wait_for_polls(1)
        before, first = self.cpu_seconds(), self.polls
        self.wait_for_polls(count)
        return (self.cpu_seconds() - before) / (self.polls - first)


def write_accounts(path, api, accounts):
    """Write a config file with *accounts* accounts of the API at *api* to *path*; return the flag that loads it."""
    path.write_text(
        json.dumps(
            {
                "accounts": [
                    {
                        "name": f"account{number}",
                        "account_sid": "ACbench",
                        "auth_token": "not-a-secret",
                        "base_url": f"{api}/{number}/v1",
                    }
                    for number in range(accounts)
                ]
            }
        ),
        encoding="utf-8",
    )
    return f"--config.file={path}"
