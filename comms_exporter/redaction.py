"""What we know of our secrets' many forms, so that none of them is shown, counted or kept."""

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
# A shorter one is found by chance in names that have nothing to do with it.
SHORTEST_DISTINCT = 8
# An escaped text that is escaped again, and once more, is still read.
_DEEPEST = 3
_BACKSLASHED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|([\\/\"'ntr]))")
_CONTROL = {"n": "\n", "t": "\t", "r": "\r"}


class Secrets:
    """Finds secrets in text: as they are, in Base64, and behind any mixture of percent, JSON and HTML escapes."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._forms: list[str] = []
        self._distinct: list[str] = []
        self._pattern = re.compile("(?!)")
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Know these too from now on; those known already stay, since old ones still open doors for a while."""
        self._secrets.update(secret for secret in secrets if secret)
        # The longest first, lest a secret that starts with another be masked by half. In one case, since there are
        # answers that repeat what they were asked in capitals.
        forms = {form.lower() for secret in self._secrets for form in _forms(secret)}
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        self._distinct = [form for form in self._forms if len(form) >= SHORTEST_DISTINCT]
        self._pattern = re.compile("|".join(map(re.escape, self._forms)) or "(?!)", re.IGNORECASE)

    def mask(self, text: str) -> str:
        """Return *text* with every secret in it masked; where one is escaped, the whole text without its escapes."""
        text = self._masked(text)
        plain = _unescaped(text)
        masked = self._masked(plain)
        return text if masked == plain else masked

    def _masked(self, text: str) -> str:
        # The pattern takes twenty times as long to find nothing.
        return self._pattern.sub(MASK, text) if self._has(text, self._forms) else text

    def are_in(self, text: str) -> bool:
        """Return whether a secret is in *text*, in any form but those of a few characters."""
        plain = _unescaped(text)
        return self._has(text, self._distinct) or (plain != text and self._has(plain, self._distinct))

    @staticmethod
    def _has(text: str, forms: Iterable[str]) -> bool:
        lowered = text.lower()
        return any(form in lowered for form in forms)


def _forms(secret: str) -> Iterator[str]:
    """Yield what a secret looks like in the places where secrets turn up."""
    # One that looks escaped, such as a password in the URL of a proxy, is sent and compared without the escapes.
    for spelled in {secret, _unescaped(secret)}:
        yield spelled
        yield spelled.encode("utf-8", "backslashreplace").decode("latin-1")  # misread, or the repr of bytes
        yield repr(spelled)[1:-1]
        yield json.dumps(spelled)[1:-1]
        yield quote(spelled, safe="")
        yield quote_plus(spelled)
        if collapsed := " ".join(spelled.split()):
            yield collapsed
        for encoding in ("utf-8", "latin-1"):  # what a proxy is sent is Latin-1
            yield from _base64(spelled.encode(encoding, "backslashreplace"))


def _base64(secret: bytes) -> Iterator[str]:
    # Behind `user:` in a Basic header, the secret's Base64 depends on the length of the user by modulo 3 only.
    for offset, spoiled in ((0, 0), (1, 2), (2, 3)):
        core = base64.b64encode(b"." * offset + secret).decode().rstrip("=")[spoiled:]
        if len(core) >= SHORTEST_DISTINCT:  # shorter ones are parts of words
            yield core
            yield core.replace("+", "-").replace("/", "_")


def _unescaped(text: str) -> str:
    """Return *text* without percent, backslash and HTML escapes, however they were mixed."""
    for _ in range(_DEEPEST):
        plain = text
        if "\\" in plain:
            plain = _BACKSLASHED.sub(_character, plain).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
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
