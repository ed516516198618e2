"""The accounts: what they are called, and the credentials that open them, from the environment, the config file or a folder.

No message shows a credential: what is read as one is never formatted.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from comms_exporter.base import yaml_file
from comms_exporter.base.suggestions import suggestion
from comms_exporter.base.yaml_file import YamlError
from comms_exporter.config.values import (
    Given,
    SettingsError,
    UnreadableError,
    parse_base_url,
    parse_name,
    parse_path,
    parse_text,
    read_text,
    shown,
)


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


PARTS = ("account_sid", "auth_token", "api_key", "api_secret")
ACCOUNT_KEYS = ("name", *PARTS, *(f"{part}_file" for part in PARTS), "base_url")
_EITHER_PAIR = "account_sid and auth_token, or api_key and api_secret"


@dataclass(frozen=True)
class _Credential:
    name: str
    value: str = field(repr=False)
    file: Path | None = None


@dataclass(frozen=True)
class _Entry:
    """An account as it was written: *where*, and what stands in messages between that and a key."""

    value: Any = field(repr=False)
    where: str
    separator: str
    directory: Path
    default_name: str | None = None

    def key(self, key: str) -> str:
        """Return *key* as messages name it; the entry itself if it is empty."""
        return f"{self.where}{self.separator}{key}" if key else self.where


def find_accounts(
    listed: Given | None,
    *,
    folder: Given | None = None,
    named: Given | None,
    environ: Mapping[str, str],
    problems: list[str],
) -> list[Account]:
    """Return the accounts: those *listed* in the config file and those in its *folder*, or the one in *environ*.

    *named* is the account name that was set for the latter. What is wrong is added to *problems*.
    """
    given = _credentials_in(environ)
    in_file = listed or folder
    if in_file is None:
        if not given:
            problems.append(
                "no credentials: set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, or TWILIO_API_KEY and "
                "TWILIO_API_SECRET, or list accounts in --config.file"
            )
            return []
        name = _accepted(parse_name, named, [])  # Settings reports a wrong one
        account = _account(given, name, Path(), _from_environment_name, problems)
        return [account] if account else []
    if given:
        variable = next(iter(given.values())).name
        problems.append(
            f"{variable}: credentials are set both here and under {_key_of(in_file)} in {_file_of(in_file)}; remove one of them"
        )
    if named:
        problems.append(
            f"{named.name}: does not apply to the accounts in {_file_of(in_file)}; remove it, and set their names there"
        )
    entries = [*_listed(listed, problems), *_in_folder(folder, problems, may_be_empty=listed is not None)]
    return _accounts_of(entries, problems)


def _credentials_in(environ: Mapping[str, str]) -> Mapping[str, Given]:
    names = [*PARTS, *(f"{part}_file" for part in PARTS)]
    texts = {name: environ.get(_from_environment_name(name), "").strip() for name in names}
    return {name: Given(text, _from_environment_name(name)) for name, text in texts.items() if text}


def _from_environment_name(part: str) -> str:
    return f"TWILIO_{part.upper()}"


def _file_of(given: Given) -> str:
    return given.name.rpartition(": ")[0]


def _key_of(given: Given) -> str:
    return given.name.rpartition(": ")[2]


def _without_file(name: str) -> str:
    return name.rpartition(": ")[2]


def _listed(listed: Given | None, problems: list[str]) -> Iterator[_Entry]:
    if listed is None:
        return
    if not isinstance(listed.value, list) or not listed.value:
        problems.append(f"{listed.name}: is not a list of accounts; each account needs {_EITHER_PAIR}")
        return
    for index, entry in enumerate(listed.value):
        yield _Entry(entry, f"{listed.name}[{index}]", ".", Path(_file_of(listed)).parent)


def _in_folder(folder: Given | None, problems: list[str], *, may_be_empty: bool) -> Iterator[_Entry]:
    """Yield the accounts in the files of *folder*, by file name; without a name, they are called like the file."""
    if folder is None:
        return
    paths: list[Path] = []
    try:
        paths = _account_files(folder.value, Path(_file_of(folder)).parent)
        if not paths and not may_be_empty:
            problems.append(
                f"{folder.name}: there is no file in it whose name ends in .yml or .yaml; add one for each account"
            )
    except ValueError as error:
        problems.append(f"{folder.name}: {error}")
    for path in paths:
        try:
            value = yaml_file.load(read_text(path))
        except UnreadableError as error:
            problems.append(str(error))
        except YamlError as error:
            problems.append(f"{path}{'' if error.line is None else f', line {error.line}'}: {error.message}")
        else:
            yield _Entry(value, str(path), ": ", path.parent, path.stem)


def _account_files(value: object, directory: Path) -> list[Path]:
    folder = parse_path(value)
    if folder is None:
        raise ValueError("is empty; write the path of a folder")
    folder = directory / folder
    try:
        # Hidden files are those of editors, and of Kubernetes, which mounts a volume through them.
        return sorted(
            each for each in folder.iterdir() if each.suffix in {".yml", ".yaml"} and not each.name.startswith(".")
        )
    except OSError as error:
        raise ValueError(f"cannot read {folder}: {error.strerror or error}") from None


def _accounts_of(entries: Iterable[_Entry], problems: list[str]) -> list[Account]:
    accounts: list[Account] = []
    first: dict[str, _Entry] = {}
    for entry in entries:
        account = _account_in_file(entry, problems)
        if account is None:
            continue
        accounts.append(account)
        other = first.setdefault(account.name, entry)
        if other is not entry:
            where = _without_file(other.where) if other.separator == entry.separator == "." else other.where
            problems.append(
                f"{entry.key('name')}: {shown(account.name)} is already the name of {where}; account names must be unique"
            )
    return accounts


def unknown_key(where: Path | str, key: str, known: Sequence[str]) -> str:
    """Return the error message for *key*, which is not one of *known*."""
    # `{auth_token:s3cr3t}`, without a space, is a key to YAML: what does not look like a key of ours is not repeated.
    if not re.fullmatch(r"[a-z][a-z._-]{0,40}", key):
        return f"{where}: unknown key; valid keys are {', '.join(known)}"
    separator = "." if "[" in str(where) else ": "
    return f"{where}{separator}{key}: unknown key{suggestion(key.replace('_', '-'), known)}"


def _account_in_file(entry: _Entry, problems: list[str]) -> Account | None:
    if not isinstance(entry.value, dict):
        problems.append(f"{entry.where}: is not an account; it needs {_EITHER_PAIR}")
        return None
    before = len(problems)
    given: dict[str, Given] = {}
    for key, value in entry.value.items():
        known = str(key).replace("-", "_")
        if known not in ACCOUNT_KEYS:
            problems.append(unknown_key(entry.where, str(key), ACCOUNT_KEYS))
        elif known in given:
            problems.append(f"{entry.key(key)}: duplicate setting; remove one")
        else:
            given[known] = Given(value, entry.key(key))
    name = _accepted(parse_name, given.pop("name", None), problems) or entry.default_name
    base_url = _accepted(parse_base_url, given.pop("base_url", None), problems)
    if len(problems) > before:
        return None
    account = _account(given, name, entry.directory, entry.key, problems)
    return replace(account, base_url=base_url or "") if account else None


def _accepted(parse: Callable[[object], str | None], given: Given | None, problems: list[str]) -> str | None:
    if given is None:
        return None
    try:
        return parse(given.value)
    except ValueError as error:
        problems.append(f"{given.name}: {error}")
        return None


def _account(
    given: Mapping[str, Given], name: str | None, directory: Path, name_of: Callable[[str], str], problems: list[str]
) -> Account | None:
    before = len(problems)
    parts = {part: _credential(part, given, directory, problems) for part in PARTS}
    if len(problems) > before:
        return None
    found = {part: credential for part, credential in parts.items() if credential}
    incomplete = _incomplete(found, name_of)
    if incomplete:
        problems.append(incomplete)
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
        return f"{name_of('')}: has no credentials; set {_EITHER_PAIR}"
    pair = _pair(found)
    token = found.get("auth_token")
    if token and "auth_token" not in pair:
        other = next(found[part] for part in pair if part in found)
        return f"{token.name}: {_without_file(other.name)} is set as well; set either an auth token or an API key"
    for part, partner in (pair, pair[::-1]):
        if part not in found:
            return f"{name_of(part)}: is missing; {_without_file(found[partner].name)} needs it"
    return ""


def _credential(part: str, given: Mapping[str, Given], directory: Path, problems: list[str]) -> _Credential | None:
    plain, filed = given.get(part), given.get(f"{part}_file")
    if plain and filed:
        problems.append(f"{filed.name}: {_without_file(plain.name)} is set as well; remove one of them")
        return None
    names_user = part in {"account_sid", "api_key"}
    try:
        if plain:
            return _Credential(plain.name, _parse_credential(plain.value, names_user=names_user))
        if filed:
            path = _credential_path(filed.value, directory)
            return _Credential(filed.name, _read_credential(path, names_user=names_user), path)
    except ValueError as error:
        problems.append(f"{(plain or filed or Given('', part)).name}: {error}")
    return None


def _credential_path(value: object, directory: Path) -> Path:
    text = parse_text(value, "is not a string with a path; put it in quotes").strip()
    # Somebody will set TWILIO_AUTH_TOKEN_FILE to the token itself, and "cannot read ..." would repeat it.
    is_bare_word = len(text) >= 16 and "/" not in text and "." not in text
    if is_bare_word and not os.path.exists(directory / text):  # noqa: PTH110  Path raises where a name is too long
        raise ValueError("looks like the credential itself; write the path of a file")
    return directory / text


def _read_credential(path: Path, *, names_user: bool = False) -> str:
    text = read_text(path)
    try:
        return _parse_credential(text, names_user=names_user)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def _parse_credential(value: object, *, names_user: bool = False) -> str:
    text = parse_text(value, "is not a string; put it in quotes").strip()
    if not text:
        raise ValueError("is empty; set the credential")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        raise ValueError("is wrapped in quotes; remove them")
    if not text.isprintable() or not text.isascii():
        raise ValueError("contains characters that no credential has; copy it again")
    if names_user and ":" in text:
        raise ValueError("contains a colon; write only the SID, without the secret")
    return text
