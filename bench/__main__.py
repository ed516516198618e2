"""`python -m bench`: measures, prints the tables and updates the page. Ctrl-C stops it and every process it has started."""

import argparse
import signal
import sys
import time
from pathlib import Path

from bench import machine, page
from bench.collect import accounts, emails, memory, poll
from bench.expose import churn, growth, million, scrape, stall
from bench.processes import raise_keyboard_interrupt
from bench.sizes import FULL, QUICK
from bench.store import databases, saving

PARTS = {
    "scrape": scrape.measure,
    "stall": stall.measure,
    "poll": poll.measure,
    "saving": saving.measure,
    "databases": databases.measure,
    "memory": memory.measure,
    "emails": emails.measure,
    "million": million.measure,
    "growth": growth.measure,
    "accounts": accounts.measure,
    # For docs/operating.md.
    "churn": churn.measure,
}
DEFAULT_PARTS = [name for name in PARTS if name != "churn"]


def main():
    """Measure the parts on the command line, or the default ones."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Run the benchmarks.")
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"parts to run, default all but churn: {', '.join(PARTS)}"
    )
    parser.add_argument("--quick", action="store_true", help="smoke test with tiny sizes; the figures are meaningless")
    parser.add_argument(
        "--into", type=Path, metavar="PAGE", help=f"page to update (default for a complete run: {page.PAGE.name})"
    )
    parsed = parser.parse_args()
    unknown = set(parsed.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part: {', '.join(sorted(unknown))}")
    into = parsed.into or (page.PAGE if not parsed.parts and not parsed.quick else None)
    if into is not None:
        # Fail now, not after all measurements.
        try:
            page.read(into)
        except page.PageError as error:
            parser.error(str(error))
    signal.signal(signal.SIGTERM, raise_keyboard_interrupt)
    began = time.monotonic()

    def progress(text):
        print(f"{time.monotonic() - began:4.0f} s  {text}", file=sys.stderr, flush=True)

    figures = []
    for name in parsed.parts or DEFAULT_PARTS:
        for table in PARTS[name](QUICK if parsed.quick else FULL, progress):
            figures.append(table.markdown())
            print(figures[-1], flush=True)
    progress("done")
    figures.insert(0, machine.description(time.monotonic() - began) + "\n")
    print(figures[0])
    if into is not None:
        page.write(into, "\n".join(figures))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
