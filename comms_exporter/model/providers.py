"""Mailbox providers: whose servers receive the mail for a domain.

Large providers have many domains and decide about a sender's mail as one, so a fixed list of them is a label with few values
that answers which of them refuses mail.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

OTHER = "other"

# By provider, the domains of its own mailboxes. Companies that it hosts keep their domains, and so belong to OTHER.
PROVIDERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "gmail": ("gmail.com", "googlemail.com"),
        "microsoft": (
            "outlook.com", "outlook.at", "outlook.be", "outlook.com.ar", "outlook.com.au", "outlook.com.br", "outlook.de",
            "outlook.dk", "outlook.es", "outlook.fr", "outlook.ie", "outlook.in", "outlook.it", "outlook.jp", "outlook.pt",
            "hotmail.com", "hotmail.be", "hotmail.ca", "hotmail.ch", "hotmail.co.jp", "hotmail.co.uk", "hotmail.com.ar",
            "hotmail.com.au", "hotmail.com.br", "hotmail.com.mx", "hotmail.de", "hotmail.dk", "hotmail.es", "hotmail.fr",
            "hotmail.gr", "hotmail.it", "hotmail.nl", "hotmail.no", "hotmail.se", "live.com", "live.at", "live.be", "live.ca",
            "live.cl", "live.cn", "live.co.uk", "live.co.za", "live.com.ar", "live.com.au", "live.com.mx", "live.com.pt",
            "live.de", "live.dk", "live.fi", "live.fr", "live.ie", "live.in", "live.it", "live.jp", "live.nl", "live.no",
            "live.se", "msn.com", "passport.com", "windowslive.com", "onmicrosoft.com",
        ),
        "yahoo": (
            "yahoo.com", "yahoo.ca", "yahoo.co.id", "yahoo.co.in", "yahoo.co.nz", "yahoo.co.th", "yahoo.co.uk", "yahoo.co.za",
            "yahoo.com.ar", "yahoo.com.au", "yahoo.com.br", "yahoo.com.co", "yahoo.com.hk", "yahoo.com.mx", "yahoo.com.my",
            "yahoo.com.pe", "yahoo.com.ph", "yahoo.com.sg", "yahoo.com.tr", "yahoo.com.tw", "yahoo.com.ve", "yahoo.com.vn",
            "yahoo.de", "yahoo.dk", "yahoo.es", "yahoo.fr", "yahoo.gr", "yahoo.ie", "yahoo.in", "yahoo.it", "yahoo.no",
            "yahoo.pl", "yahoo.ro", "yahoo.se", "ymail.com", "rocketmail.com", "myyahoo.com", "aol.com", "aol.co.uk", "aol.de",
            "aol.fr", "aol.it", "aim.com", "netscape.net", "verizon.net",
        ),
        "apple": ("icloud.com", "me.com", "mac.com", "privaterelay.appleid.com"),
        "comcast": ("comcast.net",),
        "att": (
            "att.net", "sbcglobal.net", "bellsouth.net", "ameritech.net", "pacbell.net", "swbell.net", "nvbell.net", "snet.net",
            "flash.net", "prodigy.net", "wans.net",
        ),
        "orange": ("orange.fr", "wanadoo.fr", "voila.fr"),
        "gmx": (
            "gmx.com", "gmx.de", "gmx.net", "gmx.at", "gmx.ch", "gmx.co.uk", "gmx.es", "gmx.eu", "gmx.fr", "gmx.org", "gmx.us",
            "web.de", "mail.com", "email.de",
        ),
        "t-online": ("t-online.de", "magenta.de"),
        "mailru": ("mail.ru", "bk.ru", "inbox.ru", "internet.ru", "list.ru", "xmail.ru"),
        "yandex": (
            "yandex.ru", "yandex.com", "yandex.by", "yandex.com.tr", "yandex.kz", "yandex.ua", "ya.ru", "narod.ru",
        ),
        "tencent": ("qq.com", "foxmail.com"),
        "netease": ("163.com", "126.com", "yeah.net", "188.com"),
        "zoho": ("zoho.com", "zoho.eu", "zoho.in", "zohomail.com", "zohomail.eu", "zohomail.in"),
        "proton": ("proton.me", "protonmail.com", "protonmail.ch", "pm.me"),
        "fastmail": ("fastmail.com", "fastmail.fm", "fastmail.net", "fastmail.org", "fastmail.co.uk", "messagingengine.com"),
    }
)  # fmt: skip

# A domain name has up to 127 labels, and no provider's more than this.
_MAX_LABELS = 8


class Providers:
    """The providers above and *more* of them, by name; a domain in *more* belongs to that provider alone."""

    def __init__(self, more: Mapping[str, Iterable[str]] = MappingProxyType({})) -> None:
        self.names = tuple(dict.fromkeys((*PROVIDERS, *more, OTHER)))
        self._by_domain = {
            domain: name for providers in (PROVIDERS, more) for name, domains in providers.items() for domain in domains
        }

    def provider_of(self, domain: str) -> str:
        """Return the provider of *domain*, which is in lower case, or of the domain that it is below."""
        # Most mail goes to the domains themselves.
        found = self._by_domain.get(domain)
        if found is not None:
            return found
        labels = domain.split(".")[-_MAX_LABELS:]
        above = (".".join(labels[start:]) for start in range(len(labels)))
        return next((self._by_domain[each] for each in above if each in self._by_domain), OTHER)


_BUILT_IN = Providers()


def provider_of(domain: str) -> str:
    """Return the built-in provider of *domain*, OTHER if there is none."""
    return _BUILT_IN.provider_of(domain)
