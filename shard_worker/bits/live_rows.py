"""Which rows of a part of the index are alive: one bit each, as FAISS's selector reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.native import kernels


@dataclass(frozen=True, slots=True, eq=False)
class AliveMarks:
    """One state of the marks of some rows; a search that holds it sees no later death.

    ``bitmap`` uint8, lowest bit first, None while every row is alive; ``dead`` counts the others.
    """

    bitmap: NDArray[np.uint8] | None = None
    dead: int = 0

    @property
    def memory_bytes(self) -> int:
        return 0 if self.bitmap is None else self.bitmap.nbytes

    def without(self, offsets: NDArray[np.int64], rows: int) -> AliveMarks:
        """The marks once the rows ``offsets`` (n,) are deleted as well; some may have been already.

        ``rows`` is how many marks there must be: later ones are alive.
        """
        died = np.unique(offsets[self.of(offsets)])
        if not len(died):
            return self
        before, size = self.bitmap, -(-rows // 8)
        if before is not None and len(before) == size:
            bitmap = before.copy()
        else:
            bitmap = np.full(size, 0xFF, dtype=np.uint8)
            if before is not None:
                bitmap[: len(before)] = before
        np.bitwise_and.at(bitmap, died // 8, ~(1 << (died % 8)).astype(np.uint8))
        return AliveMarks(bitmap, self.dead + len(died))

    def only(self, passing: NDArray[np.uint8], rows: int) -> AliveMarks:
        """The marks of the first ``rows`` rows where those that are not in the bitmap ``passing``
        count as dead.
        """
        bitmap = passing[: -(-rows // 8)].copy()
        if rows % 8:
            bitmap[-1] &= (1 << rows % 8) - 1
        if self.bitmap is not None:
            known = self.bitmap[: len(bitmap)]
            bitmap[: len(known)] &= known
        return AliveMarks(bitmap, rows - int(np.bitwise_count(bitmap).sum(dtype=np.int64)))

    def living(self, rows: int) -> NDArray[np.int64]:
        """Which of the first ``rows`` rows are alive, int64 (n,) ascending."""
        if self.bitmap is None:
            return np.arange(rows, dtype=np.int64)
        known = min(rows, 8 * len(self.bitmap))
        living = self._marked(self.bitmap, known)
        if known < rows:
            living = np.concatenate([living, np.arange(known, rows, dtype=np.int64)])
        return living

    def _marked(self, bitmap: NDArray[np.uint8], rows: int) -> NDArray[np.int64]:
        """The same of rows that are all in the ``bitmap``."""
        if kernels.is_there():
            return kernels.marked(bitmap, rows, 8 * len(bitmap) - self.dead)
        return np.flatnonzero(np.unpackbits(bitmap, count=rows, bitorder="little").view(np.bool_))

    def of(self, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each row (n,) is alive."""
        alive = np.ones(len(offsets), dtype=np.bool_)
        if self.bitmap is not None:
            known = offsets < 8 * len(self.bitmap)
            inside = offsets[known]
            alive[known] = self.bitmap[inside // 8] >> (inside % 8).astype(np.uint8) & 1
        return alive


ALL_ALIVE = AliveMarks()
