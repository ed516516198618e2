"""Tables in Markdown."""

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class Table:
    """A table with a title, a note that explains it, and remarks below it."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, *cells):
        """Add a row; numbers get three significant digits."""
        self.rows.append([cell if isinstance(cell, str) else figure(cell) for cell in cells])

    def markdown(self):
        """Return the table in Markdown."""
        # Text is aligned left, numbers right.
        text = [not any(row[index][:1].isdigit() for row in self.rows) for index in range(len(self.columns))]
        lines = [
            f"### {self.title}",
            "",
            self.note,
            "",
            _row(self.columns),
            _row(["---" if each else "--:" for each in text]),
            *map(_row, self.rows),
        ]
        for remark in self.remarks:
            lines += ["", remark]
        return "\n".join(lines) + "\n"


def figure(value):
    """Return *value* with three significant digits, NaN as a dash."""
    if value is None or math.isnan(value):
        return "-"
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def quantile(values, share):
    """Return the quantile *share* of *values*: the smallest that this share does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _row(cells):
    return f"| {' | '.join(cells)} |"
