"""What it costs a poll to have its changes on the disk."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.exporters import POLLED, Exporter
from bench.processes import Worker
from bench.tables import Table

SAMPLES = 2


def measure(sizes, progress):
    """Return the table of how much has changed, with a state file beside without one."""
    count = sizes.saving_operations
    table = Table(
        "Saving",
        f"Of {count:,} operations, none exposed, so many have changed. From the last answer of the API to the end of the poll, "
        "with a state file and without: the difference is what saving adds. CPU is that of all threads but the loop's.",
        [
            "changed",
            "which",
            "ms with a file",
            "ms without",
            "difference",
            "CPU ms beside the loop",
            "loop late, worst ms",
            "loop CPU, worst ms",
        ],
    )
    modes = [(changed, spread) for changed in sizes.saving_changed for spread in (False, True)]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        progress(f"saving some of {count:,} operations")
        kept = _measured(sizes, f"{folder}/state.db", modes)
        progress("the same without saving")
        lost = _measured(sizes, "", modes)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    for (changed, spread), with_file, without in zip(modes, kept, lost, strict=True):
        table.add(
            f"{changed:,}",
            "spread" if spread else "newest",
            with_file["ms"],
            without["ms"],
            with_file["ms"] - without["ms"],
            with_file["cpu"],
            with_file["late"],
            with_file["burnt"],
        )
    table.remarks.append(f"The files take {size / 1e6:,.0f} MB afterwards, {size / count:,.0f} bytes per operation.")
    return [table]


def _measured(sizes, path, modes):
    """Return, for each of *modes*, what the end of a poll took."""
    with ExitStack() as stack:
        enter = stack.enter_context
        api = enter(Worker("collect.api", sizes.saving_operations, 1))
        ours = enter(
            Exporter(
                f"--state.path={path}",
                f"--collect.interval={sizes.saving_interval}",
                "--collect.max-operations=0",
                api=api.address,
                harness=True,
            )
        )
        ours.wait_for_first_polls()
        return [_mode(api, ours, *mode) for mode in modes]


def _mode(api, ours, changed, spread):
    api.ask("change", count=changed, spread=spread)
    ours.wait_for_polls(1)
    ours.ask("begin")
    before, first = ours.ask("cpu")["others"], ours.polls
    took = []
    for _ in range(SAMPLES):
        polls = ours.polls
        ours.until(POLLED, polls + 1)
        took.append(1000 * ours.since(api.ask("served", account=0)))
    told, after = ours.ask("told"), ours.ask("cpu")["others"]
    return {"ms": median(took), "cpu": 1000 * (after - before) / (ours.polls - first), **told}
