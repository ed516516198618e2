"""Compare rules with those that are deployed: what differs in what they say, not in how they are written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from comms_exporter.config.values import shown

# Fast, and what is deployed has no secrets that an error message could show.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Rule = Mapping[str, Any]
# Characters: up to which a text is shown whole, and how many before the first difference.
_SHORT = 60
_CONTEXT = 10


class NotRulesError(ValueError):
    """A text that is not YAML."""


def groups_in(text: str) -> list[Mapping[str, Any]]:
    """Return the rule groups in *text*: rule files, or objects of Kubernetes that hold some."""
    try:
        return list(_groups(list(yaml.load_all(text, Loader=_LOADER))))
    # The values of tags such as !!int raise anything, and a list can contain itself.
    except Exception as error:  # noqa: BLE001
        mark = getattr(error, "problem_mark", None)
        message = "not valid YAML" if mark is None else f"not valid YAML; see line {mark.line + 1}"
        raise NotRulesError(message) from None


def differences(
    expected: Iterable[Mapping[str, Any]], deployed: Iterable[Mapping[str, Any]], *, unwanted: Iterable[str] = ()
) -> list[str]:
    """Return a line for each difference between the *expected* groups and those *deployed* under the same names.

    Groups called *unwanted* should not be there; others are somebody else's.
    """
    there = {group.get("name"): group for group in deployed}
    lines: list[str] = []
    for group in expected:
        name = group["name"]
        if name in there:
            lines += _of_group(group, there[name])
        else:
            lines.append(f"group {name}: is missing")
    return lines + [f"group {name}: should not be there" for name in unwanted if name in there]


def _groups(value: object) -> Iterator[Mapping[str, Any]]:
    """Yield the groups of rule files, of PrometheusRules, and of lists of both."""
    if isinstance(value, list):
        for each in value:
            yield from _groups(each)
    elif isinstance(value, dict):
        groups = value.get("groups")
        if isinstance(groups, list):
            yield from (group for group in groups if isinstance(group, dict) and isinstance(group.get("name"), str))
        yield from _groups(value.get("spec"))
        yield from _groups(value.get("items"))


def _of_group(expected: Mapping[str, Any], deployed: Mapping[str, Any]) -> Iterator[str]:
    where = f"group {expected['name']}"
    yield from _of_keys(where, expected, deployed, ignored=("name", "rules"))
    rules = deployed.get("rules")
    rules = [rule for rule in rules if isinstance(rule, dict)] if isinstance(rules, list) else []
    wanted, there = _by_name(expected["rules"]), _by_name(rules)
    for name, rule in wanted.items():
        if name in there:
            yield from _of_keys(name, rule, there[name])
        else:
            yield f"{name}: is missing"
    yield from (f"{name}: should not be there" for name in there if name not in wanted)
    if wanted.keys() == there.keys() and [*wanted] != [*there]:
        yield f"{where}: the rules are in a different order"


def _by_name(rules: Iterable[_Rule]) -> dict[str, _Rule]:
    """Return *rules* by what tells them apart; a second one that is called the same gets a number."""
    found: dict[str, _Rule] = {}
    for rule in rules:
        name = base = _name(rule)
        number = 1
        while name in found:
            number += 1
            name = f"{base} (number {number})"
        found[name] = rule
    return found


def _name(rule: _Rule) -> str:
    labels = rule.get("labels")
    labels = labels if isinstance(labels, dict) else {}
    if "alert" in rule:
        return f"{rule['alert']} {labels.get('severity', '')}".rstrip()
    told = ",".join(f"{name}={labels[name]}" for name in sorted(labels, key=str))
    return f"{rule.get('record')}{{{told}}}" if told else f"{rule.get('record')}"


def _of_keys(where: str, expected: _Rule, deployed: _Rule, *, ignored: Sequence[str] = ()) -> Iterator[str]:
    for key in sorted({*expected, *deployed} - {*ignored}, key=str):
        wanted, there = expected.get(key), deployed.get(key)
        if isinstance(wanted, dict) and isinstance(there, dict):
            yield from _of_keys(f"{where}: {key}", wanted, there)
        elif _in_one_line(wanted) != _in_one_line(there):
            yield f"{where}: {key} is {' and should be '.join(_told(_in_one_line(there), _in_one_line(wanted)))}"


def _in_one_line(value: object) -> object:
    """Return *value*; of a text, line breaks and indentation mean nothing."""
    return " ".join(value.split()) if isinstance(value, str) else value


def _told(there: object, wanted: object) -> tuple[str, str]:
    """Return how two values are shown; what long texts begin with in common is left out."""
    if isinstance(there, str) and isinstance(wanted, str) and max(len(there), len(wanted)) > _SHORT:
        differ = (n for n, letters in enumerate(zip(there, wanted, strict=False)) if letters[0] != letters[1])
        skip = next(differ, min(len(there), len(wanted))) - _CONTEXT
        if skip > 0:
            there, wanted = f"...{there[skip:]}", f"...{wanted[skip:]}"
    return shown(there), shown(wanted)
