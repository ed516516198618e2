"""Where settings come from: flags, environment, config file, defaults, in this order, and one line for each wrong one.

Every source remembers the name that a value was given under, so that an error message names `--collect.interval` to one
person and `COMMS_EXPORTER_COLLECT_INTERVAL` to another. Exceptions that carry what was read are left behind before ours
is raised: not even a traceback's context holds a credential.
"""

import argparse
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, PydanticBaseSettingsSource

from comms_exporter import __version__
from comms_exporter.base import yaml_file
from comms_exporter.base.suggestions import suggestion
from comms_exporter.base.yaml_file import YamlError
from comms_exporter.config.accounts import Account, find_accounts, unknown_key
from comms_exporter.config.settings import (
    AREAS,
    ENV_PREFIX,
    FIELDS,
    Settings,
    default_of,
    flag_of,
    key_of,
    variable_of,
)
from comms_exporter.config.values import Given, SettingsError, UnreadableError, read_text

_SWITCHES = frozenset(name for name, info in FIELDS.items() if info.annotation is bool)
_FIELD_OF_FLAG = {flag_of(name): name for name in FIELDS}
# --config.check is a command, not a setting; a config file cannot name itself.
_FIELD_OF_VARIABLE = {variable_of(name): name for name in FIELDS if name != "config_check"}
_FIELD_OF_KEY = {key_of(name): name for name in FIELDS if not name.startswith("config_")}
# The URL may contain a password, which belongs into a file.
_STATE_URL_FILE = variable_of("state_url") + "_FILE"
PROVIDERS_KEY = "emails.providers"
# As in Prometheus, a path in the file is relative to the file.
_PATHS_IN_FILE = frozenset({"api_ca_file", "record_file", "state_path", "web_config_file"})


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
    flags = FlagSource(argv, parser or build_parser(defaults=defaults))
    environment = EnvironmentSource(environ, problems)
    file = FileSource([flags, environment], problems)
    sources: list[_Source | EnvironmentSource] = [flags, environment, file, DefaultSource(environ, defaults or {})]
    problems += _contradictions(sources[:3])
    settings, wrong = None, []
    try:
        settings = Settings(*sources[:3], AccountSource(sources[:3], file, environ, accounts, problems), sources[3])
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)
    for each in wrong:
        name = str(each["loc"][0])
        problems.append(f"{_spelling(name, sources)}: {each.get('ctx', {}).get('error', each['msg'])}")
    if settings is None or problems:
        raise SettingsError(problems)
    return settings


def build_parser(
    *,
    prog: str = "comms-exporter",
    description: str = "Export the state of emails sent through Twilio's Comms API to Prometheus.",
    defaults: Mapping[str, str] | None = None,
) -> argparse.ArgumentParser:
    """Return the parser of all flags; its help shows *defaults* where they differ from those built in."""
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [flags]",
        description=description,
        epilog=(
            "Credentials cannot be given as flags. Set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, or TWILIO_API_KEY and "
            "TWILIO_API_SECRET, in the environment; append _FILE to a name to give the path of a file instead. Or "
            "list accounts in --config.file. Durations are written as in Prometheus: 100ms, 30s, 5m, 1h30m, 7d."
        ),
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"comms-exporter, version {__version__} (python {platform.python_version()})",
        help="Print the version and exit.",
    )
    groups = {area: parser.add_argument_group(area, sentence) for area, sentence in AREAS.items()}
    for name in FIELDS:
        _add_flag(groups[name.partition("_")[0]], name, (defaults or {}).get(name))
    return parser


class _Source(PydanticBaseSettingsSource):
    """Values by setting, each with the name it was given under."""

    def __init__(self, given: Mapping[str, Given]) -> None:
        super().__init__(Settings)
        self.given = given

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        given = self.given.get(field_name)
        return given.value if given else None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return {name: given.value for name, given in self.given.items()}


class FlagSource(_Source):
    """Settings from the command line."""

    def __init__(self, argv: Sequence[str], parser: argparse.ArgumentParser) -> None:
        super().__init__(_parse_flags(argv, parser))


