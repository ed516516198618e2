"""Counts and saves emails as the exporter does, without an API. Usage: python -m bench.collect.email_counter FOLDER."""

import json
import sys
import time
from pathlib import Path

from bench.harness import resident
from bench.rpc import reply, serve_blocking
from comms_exporter.api.email_payloads import read_email_page
from comms_exporter.base.slices import run_to_completion
from comms_exporter.base.times import rfc3339
from comms_exporter.collect.emails.state import EmailOptions, EmailState
from comms_exporter.collect.state import AccountState, Listing
from comms_exporter.store.sqlite import SqliteStore

NOW = 1795262400.0
WEEK = 7 * 86400.0
# Evenly spread over the week.
SECONDS_PER_EMAIL = WEEK / 1_000_000
PAGE = 1000
ACCOUNT = "AC" + 32 * "0"
STATUSES = ("DELIVERED", "DELIVERED", "OPENED", "UNDELIVERED")


class Counter:
    """The emails of one account, with a state file in *folder*."""

    def __init__(self, folder):
        self._folder = Path(folder)
        self._store = SqliteStore(self._folder / "state.db", emails=True)
        self._state = AccountState(emails=EmailState(EmailOptions(all_stages=True, tags=("campaign",))))
        run_to_completion(self._state.apply(Listing({}, started=NOW - WEEK, ended=NOW - WEEK, sweep=True)))
        self._state.emails.begin(NOW - WEEK)
        self._state.emails.end_first_look()
        self._count = 0

    def add(self, number):
        """Count *number* new emails; return the CPU seconds per email."""
        took = 0.0
        for first in range(self._count, self._count + number, PAGE):
            took += self._read(first, min(PAGE, self._count + number - first))
            self._store.save(ACCOUNT, self._state.snapshot())
        self._count += number
        return took / number

    def repeat(self, number):
        """Count the first *number* emails again; return the CPU seconds per email."""
        return sum(self._read(first, min(PAGE, number - first)) for first in range(0, number, PAGE)) / number

    def sizes(self):
        """Return the bytes of memory and of the state file."""
        return {"memory": resident(), "file": sum(path.stat().st_size for path in self._folder.glob("state.db"))}

    def _read(self, first, number):
        body = page(first, number)
        began = time.process_time()
        run_to_completion(self._state.emails.apply(read_email_page(body).emails, {}, NOW))
        return time.process_time() - began


def page(first, number):
    """Return a page of emails as the API does."""
    entries = [entry(index) for index in range(first, first + number)]
    return json.dumps({"emails": entries, "pagination": {"next": None, "self": None}}).encode()


def entry(index):
    """Return an email as the API does."""
    operation = f"comms_operation_01m7yzwt6fnhzqshz7{index // 10:08}"
    created = NOW - WEEK + index * SECONDS_PER_EMAIL
    return {
        "id": f"comms_email_01m7yzwt6fnhzqshz7{index:08}",
        "from": {"address": "hello@news.example.com", "name": "Sender"},
        "to": [{"address": f"recipient{index}@gmail.com", "name": None}],
        "status": STATUSES[index % len(STATUSES)],
        "related": [{"name": "OPERATION", "id": operation, "uri": f"https://comms.twilio.com/v1/{operation}"}],
        "tags": {"campaign": "spring-sale", "language": "en"},
        "scheduledFor": None,
        "createdAt": rfc3339(created),
        "updatedAt": rfc3339(created + 60),
        "deletedAt": None,
    }


def main():
    counter = Counter(sys.argv[1])
    reply("ready")
    serve_blocking({"add": counter.add, "repeat": counter.repeat, "sizes": counter.sizes})


if __name__ == "__main__":
    main()
