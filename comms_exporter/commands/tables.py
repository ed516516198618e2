"""Tables of text that fit the terminal."""

import re
import textwrap
from collections.abc import Sequence

_GAP = "  "
_INDENT = "    "
_NUMBER = re.compile(r"[\d,.]*( ?%)?")
# A wrapped column is at least this wide, whatever the terminal.
_MIN_WIDTH = 20


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> list[str]:
    """Return a line for each row, or more if it is wider than *width*: then the last cell follows below the others.

    No cell is cut, so that ids can be copied. Columns of numbers are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    right = [all(map(_NUMBER.fullmatch, column)) for column in zip(*rows, strict=True)] if rows else []
    right = right or [False] * len(header)
    *front, last = widths
    offset = sum(front) + len(_GAP) * len(front)
    longest_word = max(len(word) for row in (header, *rows) for word in (*row[-1].split(), ""))
    is_beside = offset + min(last, max(longest_word, _MIN_WIDTH)) <= width
    lines = []
    for row in (header, *rows):
        cells = [
            cell.rjust(size) if to_right else cell.ljust(size)
            for cell, size, to_right in zip(row, widths, right, strict=True)
        ]
        start = "".join(cell + _GAP for cell in cells[:-1])
        if offset + last <= width:
            lines.append((start + cells[-1]).rstrip())
        elif is_beside:
            first, *others = _wrapped(row[-1], width - offset)
            lines += [(start + first).rstrip(), *(" " * offset + each for each in others)]
        else:
            lines += [start.rstrip(), *(_INDENT + each for each in _wrapped(row[-1], width - len(_INDENT)))]
    return lines


def age(seconds: float) -> str:
    """Return *seconds* in its largest unit, such as 5m or 3d."""
    seconds = max(0.0, seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s"


def share(part: int, whole: int) -> str:
    """Return *part* of *whole* in percent, empty if there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(_MIN_WIDTH, width), break_long_words=False, break_on_hyphens=False) or [""]
