"""Packed bits of rows in two planes: the first of each row side by side, and the rest.

A scan of the first plane alone reads a quarter of 1,024 bits, and chooses the rows of which it
reads the others. Rows that are no wider than three times ``FIRST_BYTES`` gain little by it, and
stay whole; so do all where no kernel was compiled, for FAISS knows of no planes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.native import kernels

FIRST_BYTES = 32
"""Half of what a processor with AVX-512 compares at once; multiples of it take its fastest way."""
_PIECE_ROWS = 1 << 16


def first_bytes(row_bytes: int) -> int:
    """How many of the bytes of a row are in its first plane: ``row_bytes`` where it stays whole."""
    divides = row_bytes % FIRST_BYTES == 0 and row_bytes >= 3 * FIRST_BYTES
    return FIRST_BYTES if divides and kernels.is_there() else row_bytes


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """``first`` uint8 (n, w), ``rest`` uint8 (n, row_bytes - w), both contiguous; of rows that are
    whole all is in ``first``.
    """

    first: NDArray[np.uint8]
    rest: NDArray[np.uint8]

    @classmethod
    def whole(cls, bits: NDArray[np.uint8]) -> Planes:
        """``bits`` (n, row_bytes) as they are."""
        return cls(bits, np.empty((len(bits), 0), dtype=np.uint8))

    @classmethod
    def empty(cls, rows: int, row_bytes: int) -> Planes:
        """Room for so many ``rows``, whose pages take RAM when they are written."""
        width = first_bytes(row_bytes)
        first = np.empty((rows, width), dtype=np.uint8)
        return cls(first, np.empty((rows, row_bytes - width), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows: slice) -> Planes:
        return Planes(self.first[rows], self.rest[rows])

    @property
    def row_bytes(self) -> int:
        return int(self.first.shape[1] + self.rest.shape[1])

    @property
    def is_split(self) -> bool:
        return bool(self.rest.shape[1])

    @property
    def nbytes(self) -> int:
        return self.first.nbytes + self.rest.nbytes

    def put(self, row: int, bits: NDArray[np.uint8]) -> None:
        """Write ``bits`` (n, row_bytes) to the rows from ``row`` on."""
        width = self.first.shape[1]
        self.first[row : row + len(bits)] = bits[:, :width]
        self.rest[row : row + len(bits)] = bits[:, width:]

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The bits of ``rows`` (n,): uint8 (n, row_bytes)."""
        if kernels.is_there():
            return kernels.gather(self.first, self.rest, rows)
        if not self.is_split:
            return self.first.take(rows, axis=0)
        return np.hstack([self.first.take(rows, axis=0), self.rest.take(rows, axis=0)])

    def joined(self) -> NDArray[np.uint8]:
        """uint8 (n, row_bytes), a copy of rows that are not whole."""
        return np.hstack([self.first, self.rest]) if self.is_split else self.first

    def pieces(self) -> Iterator[NDArray[np.uint8]]:
        """``joined`` in pieces (n, row_bytes), of which the last is shorter."""
        for row in range(0, len(self), _PIECE_ROWS):
            yield self[row : row + _PIECE_ROWS].joined()

    def filled_from(self, file: BufferedReader) -> Iterator[NDArray[np.uint8]]:
        """Read all rows from ``file``, which has them whole; each piece as it was read."""
        for row in range(0, len(self), _PIECE_ROWS):
            piece = np.empty((min(_PIECE_ROWS, len(self) - row), self.row_bytes), dtype=np.uint8)
            file.readinto(piece.reshape(-1).data)
            self.put(row, piece)
            yield piece


def as_planes(bits: Planes | NDArray[np.uint8]) -> Planes:
    """``bits`` (n, row_bytes), those of an array whole."""
    return bits if isinstance(bits, Planes) else Planes.whole(bits)
