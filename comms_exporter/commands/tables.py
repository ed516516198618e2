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
    right = [all(map(_NUMBER.fullmatch, column)) for column in zip(*rows, strict=True)] if rows else []
    return _lines((header, *rows), _widths((header, *rows)), right or [False] * len(header), width)


class GrowingTable:
    """A table like that of table() whose rows come little by little; the columns have at least the widths in *least*."""

    def __init__(self, header: Sequence[str], *, least: Sequence[int], width: int) -> None:
        self._header = header
        self._widths = list(least)
        self._width = width
        self._begun = False

    def lines(self, rows: Sequence[Sequence[str]]) -> list[str]:
        """Return the lines of more *rows*, below the header if they are the first."""
        if not rows:
            return []
        shown = rows if self._begun else (self._header, *rows)
        self._begun = True
        # Only for the last column can the width differ from row to row.
        self._widths = [*map(max, self._widths[:-1], _widths(shown)), _widths(shown)[-1]]
        return _lines(shown, self._widths, [False] * len(self._header), self._width)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _lines(rows: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[bool], width: int) -> list[str]:
    *front, last = widths
    offset = sum(front) + len(_GAP) * len(front)
    longest_word = max(len(word) for row in rows for word in (*row[-1].split(), ""))
    is_beside = offset + min(last, max(longest_word, _MIN_WIDTH)) <= width
    lines = []
    for row in rows:
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
