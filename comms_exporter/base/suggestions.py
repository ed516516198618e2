"""Suggest the known word that a user probably meant by an unknown one."""

import difflib
from collections.abc import Iterable


def suggestion(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return `; did you mean ...?` for an error message, or "" if nothing is similar; a common *prefix* is ignored."""
    names = [name.removeprefix(prefix) for name in known]
    found = difflib.get_close_matches(word.removeprefix(prefix), names, n=1)
    return f"; did you mean {prefix}{found[0]}?" if found else ""
