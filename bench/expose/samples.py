"""Compares pages as sets of samples, to make sure that the compared servers return the same."""

import gzip
import re
from urllib.request import Request, urlopen

SERIES = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
LABEL = r'(\w+)="((?:[^"\\]|\\.)*)"'


def fetch(url, **headers):
    """Return the body at *url* without decoding it."""
    request = Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    with urlopen(request, timeout=240) as response:
        return response.read()


def page_of(body):
    """Return the text in *body*, compressed or not."""
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body


def same(one, other, prefix=b""):
    """Whether two bodies have the same samples, among those whose names begin with *prefix*."""
    lines, others = _lines(one, prefix), _lines(other, prefix)
    # Equal lines need no parsing. The order of lines and labels and the format of numbers may differ.
    return bool(lines) and (lines == others or set(map(_sample, lines)) == set(map(_sample, others)))


def _lines(body, prefix):
    return {line for line in page_of(body).splitlines() if line.startswith(prefix) and not line.startswith(b"#")}


def _sample(line):
    name, labels, value = SERIES.fullmatch(line.decode()).groups()
    return name, frozenset(re.findall(LABEL, labels or "")), float(value)
