"""What a single value may look like: each parser returns it, or raises ValueError with what is wrong and what to write."""

import ipaddress
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from comms_exporter.base.urls import parse_connectable_url


class SettingsError(ValueError):
    """Invalid settings, one line each: the name, the problem, and how to fix it."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple("".join(c if c.isprintable() else "?" for c in problem) for problem in problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Given:
    """A value that nobody has checked yet, and the name it was given under: a flag, a variable, a key in a file."""

    value: Any = field(repr=False)
    name: str


@dataclass(frozen=True)
class ListenAddress:
    """Where to listen; no host means every interface."""

    host: str | None
    port: int
    text: str = field(compare=False)

    def __str__(self) -> str:
        return self.text


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
_SIZE_SHIFTS = {"B": 0, "KB": 10, "MB": 20, "GB": 30, "TB": 40}
_SIZE = re.compile(rf"([0-9]{{1,6}})({'|'.join(_SIZE_SHIFTS)})")
_LONGEST_MS = (2**63 - 1) // 1_000_000  # Prometheus counts nanoseconds in 64 bits


def parse_duration(value: object) -> float:
    """Return the seconds in a duration as Prometheus writes it: `30s`, `1h30m`, `100ms`, or a bare `0`."""
    text = str(value) if _is_number(value) else value
    if text == "0":
        return 0.0
    if isinstance(text, str) and re.fullmatch("[0-9]+", text):
        raise ValueError(f"{shown(value)} has no unit; write {_shortened(text)}s")
    match = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if match is None:
        raise ValueError(f"{shown(value)} is not a duration; write one such as 30s, 5m or 1h30m")
    # Digits are cut only where the sum is out of range anyway: int() refuses thousands of them.
    counts = (int(digits[:30]) if digits else 0 for digits in match.groups())
    milliseconds = sum(count * unit for count, unit in zip(counts, _UNITS_MS.values(), strict=True))
    if milliseconds > _LONGEST_MS:
        raise ValueError(f"{shown(value)} is too long; the longest duration is 292y")
    return milliseconds / 1000


def parse_positive_duration(value: object) -> float:
    """Return the seconds in a duration above 0."""
    seconds = parse_duration(value)
    if seconds == 0:
        raise ValueError(f"{shown(value)} is not a positive duration; write one such as 30s, 5m or 1h30m")
    return seconds


def parse_size(value: object) -> int:
    """Return the bytes in a size as Prometheus writes it: `500MB` or `10GB`, in powers of 1024."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not (size := int(match[1]) << _SIZE_SHIFTS[match[2]]):
        raise ValueError(f"{shown(value)} is not a size above 0; write one such as 500MB or 10GB")
    return size


def parse_base_url(value: object) -> str:
    """Return the URL that every request starts with, without a slash at its end."""
    # The value is never shown: whoever puts a password into it should not find it in a log.
    text = parse_text(value, "is not a URL; write one such as https://comms.twilio.com/v1")
    if re.search(r"[\s\x00-\x1f\x7f\\]", text):  # urlsplit would drop some of these without a word
        raise ValueError("contains a space, a backslash or a control character; remove it")
    if "?" in text or "#" in text:
        raise ValueError("contains a query or a fragment; remove the ? or # and what follows")
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
        parse_connectable_url(text)
    except ValueError:
        raise ValueError("is not a URL; write one such as https://comms.twilio.com/v1") from None
    if "@" in url.netloc:
        raise ValueError("contains a user or a password; set credentials separately")
    if url.scheme not in {"http", "https"} or not host:
        raise ValueError("is not an http or https URL with a host; write one such as https://comms.twilio.com/v1")
    return f"{url.scheme}://{url.netloc}{url.path}".rstrip("/")


