"""The page that the figures are written to: docs/performance.md, between two marks."""

from bench.processes import ROOT

PAGE = ROOT / "docs/performance.md"
BEGIN = "<!-- Written by `make bench`: run it rather than edit this. -->\n"
END = "<!-- Here ends what `make bench` has written. -->\n"


class MarksError(Exception):
    """The page has no place for figures."""


def read(path):
    """Return the page at *path*; MarksError says why nothing can be written to it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise MarksError(f"{path} is no page that figures can be written to: {error}") from None
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise MarksError(f"{path} lacks its marks: {BEGIN.strip()} and {END.strip()}")
    return text


def write(path, figures):
    """Put *figures* between the marks of the page at *path*; the rest of it stays as it is."""
    before, _, rest = read(path).partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{figures}\n{END}{after}", encoding="utf-8")
