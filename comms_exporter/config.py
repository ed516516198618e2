"""The settings: what can be set, where it was set, and one line for everything that is set wrongly.

Flags, environment, file and defaults are layers of one model, and every value remembers the name its author
wrote, so a message names `--collect.interval` to one person and `COMMS_EXPORTER_COLLECT_INTERVAL` to another.
No message shows a credential: what is read as one is never formatted, and exceptions that carry what was read
are left behind before ours is raised, so that not even a traceback's context holds them.
"""

import argparse
import difflib
import ipaddress
import json
import math
import os
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import urlsplit

import aiohttp
import yaml
from pydantic import BeforeValidator, Field, InstanceOf, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from yarl import URL

from comms_exporter import __version__

ENV_PREFIX = "COMMS_EXPORTER_"


class SettingsError(Exception):
    """Says what is set wrongly, one line for each setting: its name, what is wrong, and what would be right."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple("".join(c if c.isprintable() else "?" for c in problem) for problem in problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, kw_only=True)
class Account:
    """One Twilio account: the name it goes by on the page, and what opens it."""

    name: str
    user: str = field(repr=False)  # shown by nobody, since people do swap a key and its secret
    secret: SecretStr
    base_url: str = ""  # empty until Settings puts its own there
    user_file: Path | None = None
    secret_file: Path | None = None

    def credentials(self) -> tuple[str, str]:
        """Return user and secret as they are now, reading again the files they came from."""
        try:
            user = _read_credential(self.user_file, names_user=True) if self.user_file else self.user
            secret = _read_credential(self.secret_file) if self.secret_file else self.secret.get_secret_value()
        except ValueError as error:
            problem = f"account {self.name}: {error}"
        else:
            return user, secret
        raise SettingsError([problem])


@dataclass(frozen=True)
class ListenAddress:
    """Where to listen; no host means every interface."""

    host: str | None
    port: int
    text: str = field(compare=False)

    def __str__(self) -> str:
        return self.text


# What single values may look like. All of these raise ValueError with what is wrong and what would be right.

_UNITS_MS = {
    "y": 31_536_000_000,
    "w": 604_800_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1_000,
    "ms": 1,
}
_DURATION = re.compile("".join(rf"(?:([0-9]+){unit})?" for unit in _UNITS_MS))
_LONGEST_MS = (2**63 - 1) // 1_000_000  # Prometheus counts nanoseconds in 64 bits


def parse_duration(value: object) -> float:
    """Return the seconds in a duration as Prometheus writes it: `30s`, `1h30m`, `100ms`, or a bare `0`."""
    text = str(value) if _is_number(value) else value
    if text == "0":
        return 0.0
    if isinstance(text, str) and re.fullmatch("[0-9]+", text):
        raise ValueError(f"{_shown(value)} has no unit; write {_shortened(text)}s")
    match = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if match is None:
        raise ValueError(f"{_shown(value)} is not a duration; write 30s, 5m or 1h30m")
    # Digits are cut only where the sum is out of range anyway: int() refuses thousands of them.
    counts = (int(digits[:30]) if digits else 0 for digits in match.groups())
    milliseconds = sum(count * unit for count, unit in zip(counts, _UNITS_MS.values(), strict=True))
    if milliseconds > _LONGEST_MS:
        raise ValueError(f"{_shown(value)} is too long; the longest duration is 292y")
    return milliseconds / 1000


def _parse_positive_duration(value: object) -> float:
    seconds = parse_duration(value)
    if seconds == 0:
        raise ValueError(f"{_shown(value)} is too short; write a duration above 0, such as 30s")
    return seconds


def parse_base_url(value: object) -> str:
    """Return the URL that every request starts with, without a slash at its end."""
    # The value is never shown: whoever puts a password into it should not find it in a log.
    text = _parse_text(value, "is not a URL; write one such as https://comms.twilio.com/v1")
    if re.search(r"[\s\x00-\x1f\x7f\\]", text):  # urlsplit would drop some of these without a word
        raise ValueError("has a space, a backslash or a control character in it; remove it")
    if "?" in text or "#" in text:
        raise ValueError("has a query or a fragment; remove everything from the ? or # on")
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
        _connectable(text)
    except ValueError:
        raise ValueError("is not a URL; write one such as https://comms.twilio.com/v1") from None
    if "@" in url.netloc:
        raise ValueError("has a user or a password in it; credentials are set apart from the URL")
    if url.scheme not in {"http", "https"} or not host:
        raise ValueError("is not an http or https URL with a host; write one such as https://comms.twilio.com/v1")
    return f"{url.scheme}://{url.netloc}{url.path}".rstrip("/")


def parse_proxy_url(text: str) -> URL:
    """Return the URL of an HTTP proxy, which may hold a user and a password."""
    # The text is never shown: what is malformed may be malformed because of the password in it.
    try:
        url = _connectable(text.strip())
        # A password that cannot be sent would be noticed at the first request.
        aiohttp.encode_basic_auth(url.user or "", url.password or "", "latin1")
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host or not url.host.isprintable() or " " in url.host:
        raise ValueError("is not the URL of an HTTP proxy; write one such as http://proxy.example:3128")
    return url


def _connectable(text: str) -> URL:
    """Return *text* as the HTTP client understands it; a ValueError says that it could not connect to such a URL."""
    text.encode()  # half a surrogate pair cannot be sent
    url = URL(text)
    # The resolver raises no OSError but this one where a label is empty or too long.
    (url.raw_host or "").encode("idna")
    return url


def parse_listen_address(value: object) -> ListenAddress:
    """Take `:10067`, `host:10067` or `[::1]:10067` apart."""
    match = re.fullmatch(r"(\[[^\[\]]+\]|[A-Za-z0-9._-]*):([0-9]{1,5})", value) if isinstance(value, str) else None
    if not isinstance(value, str) or match is None:
        raise ValueError(f"{_shown(value)} is not an address to listen on; write :10067, host:10067 or [::1]:10067")
    host, port = match[1], int(match[2])
    if port > 65535:
        raise ValueError(f"{_shown(value)} has no such port; ports go from 0 to 65535")
    if host.startswith("["):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(
                f"{_shown(value)} has no IPv6 address in its brackets; write one as in [::1]:10067"
            ) from None
    return ListenAddress(host or None, port, value)


def _parse_listen_addresses(value: object) -> tuple[ListenAddress, ...]:
    words = re.split(r"[\s,]+", value.strip(", \t")) if isinstance(value, str) else value
    if not isinstance(words, list) or not words:
        raise ValueError(f"{_shown(value)} is not a list of addresses; write :10067, host:10067 or [::1]:10067")
    return tuple(parse_listen_address(word) for word in words)


def _parse_telemetry_path(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+/?", value):
        raise ValueError(f"{_shown(value)} is not a path for the metrics; write one such as /metrics")
    segments = value.split("/")
    if segments[1] == "-":
        raise ValueError(f"{_shown(value)} is kept for probes and reloads; write another path, such as /metrics")
    if "." in segments or ".." in segments:
        raise ValueError(f"{_shown(value)} would be rewritten by clients; write a path without . and .. in it")
    return value


def _parse_state_path(value: object) -> Path | None:
    text = _parse_text(value)
    if text.startswith("~"):
        raise ValueError(f"{_shown(text)} starts with ~, which only a shell understands; write the whole path")
    return _parse_path(text)


def _parse_path(value: object) -> Path | None:
    text = _parse_text(value)
    if "\0" in text:
        raise ValueError(f"{_shown(text)} is not a path; remove the NUL character")
    return Path(text) if text else None


def _parse_name(value: object) -> str | None:
    text = _parse_text(value).strip()
    if not text.isprintable():
        raise ValueError(f"{_shown(text)} has control characters in it; write plain text")
    return text or None


def _parse_text(value: object, complaint: str = "") -> str:
    if not isinstance(value, str):
        raise ValueError(complaint or f"{_shown(value)} is not text; put it in quotes")  # noqa: TRY004  pydantic's rule
    return value


def _parse_rate(value: object) -> float:
    text = str(value) if _is_number(value) else value
    try:
        rate = float(text) if isinstance(text, str) and re.fullmatch(r"[0-9.]+(e[+-]?[0-9]+)?", text) else math.nan
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"{_shown(value)} is not a rate; write a number above 0, such as 5 or 0.5")
    return rate


def _whole_number(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        text = str(value) if _is_number(value) else value
        number = int(text) if isinstance(text, str) and re.fullmatch("[0-9]{1,12}", text) else -1
        if not low <= number <= high:
            raise ValueError(f"{_shown(value)} is not a whole number from {low} to {high}")
        return number

    return parse


def _one_of(*words: str, aliases: Mapping[str, str] | None = None) -> Callable[[object], str]:
    def parse(value: object) -> str:
        word = (aliases or {}).get(value, value) if isinstance(value, str) else None
        if word not in words:
            raise ValueError(f"{_shown(value)} is unknown; write {', '.join(words[:-1])} or {words[-1]}")
        return word

    return parse


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)  # to Python, `yes` in YAML is a 1


def _shown(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case str():
            return json.dumps(_shortened(value))
        case int() | float():
            return _shortened(json.dumps(value))
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return f"a {type(value).__name__}"


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


# What can be set.


def _setting(default: Any, placeholder: str, description: str) -> Any:
    """Describe a setting; the default is written as a user would write it, for the help to show."""
    return Field(default, title=placeholder, description=description)


Duration = Annotated[float, BeforeValidator(_parse_positive_duration)]
MaybePath = Annotated[Path | None, BeforeValidator(_parse_path)]


class Settings(BaseSettings):
    """Everything that can be set, checked, from layers of which the first that knows a setting decides it."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
    )

    account_name: Annotated[str | None, BeforeValidator(_parse_name)] = _setting(
        "", "NAME", "What to call the account in the label account."
    )
    config_file: MaybePath = _setting("", "FILE", "Read settings and accounts from this YAML file.")
    config_check: bool = _setting(default=False, placeholder="", description="Check the settings, then exit.")
    api_base_url: Annotated[str, BeforeValidator(parse_base_url)] = _setting(
        "https://comms.twilio.com/v1", "URL", "Where the API is."
    )
    api_timeout: Duration = _setting("30s", "DURATION", "How long one request may take.")
    api_page_size: Annotated[int, BeforeValidator(_whole_number(1, 1000))] = _setting(
        "1000", "NUMBER", "How many operations to ask for at a time."
    )
    api_max_requests_per_second: Annotated[float, BeforeValidator(_parse_rate)] = _setting(
        "5", "NUMBER", "How often to ask at most, for each account."
    )
    api_ca_file: MaybePath = _setting(
        "", "FILE", "Trust only the certificate authorities in this PEM file, instead of the system's."
    )
    collect_interval: Duration = _setting("30s", "DURATION", "How often to look for news.")
    collect_active_window: Duration = _setting(
        "1h", "DURATION", "How long after its last change a finished operation keeps series of its own."
    )
    collect_max_operations: Annotated[int, BeforeValidator(_whole_number(0, 1_000_000_000))] = _setting(
        "1000",
        "NUMBER",
        "How many operations of an account have series of their own: more of them show more, "
        "and cost Prometheus 17 series each. 0 means none at all.",
    )
    collect_max_tracked_operations: Annotated[int, BeforeValidator(_whole_number(1, 1_000_000_000))] = _setting(
        "100000",
        "NUMBER",
        "How many operations of an account to keep count of: those of a week, at up to 1.5 kB of memory each. A poll that "
        "finds more of them fails, and says so.",
    )
    collect_stats_reading: Annotated[
        Literal["auto", "cumulative", "exclusive"], BeforeValidator(_one_of("auto", "cumulative", "exclusive"))
    ] = _setting(
        "auto",
        "READING",
        "Whether a delivered email still counts as sent (cumulative) or no longer does (exclusive) in what the API "
        "says; auto finds out for each operation.",
    )
    state_path: Annotated[Path | None, BeforeValidator(_parse_state_path)] = _setting(
        "", "FILE", "Where to keep what has been counted; empty keeps nothing across restarts."
    )
    web_listen_address: Annotated[tuple[ListenAddress, ...], BeforeValidator(_parse_listen_addresses)] = _setting(
        ":10067", "ADDRESS", "Where to listen; may be given several times."
    )
    web_systemd_socket: bool = _setting(
        default=False, placeholder="", description="Listen on the sockets that systemd passes, and on no address."
    )
    web_telemetry_path: Annotated[str, BeforeValidator(_parse_telemetry_path)] = _setting(
        "/metrics", "PATH", "Where the metrics are."
    )
    web_config_file: MaybePath = _setting(
        "", "FILE", "Take TLS and basic authentication from this file, in the format of all Prometheus exporters."
    )
    log_level: Annotated[
        Literal["debug", "info", "warn", "error"],
        BeforeValidator(_one_of("debug", "info", "warn", "error", aliases={"warning": "warn"})),
    ] = _setting("info", "LEVEL", "Say this and what is worse: debug, info, warn or error.")
    log_format: Annotated[Literal["logfmt", "json"], BeforeValidator(_one_of("logfmt", "json"))] = _setting(
        "logfmt", "FORMAT", "How to write it: logfmt or json."
    )
    shard_total: Annotated[int, BeforeValidator(_whole_number(1, 10_000))] = _setting(
        "1", "NUMBER", "Among how many exporters the accounts are spread, by their names."
    )
    shard_index: Annotated[int, BeforeValidator(_whole_number(0, 9_999))] = (
        _setting(  # after the total, which bounds it
            "0", "NUMBER", "Which of them this one is, from 0."
        )
    )
    accounts: tuple[InstanceOf[Account], ...] = ()  # after api_base_url, which it needs

    def __init__(self, *layers: Mapping[str, Any]) -> None:
        super().__init__(layers=layers)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the signature is pydantic's
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the layers as given, in their order, and nothing from this process's environment."""
        return tuple(InitSettingsSource(settings_cls, dict(layer)) for layer in init_settings()["layers"])

    @field_validator("shard_index")
    @classmethod
    def _bound_shard_index(cls, index: int, info: ValidationInfo) -> int:
        total = info.data.get("shard_total", index + 1)
        if index >= total:
            raise ValueError(f"{index} is not one of {total} shards; write a number from 0 to {total - 1}")
        return index

    @field_validator("accounts")
    @classmethod
    def _give_base_url(cls, accounts: tuple[Account, ...], info: ValidationInfo) -> tuple[Account, ...]:
        shared = info.data.get("api_base_url", "")
        return tuple(replace(account, base_url=account.base_url or shared) for account in accounts)