def parse_listen_address(value: object) -> ListenAddress:
    """Take `:10067`, `host:10067` or `[::1]:10067` apart."""
    match = re.fullmatch(r"(\[[^\[\]]+\]|[A-Za-z0-9._-]*):([0-9]{1,5})", value) if isinstance(value, str) else None
    if not isinstance(value, str) or match is None:
        raise ValueError(f"{shown(value)} is not a listen address; write one such as :10067, host:10067 or [::1]:10067")
    host, port = match[1], int(match[2])
    if port > 65535:
        raise ValueError(f"{shown(value)} has no valid port; ports are 0 to 65535")
    if host.startswith("["):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"{shown(value)} has no valid IPv6 address in its brackets; write [::1]:10067") from None
    return ListenAddress(host or None, port, value)


def parse_listen_addresses(value: object) -> tuple[ListenAddress, ...]:
    """Return a list of addresses, or a text with spaces or commas between them, as addresses."""
    words = re.split(r"[\s,]+", value.strip(", \t")) if isinstance(value, str) else value
    if not isinstance(words, list) or not words:
        problem = "the list is empty" if words == [] else f"{shown(value)} is not a list of listen addresses"
        raise ValueError(f"{problem}; write addresses such as :10067, host:10067 or [::1]:10067")
    return tuple(parse_listen_address(word) for word in words)


def parse_telemetry_path(value: object) -> str:
    """Return a URL path that clients do not rewrite and that is not one of ours."""
    if not isinstance(value, str) or not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+/?", value):
        raise ValueError(f"{shown(value)} is not a path for the metrics; write one such as /metrics")
    segments = value.split("/")
    if segments[1] == "-":
        raise ValueError(f"{shown(value)} is reserved for probes and reloads; write another path, such as /metrics")
    if "." in segments or ".." in segments:
        raise ValueError(f"{shown(value)} contains . or .., which clients remove; write a path without them")
    return value


def parse_state_path(value: object) -> Path | None:
    """Return a path as parse_path() does, but refuse a `~` that only a shell expands."""
    text = parse_text(value)
    if text.startswith("~"):
        raise ValueError(f"{shown(text)} starts with ~, which only a shell expands; write the full path")
    return parse_path(text)


