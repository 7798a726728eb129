"""The funnel of a query inside a shard, from all rows to the few that are read from the disk.

Hamming distance keeps some hundreds of rows, the fp32 query against their ±1 codes orders them and
says how many are worth reading, and only those are read as int8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from shard_worker.adaptive import rows_to_read
from shard_worker.codes import Calibration, asymmetric_scores, best_first
from shard_worker.errors import BitsiftError, Corrupt
from shard_worker.generation import Generation
from shard_worker.index import Pool
from shard_worker.store import Store
from shard_worker.types import (
    CANDIDATES_FIXED,
    POOL_FACTOR,
    Candidates,
    Document,
    Mode,
    Query,
)

POOL_ADAPTIVE, POOL_PER_HIT = 800, 16
"""Rows that the Hamming stage keeps for a query whose reads are not fixed. Against 400, titles and
XQuAD's questions asked of 28,672 WordNet glosses gain 0.010 recall@10, the judged sets nothing;
sorting them costs 0.1 ms more."""
_EXHAUSTIVE_SLACK = 8
"""Rows kept beyond ``candidates`` while scanning in float32, before the exact cut in float64."""


class Funnel:
    """Searches generations of one shard, and counts the damage that it meets. Any thread."""

    def __init__(self, shard: int, calibration: Calibration) -> None:
        self._shard = shard
        self._calibration = calibration
        self.corrupt_rows: set[int] = set()
        self.lost_bits = 0
        """Rows whose bits could not be made: no search finds them, so every answer says so."""

    def search(
        self,
        generation: Generation,
        queries: Sequence[Query],
        lists_to_visit: Callable[[Query], int | None],
    ) -> list[Candidates]:
        """The candidates of each query; ``lists_to_visit`` None is an exact scan."""
        answers: list[Candidates | None] = [None] * len(queries)
        scans: dict[tuple[int, int | None, int], list[int]] = {}
        for place, query in enumerate(queries):
            if query.mode is Mode.EXHAUSTIVE:
                answers[place] = self._score_all(generation, query)
            else:
                kind = _pool_rows(query), lists_to_visit(query), _hits_due(query)
                scans.setdefault(kind, []).append(place)
        for (count, nprobe, enough), places in scans.items():
            vectors = np.stack([queries[place].vector for place in places])
            bits = self._calibration.query_bits(vectors)
            pools = generation.index.search(bits, count, nprobe, enough)
            for place, pool in zip(places, pools, strict=True):
                answers[place] = self._narrow(generation, queries[place], pool)
        return [answer for answer in answers if answer is not None]

    def _narrow(self, generation: Generation, query: Query, pool: Pool) -> Candidates:
        """Asymmetric scores choose the candidates of the pool; their int8 codes are read."""
        vector = self._calibration.centered(query.vector)
        estimates = asymmetric_scores(vector, pool.bits)
        if query.candidates is None:
            best = rows_to_read(vector, pool.bits, estimates, pool.rows, query.top_k)
        else:
            best = best_first(estimates, pool.rows, query.candidates)
        codes, intact = generation.store.held.read_codes(pool.rows[best])
        corrupt = self.lost_bits
        if not intact.all():
            self.corrupt_rows.update(pool.rows[best][~intact].tolist())
            corrupt += int((~intact).sum())
            best, codes = best[intact], codes[intact]
        return Candidates(
            shard=self._shard,
            rows=generation.references(pool.rows[best]),
            distances=pool.distances[best],
            hamming_ranks=(best + 1).astype(np.int32),
            estimates=estimates[best],
            codes=codes,
            corrupt=corrupt,
            documents=self._likely_winners(generation, query, pool.rows[best], codes),
        )

    def _likely_winners(
        self,
        generation: Generation,
        query: Query,
        rows: NDArray[np.int64],
        codes: NDArray[np.int8],
    ) -> dict[int, Document]:
        """The documents of the best ``top_k`` of this shard, if they are wanted, by reference."""
        if not query.with_documents:
            return {}
        best = best_first(self._calibration.scores(query.vector, codes), rows, query.top_k)
        found = self.documents(generation.store, rows[best].tolist())
        pairs = zip(generation.references(rows[best]).tolist(), found, strict=True)
        return {reference: it for reference, it in pairs if isinstance(it, Document)}

    def documents(self, store: Store, rows: Sequence[int]) -> list[Document | BitsiftError]:
        """The documents of ``rows``; in the place of a damaged one, the error that says so."""
        found = store.held.documents(rows)
        pairs = zip(rows, found, strict=True)
        self.corrupt_rows.update(row for row, it in pairs if isinstance(it, Corrupt))
        return found

    def _score_all(self, generation: Generation, query: Query) -> Candidates:
        """Score every living row's int8 code: slow, the yardstick for everything else."""
        wanted = _hits_due(query)
        kept, corrupt = wanted + _EXHAUSTIVE_SLACK, 0
        folded = query.vector * self._calibration.step
        held, moment = generation.store.held, generation.index.moment()
        scores, rows = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
        for first, codes, intact in held.scan_codes(0, len(moment)):
            block = np.arange(first, first + len(codes), dtype=np.int64)
            alive = moment.is_alive(block)
            corrupt += int((alive & ~intact).sum())
            self.corrupt_rows.update(block[alive & ~intact].tolist())
            alive &= intact
            scores = np.concatenate([scores, codes[alive].astype(np.float32) @ folded])
            rows = np.concatenate([rows, block[alive]])
            best = best_first(scores, rows, kept)
            scores, rows = scores[best], rows[best]
        codes, intact = held.read_codes(rows)
        rows, codes = rows[intact], codes[intact]
        exact = self._calibration.scores(query.vector, codes)
        best = best_first(exact, rows, wanted)
        zeros = np.zeros(len(best), dtype=np.int32)
        references = generation.references(rows[best])
        return Candidates(self._shard, references, zeros, zeros, exact[best], codes[best], corrupt)


def _hits_due(query: Query) -> int:
    """How many candidates a query gets at least, while there are rows."""
    return query.candidates or max(CANDIDATES_FIXED, query.top_k)


def _pool_rows(query: Query) -> int:
    """How many rows the Hamming stage keeps."""
    if query.candidates is None:
        return max(POOL_ADAPTIVE, POOL_PER_HIT * query.top_k)
    return query.candidates * POOL_FACTOR