_FIELDS = {name: info for name, info in Settings.model_fields.items() if name != "accounts"}

_AREAS = {
    "account": "The account that the environment's credentials open.",
    "config": "The file for what is long, or for several accounts.",
    "api": "How to speak with Twilio.",
    "collect": "What to look at, and how often.",
    "state": "What outlives a restart.",
    "shard": "How accounts are spread over several exporters.",
    "web": "How Prometheus and people reach the exporter.",
    "log": "What to say on stderr, and how.",
}

# Defaults that depend on where the exporter runs, for the help.
_DEFAULTS_IN_WORDS = {
    "account_name": "the account SID, else default",
    "state_path": "$XDG_STATE_HOME/comms-exporter/state.db, else ~/.local/state/comms-exporter/state.db",
}


def flag_of(name: str) -> str:
    """Return the flag of the setting *name*."""
    if name == "web_config_file":  # every Prometheus exporter calls it so
        return "--web.config.file"
    return "--" + name.replace("_", ".", 1).replace("_", "-")


def _variable(name: str) -> str:
    return ENV_PREFIX + name.upper()


_FIELD_OF_FLAG = {flag_of(name): name for name in _FIELDS}
_FIELD_OF_VARIABLE = {_variable(name): name for name in _FIELDS if name != "config_check"}
_FIELD_OF_KEY = {flag_of(name)[2:]: name for name in _FIELDS if not name.startswith("config_")}


