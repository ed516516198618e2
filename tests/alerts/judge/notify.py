"""What Alertmanager sends: grouping, waiting and inhibition of an alertmanager.yml, for alerts whose times are known."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from alerts.judge.rules import Firing, Labels, seconds


@dataclass(frozen=True)
class Message:
    """One notification that says something new; *alerts* are all that it lists."""

    time: float
    receiver: str
    alerts: list[Firing]


@dataclass(frozen=True)
class _Route:
    receiver: str
    group_by: tuple[str, ...]
    wait: float
    interval: float


class Alertmanager:
    """The routes and inhibition rules of one configuration; only what depends on labels and time."""

    def __init__(self, file: Path) -> None:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        self._root = config["route"]
        self._inhibitions = [
            (
                _matchers(rule.get("source_matchers", [])),
                _matchers(rule.get("target_matchers", [])),
                rule.get("equal", []),
            )
            for rule in config.get("inhibit_rules", [])
        ]

    def messages(self, firings: Iterable[Firing]) -> list[Message]:
        """Return what is sent while *firings* fire; neither repetitions nor the news that something is over count."""
        everything = [*firings]
        groups: dict[tuple[Any, ...], list[Firing]] = {}
        for firing in everything:
            route = _route(self._root, firing.labels, {})
            by = firing.labels.keys() if "..." in route.group_by else route.group_by
            key = (route, tuple((name, firing.labels.get(name, "")) for name in sorted(by)))
            groups.setdefault(key, []).append(firing)
        sent = [message for key, group in groups.items() for message in self._group(key[0], group, everything)]
        return sorted(sent, key=lambda message: message.time)

    def _group(self, route: _Route, group: list[Firing], everything: list[Firing]) -> Iterable[Message]:
        group.sort(key=lambda firing: firing.begin)
        # What has been told and is not known to be over; an alert that returns before the next look has never been away.
        told: set[Labels] = set()
        flush = group[0].begin + route.wait
        # What never ends says nothing new after everything else has begun or ended.
        last = max(each.begin if each.end is None else each.end for each in everything) + route.interval
        while flush <= last + route.wait:
            present = [firing for firing in group if _fires(firing, flush)]
            loud = [firing for firing in present if not self._muted(firing, flush, everything)]
            told &= {_identity(firing) for firing in present}
            if any(_identity(firing) not in told for firing in loud):
                yield Message(flush, route.receiver, loud)
                told |= {_identity(firing) for firing in loud}
            if present:
                flush += route.interval
                continue
            later = [firing.begin for firing in group if firing.begin > flush]
            if not later:
                return
            flush = min(later) + route.wait

    def _muted(self, firing: Firing, moment: float, everything: list[Firing]) -> bool:
        for source, target, equal in self._inhibitions:
            if not _match(target, firing.labels):
                continue
            # What is on both sides of a rule does not silence itself, as Alertmanager has it.
            both = _match(source, firing.labels)
            for other in everything:
                if (
                    other is not firing
                    and _fires(other, moment)
                    and _match(source, other.labels)
                    and not (both and _match(target, other.labels))
                    and all(other.labels.get(name, "") == firing.labels.get(name, "") for name in equal)
                ):
                    return True
        return False


def _identity(firing: Firing) -> Labels:
    return tuple(sorted(firing.labels.items()))


def _fires(firing: Firing, moment: float) -> bool:
    return firing.begin <= moment and (firing.end is None or moment < firing.end)


def _route(route: dict[str, Any], labels: dict[str, str], inherited: dict[str, Any]) -> _Route:
    own = {**inherited, **{key: value for key, value in route.items() if key not in {"routes", "matchers", "continue"}}}
    for child in route.get("routes", []):
        if _match(_matchers(child.get("matchers", [])), labels):
            return _route(child, labels, own)
    return _Route(
        own["receiver"],
        tuple(own.get("group_by", ())),
        seconds(own.get("group_wait", "30s")),
        seconds(own.get("group_interval", "5m")),
    )


def _matchers(texts: Iterable[str]) -> list[tuple[str, str, str]]:
    return [
        (name, operator, quoted or bare)
        for text in texts
        for name, operator, quoted, bare in re.findall(r"""(\w+)\s*(=~|!~|!=|=)\s*(?:"([^"]*)"|([^",\s]*))""", text)
    ]


def _match(matchers: Iterable[tuple[str, str, str]], labels: dict[str, str]) -> bool:
    for name, operator, value in matchers:
        own = labels.get(name, "")
        same = own == value if operator in {"=", "!="} else re.fullmatch(value, own) is not None
        if same != (operator in {"=", "=~"}):
            return False
    return True
