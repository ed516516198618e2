"""Pieces that were compressed apart are one gzip file together, which every reader takes."""

import gzip
import subprocess
import zlib

from hypothesis import given
from hypothesis import strategies as st

from comms_exporter.gzipped import combine, compress, join

texts = st.binary(max_size=200) | st.integers(1, 70_000).map(lambda n: b"comms_up 1\n" * n)


@given(st.lists(texts, max_size=6))
def test_pieces_are_what_they_were(pieces):
    joined = join(map(compress, pieces))

    assert b"".join(pieces) == gzip.decompress(joined)
    # One member, which readers that stop after the first need.
    reader = zlib.decompressobj(zlib.MAX_WBITS | 16)
    assert b"".join(pieces) == reader.decompress(joined)
    assert reader.eof
    assert b"" == reader.unused_data


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_checksums_add_up(first, second):
    assert zlib.crc32(first + second) == combine(zlib.crc32(first), zlib.crc32(second), len(second))


def test_gzip_itself_finds_nothing_wrong():
    joined = join([compress(b"a" * 100_000), compress(b""), compress(b"b")])

    assert (
        b"a" * 100_000 + b"b" == subprocess.run(["gzip", "-dc"], input=joined, capture_output=True, check=True).stdout
    )