class EnvironmentSource(EnvSettingsSource):
    """Settings from environment variables; empty ones count as unset, except for the state path, where empty means none.

    The URL of the database may be in a file.
    """

    def __init__(self, environ: Mapping[str, str], problems: list[str]) -> None:
        super().__init__(Settings)
        self.given = {
            name: Given(environ[variable].strip(), variable)
            for variable, name in _FIELD_OF_VARIABLE.items()
            if environ.get(variable, "").strip() or (name == "state_path" and variable in environ)
        }
        if path := environ.get(_STATE_URL_FILE, "").strip():
            if "state_url" in self.given:
                problems.append(f"{_STATE_URL_FILE}: {variable_of('state_url')} is set, too; remove one")
            try:
                self.given["state_url"] = Given(read_text(Path(path)).strip(), _STATE_URL_FILE)
            except UnreadableError as error:
                problems.append(f"{_STATE_URL_FILE}: {error}")
        self.env_vars = {variable_of(name).lower(): given.value for name, given in self.given.items()}
        problems += _unknown_variables(environ)


class FileSource(_Source):
    """Settings from the config file that the sources *above* name; *listed* is its list of accounts, *folder* that of their files."""

    def __init__(self, above: Sequence[_Source | EnvironmentSource], problems: list[str]) -> None:
        self.listed: Given | None = None
        self.folder: Given | None = None
        path = next((source.given["config_file"] for source in above if "config_file" in source.given), None)
        super().__init__(self._read(path, problems) if path and path.value else {})

    def _read(self, path: Given, problems: list[str]) -> dict[str, Given]:
        try:
            content = _read_config(path)
        except SettingsError as error:
            problems += error.problems
            content = None
        if content is None:
            # Without the file, more messages would be guesses.
            raise SettingsError(problems)
        return dict(self._settings(content, Path(path.value), problems))

    def _settings(self, content: Mapping[Any, Any], path: Path, problems: list[str]) -> Iterator[tuple[str, Given]]:
        seen = set()
        for key, value in _flattened(content):
            where = f"{path}: {key}"
            known = key.replace("_", "-")
            if known in seen:
                problems.append(f"{where}: duplicate setting; remove one")
            elif known == "accounts":
                self.listed = Given(value, where)
            elif known == "accounts-dir":
                seen.add(known)
                self.folder = Given(value, where)
            elif known == PROVIDERS_KEY:
                yield "emails_providers", Given(value, where)
            elif known in {"config.file", "config.check"}:
                problems.append(f"{where}: cannot be set in the file itself; use --{known}")
            elif known not in _FIELD_OF_KEY:
                keys = [*_FIELD_OF_KEY, "accounts", "accounts_dir", PROVIDERS_KEY]
                in_area = [each for each in keys if each.startswith(f"{known}.")]
                problems.append(unknown_key(path, key, in_area or keys))
            else:
                seen.add(known)
                yield _FIELD_OF_KEY[known], Given(_relative_to(path.parent, _FIELD_OF_KEY[known], value), where)


class AccountSource(_Source):
    """The accounts, from the config file or from the credentials in the environment."""

    def __init__(
        self,
        above: Sequence[_Source | EnvironmentSource],
        file: FileSource,
        environ: Mapping[str, str],
        accounts: Sequence[Account] | None,
        problems: list[str],
    ) -> None:
        if accounts is None:
            named = next((source.given["account_name"] for source in above if "account_name" in source.given), None)
            accounts = find_accounts(file.listed, folder=file.folder, named=named, environ=environ, problems=problems)
        super().__init__({"accounts": Given(tuple(accounts), "accounts")})


class DefaultSource(_Source):
    """Defaults of a command, and those that depend on where the exporter runs."""

    def __init__(self, environ: Mapping[str, str], defaults: Mapping[str, str]) -> None:
        # The XDG specification says to ignore a relative XDG_STATE_HOME.
        xdg, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111  Path raises
        state_home = Path(xdg) if xdg.startswith("/") else Path(home) / ".local" / "state"
        values = {"state_path": str(state_home / "comms-exporter" / "state.db"), **defaults}
        super().__init__({name: Given(text, flag_of(name)) for name, text in values.items()})


