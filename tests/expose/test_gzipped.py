"""Pieces that were compressed separately make one gzip file that every reader accepts."""

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
def test_the_file_contains_all_texts_in_one_member(texts):
    joined = join(texts)

    assert b"".join(texts) == gzip.decompress(joined)
    # Some readers stop after the first member.
    reader = zlib.decompressobj(zlib.MAX_WBITS | 16)
    assert b"".join(texts) == reader.decompress(joined)
    assert reader.eof
    assert b"" == reader.unused_data


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_checksums_can_be_combined(texts):
    half = len(texts) // 2
    first, second = Sum(), Sum()
    for piece in map(compress, texts[:half]):
        first = first.plus(piece)
    for piece in map(compress, texts[half:]):
        second = second.plus(piece)

    assert Sum(zlib.crc32(b"".join(texts)), len(b"".join(texts))) == first.plus(second)


def test_the_gzip_program_accepts_the_file():
    joined = join([b"a" * 100_000, b"", b"b"])
    done = subprocess.run(["gzip", "-dc"], input=joined, capture_output=True, check=True)

    assert b"a" * 100_000 + b"b" == done.stdout
