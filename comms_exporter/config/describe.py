"""The settings as documentation and as text: what can be set, and what is in effect."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from comms_exporter import __version__
from comms_exporter.config.accounts import Account
from comms_exporter.config.email_providers import EmailProviders
from comms_exporter.config.settings import (
    AREAS,
    FIELDS,
    IN_FILE_ONLY,
    Settings,
    default_of,
    flag_of,
    key_of,
    needs_restart,
    parse_as,
    variable_of,
)

_HIDDEN = frozenset({*IN_FILE_ONLY, "account_name", "config_check", "config_file"})


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingDescription:
    """One setting for people; *variable* and *key* are empty where it has none, *values* says what may be set, nothing for a switch."""

    name: str
    area: str
    flag: str
    variable: str
    key: str
    default: str
    values: str
    description: str
    restart: bool


def describe() -> Iterator[SettingDescription]:
    """Yield every setting, in the order of --help."""
    for name, info in FIELDS.items():
        yield SettingDescription(
            name=name,
            area=name.partition("_")[0],
            flag=flag_of(name),
            variable="" if name == "config_check" else variable_of(name),
            key="" if name.startswith("config_") else key_of(name),
            default=default_of(name),
            values=_values(name),
            description=info.description or "",
            restart=needs_restart(name),
        )


def areas() -> dict[str, str]:
    """Return the areas that settings belong to, and a sentence about each."""
    return dict(AREAS)


def effective_settings_text(started_with: Settings, now: Settings) -> str:
    """Return the settings in effect as plain text, without secrets; what needs a restart is as it was at the start."""
    lines = [
        f"# Effective settings of comms-exporter {_line(__version__)}, without secrets.",
        f"# Config file: {_line(str(now.config_file or 'none'))}. Flags and environment take precedence over it.",
        "",
        *(f"{key_of(name)}: {_line(text)}".rstrip() for name, text in _effective(started_with, now)),
        "",
        *_providers(now.emails_providers),
        "accounts:",
        *_accounts(now.accounts),
    ]
    return "\n".join(lines) + "\n"


def _values(name: str) -> str:
    """Return what may be set, in the words with which a wrong value is refused."""
    info = FIELDS[name]
    if info.annotation is bool:
        return ""
    try:
        parse_as(name)("-")
    except ValueError as error:
        kind, _, examples = re.sub(r".*?\bis not ", "", str(error)).partition("; write one such as ")
        return f"{kind}, such as {examples}" if examples else re.sub(r".*; write ", "", kind)
    return {"FILE": "a path", "NAME": "text", "KEYS": "text"}[info.title or ""]


def _effective(started_with: Settings, now: Settings) -> Iterator[tuple[str, str]]:
    for name in type(now).model_fields:
        if name not in _HIDDEN:
            yield name, _text(name, getattr(started_with if needs_restart(name) else now, name))


def _text(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.15g}{'' if name == 'api_max_requests_per_second' else 's'}"
    return "" if value is None else str(value)


def _providers(providers: EmailProviders) -> Iterator[str]:
    if providers:
        yield "emails.providers:"
        for name, domains in providers:
            yield f"  {_line(name)}: {', '.join(domains)}"
        yield ""


def _accounts(accounts: Iterable[Account]) -> Iterator[str]:
    for account in accounts:
        yield f"  - name: {_line(account.name)}"
        yield f"    base-url: {_line(account.base_url)}"
        yield f"    user: {_line(f'from {account.user_file}' if account.user_file else 'given')}"
        yield f"    secret: {_line(f'from {account.secret_file}' if account.secret_file else 'given')}"


def _line(value: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in value)
