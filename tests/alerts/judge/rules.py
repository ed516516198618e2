"""The rule files, evaluated over weeks: recording rules level by level as range queries, alerts with their states."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from alerts.judge.player import Played, Samples, Series
from alerts.judge.promstore import Server, samples_of

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
# Prometheus goes on with the pending time of an alert after an absence of up to this long, if the rule waits as long.
_OUTAGE_TOLERANCE = 3600.0
_GRACE = 600.0

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Alert:
    """An alerting rule."""

    name: str
    expr: str
    wait: float
    keep: float
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def severity(self) -> str:
        """The severity, "" without one."""
        return self.labels.get("severity", "")


@dataclass(frozen=True)
class Firing:
    """One time that an alert fired: *value* is that of the moment when it began, *end* is None if it has not ended."""

    alert: Alert
    labels: dict[str, str]
    begin: float
    end: float | None
    value: float

    @property
    def severity(self) -> str:
        """How loud it is."""
        return self.labels.get("severity", "")

    @property
    def account(self) -> str:
        """The account, "" where the alert is about no single one."""
        return self.labels.get("account", "")


class Rules:
    """Recording rules by level, each of which needs only those before it, and alerts."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = [*files]
        rules = [
            rule
            for file in self.files
            for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
            for rule in group["rules"]
        ]
        self.alerts = [
            Alert(
                rule["alert"],
                rule["expr"],
                seconds(rule.get("for", "0s")),
                seconds(rule.get("keep_firing_for", "0s")),
                rule.get("labels", {}),
                rule.get("annotations", {}),
            )
            for rule in rules
            if "alert" in rule
        ]
        recordings = [rule for rule in rules if "record" in rule]
        self.levels = levels(recordings)
        recorded = {rule["record"] for rule in recordings}
        texts = [rule["expr"] for rule in rules] + [
            text for alert in self.alerts for text in alert.annotations.values()
        ]
        # Every metric that is named anywhere, in whatever part of an expression.
        self.names = set(re.findall(r"\b(?:comms_\w+|up)\b", " ".join(texts))) - recorded

    def record(self, server: Server, played: Played, spans: Sequence[tuple[float, float, float]]) -> None:
        """Evaluate the recording rules in each of *spans* (begin, end, step), and store what they give."""
        for level in self.levels:
            series: Series = {}
            for rule in level:
                constant = not re.search(r"[a-z_:]{3,}\s*[\[{]|comms_|\bup\b|:", rule["expr"])
                for begin, end, step in spans:
                    # Nothing needs a constant more often than a lookback reaches.
                    every = max(step, 240.0) if constant else step
                    for labels, points in server.query_range(rule["expr"], begin, end, every):
                        own = {**labels, **rule.get("labels", {}), "__name__": rule["record"]}
                        present = [each for each in points if not _within(each[0], played.away)]
                        samples = samples_of(present, every, end)
                        series.setdefault(tuple(sorted(own.items())), Samples()).extend(samples)
            server.write(series)

    def fire(self, server: Server, played: Played, start: float, end: float, step: float) -> list[Firing]:
        """Return every time that an alert fired, in the order of time."""
        firings: list[Firing] = []
        for alert in self.alerts:
            for labels, points in server.query_range(alert.expr, start, end, step):
                present = [each for each in points if not _within(each[0], played.away)]
                own = {key: value for key, value in labels.items() if key != "__name__"}
                own |= {key: _expand(value, own) for key, value in alert.labels.items()}
                firings += _states(alert, {**own, "alertname": alert.name}, present, played.away, end, step)
        return sorted(firings, key=lambda firing: (firing.begin, firing.alert.name))


def _states(
    alert: Alert,
    labels: dict[str, str],
    points: Sequence[tuple[float, float]],
    away: Sequence[tuple[float, float]],
    end: float,
    step: float,
) -> list[Firing]:
    """Return when an alert whose expression gave *points* fired; Prometheus evaluates each *step* but while *away*."""
    values = dict(points)
    state = _State(alert, labels)
    before: float | None = None
    for moment in _moments(min(values, default=math.inf), end, step, away):
        if before is not None and moment - before > 1.5 * step:
            state.was_away(moment, moment - before)
        before = moment
        state.evaluate(moment, values.get(moment))
    return state.all()


class _State:
    """One alert of one set of labels, as Prometheus keeps it from evaluation to evaluation."""

    def __init__(self, alert: Alert, labels: dict[str, str]) -> None:
        self._alert = alert
        self._labels = labels
        self._firings: list[Firing] = []
        self._active: float | None = None
        self._fired: tuple[float, float] | None = None
        # When the expression stopped to give a value while the alert fired.
        self._kept_from: float | None = None

    def evaluate(self, moment: float, value: float | None) -> None:
        """Take over what the expression gives at *moment*, None for nothing."""
        if value is not None:
            self._kept_from = None
            if self._active is None:
                self._active = moment
            if self._fired is None and moment - self._active >= self._alert.wait:
                self._fired = moment, value
            return
        if self._fired is not None:
            self._kept_from = moment if self._kept_from is None else self._kept_from
            if moment - self._kept_from < self._alert.keep:
                return
            self._firings.append(Firing(self._alert, self._labels, self._fired[0], moment, self._fired[1]))
        self._active = self._fired = self._kept_from = None

    def was_away(self, moment: float, seconds: float) -> None:
        """Take over that Prometheus is back at *moment*, after *seconds*."""
        if self._active is not None and self._fired is None:
            # What waits for less than the grace period begins to wait again.
            again = self._alert.wait < _GRACE or seconds > _OUTAGE_TOLERANCE
            self._active = moment if again else self._active + seconds

    def all(self) -> list[Firing]:
        """Return every firing, the last of which may not have ended."""
        if self._fired is None:
            return self._firings
        return [*self._firings, Firing(self._alert, self._labels, self._fired[0], None, self._fired[1])]


def _moments(start: float, end: float, step: float, away: Sequence[tuple[float, float]]) -> Iterable[float]:
    moment = start
    while moment <= end:
        if not _within(moment, away):
            yield moment
        moment += step


def _within(moment: float, periods: Sequence[tuple[float, float]]) -> bool:
    return any(begin <= moment < finish for begin, finish in periods)


def levels(recordings: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return *recordings* in levels, each of which needs only those before it."""
    left = [*recordings]
    levels: list[list[dict[str, Any]]] = []
    while left:
        missing = {rule["record"] for rule in left}
        level = [rule for rule in left if not missing & set(re.findall(r"[\w:]+", rule["expr"]))]
        if not level:
            raise ValueError(f"recording rules need each other: {', '.join(sorted(missing))}")
        levels.append(level)
        left = [rule for rule in left if rule not in level]
    return levels


def _expand(text: str, labels: dict[str, str]) -> str:
    """Return the value of a label with labels of the series filled in."""
    return re.sub(r"{{\s*\$labels\.(\w+)\s*}}", lambda found: labels.get(found[1], ""), text)


def seconds(duration: str) -> float:
    """Return a duration of Prometheus in seconds."""
    return sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+)(ms|[smhdwy])", str(duration)))
