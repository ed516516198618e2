"""Compares what fired with what was expected, and writes it down."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alerts.judge.cases import PAGE, SILENT, TELL, Case
from alerts.judge.notify import Message
from alerts.judge.rules import Firing

# Alerts that always fire, so that their absence is noticed.
ALWAYS = {"CommsWatchdog", "Watchdog"}


@dataclass(frozen=True)
class Verdict:
    """What came of one case; times are seconds after the beginning of the incident."""

    case: str
    about: str
    calm: bool
    what: str
    deadline: float | None
    good: bool
    reason: str
    paged: float | None
    told: float | None
    alerts: list[tuple[str, str, float, int]]
    messages: int
    flaps: int
    seconds: float


def verdict(
    case: Case,
    firings: Sequence[Firing],
    messages: Sequence[Message],
    *,
    begin: float,
    end: float,
    evidence: float | None,
    took: float,
) -> Verdict:
    """Return what to think of *firings* in *case*, whose incident lasted from *begin* to *end*."""
    heard = [each for each in firings if each.severity in {"critical", "warning"} and each.alert.name not in ALWAYS]
    during = [each for each in heard if case.calm or each.begin >= begin]
    sent = [message for message in messages if _loud(message) and (case.calm or message.time >= begin)]
    # What is inhibited has not been heard.
    audible = [
        (message.time - begin, each)
        for message in sent
        for each in message.alerts
        if each in during and (case.expected.stage != "other" or each.account)
    ]
    paged = min((time for time, each in audible if each.severity == "critical"), default=None)
    told = min((time for time, _ in audible), default=None)
    counts = Counter((each.alert.name, each.severity, tuple(sorted(each.labels.items()))) for each in during)
    flaps = sum(n - 1 for n in counts.values())
    first: dict[tuple[str, str], float] = {}
    times: Counter[tuple[str, str]] = Counter()
    for each in during:
        key = each.alert.name, each.severity
        first[key] = min(first.get(key, each.begin - begin), each.begin - begin)
        times[key] += 1
    deadline = None
    problems = []
    if case.expected.what == SILENT:
        if during:
            problems.append("page" if paged is not None else "warning")
    else:
        if evidence is None:
            return Verdict(
                case.name,
                case.about,
                case.calm,
                case.expected.what,
                None,
                False,
                "no evidence in the history",
                None,
                None,
                [],
                0,
                0,
                took,
            )
        deadline = evidence - begin + case.expected.within
        came = paged if case.expected.what == PAGE else told
        if came is None:
            problems.append("nothing" if told is None else "no page")
        elif came > deadline:
            problems.append("late")
        if len(sent) > 2:
            problems.append(f"{len(sent)} messages")
        if flaps:
            problems.append(f"flaps {flaps} times")
    return Verdict(
        case.name,
        case.about,
        case.calm,
        case.expected.what,
        deadline,
        not problems,
        ", ".join(problems),
        paged,
        told,
        sorted(((*key, first[key], times[key]) for key in first), key=lambda each: each[2]),
        len(sent),
        flaps,
        took,
    )


def _loud(message: Message) -> bool:
    return any(each.severity in {"critical", "warning"} and each.alert.name not in ALWAYS for each in message.alerts)


def table(verdicts: Iterable[Verdict]) -> str:
    """Return Markdown: first the incidents, then the calm months, then the sums."""
    everything = [*verdicts]
    incidents = [each for each in everything if not each.calm]
    months = [each for each in everything if each.calm]
    lines = []
    if incidents:
        lines += [
            "| incident | expected | got | messages | verdict |",
            "| --- | --- | --- | --- | --- |",
            *(
                f"| `{each.case}`: {each.about} | {_expected(each)} | {_got(each)} | {each.messages} | {each.reason or 'good'} |"
                for each in incidents
            ),
            "",
        ]
    if months:
        lines += [
            "| calm month | fired | messages |",
            "| --- | --- | --- |",
            *(f"| `{each.case}`: {each.about} | {_got(each, times=True)} | {each.messages} |" for each in months),
            "",
        ]
    lines.append(summary(everything))
    return "\n".join(lines)


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return the sums."""
    incidents = [each for each in verdicts if not each.calm and each.what != SILENT]
    quiet = [each for each in verdicts if not each.calm and each.what == SILENT]
    months = [each for each in verdicts if each.calm]

    def having(cases: Sequence[Verdict], word: str) -> int:
        return sum(word in each.reason for each in cases)

    of_incidents = {
        "nothing fired": having(incidents, "nothing"),
        "no page": having(incidents, "no page"),
        "late": having(incidents, "late"),
        "more than two messages": having(incidents, "messages"),
        "flapped": having(incidents, "flaps"),
    }
    of_months = {
        "with a false page": having(months, "page"),
        "with a false warning only": having(months, "warning"),
        "messages": sum(each.messages for each in months),
    }

    def line(name: str, cases: Sequence[Verdict], numbers: dict[str, int]) -> str:
        counts = {"good": sum(each.good for each in cases), **numbers}
        return f"{name}: {len(cases)}; " + "; ".join(f"{what}: {n}" for what, n in counts.items()) + "."

    return "\n".join(
        (
            line("Incidents", incidents, of_incidents),
            line("Events to be silent about", quiet, {}),
            line("Calm months", months, of_months),
        )
    )


def _expected(each: Verdict) -> str:
    if each.what == SILENT:
        return "nothing"
    word = {PAGE: "page", TELL: "page or warning"}[each.what]
    return f"{word} within {_duration(each.deadline)}" if each.deadline is not None else word


def _got(each: Verdict, *, times: bool = False) -> str:
    if not each.alerts:
        return "nothing"
    return "; ".join(
        f"{name.removeprefix('Comms')} {severity} "
        + (f"x {n}" if times else f"after {_duration(first)}" + (f" x {n}" if n > 1 else ""))
        for name, severity, first, n in each.alerts
    )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    minutes = round(seconds / 60)
    return (
        f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h" if minutes < 2880 else f"{minutes / 1440:.1f} d"
    )
