"""Cost of saving the changes of a poll."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.exporters import POLLED, Exporter
from bench.processes import Worker
from bench.tables import Table

SAMPLES = 2


def measure(sizes, progress):
    """Return the table by the number of changes, with and without a state file."""
    count = sizes.saving_operations
    table = Table(
        "Saving",
        f"{count:,} operations, none exposed, of which some changed. Time from the last API response to the end of the poll, "
        "with and without a state file; the difference is the cost of saving. CPU is that of all threads except the event loop's.",
        [
            "changed",
            "which",
            "ms with a file",
            "ms without",
            "difference",
            "CPU ms outside the loop",
            "max loop delay, ms",
            "max loop CPU, ms",
        ],
    )
    modes = [(changed, spread) for changed in sizes.saving_changed for spread in (False, True)]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        progress(f"saving changes of {count:,} operations")
        saved = _measured(sizes, f"{folder}/state.db", modes)
        progress("the same without saving")
        unsaved = _measured(sizes, "", modes)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    for (changed, spread), with_file, without in zip(modes, saved, unsaved, strict=True):
        table.add(
            f"{changed:,}",
            "evenly spread" if spread else "the newest",
            with_file["ms"],
            without["ms"],
            with_file["ms"] - without["ms"],
            with_file["cpu"],
            with_file["max_delay"],
            with_file["max_cpu"],
        )
    table.remarks.append(f"Afterwards the files take {size / 1e6:,.0f} MB, {size / count:,.0f} bytes per operation.")
    return [table]


def _measured(sizes, path, modes):
    """Return the cost of the end of a poll in each of *modes*."""
    with ExitStack() as stack:
        enter = stack.enter_context
        api = enter(Worker("collect.api", sizes.saving_operations, 1))
        exporter = enter(
            Exporter(
                f"--state.path={path}",
                f"--collect.interval={sizes.saving_interval}",
                "--collect.max-operations=0",
                api=api.address,
                harness=True,
            )
        )
        exporter.wait_for_first_polls()
        return [_mode(api, exporter, *mode) for mode in modes]


def _mode(api, exporter, changed, spread):
    api.ask("change", count=changed, spread=spread)
    exporter.wait_for_polls(1)
    exporter.ask("begin")
    before, first = exporter.ask("cpu")["others"], exporter.polls
    took = []
    for _ in range(SAMPLES):
        polls = exporter.polls
        exporter.until(POLLED, polls + 1)
        took.append(1000 * exporter.since(api.ask("served", account=0)))
    report, after = exporter.ask("report"), exporter.ask("cpu")["others"]
    return {"ms": median(took), "cpu": 1000 * (after - before) / (exporter.polls - first), **report}
