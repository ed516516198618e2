"""Mask secrets in text, in every form in which a server, a proxy or a library may repeat them."""

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
# A shorter secret occurs by chance in names that have nothing to do with it.
MIN_DISTINCT_LENGTH = 8
# Text may be escaped more than once.
_MAX_ESCAPE_LEVELS = 3
_BACKSLASH_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|([\\/\"'ntr]))")
# What may contain an address: the local part may have nearly any character, as in "bounce+jane=example.com@list.example".
_WORD = re.compile(r"""[^\s<>()\[\],;"]+""")
_QUOTED_LOCAL_PART = re.compile(r'"[^"]{1,64}"(?=@|%40)')
_AT_SIGN = re.compile("@|%40")
_CONTROL = {"n": "\n", "t": "\t", "r": "\r"}


class Redactor:
    """Find secrets in text: plain, in Base64, and behind any mixture of percent, JSON and HTML escapes."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._forms: list[str] = []
        self._distinct_forms: list[str] = []
        self._pattern = re.compile("(?!)")
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Mask these too from now on; earlier ones stay masked, because old secrets stay valid for a while."""
        self._secrets.update(secret for secret in secrets if secret)
        # The longest first, so that a secret that starts with another one is masked as a whole. In lower case, because
        # some servers repeat a request in capitals.
        forms = {form.lower() for secret in self._secrets for form in _forms(secret)}
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        self._distinct_forms = [form for form in self._forms if len(form) >= MIN_DISTINCT_LENGTH]
        self._pattern = re.compile("|".join(map(re.escape, self._forms)) or "(?!)", re.IGNORECASE)

    def mask(self, text: str) -> str:
        """Return *text* with its secrets masked; if one is escaped, the whole text is unescaped first."""
        text = self._mask_plain(text)
        unescaped = _unescape(text)
        masked = self._mask_plain(unescaped)
        return text if masked == unescaped else masked

    def finds_secret_in(self, text: str) -> bool:
        """Return whether *text* contains a secret, in any form that is long enough to be distinct."""
        unescaped = _unescape(text)
        return _contains(text, self._distinct_forms) or (
            unescaped != text and _contains(unescaped, self._distinct_forms)
        )

    def _mask_plain(self, text: str) -> str:
        # The pattern takes twenty times as long to find nothing.
        return self._pattern.sub(MASK, text) if _contains(text, self._forms) else text


def mask_addresses(text: str) -> str:
    """Return *text* with everything but the domains of its email addresses masked."""
    if _AT_SIGN.search(text) is None:
        return text
    return _WORD.sub(lambda word: _without_local_part(word[0]), _QUOTED_LOCAL_PART.sub("", text))


def _without_local_part(word: str) -> str:
    parts = _AT_SIGN.split(word)
    return word if len(parts) == 1 else f"{MASK}@{parts[-1]}"


def _contains(text: str, forms: Iterable[str]) -> bool:
    lowered = text.lower()
    return any(form in lowered for form in forms)


def _forms(secret: str) -> Iterator[str]:
    """Yield *secret* as it may appear in text."""
    # A secret that looks escaped, such as a password in the URL of a proxy, is sent and compared without the escapes.
    for spelling in {secret, _unescape(secret)}:
        yield spelling
        yield spelling.encode("utf-8", "backslashreplace").decode("latin-1")  # decoded wrongly, or the repr of bytes
        yield repr(spelling)[1:-1]
        yield json.dumps(spelling)[1:-1]
        yield quote(spelling, safe="")
        yield quote_plus(spelling)
        if collapsed := " ".join(spelling.split()):
            yield collapsed
        for encoding in ("utf-8", "latin-1"):  # credentials for a proxy are sent in Latin-1
            yield from _base64_forms(spelling.encode(encoding, "backslashreplace"))


def _base64_forms(secret: bytes) -> Iterator[str]:
    # In a Basic header, the Base64 of the secret depends only on the length of `user:` modulo 3.
    for offset, shared in ((0, 0), (1, 2), (2, 3)):
        core = base64.b64encode(b"." * offset + secret).decode().rstrip("=")[shared:]
        if len(core) >= MIN_DISTINCT_LENGTH:  # shorter ones are parts of words
            yield core
            yield core.replace("+", "-").replace("/", "_")


def _unescape(text: str) -> str:
    """Return *text* without percent, backslash and HTML escapes, in any mixture."""
    for _ in range(_MAX_ESCAPE_LEVELS):
        plain = text
        if "\\" in plain:
            plain = _BACKSLASH_ESCAPE.sub(_character, plain)
            plain = plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if "%" in plain:
            plain = unquote(plain)
        if "&" in plain:
            plain = html.unescape(plain)
        if plain == text:
            break
        text = plain
    return text


def _character(match: re.Match[str]) -> str:
    short, long, byte, itself = match.groups()
    if itself:
        return _CONTROL.get(itself, itself)
    code = int(short or long or byte, 16)
    return chr(code) if code < 0x110000 else "\ufffd"
