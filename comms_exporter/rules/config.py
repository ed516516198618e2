"""The configuration of the rules: a small YAML file, which the Helm chart takes as a value and the mixin as `_config`."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, create_model

from comms_exporter.base import yaml_file
from comms_exporter.base.suggestions import suggestion
from comms_exporter.base.yaml_file import YamlError
from comms_exporter.config.values import SettingsError, UnreadableError, read_text, shown
from comms_exporter.rules import source

# Labels of the alerts' own, which notifications are grouped, inhibited and written by.
RESERVED_LABELS = (
    *("account", "alertname", "alertstate", "field", "instance", "job", "operation_id", "outcome", "pod", "problem"),
    *("provider", "sender_domain", "severity", "stat"),
)

# The patterns are also those of the chart's schema, so they say only what Go understands, too.
_JOB = r"""^[^\s"'\\{}][^"'\\{}\x00-\x1f\x7f]*$"""
_URL = r"""^https?://[^\s"'\\{}<>?#\x00-\x1f\x7f]+$"""
_LABEL = r"^[a-zA-Z][a-zA-Z0-9_]*$"
# No control characters, and nothing else that YAML takes for the end of a line.
_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f" "\u2028\u2029" r"]+$"
_TEMPLATE = r"\{\{"
_LARGEST = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class RulesConfig:
    """What to change in the shipped rules; thresholds are without `threshold:`, and URLs without a slash at the end."""

    job: str = source.JOB
    runbooks: str = ""
    dashboards: str = ""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    # By account
    accounts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    disabled: frozenset[str] = frozenset()


def load(path: Path) -> RulesConfig:
    """Return the configuration in the file at *path*, or raise a SettingsError that names everything wrong with it."""
    try:
        content = yaml_file.load(read_text(path))
    except UnreadableError as error:
        problems = [f"--config: {error}"]
    except YamlError as error:
        problems = [f"{path}{'' if error.line is None else f', line {error.line}'}: {error.message}"]
    else:
        try:
            return parse(content)
        except SettingsError as error:
            problems = [f"{path}: {problem}" for problem in error.problems]
    raise SettingsError(problems)


