"""Assembles a gzip file from pieces that were compressed separately, so that unchanged text is compressed only once.

A piece is a raw deflate stream (https://www.rfc-editor.org/rfc/rfc1951) that ends at a byte boundary and does not refer to
earlier pieces. HEADER, any number of pieces and trailer() form one member (https://www.rfc-editor.org/rfc/rfc1952).
"""

import struct
from typing import NamedTuple

from isal import isal_zlib

HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
# An empty block that is marked as the last one of its deflate stream.
_LAST_BLOCK = b"\x03\x00"
# As small as zlib's level 6, in an eighth of the time.
_LEVEL = 1


class Piece(NamedTuple):
    """Text, compressed or plain, with the checksum and the length of the plain text."""

    data: bytes | memoryview
    crc: int
    length: int


class Sum(NamedTuple):
    """Checksum and length of the plain text, for the trailer."""

    crc: int = 0
    length: int = 0

    def plus(self, following: "Piece | Sum") -> "Sum":
        """Return the sum of this text followed by *following*."""
        crc = isal_zlib.crc32_combine(self.crc, following.crc, following.length)
        return Sum(crc, self.length + following.length)


def compress(text: bytes | memoryview) -> Piece:
    """Return *text* as a compressed piece."""
    compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    data = compressor.compress(text) + compressor.flush(isal_zlib.Z_SYNC_FLUSH)
    return Piece(data, isal_zlib.crc32(text), len(text))


def trailer(total: Sum) -> bytes:
    """Return the end of a gzip file whose pieces add up to *total*."""
    return _LAST_BLOCK + struct.pack("<LL", total.crc, total.length & 0xFFFFFFFF)
