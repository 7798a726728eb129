"""Reading int8 codes of a pool: those that the estimates choose, and under a filter more of them.

What passes a filter may all be far from the query. Its scores then lie closer together than bits
can tell apart, and the rule of adaptive.py, which knows only the noise of signs, stops too early.
So scores that were read are compared with their estimates, and reading goes on by what that says
(``further_reads``), to twice as many at a time. Beyond the reads of a search without a filter more
of the pool is ordered by estimates, too: so far away the Hamming distance says even less.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.bits.index import Pool
from bitsift.shard_worker.codes import Calibration, asymmetric_scores, best_first
from bitsift.shard_worker.search.adaptive import READS_MAX, further_reads, reads_max, rows_to_read
from bitsift.shard_worker.store.row_reader import RowReader
from bitsift.shard_worker.types import POOL_FACTOR, Plan, Query

POOL_ADAPTIVE, POOL_PER_HIT = 800, 16
"""Rows that the Hamming stage keeps for a query whose reads are not fixed. Against 400, titles and
XQuAD's questions asked of 28,672 WordNet glosses gain 0.010 recall@10, the test collections
nothing; sorting them costs 0.1 ms more."""
WIDER = 8
"""Under a filter the pool and the reads may be so many times larger. 1 M synthetic vectors of 384
dimensions, of which a tenth passes, all of another topic: 0.86 of the true best ten are in a pool
of 800, 0.96 in one of 3,200, 0.99 of 6,400; 720 reads find these, 1,250 at most."""


def pool_rows(query: Query) -> int:
    """How many rows of the Hamming stage are ordered by estimates."""
    if query.reads is not None:
        return query.reads * POOL_FACTOR
    return max(POOL_ADAPTIVE, POOL_PER_HIT * query.options.depth)


def wide_pool_rows(query: Query) -> int:
    """How many it keeps under a filter, where keeping them costs little."""
    rows = pool_rows(query)
    return rows if query.reads is not None else max(rows, WIDER * POOL_ADAPTIVE)


class PoolReader:
    """Reads rows of one pool for one query, and scores them.

    ``places`` intp (n,) of the pool, ``codes`` int8 (n, width) and ``scores`` float32 (n,) are of
    the rows that were read; ``damaged`` are rows whose checksum failed.
    """

    def __init__(
        self, reader: RowReader, calibration: Calibration, query: Query, pool: Pool
    ) -> None:
        self.places = np.empty(0, dtype=np.intp)
        self.scores = np.empty(0, dtype=np.float32)
        self.codes = np.empty((0, reader.width), dtype=np.int8)
        self.damaged: list[int] = []
        self._reader, self._calibration = reader, calibration
        self._query, self._pool = query, pool
        self._vector = calibration.centered(query.vector)
        self._estimates = np.empty(0, dtype=np.float32)
        self._unread = np.ones(len(pool), dtype=np.bool_)

    @property
    def estimates(self) -> NDArray[np.float32]:
        """Asymmetric scores float32 (n,) of the rows that were read."""
        return self._estimates[self.places]

    def read(self, plan: Plan | None) -> None:
        """Read what is worth it, best estimate first. ``plan`` is that of the filter, if any.

        Raises DeadlineExceeded.
        """
        query, pool = self._query, self._pool
        fixed = len(pool) if plan is Plan.DIRECT else query.reads
        if fixed is not None:
            self._estimate(len(pool))
            self._read(self._best(fixed))
            return
        near, depth = len(pool) if plan is None else pool_rows(query), query.options.depth
        bits, rows = pool.bits(0, near), pool.rows[:near]
        self._estimates, places = rows_to_read(self._vector, bits, rows, depth)
        self._read(places)
        if plan is not None:
            self._read_further(depth)

    def _read_further(self, depth: int) -> None:
        first = done = int(np.count_nonzero(~self._unread))
        most = max(WIDER * READS_MAX, reads_max(depth))
        unread = self._best(most)
        while len(unread) and done < most:
            more = further_reads(self.estimates, self.scores, self._estimates[unread], depth)
            if done + more > reads_max(depth) and len(self._estimates) < len(self._pool):
                self._estimate(len(self._pool))
                unread = self._best(most)
                continue
            if not more:
                break
            step = min(more, done, most - done)
            self._read(unread[:step])
            unread, done = unread[step:], done + step
        if done > first:
            order = best_first(self.estimates, self._pool.rows[self.places], len(self.places))
            self.places, self.scores = self.places[order], self.scores[order]
            self.codes = self.codes[order]

    def _estimate(self, rows: int) -> None:
        """Order the ``rows`` nearest rows of the pool by estimates."""
        known = len(self._estimates)
        more = asymmetric_scores(self._vector, self._pool.bits(known, rows))
        self._estimates = np.concatenate([self._estimates, more])

    def _best(self, count: int) -> NDArray[np.intp]:
        """Places of the best ``count`` rows by estimates that were not read yet."""
        unread = np.flatnonzero(self._unread[: len(self._estimates)])
        return unread[best_first(self._estimates[unread], self._pool.rows[unread], count)]

    def _read(self, places: NDArray[np.intp]) -> None:
        """Read the rows at ``places`` (n,), and leave out the damaged ones."""
        self._unread[places] = False
        rows = self._pool.rows[places]
        codes, intact = self._reader.read_codes(rows, self._query.deadline.check)
        if not intact.all():
            damaged = rows[~intact].tolist()
            self._reader.note_damaged(damaged)
            self.damaged += damaged
            places, codes = places[intact], codes[intact]
        scores = self._calibration.scores(self._query.vector, codes)
        if len(self.places):
            places = np.concatenate([self.places, places])
            codes = np.concatenate([self.codes, codes])
            scores = np.concatenate([self.scores, scores])
        self.places, self.codes, self.scores = places, codes, scores
