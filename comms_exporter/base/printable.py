"""Escape untrusted text for terminals: control, bidirectional and invisible characters."""

import re

# Letters and marks according to Unicode, but no terminal shows them.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_SHORT_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def is_printable(text: str) -> bool:
    """Return whether a terminal shows every character of *text* and acts on none."""
    # isprintable() is False for control characters, bidirectional and zero-width ones, surrogates, and line ends.
    return text.isprintable() and (text.isascii() or _INVISIBLE.search(text) is None)


def printable(text: str) -> str:
    r"""Return *text* in one line with its unprintable characters escaped as in JSON: \x1b becomes \u001b."""
    return text if is_printable(text) else "".join(c if is_printable(c) else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = character.encode("utf-16-be", "surrogatepass").hex()
    return _SHORT_ESCAPES.get(character) or "".join(rf"\u{code[i : i + 4]}" for i in range(0, len(code), 4))
