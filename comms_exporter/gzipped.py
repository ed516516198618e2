"""Puts a gzip file together from pieces that were compressed before, so that what stays the same is compressed once.

A piece is raw deflate that ends at a byte (https://www.rfc-editor.org/rfc/rfc1951) and refers to nothing before it;
pieces in a row, with one header and one trailer, are a single member (https://www.rfc-editor.org/rfc/rfc1952).
"""

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
# The last block of a deflate stream: with nothing in it.
_LAST_BLOCK = b"\x03\x00"
_POLYNOMIAL = 0xEDB88320
# The fastest: a page is compressed to be sent once or twice.
_LEVEL = 1


class Piece(NamedTuple):
    """Compressed text, with what the whole has to know of it."""

    deflated: bytes
    crc: int
    length: int


def compress(text: bytes) -> Piece:
    """Return *text* as a piece."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return Piece(deflated, zlib.crc32(text), len(text))


def join(pieces: Iterable[Piece]) -> bytes:
    """Return the gzip file of all *pieces*, one after the other."""
    parts = [_HEADER]
    crc = length = 0
    for piece in pieces:
        parts.append(piece.deflated)
        crc = combine(crc, piece.crc, piece.length)
        length += piece.length
    return b"".join([*parts, _LAST_BLOCK, struct.pack("<LL", crc, length & 0xFFFFFFFF)])


def combine(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of two texts in a row from those of each, the second of *length* bytes.

    A CRC is linear over GF(2), so appending zeros is a matrix, and appending many a power of it.
    """
    if length == 0:
        return first
    # The operator for one zero bit, then squared to two, four and eight: one zero byte.
    matrix = [_POLYNOMIAL, *(1 << bit for bit in range(31))]
    for _ in range(3):
        matrix = _squared(matrix)
    while length:
        if length & 1:
            first = _times(matrix, first)
        matrix = _squared(matrix)
        length >>= 1
    return first ^ second


def _times(matrix: list[int], vector: int) -> int:
    result = 0
    for row in matrix:
        if vector & 1:
            result ^= row
        vector >>= 1
        if not vector:
            break
    return result


def _squared(matrix: list[int]) -> list[int]:
    return [_times(matrix, row) for row in matrix]