# Where it was set.


@dataclass(frozen=True)
class _Given:
    """A value, not yet looked at, and the name it was given under."""

    value: Any = field(repr=False)
    name: str


_Layer = dict[str, _Given]


def load(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    defaults: Mapping[str, str] | None = None,
    accounts: Sequence[Account] | None = None,
    parser: argparse.ArgumentParser | None = None,
) -> Settings:
    """Return the settings, or raise a SettingsError that names everything that is wrong with them.

    *defaults*, by field name and written as a user would write them, take the place of those built in. *accounts*
    take the place of all credentials in environment and file, which are then not looked at. Only `--help` and
    `--version` end the process.
    """
    problems: list[str] = []
    flags = _from_flags(argv, parser or build_parser(defaults=defaults))
    environment = _from_environment(environ, problems)
    under = _from_defaults(environ, defaults or {})
    path = next((layer["config_file"] for layer in (flags, environment, under) if "config_file" in layer), None)
    content = _read_config(path, problems) if path and path.value else {}
    if content is None:  # without the file, more complaints would be guesses
        raise SettingsError(problems)
    file, listed = _from_file(content, Path(path.value if path else ""), problems)
    layers = (flags, environment, file, under)
    if accounts is None:
        accounts = _find_accounts(listed, layers, environ, problems)
    settings = _checked(layers, accounts, problems)
    if settings is None or problems:
        raise SettingsError(problems)
    return settings


