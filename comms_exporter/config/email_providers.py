"""Mailbox providers in the config file, which add to the built-in ones."""

import re
from collections.abc import Iterator

from comms_exporter.config.values import shown

# A name is the value of a label, and every provider has series of its own.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")
_DOMAIN = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+")
_MAX_PROVIDERS = 100
_MAX_DOMAIN_LENGTH = 253

# Each provider with its domains; a tuple, because settings are compared and never change.
EmailProviders = tuple[tuple[str, tuple[str, ...]], ...]


def parse_providers(value: object) -> EmailProviders:
    """Return the providers in *value*, a mapping from names to lists of domains."""
    if value in (None, ()):
        return ()
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is not a mapping; write a name and its domains, as in `acme: [acme.example]`")  # noqa: TRY004  pydantic's rule
    if len(value) > _MAX_PROVIDERS:
        raise ValueError(f"{len(value)} providers are too many; the limit is {_MAX_PROVIDERS}")
    providers = tuple((_name(name), tuple(_domains(name, domains))) for name, domains in value.items())
    seen: dict[str, str] = {}
    for name, domains in providers:
        for domain in domains:
            if seen.setdefault(domain, name) != name:
                raise ValueError(f"{domain} belongs to both {seen[domain]} and {name}; remove it from one of them")
    return providers


def _name(name: object) -> str:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None or name == "other":
        raise ValueError(f"{shown(name)} is not a provider name; write up to 64 letters and digits, but not other")
    return name


def _domains(name: object, domains: object) -> Iterator[str]:
    if not isinstance(domains, list) or not domains:
        raise ValueError(
            f"{shown(domains)} is not a list of domains of {shown(name)}; write one such as [acme.example]"
        )
    for domain in domains:
        text = domain.lower() if isinstance(domain, str) else ""
        if _DOMAIN.fullmatch(text) is None or len(text) > _MAX_DOMAIN_LENGTH:
            raise ValueError(f"{shown(domain)} is not a domain; write one such as acme.example")
        yield text
