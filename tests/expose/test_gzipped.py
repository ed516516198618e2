"""Pieces that were compressed apart are one gzip file together, which every reader takes."""

import gzip
import subprocess
import zlib

from hypothesis import given
from hypothesis import strategies as st

from comms_exporter.expose.gzipped import HEADER, Sum, compress, trailer

texts = st.binary(max_size=200) | st.integers(1, 70_000).map(lambda n: b"comms_up 1\n" * n)


def join(texts):
    pieces = list(map(compress, texts))
    total = Sum()
    for piece in pieces:
        total = total.plus(piece)
    return b"".join([HEADER, *(piece.data for piece in pieces), trailer(total)])


@given(st.lists(texts, max_size=6))
def test_pieces_are_what_they_were(pieces):
    joined = join(pieces)

    assert b"".join(pieces) == gzip.decompress(joined)
    # One member, which readers that stop after the first need.
    reader = zlib.decompressobj(zlib.MAX_WBITS | 16)
    assert b"".join(pieces) == reader.decompress(joined)
    assert reader.eof
    assert b"" == reader.unused_data


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_sums_add_up(pieces):
    half = len(pieces) // 2
    first, second = Sum(), Sum()
    for piece in map(compress, pieces[:half]):
        first = first.plus(piece)
    for piece in map(compress, pieces[half:]):
        second = second.plus(piece)

    assert Sum(zlib.crc32(b"".join(pieces)), len(b"".join(pieces))) == first.plus(second)


def test_gzip_itself_finds_nothing_wrong():
    joined = join([b"a" * 100_000, b"", b"b"])

    assert (
        b"a" * 100_000 + b"b" == subprocess.run(["gzip", "-dc"], input=joined, capture_output=True, check=True).stdout
    )