def build_parser(
    *,
    prog: str = "comms-exporter",
    description: str = "Tell Prometheus what becomes of the emails that are sent through Twilio's Comms API.",
    defaults: Mapping[str, str] | None = None,
) -> argparse.ArgumentParser:
    """Return the parser of all flags; its help shows *defaults* where they differ from those built in."""
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [flags]",
        description=description,
        epilog=(
            "Credentials come from the environment only, TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN or TWILIO_API_KEY "
            "and TWILIO_API_SECRET, each also as a file whose path is in the same name with _FILE behind it; or from "
            "the list accounts in --config.file. Durations are Prometheus's: 100ms, 30s, 5m, 1h30m, 7d."
        ),
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"comms-exporter, version {__version__} (python {platform.python_version()})",
        help="Print the version, then exit.",
    )
    groups = {area: parser.add_argument_group(area, sentence) for area, sentence in _AREAS.items()}
    for name in _FIELDS:
        _add_flag(groups[name.partition("_")[0]], name, (defaults or {}).get(name))
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError([message])


def _add_flag(group: argparse._ArgumentGroup, name: str, default: str | None) -> None:
    info = _FIELDS[name]
    if name in {"config_check", "web_systemd_socket"}:
        group.add_argument(
            flag_of(name), action="store_true", dest=name, default=argparse.SUPPRESS, help=info.description
        )
        return
    if default is None:
        default = _DEFAULTS_IN_WORDS.get(name, info.default)
    text = f"{info.description} Default: {default or 'none'}. Environment: {_variable(name)}."
    group.add_argument(
        flag_of(name),
        action="append" if name == "web_listen_address" else "store",
        dest=name,
        default=argparse.SUPPRESS,
        metavar=info.title,
        help=text.replace("%", "%%"),
    )