class DatabaseUrl:
    """The URL of a database; only *secret* has its passwords."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatabaseUrl) and self.secret == other.secret

    def __hash__(self) -> int:
        return hash(self.secret)

    def __str__(self) -> str:
        # Up to the last @: a password may contain one that should have been encoded.
        text = re.sub(r"(//[^:@/?]*):.*@", r"\1@", self.secret)
        return re.sub(r"([?&][a-z]*password=)[^&]*", r"\1***", text)

    def __repr__(self) -> str:
        return f"DatabaseUrl({self})"

    @property
    def passwords(self) -> list[str]:
        """The passwords in it, as they are sent."""
        found = re.findall(r"//[^:@/?]*:(.*)@|[?&][a-z]*password=([^&]*)", self.secret)
        return [unquote(password) for pair in found for password in pair if password]


def parse_database_url(value: object) -> DatabaseUrl | None:
    """Return the URL of a PostgreSQL database, None for an empty text."""
    problem = "is not the URL of a database; write one such as postgresql://user@host/database"
    # The value is never shown: it may contain a password.
    text = parse_text(value, problem).strip()
    if not text:
        return None
    if not re.match("postgres(ql)?://", text) or not text.isprintable() or " " in text:
        raise ValueError(problem)
    # What libpq would take for a host or a port, it would repeat in an error.
    user, _, hosts = re.split("[/?#]", text.partition("//")[2], maxsplit=1)[0].rpartition("@")
    if "@" in user or not all(re.fullmatch(r"(\[[^\[\]]*\]|[^:]*)(:[0-9]*)?", host) for host in hosts.split(",")):
        raise ValueError("is not the URL of a database; percent-encode special characters in the password")
    return DatabaseUrl(text)


def parse_schema(value: object) -> str:
    """Return the name of a schema in a database."""
    text = parse_text(value).strip()
    if not re.fullmatch("[a-z_][a-z0-9_]{0,62}", text) or text.startswith("pg_"):
        raise ValueError(
            f"{shown(value)} is not the name of a schema; write lower case letters, digits and underscores"
        )
    return text


def parse_failover_timeout(value: object) -> float:
    """Return the seconds in a duration that is long enough to be told from a slow network."""
    seconds = parse_duration(value)
    if not 5 <= seconds <= 3600:
        raise ValueError(f"{shown(value)} is not a duration from 5s to 1h")
    return seconds


def parse_path(value: object) -> Path | None:
    """Return a path, None for an empty text."""
    text = parse_text(value)
    if "\0" in text:
        raise ValueError(f"{shown(text)} is not a path; remove the NUL character")
    return Path(text) if text else None


def parse_name(value: object) -> str | None:
    """Return a printable name without space around it, None for an empty text."""
    text = parse_text(value).strip()
    if not text.isprintable():
        raise ValueError(f"{shown(text)} contains control characters; remove them")
    return text or None


def parse_text(value: object, error_message: str = "") -> str:
    """Return *value* if it is text; *error_message* says what is wrong otherwise."""
    if not isinstance(value, str):
        raise ValueError(error_message or f"{shown(value)} is not a string; put it in quotes")  # noqa: TRY004  pydantic's rule
    return value


def parse_email_collection(value: object) -> str:
    """Return which emails to collect; to YAML, `off` is a false."""
    return one_of("off", "lost", "all")("off" if value is False else value)


_MAX_TAG_KEYS = 10
_MAX_TAG_KEY_LENGTH = 128


def parse_tag_keys(value: object) -> tuple[str, ...]:
    """Return a list of tag keys, or a text with commas between them, as keys."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{shown(value)} is not a list of tag keys; write keys such as campaign,language")
    keys = tuple(dict.fromkeys(word.strip() for word in words if word.strip()))
    if len(keys) > _MAX_TAG_KEYS:
        raise ValueError(f"{len(keys)} tag keys are too many; the limit is {_MAX_TAG_KEYS}")
    for key in keys:
        if not key.isprintable() or len(key) > _MAX_TAG_KEY_LENGTH:
            raise ValueError(f"{shown(key)} is not a tag key; write up to {_MAX_TAG_KEY_LENGTH} printable characters")
    return keys


def parse_rate(value: object) -> float:
    """Return a number above 0."""
    text = str(value) if _is_number(value) else value
    try:
        rate = float(text) if isinstance(text, str) and re.fullmatch(r"[0-9.]+(e[+-]?[0-9]+)?", text) else math.nan
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"{shown(value)} is not a rate; write a number above 0, such as 5 or 0.5")
    return rate


def whole_number(low: int, high: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from *low* to *high*."""

    def parse(value: object) -> int:
        text = str(value) if _is_number(value) else value
        number = int(text) if isinstance(text, str) and re.fullmatch("[0-9]{1,12}", text) else -1
        if not low <= number <= high:
            raise ValueError(f"{shown(value)} is not a whole number from {low} to {high}")
        return number

    return parse


def one_of(*words: str, aliases: Mapping[str, str] | None = None) -> Callable[[object], str]:
    """Return a parser that accepts one of *words*, or an alias of one."""

    def parse(value: object) -> str:
        word = (aliases or {}).get(value, value) if isinstance(value, str) else None
        if word not in words:
            raise ValueError(f"{shown(value)} is unknown; write {', '.join(words[:-1])} or {words[-1]}")
        return word

    return parse


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)  # to Python, `yes` in YAML is a 1


def shown(value: object) -> str:
    """Return *value* as an error message quotes it."""
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


class UnreadableError(ValueError):
    """A file that cannot be read as text; the message names it and says why."""


def read_text(path: Path) -> str:
    """Return the text in the file at *path*, or raise an UnreadableError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
    except UnicodeDecodeError:  # which holds what it could not decode
        reason = "it is not UTF-8 text"
    except ValueError:
        reason = "the path contains a NUL character"
    raise UnreadableError(f"cannot read {path}: {reason}")