def _contradictions(sources: Sequence[_Source | EnvironmentSource]) -> Iterator[str]:
    """Yield a problem for each setting that is given beside one that excludes it."""
    given = {name: each for source in reversed(sources) for name, each in source.given.items() if each.value != ""}
    url = given.get("state_url")
    if url is None:
        return
    if path := given.get("state_path"):
        yield f"{path.name}: cannot be used with {url.name}; remove one"
    shards = given.get("shard_total")
    if shards is not None and str(shards.value) != "1":
        yield f"{shards.name}: cannot be used with {url.name}, which shares the accounts by itself; remove one"


def _spelling(name: str, sources: Sequence[_Source | EnvironmentSource]) -> str:
    return next((source.given[name].name for source in sources if name in source.given), flag_of(name))


# Flags.


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError([message])


def _add_flag(group: argparse._ArgumentGroup, name: str, default: str | None) -> None:
    description = FIELDS[name].description
    if name in _SWITCHES:
        group.add_argument(flag_of(name), action="store_true", dest=name, default=argparse.SUPPRESS, help=description)
        return
    default = default_of(name) if default is None else default
    text = f"{description} Default: {default or 'none'}. Environment: {variable_of(name)}."
    group.add_argument(
        flag_of(name),
        action="append" if name == "web_listen_address" else "store",
        dest=name,
        default=argparse.SUPPRESS,
        metavar=FIELDS[name].title,
        help=text.replace("%", "%%"),
    )


def _parse_flags(argv: Sequence[str], parser: argparse.ArgumentParser) -> dict[str, Given]:
    problem = ""
    try:
        namespace, unknown = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        what = "takes no value" if "explicit" in error.message else "needs a value"
        problem = f"{error.argument_name}: {what}; see --help"
    if problem:
        raise SettingsError([problem])
    if unknown:
        raise SettingsError(_unknown_words(unknown))
    return {name: Given(value, flag_of(name)) for name, value in vars(namespace).items() if name in FIELDS}


def _unknown_words(words: Sequence[str]) -> list[str]:
    # Only what looks like the name of a flag is repeated: the rest may be a token after `--twilio.auth-token`.
    flags = [word.partition("=")[0] for word in words]
    flags = [flag for flag in flags if re.fullmatch(r"--[a-z][a-z._-]{1,60}", flag)]
    if not flags:
        return ["unexpected argument on the command line; see --help"]
    return [f"{flag}: unknown flag{suggestion(flag, _FIELD_OF_FLAG, '--')}" for flag in flags]


# Variables.

# What Kubernetes puts into every container for a Service called comms-exporter, or comms-exporter-anything.
_INJECTED = re.compile(
    ENV_PREFIX
    + r"(?:[A-Z0-9_]+_)??(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)"
)


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    for variable, raw in environ.items():
        text = raw.strip()
        if text and variable == variable_of("config_check"):
            yield f"{variable}: is not a variable; use {flag_of('config_check')}"
        elif (
            text
            and variable.startswith(ENV_PREFIX)
            and variable not in {*_FIELD_OF_VARIABLE, _STATE_URL_FILE}
            and not _is_injected(variable, text)
        ):
            yield f"{variable}: unknown variable{suggestion(variable, _FIELD_OF_VARIABLE, ENV_PREFIX)}"


def _is_injected(variable: str, text: str) -> bool:
    if variable.endswith("_PORT") and re.match("(tcp|udp|sctp)://", text):
        return True
    return _INJECTED.fullmatch(variable) is not None


# The file.


def _read_config(given: Given) -> dict[Any, Any]:
    path = Path(given.value)
    try:
        content = yaml_file.load(read_text(path))
    except UnreadableError as error:
        problem = f"{given.name}: {error}"
    except YamlError as error:
        line = "" if error.line is None else f", line {error.line}"
        problem = f"{path}{line}: {error.message}"
    else:
        if isinstance(content, dict) or content is None:
            return content or {}
        problem = f"{path}: is not a mapping; write settings as in `collect.interval: 30s`"
    raise SettingsError([problem])


def _flattened(content: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{above}{key}"
        is_area = any(known.startswith(name.replace("_", "-") + ".") for known in [*_FIELD_OF_KEY, "config.file"])
        if is_area and isinstance(value, dict):
            yield from _flattened(value, f"{name}.")
        else:
            yield name, value


def _relative_to(directory: Path, name: str, value: Any) -> Any:
    is_path = name in _PATHS_IN_FILE and isinstance(value, str) and value[:1] not in {"", "~"}
    return str(directory / value) if is_path else value
