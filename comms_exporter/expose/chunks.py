"""Joins pieces of the page to chunks that can be sent at once.

This is done before a scrape, because joining takes longer than sending.
"""

from comms_exporter.expose.gzipped import Piece, Sum

# Bytes in a chunk: the kernel takes them in less than a millisecond.
CHUNK = 2**19


class Chunks:
    """Collects pieces in *done*, the complete chunks.

    Each piece is replaced by a view of its chunk, so that no text is in memory twice.
    """

    def __init__(self) -> None:
        self.done: list[bytes] = []
        self.total = Sum()
        self._open: list[tuple[list[Piece], int]] = []
        self._size = 0

    def add(self, pieces: list[Piece], index: int) -> bool:
        """Add the piece at *index* of *pieces*; return whether that completes a chunk."""
        piece = pieces[index]
        self.total = self.total.plus(piece)
        self._open.append((pieces, index))
        self._size += len(piece.data)
        if self._size < CHUNK:
            return False
        self.close()
        return True

    def close(self) -> None:
        """Join the pieces added since the last complete chunk."""
        chunk = b"".join([pieces[index].data for pieces, index in self._open])
        view, start = memoryview(chunk), 0
        for pieces, index in self._open:
            data, crc, length = pieces[index]
            pieces[index] = Piece(view[start : start + len(data)], crc, length)
            start += len(data)
        if chunk:
            self.done.append(chunk)
        self._open, self._size = [], 0
