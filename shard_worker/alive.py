"""Which rows of a part of the index are alive: one bit each, as FAISS's selector reads them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class AliveMarks:
    """Marks of ``rows`` rows, all alive at first. One writer at a time; readers at any time.

    ``bitmap`` uint8 (rows / 8,), lowest bit first, is made with the first dead row: None till then.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.bitmap: NDArray[np.uint8] | None = None
        self.dead = 0

    @property
    def memory_bytes(self) -> int:
        return 0 if self.bitmap is None else self.bitmap.nbytes

    def mark_dead(self, offsets: NDArray[np.int64]) -> None:
        """Rows (n,) that are dead from now on; any of them may have been before."""
        died = np.unique(offsets[self.of(offsets)])
        if not len(died):
            return
        if self.bitmap is None:
            self.bitmap = np.full(-(-self._rows // 8), 0xFF, dtype=np.uint8)
        np.bitwise_and.at(self.bitmap, died // 8, ~(1 << (died % 8)).astype(np.uint8))
        self.dead += len(died)

    def of(self, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each row (n,) is alive."""
        if self.bitmap is None:
            return np.ones(len(offsets), dtype=np.bool_)
        return (self.bitmap[offsets // 8] >> (offsets % 8).astype(np.uint8) & 1).astype(bool)
