"""Whom simulated emails are from and to, and their tags.

All of it follows from a number per operation and the email's index, so nothing is stored for a single email.
"""

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeVar

Drawn = TypeVar("Drawn")

# Shares of the mail of an ordinary sender to consumers. The rest goes to companies with their own domains.
PROVIDERS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "gmail": {"gmail.com": 0.39, "googlemail.com": 0.01},
        "microsoft": {"hotmail.com": 0.08, "outlook.com": 0.07, "live.com": 0.02, "msn.com": 0.01},
        "yahoo": {"yahoo.com": 0.11, "ymail.com": 0.01},
        "apple": {"icloud.com": 0.06, "me.com": 0.02},
        "aol": {"aol.com": 0.03},
        "gmx": {"gmx.de": 0.02, "gmx.net": 0.01},
        "comcast": {"comcast.net": 0.02},
        "orange": {"orange.fr": 0.01},
    }
)
OTHER_PROVIDER = "other"
SENDER_DOMAINS = MappingProxyType({"notify.example.com": 0.55, "news.example.com": 0.25, "shop.example.com": 0.2})
TAGS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "campaign": {"receipt": 0.35, "welcome": 0.25, "newsletter": 0.2, "spring-sale": 0.2},
        "language": {"en": 0.6, "de": 0.25, "fr": 0.15},
    }
)
# Nobody outside Twilio knows the codes that /Errors lists. These are invented.
ERRORS = MappingProxyType(
    {"61001": "The template cannot be rendered", "61002": "The recipient is suppressed", "61003": "Internal error"}
)
REFUSED_RECEIPT = ("550", "The mailbox is unavailable")

_ERROR_SHARES = MappingProxyType({"61001": 0.5, "61002": 0.3, "61003": 0.2})
_COMPANIES = 400
_MASK = 2**64 - 1
# What a drawn number decides. Emails are numbered from 0.
_REPLY = -1
_COMPANY, _ERROR = 1 << 32, 2 << 32


class Address(NamedTuple):
    """A sender or recipient of an email."""

    address: str
    name: str | None = None

    @property
    def domain(self) -> str:
        """The domain in lower case."""
        return self.address.rpartition("@")[2].lower()


_DEFAULT_SENDER = Address("sender@example.com", "Sender")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """The content of a send request; with an empty *to*, *seed* decides who the recipients are."""

    sender: Address = _DEFAULT_SENDER
    to: tuple[Address, ...] = ()
    subject: str = "Simulated email"
    tags: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def recipient(self, email: int) -> Address:
        """Return the recipient of the email at index *email*."""
        return self.to[email] if self.to else Address(f"recipient{email + 1}@{self._generated_domain(email)}")

    def recipient_domain(self, email: int) -> str:
        """Return the domain of the recipient of the email at index *email*."""
        return self.to[email].domain if self.to else self._generated_domain(email)

    def error(self, email: int) -> str:
        """Return the code that /Errors lists if the email at index *email* fails."""
        return _ERROR_CODES.draw(uniform(self.seed, _ERROR + email))

    def _generated_domain(self, email: int) -> str:
        domain = _DOMAINS.draw(uniform(self.seed, email))
        # Few companies get much of the mail, and many get some.
        return domain or f"company{int(_COMPANIES * uniform(self.seed, _COMPANY + email) ** 3) + 1}.example"


def draw_message(seed: int) -> Message:
    """Return the message that *seed* decides on."""
    sender, tags = _HEADERS.draw((seed >> 11) / 2**53)
    return Message(sender=sender, tags=tags, seed=seed)


def message_seed(base: int, number: int) -> int:
    """Return the seed of the message with this *number*; *base* is that of the whole series."""
    return _mix(base, number)


def reply_after(message: Message) -> float:
    """Return after how many seconds somebody replies to *message*."""
    return 7200.0 * uniform(message.seed, _REPLY)


def provider_of(domain: str) -> str:
    """Return the mailbox provider of *domain*."""
    return _PROVIDERS.get(domain, OTHER_PROVIDER)


def uniform(seed: int, number: int) -> float:
    """Return a number from 0 to 1 (exclusive), the same for the same arguments."""
    return (_mix(seed, number) >> 11) / 2**53


def _mix(seed: int, number: int) -> int:
    """Return 64 bits that look random: SplitMix64."""
    mixed = (seed + number * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _MASK
    return mixed ^ mixed >> 31


class _Shares(Generic[Drawn]):
    """Values by their shares; the last one has what is left of 1."""

    def __init__(self, shares: Iterable[tuple[Drawn, float]]) -> None:
        listed = list(shares)
        self._values = [value for value, _ in listed]
        self._ends = list(itertools.accumulate(share for _, share in listed))[:-1]

    def draw(self, number: float) -> Drawn:
        return self._values[bisect_right(self._ends, number)]


def _headers() -> Iterator[tuple[tuple[Address, Mapping[str, str]], float]]:
    """Yield every sender with every combination of tags, which are independent of each other."""
    for (domain, share), *values in itertools.product(
        SENDER_DOMAINS.items(), *(each.items() for each in TAGS.values())
    ):
        tags = {key: value for key, (value, _) in zip(TAGS, values, strict=True)}
        yield (Address(f"hello@{domain}", "Sender"), tags), share * math.prod(each for _, each in values)


_PROVIDERS = {domain: provider for provider, domains in PROVIDERS.items() for domain in domains}
_DOMAINS = _Shares([*(share for domains in PROVIDERS.values() for share in domains.items()), ("", 0.0)])
_HEADERS = _Shares(_headers())
_ERROR_CODES = _Shares(_ERROR_SHARES.items())