def _from_flags(argv: Sequence[str], parser: argparse.ArgumentParser) -> _Layer:
    problem = ""
    try:
        namespace, unknown = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        what = "takes no value" if "explicit" in error.message else "needs a value"
        problem = f"{error.argument_name}: {what}; see --help"
    if problem:
        raise SettingsError([problem])
    if unknown:
        raise SettingsError(_complaints_about_words(unknown))
    return {name: _Given(value, flag_of(name)) for name, value in vars(namespace).items() if name in _FIELDS}


def _complaints_about_words(words: Sequence[str]) -> list[str]:
    # Only what looks like the name of a flag is repeated: the rest may be a token after `--twilio.auth-token`.
    flags = [word.partition("=")[0] for word in words]
    flags = [flag for flag in flags if re.fullmatch(r"--[a-z][a-z._-]{1,60}", flag)]
    if not flags:
        return ["a word on the command line is neither a flag nor the value of one; see --help"]
    return [f"{flag}: unknown flag{_suggestion(flag, _FIELD_OF_FLAG, '--')}" for flag in flags]


# What Kubernetes puts into every container for a Service called comms-exporter, or comms-exporter-anything.
_INJECTED = re.compile(
    ENV_PREFIX
    + r"(?:[A-Z0-9_]+_)??(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)"
)


def _is_injected(variable: str, text: str) -> bool:
    if variable.startswith(ENV_PREFIX) and variable.endswith("_PORT") and re.match("(tcp|udp|sctp)://", text):
        return True
    return _INJECTED.fullmatch(variable) is not None


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> _Layer:
    layer: _Layer = {}
    for variable, raw in environ.items():
        text = raw.strip()
        name = _FIELD_OF_VARIABLE.get(variable)
        if text and variable == _variable("config_check"):
            problems.append(f"{variable}: is no variable; use {flag_of('config_check')}")
        elif name and (text or name == "state_path"):
            layer[name] = _Given(text, variable)
        elif name is None and text and variable.startswith(ENV_PREFIX) and not _is_injected(variable, text):
            problems.append(f"{variable}: unknown variable{_suggestion(variable, _FIELD_OF_VARIABLE, ENV_PREFIX)}")
    return layer