def parse(content: object) -> RulesConfig:
    """Return the configuration that *content* of a YAML file says, or raise a SettingsError."""
    if content is not None and not isinstance(content, dict):
        raise SettingsError(["is not a mapping; write settings as in `job: comms-exporter`"])
    wrong = []
    try:
        parsed = _model().model_validate(content or {}).model_dump(by_alias=True, exclude_none=True)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
    if wrong:
        raise SettingsError(_problem(error) for error in wrong)
    return RulesConfig(
        thresholds=_thresholds(parsed),
        accounts={name: _thresholds(account or {}) for name, account in parsed.get("accounts", {}).items()},
        disabled=frozenset(parsed.get("disabled", ())),
        **{
            key: parsed[key].rstrip("/") if key in {"runbooks", "dashboards"} else parsed[key]
            for key in ("job", "runbooks", "dashboards", "labels")
            if key in parsed
        },
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the configuration."""
    schema: dict[str, Any] = _simplified(_model().model_json_schema(by_alias=True))
    return schema


def _thresholds(parsed: Mapping[str, Any]) -> dict[str, float]:
    found = dict(parsed.get("thresholds", {}))
    if "objective" in parsed:
        found[source.BUDGET] = 1 - parsed["objective"]
    return found


# What is wrong, in one line.


def _problem(error: Any) -> str:
    *above, key = (str(each) for each in error["loc"] if each != "[key]")
    where = ".".join((*above, key))
    if error["type"] == "extra_forbidden":
        return f"{where}: {_unknown(key, above)}"
    if error["type"] in {"model_type", "dict_type"}:
        return f"{where}: {shown(error['input'])} is not a mapping"
    if error["type"] == "invalid_key":
        return f"{where}: is not a name; put it in quotes"
    return f"{where}: {error.get('ctx', {}).get('error', error['msg'])}"


def _unknown(key: str, above: list[str]) -> str:
    # An account can be called thresholds.
    if above == ["thresholds"] or len(above) == 3:
        return _unknown_threshold(key, of_account=len(above) == 3)
    known = _ACCOUNT_KEYS if above else _KEYS
    return f"unknown key{suggestion(key, known)}; valid keys are {', '.join(known)}"


def _unknown_threshold(key: str, *, of_account: bool) -> str:
    name = key.removeprefix("threshold:")
    if name == source.BUDGET:
        return "follows from the delivery objective; set objective"
    if of_account and name in set(source.thresholds()) - set(source.thresholds_by_account()):
        return "is the same for all accounts; set it under thresholds"
    if name != key and name in source.thresholds():
        return f"unknown threshold; write it as {name}"
    return f"unknown threshold{suggestion(name, source.thresholds_by_account() if of_account else source.thresholds())}"


# The model. It is made when it is needed, because its fields are the thresholds in the rule file.

_KEYS = ("job", "runbooks", "dashboards", "objective", "thresholds", "accounts", "labels", "disabled")
_ACCOUNT_KEYS = ("objective", "thresholds")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=False)


def _number(what: str, accept: Callable[[float], bool]) -> BeforeValidator:
    def parse(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float) or not accept(value):
            raise ValueError(f"{shown(value)} is not {what}")
        return value

    return BeforeValidator(parse)


def _text(what: str, pattern: str) -> BeforeValidator:
    def parse(value: object) -> object:
        if not isinstance(value, str) or not re.fullmatch(pattern.removesuffix("$"), value):
            raise ValueError(f"{shown(value)} is not {what}")
        return value

    return BeforeValidator(parse)


def _share(example: str) -> Any:
    accepted = _number(
        f"a share; write a number above 0 and below 1, such as {example}", lambda number: 1e-6 <= number < 1
    )
    return Annotated[float, Field(ge=1e-6, lt=1), accepted]


_SHARE = _share("0.05")
_OBJECTIVE = _share("0.95")
_FACTOR = Annotated[
    float, Field(ge=1, le=1000), _number("a factor; write a number from 1 to 1000", lambda number: 1 <= number <= 1000)
]
_COUNT = Annotated[
    int,
    Field(ge=1, le=_LARGEST),
    _number("a whole number of 1 or more", lambda number: 1 <= number <= _LARGEST and number == int(number)),
]
_SECONDS = Annotated[
    float,
    Field(ge=1, le=_LARGEST),
    _number("a number of seconds; write 1 or more", lambda number: 1 <= number <= _LARGEST),
]
_LINK = Annotated[
    str, Field(pattern=_URL), _text("an http or https URL; write one such as https://grafana.acme.example", _URL)
]
# By the last part of a threshold's name.
KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("ratio", "ratio_critical", "ratio_warning", "ratio_raised", "ratio_of_account"), _SHARE),
    **dict.fromkeys(
        ("ratio_of_queue", "ratio_of_best", "ratio_flat", "ratio_fallen", "ratio_less", "ratio_missing"), _SHARE
    ),
    **dict.fromkeys(("ratio_seen", "ratio_shared"), _SHARE),
    **dict.fromkeys(("ratio_times_usual", "ratio_times_others", "odds_times_usual"), _FACTOR),
    **dict.fromkeys(("ratio_of_longest", "ratio_surge"), _FACTOR),
    **dict.fromkeys(("least", "intervals"), _COUNT),
    **dict.fromkeys(("seconds", "seconds_fresh", "seconds_floor"), _SECONDS),
}


@cache
def _model() -> type[BaseModel]:
    def model(name: str, fields: Mapping[str, Any]) -> type[_Model]:
        # Names of thresholds contain a colon, so they are aliases.
        made: dict[str, Any] = {
            f"field_{number}": (kind | None, Field(None, alias=key))
            for number, (key, kind) in enumerate(fields.items())
        }
        return create_model(name, __base__=_Model, **made)

    def of(names: Iterable[str]) -> dict[str, Any]:
        return {name: KINDS[name.partition(":")[2]] for name in names if name != source.BUDGET}

    account: Any = model(
        "account",
        {"objective": _OBJECTIVE, "thresholds": model("thresholds_by_account", of(source.thresholds_by_account()))},
    )
    kinds = {
        "job": Annotated[
            str, Field(pattern=_JOB), _text("a job; write it without quotes, braces and backslashes", _JOB)
        ],
        "runbooks": _LINK,
        "dashboards": _LINK,
        "objective": _OBJECTIVE,
        "thresholds": model("thresholds", of(source.thresholds())),
        "accounts": Annotated[
            dict[_Account, account | None], Field(json_schema_extra={"propertyNames": {"pattern": _PRINTABLE}})
        ],
        "labels": _LABELS,
        "disabled": Annotated[
            list[str],
            BeforeValidator(_parse_disabled),
            WithJsonSchema({"type": "array", "items": {"enum": list(source.alerts())}}),
        ],
    }
    return model("rules", {key: kinds[key] for key in _KEYS})


_Account = Annotated[str, _text("a name of an account", _PRINTABLE)]


def _parse_labels(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is not a mapping; write labels as in `team: mail`")  # noqa: TRY004  pydantic's rule
    for name, text in value.items():
        if not isinstance(name, str) or not re.fullmatch(_LABEL.removesuffix("$"), name):
            raise ValueError(f"{shown(name)} is not a label name; write letters, digits and _")
        if name in RESERVED_LABELS:
            raise ValueError(f"{name} is a label that the alerts already have; choose another name")
        if not isinstance(text, str):
            raise ValueError(f"{name}: {shown(text)} is not a string; put it in quotes")  # noqa: TRY004  pydantic's rule
        if not re.fullmatch(_PRINTABLE.removesuffix("$"), text):
            raise ValueError(f"{name}: {shown(text)} is empty or contains control characters; write one line of text")
        if re.search(_TEMPLATE, text):
            raise ValueError(f"{name}: {shown(text)} contains {{{{, which begins a template; remove it")
    return value


_LABELS = Annotated[
    dict[str, str],
    BeforeValidator(_parse_labels),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": _LABEL, "not": {"enum": list(RESERVED_LABELS)}},
            "additionalProperties": {"type": "string", "pattern": _PRINTABLE, "not": {"pattern": _TEMPLATE}},
        }
    ),
]


def _parse_disabled(value: object) -> object:
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} is not a list of alerts; write one such as [CommsEmailSurge]")  # noqa: TRY004  pydantic's rule
    for name in value:
        if name not in source.alerts():
            near = suggestion(name, source.alerts()) if isinstance(name, str) else ""
            raise ValueError(f"{shown(name)} is not an alert{near or '; docs/alerts.md lists them'}")
    return value


def _simplified(part: Any) -> Any:
    """Return *part* of a schema without titles, defaults, and the null that stands for a section without content."""
    if isinstance(part, list):
        return [_simplified(each) for each in part]
    if not isinstance(part, dict):
        return part
    if "anyOf" in part:
        return _simplified(part["anyOf"][0])
    return {key: _simplified(each) for key, each in part.items() if key not in {"title", "default"}}
