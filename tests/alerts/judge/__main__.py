"""Plays incidents and calm months through the rules and prints a table; see docs/judge.md."""

import argparse
import fnmatch
import gc
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alerts.judge.cases import LEAD, Case, calm_months, evidence, incidents
from alerts.judge.cost import cost
from alerts.judge.history import HistoryError, load, write_history
from alerts.judge.notify import Alertmanager
from alerts.judge.rules import Rules
from alerts.judge.run import ALERTMANAGER, RULE_FILES, judge
from alerts.judge.senders import DAY
from alerts.judge.verdict import Verdict, table, verdict
from prometheus import Binaries, MissingBinariesError, find_victoria_metrics


def judged(
    case: Case,
    *,
    seed: int,
    major: int,
    step: float,
    rule_files: Sequence[Path],
    alertmanager: Path,
    lead: float = LEAD,
    victoria_metrics: Path | None = None,
) -> Verdict:
    """Return the verdict on *case*."""
    began = time.monotonic()
    history, begin, end = case.make(seed, lead)
    alerts_from = history.start if case.calm else begin - 1800
    result = judge(
        history,
        Rules(rule_files),
        Binaries.find(major),
        step=step,
        alerts_from=alerts_from,
        victoria_metrics=victoria_metrics,
    )
    return verdict(
        case,
        result.firings,
        Alertmanager(alertmanager).messages(result.firings),
        begin=begin,
        end=end,
        evidence=evidence(case, history, begin),
        took=time.monotonic() - began,
    )


def cases() -> list[Case]:
    """Return all cases."""
    return [*incidents(), *calm_months()]


def _one(name: str, how: dict[str, Any]) -> Verdict:
    return judged(next(each for each in cases() if each.name == name), **how)


def _all(names: Sequence[str], how: dict[str, Any], jobs: int) -> Iterator[Verdict]:
    """Yield a verdict on each of the cases *names*, as they come."""
    if jobs == 1:
        yield from (_one(name, how) for name in names)
        return
    # Collections find nothing among millions of events, and take a third of the time.
    with ProcessPoolExecutor(jobs, initializer=gc.disable) as pool:
        futures = [pool.submit(_one, name, how) for name in names]
        yield from (future.result() for future in as_completed(futures))


def play_file(options: argparse.Namespace) -> int:
    """Play a history from a file and print what fires, when and with which text."""
    try:
        history = load(options.history)
    except (OSError, HistoryError) as error:
        print(f"{options.history}: {error}", file=sys.stderr)
        return 1
    result = judge(history, Rules(options.rules), Binaries.find(options.prometheus), step=options.step, texts=True)
    for firing, text in zip(result.firings, result.texts, strict=True):
        until = "the end" if firing.end is None else moment(firing.end)
        about = ", ".join(
            f"{k}={v}" for k, v in sorted(firing.labels.items()) if k not in {"alertname", "severity", "job"}
        )
        print(f"{moment(firing.begin)} {firing.alert.name} {firing.severity}, until {until}: {about}")
        for name in ("summary", "description"):
            if text.get(name):
                print(f"    {text[name]}")
    messages = Alertmanager(options.alertmanager).messages(result.firings)
    print(f"{len(result.firings)} firings, {len(messages)} messages")
    for message in messages:
        names = ", ".join(sorted({f"{each.alert.name} {each.severity}" for each in message.alerts}))
        print(f"{moment(message.time)} to {message.receiver}: {names}")
    return 0


def moment(time: float) -> str:
    """Return *time* for people."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _accounts(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of accounts; write a whole number of 1 or more")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="judge", description=__doc__)
    parser.add_argument("pattern", nargs="*", default=["*"], help="cases to run, such as 'fail-*'")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prometheus", type=int, choices=(2, 3), default=3, help="the major version")
    parser.add_argument("--victoria-metrics", action="store_true", help="evaluate the rules as vmalert does")
    parser.add_argument("--step", type=float, default=60.0, help="seconds between two evaluations")
    parser.add_argument("--lead-days", type=float, default=LEAD / DAY, help="days of usual mail before an incident")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2)))
    parser.add_argument("--rules", type=Path, nargs="+", default=RULE_FILES, help="the rule files")
    parser.add_argument("--alertmanager", type=Path, default=ALERTMANAGER)
    parser.add_argument("--json", type=Path, help="write the verdicts to this file, too")
    parser.add_argument("--list", action="store_true", help="list the cases and do nothing")
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="write the histories of the cases to FOLDER instead"
    )
    parser.add_argument(
        "--cost", type=_accounts, metavar="ACCOUNTS", help="measure instead what the rules cost with so many accounts"
    )
    parser.add_argument("--history", type=Path, help="play this file instead, and print what fires")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge."""
    options = make_parser().parse_args(arguments)
    if options.history is not None:
        return play_file(options)
    if options.cost is not None:
        print(cost(options.cost, options.rules, Binaries.find(options.prometheus)))
        return 0
    chosen = [case for case in cases() if any(fnmatch.fnmatch(case.name, each) for each in options.pattern)]
    if options.list:
        for case in chosen:
            print(f"{case.name:32} {case.about}")
        return 0
    if options.write is not None:
        options.write.mkdir(parents=True, exist_ok=True)
        for case in chosen:
            history, _, _ = case.make(options.seed, options.lead_days * DAY)
            with (options.write / f"{case.name}.jsonl").open("w", encoding="utf-8") as file:
                write_history(history, file)
        return 0
    how = {
        "seed": options.seed,
        "major": options.prometheus,
        "step": options.step,
        "rule_files": options.rules,
        "alertmanager": options.alertmanager,
        "lead": options.lead_days * DAY,
        "victoria_metrics": find_victoria_metrics("victoria-metrics") if options.victoria_metrics else None,
    }
    verdicts: dict[str, Verdict] = {}
    for each in _all([case.name for case in chosen], how, options.jobs):
        verdicts[each.case] = each
        if options.json:
            options.json.write_text(json.dumps([asdict(one) for one in verdicts.values()], indent=1))
        progress = f"{len(verdicts):3}/{len(chosen)} {each.case}: {each.reason or 'good'} ({each.seconds:.0f} s)"
        print(progress, file=sys.stderr)
    ordered = [verdicts[case.name] for case in chosen]
    print(table(ordered))
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in ordered], indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MissingBinariesError as error:
        sys.exit(f"judge: {error}")
