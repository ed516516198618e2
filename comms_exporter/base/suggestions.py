"""What somebody probably meant by a word that we do not know."""

import difflib
from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the one of *known* that looks most like *word*, None where none does."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def suggestion(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return `; did you mean ...?` for an error message, or nothing; *prefix* is common to all and does not count."""
    found = closest(word.removeprefix(prefix), [name.removeprefix(prefix) for name in known])
    return f"; did you mean {prefix}{found}?" if found else ""
