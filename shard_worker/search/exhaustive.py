"""Scoring every living row by its int8 code: slow, the yardstick for everything else.

Several queries share one pass over the store. Each has its own deadline: one that is over is left
out from the next block on, and the pass ends when none is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import DeadlineExceeded
from bitsift.shard_worker.codes import Calibration, best_first
from bitsift.shard_worker.store.row_reader import RowReader
from bitsift.shard_worker.types import Query

Among = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
"""Which of rows (n,) are searched: the living ones, or those of them that pass a filter."""
_SLACK = 8
"""Rows kept beyond those due while scanning in float32, before the exact cut in float64."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The best rows of one query: int64 (n,), their exact scores float32 (n,), codes (n, width).

    ``corrupt`` counts living rows whose checksum failed.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    codes: NDArray[np.int8]
    corrupt: int


def score_all(
    reader: RowReader,
    rows_there: int,
    among: Among,
    calibration: Calibration,
    queries: Sequence[Query],
    give_way: Callable[[], None],
) -> list[Scored | DeadlineExceeded]:
    """The rows that may be the best of each of ``queries``, of the first ``rows_there`` rows
    those that are ``among`` the ones that are searched.

    ``give_way`` is called before each block of some hundred rows; ``reader`` is told the rows
    whose checksums fail.
    """
    best = [_Best(query, calibration) for query in queries]
    waiting, corrupt = best, 0
    for first, codes, intact in reader.scan_codes(0, rows_there):
        give_way()
        waiting = [one for one in waiting if one.query.deadline.is_open()]
        if not waiting:
            break
        rows = np.arange(first, first + len(codes), dtype=np.int64)
        alive = among(rows)
        if not intact.all():
            corrupt += int((alive & ~intact).sum())
            reader.note_damaged(rows[alive & ~intact].tolist())
            alive &= intact
        wide = codes[alive].astype(np.float32)
        for one in waiting:
            one.add(wide @ one.folded, rows[alive])
    return [one.finished(reader, calibration, corrupt) for one in best]


class _Best:
    """The best rows of one query so far."""

    def __init__(self, query: Query, calibration: Calibration) -> None:
        self.query = query
        self.folded = query.vector * calibration.step
        self._kept = query.hits_due + _SLACK
        self._scores = np.empty(0, dtype=np.float32)
        self._rows = np.empty(0, dtype=np.int64)

    def add(self, scores: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """Consider ``rows`` (n,), all higher than those before."""
        if len(self._scores) == self._kept:
            better = scores > self._scores[-1]
            scores, rows = scores[better], rows[better]
            if not len(rows):
                return
        scores, rows = np.concatenate([self._scores, scores]), np.concatenate([self._rows, rows])
        best = best_first(scores, rows, self._kept)
        self._scores, self._rows = scores[best], rows[best]

    def finished(
        self, reader: RowReader, calibration: Calibration, corrupt: int
    ) -> Scored | DeadlineExceeded:
        try:
            self.query.deadline.check()
            codes, intact = reader.read_codes(self._rows, self.query.deadline.check)
        except DeadlineExceeded as error:
            return error
        rows, codes = self._rows[intact], codes[intact]
        return Scored(rows, calibration.scores(self.query.vector, codes), codes, corrupt)