def _from_defaults(environ: Mapping[str, str], defaults: Mapping[str, str]) -> _Layer:
    layer = {name: _Given(text, flag_of(name)) for name, text in defaults.items()}
    # A relative XDG_STATE_HOME is to be ignored, says its specification.
    xdg, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111  Path raises
    state_home = Path(xdg) if xdg.startswith("/") else Path(home) / ".local" / "state"
    layer.setdefault("state_path", _Given(str(state_home / "comms-exporter" / "state.db"), flag_of("state_path")))
    return layer


def _suggestion(word: str, known: Iterable[str], prefix: str = "") -> str:
    bare = [name.removeprefix(prefix) for name in known]
    close = difflib.get_close_matches(word.removeprefix(prefix), bare, n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


# The file.


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that is there twice, of which YAML's own loader would keep the last."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem="a key is there twice", problem_mark=key.start_mark)
            seen.add((key.tag, str(key.value)))
        return node


def _read_config(given: _Given, problems: list[str]) -> dict[Any, Any] | None:
    path = Path(given.value)
    try:
        content = yaml.load(_read_text(path), Loader=_Loader)  # noqa: S506  it is a SafeLoader
    except _UnreadableError as error:
        problems.append(f"{given.name}: {error}")
    except yaml.YAMLError as error:
        problems.append(f"{path}{_why_not_yaml(error)}")
    except Exception:  # noqa: BLE001  PyYAML lets out whatever `!!int x` and its like run into
        problems.append(f"{path}: not valid YAML; a value does not fit its tag")
    else:
        if isinstance(content, dict) or content is None:
            return content or {}
        problems.append(f"{path}: is not a mapping; write settings as in `collect.interval: 30s`")
    return None


def _why_not_yaml(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return ": not valid YAML; it has a character that YAML does not allow"
    problem = error.problem or ""
    if "'\\t'" in problem:
        problem = "a tab where spaces belong"
    elif "'" in problem or '"' in problem:  # it would repeat what is in the file
        problem = "something here has no meaning"
    return f", line {error.problem_mark.line + 1}: not valid YAML; {problem}"


def _from_file(content: Mapping[Any, Any], path: Path, problems: list[str]) -> tuple[_Layer, _Given | None]:
    layer: _Layer = {}
    listed = None
    for key, value in _flattened(content):
        where = f"{path}: {key}"
        known = key.replace("_", "-")
        if known == "accounts":
            listed = _Given(value, where)
        elif known in {"config.file", "config.check"}:
            problems.append(f"{where}: cannot be set in the file itself; use --{known}")
        elif known not in _FIELD_OF_KEY:
            problems.append(_unknown_key(path, key, [*_FIELD_OF_KEY, "accounts"]))
        elif _FIELD_OF_KEY[known] in layer:
            problems.append(f"{where}: is set twice; keep one")
        else:
            layer[_FIELD_OF_KEY[known]] = _Given(_relative_to(path.parent, _FIELD_OF_KEY[known], value), where)
    return layer, listed


def _flattened(content: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{above}{key}"
        is_area = any(known.startswith(name.replace("_", "-") + ".") for known in [*_FIELD_OF_KEY, "config.file"])
        if is_area and isinstance(value, dict):
            yield from _flattened(value, f"{name}.")
        else:
            yield name, value


def _unknown_key(where: Path | str, key: str, known: Sequence[str]) -> str:
    # `{auth_token:s3cr3t}`, without a space, is a key to YAML: what doesn't look like a word of ours is not repeated.
    if not re.fullmatch(r"[a-z][a-z._-]{0,40}", key):
        return f"{where}: a key here is unknown; known are {', '.join(known)}"
    separator = "." if "[" in str(where) else ": "
    return f"{where}{separator}{key}: unknown key{_suggestion(key.replace('_', '-'), known)}"


def _relative_to(directory: Path, name: str, value: Any) -> Any:
    # As in Prometheus: a path in a file is relative to that file, a path in a flag to where the process was started.
    is_path = (
        name in {"api_ca_file", "state_path", "web_config_file"}
        and isinstance(value, str)
        and value[:1] not in {"", "~"}
    )
    return str(directory / value) if is_path else value


# Who may ask.

_PARTS = ("account_sid", "auth_token", "api_key", "api_secret")
_ACCOUNT_KEYS = ("name", *_PARTS, *(f"{part}_file" for part in _PARTS), "base_url")
_EITHER_PAIR = "account_sid and auth_token, or api_key and api_secret"


@dataclass(frozen=True)
class _Credential:
    name: str
    value: str = field(repr=False)
    file: Path | None = None


def _find_accounts(
    listed: _Given | None, layers: Sequence[_Layer], environ: Mapping[str, str], problems: list[str]
) -> list[Account]:
    given = _credentials_in(environ)
    named = next((layer["account_name"] for layer in layers[:-1] if "account_name" in layer), None)
    if listed is None:
        if not given:
            problems.append(
                "no credentials: set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, or TWILIO_API_KEY and "
                "TWILIO_API_SECRET, or list accounts in --config.file"
            )
            return []
        chosen = next((layer["account_name"] for layer in layers if "account_name" in layer), None)
        name = _accepted(_parse_name, chosen, [])  # a wrong one is Settings' to complain about
        account = _account(given, name, Path(), _from_environment_name, problems)
        return [account] if account else []
    if given:
        variable = next(iter(given.values())).name
        problems.append(f"{variable}: is set, and so are accounts in {_file_of(listed)}; choose one place")
    if named:
        problems.append(
            f"{named.name}: the accounts in {_file_of(listed)} have names of their own; remove it, or name them there"
        )
    return _accounts_in_file(listed, problems)


def _credentials_in(environ: Mapping[str, str]) -> _Layer:
    names = [*_PARTS, *(f"{part}_file" for part in _PARTS)]
    texts = {name: environ.get(_from_environment_name(name), "").strip() for name in names}
    return {name: _Given(text, _from_environment_name(name)) for name, text in texts.items() if text}


def _from_environment_name(part: str) -> str:
    return f"TWILIO_{part.upper()}"


def _file_of(listed: _Given) -> str:
    return listed.name.removesuffix(": accounts")


def _without_file(name: str) -> str:
    return name.rpartition(": ")[2]


def _accounts_in_file(listed: _Given, problems: list[str]) -> list[Account]:
    if not isinstance(listed.value, list) or not listed.value:
        problems.append(f"{listed.name}: is not a list of accounts; write at least one, with {_EITHER_PAIR}")
        return []
    directory = Path(_file_of(listed)).parent
    accounts = {}
    for index, entry in enumerate(listed.value):
        where = f"{listed.name}[{index}]"
        account = _account_in_file(entry, where, directory, problems)
        if account:
            accounts[where] = account
    problems.extend(_shared_names(accounts))
    return list(accounts.values())


def _shared_names(accounts: Mapping[str, Account]) -> Iterator[str]:
    counts = Counter(account.name for account in accounts.values())
    first: dict[str, str] = {}
    for where, account in accounts.items():
        if counts[account.name] > 1 and account.name in first:
            other = _without_file(first[account.name])
            yield f"{where}.name: {_shown(account.name)} is the name of {other} already; give each its own"
        first.setdefault(account.name, where)


def _account_in_file(entry: Any, where: str, directory: Path, problems: list[str]) -> Account | None:
    if not isinstance(entry, dict):
        problems.append(f"{where}: is not an account; write {_EITHER_PAIR}")
        return None
    before = len(problems)
    given: _Layer = {}
    for key, value in entry.items():
        known = str(key).replace("-", "_")
        if known not in _ACCOUNT_KEYS:
            problems.append(_unknown_key(where, str(key), _ACCOUNT_KEYS))
        elif known in given:
            problems.append(f"{where}.{key}: is set twice; keep one")
        else:
            given[known] = _Given(value, f"{where}.{key}")
    name = _accepted(_parse_name, given.pop("name", None), problems)
    base_url = _accepted(parse_base_url, given.pop("base_url", None), problems)
    if len(problems) > before:
        return None
    account = _account(given, name, directory, lambda part: f"{where}.{part}" if part else where, problems)
    return replace(account, base_url=base_url or "") if account else None


def _accepted(parse: Callable[[object], str | None], given: _Given | None, problems: list[str]) -> str | None:
    if given is None:
        return None
    try:
        return parse(given.value)
    except ValueError as error:
        problems.append(f"{given.name}: {error}")
        return None


def _account(
    given: _Layer, name: str | None, directory: Path, name_of: Callable[[str], str], problems: list[str]
) -> Account | None:
    before = len(problems)
    parts = {part: _credential(part, given, directory, problems) for part in _PARTS}
    if len(problems) > before:
        return None
    found = {part: credential for part, credential in parts.items() if credential}
    complaint = _incomplete(found, name_of)
    if complaint:
        problems.append(complaint)
        return None
    user, secret = (found[part] for part in _pair(found))
    sid = found.get("account_sid")
    return Account(
        name=name or (sid.value if sid else "default"),
        user=user.value,
        secret=SecretStr(secret.value),
        user_file=user.file,
        secret_file=secret.file,
    )


def _pair(found: Mapping[str, _Credential]) -> tuple[str, str]:
    # Beside an API key, the account SID only names the account.
    return ("api_key", "api_secret") if {"api_key", "api_secret"} & found.keys() else ("account_sid", "auth_token")


def _incomplete(found: Mapping[str, _Credential], name_of: Callable[[str], str]) -> str:
    if not found:
        return f"{name_of('')}: has no credentials; write {_EITHER_PAIR}"
    pair = _pair(found)
    token = found.get("auth_token")
    if token and "auth_token" not in pair:
        other = next(found[part] for part in pair if part in found)
        return (
            f"{token.name}: {_without_file(other.name)} is given as well; keep the auth token or the API key, not both"
        )
    for part, partner in (pair, pair[::-1]):
        if part not in found:
            return f"{name_of(part)}: is missing; it belongs with {_without_file(found[partner].name)}"
    return ""


def _credential(part: str, given: _Layer, directory: Path, problems: list[str]) -> _Credential | None:
    plain, filed = given.get(part), given.get(f"{part}_file")
    if plain and filed:
        problems.append(f"{filed.name}: {_without_file(plain.name)} is given as well; keep one of the two")
        return None
    names_user = part in {"account_sid", "api_key"}
    try:
        if plain:
            return _Credential(plain.name, _parse_credential(plain.value, names_user=names_user))
        if filed:
            path = _credential_path(filed.value, directory)
            return _Credential(filed.name, _read_credential(path, names_user=names_user), path)
    except ValueError as error:
        problems.append(f"{(plain or filed or _Given('', part)).name}: {error}")
    return None


def _credential_path(value: object, directory: Path) -> Path:
    text = _parse_text(value, "is not the path of a file; put it in quotes").strip()
    # Somebody will set TWILIO_AUTH_TOKEN_FILE to the token itself, and "cannot read ..." would repeat it.
    is_bare_word = len(text) >= 16 and "/" not in text and "." not in text
    if is_bare_word and not os.path.exists(directory / text):  # noqa: PTH110  Path raises where a name is too long
        raise ValueError("is not the path of a file but looks like the credential itself; write the path")
    return directory / text


def _read_credential(path: Path, *, names_user: bool = False) -> str:
    text = _read_text(path)
    try:
        return _parse_credential(text, names_user=names_user)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def _parse_credential(value: object, *, names_user: bool = False) -> str:
    text = _parse_text(value, "is not text; put it in quotes").strip()
    if not text:
        raise ValueError("is empty; put the credential there")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        raise ValueError("is wrapped in quotes; remove them")
    if not text.isprintable() or not text.isascii():
        raise ValueError("has control or other characters in it that no credential has; copy it again")
    if names_user and ":" in text:
        raise ValueError("has a colon in it; write the SID alone, without the secret")
    return text


class _UnreadableError(ValueError):
    pass


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
    except UnicodeDecodeError:  # which holds what it could not decode
        reason = "it is not UTF-8 text"
    except ValueError:
        reason = "there is a NUL character in its name"
    raise _UnreadableError(f"cannot read {path}: {reason}")


def _checked(layers: Sequence[_Layer], accounts: Sequence[Account], problems: list[str]) -> Settings | None:
    values = ({name: given.value for name, given in layer.items()} for layer in layers)
    try:
        return Settings({"accounts": tuple(accounts)}, *values)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)
    for one in wrong:
        name = str(one["loc"][0])
        where = next((layer[name].name for layer in layers if name in layer), flag_of(name))
        problems.append(f"{where}: {one.get('ctx', {}).get('error', one['msg'])}")
    return None
