"""CPU time and memory per single email."""

import tempfile

from bench.processes import Worker
from bench.tables import Table


def measure(sizes, progress):
    """Return the table of CPU time and bytes per email."""
    few, *counts = sizes.emails
    table = Table(
        "Emails",
        "With `--emails.collect=all`, in pages of 1,000 emails. CPU time is for parsing a page and counting its emails, without "
        f"the request. Memory and state file are compared with {few:,} emails.",
        ["emails", "new, µs", "unchanged, µs", "bytes of memory per email", "bytes of state file per email"],
    )
    for count in counts:
        progress(f"{count:,} emails")
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, Worker("collect.email_counter", folder) as counter:
            counter.ask("add", number=few)
            before = counter.ask("sizes")
            new = counter.ask("add", number=count - few)
            after = counter.ask("sizes")
            unchanged = counter.ask("repeat", number=min(count, sizes.emails_unchanged))
        held, saved = ((after[name] - before[name]) / (count - few) for name in ("memory", "file"))
        table.add(f"{count:,}", 1e6 * new, 1e6 * unchanged, held, saved)
    return [table]
