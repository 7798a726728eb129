"""The funnel of a query inside a shard, from all rows to the few that are read from the disk.

Hamming distance keeps some hundreds of rows, the fp32 query against their ±1 codes orders them and
says how many are worth reading, and only those are read as int8. Between all steps that take
longer, the query's deadline is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import Corrupt, DeadlineExceeded, ReplicaBehind
from bitsift.filters.forms import tree_of
from bitsift.options import Mode
from bitsift.shard_worker.bits.index import Pool
from bitsift.shard_worker.bits.way import Way
from bitsift.shard_worker.codes import Calibration, best_first
from bitsift.shard_worker.deadline import Check
from bitsift.shard_worker.generation import Generation
from bitsift.shard_worker.search.adaptive import reads_max
from bitsift.shard_worker.search.exhaustive import score_all
from bitsift.shard_worker.search.filtered import Wants, any_of, holds, passing, pools_of
from bitsift.shard_worker.search.precedence import Precedence
from bitsift.shard_worker.search.reading import PoolReader, pool_rows, wide_pool_rows
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.types import (
    EVERYTHING,
    Candidates,
    Document,
    FilterPlan,
    Found,
    Origin,
    Plan,
    Query,
    Wanted,
)

QUERIES_PER_PASS = 8
"""Queries that share a pass over the bits. FAISS compares four of 1,024 bits together, eleven of
384. One that nobody waits for any more leaves the pass at its next step (hamming.py)."""
Answer = Candidates | DeadlineExceeded | ReplicaBehind
Answers = list[Answer]
"""Of several queries, in order: the candidates, or why there are none for this one."""


class Funnel:
    """Searches generations of one shard, and notes the damage that it meets. Any thread."""

    def __init__(self, shard: int, replica: int, calibration: Calibration) -> None:
        self._shard = shard
        self._replica = replica
        self._calibration = calibration
        self._precedence = Precedence()

    def origin(self, generation: Generation) -> Origin:
        """Of the rows of ``generation``."""
        return Origin(self._replica, generation.open_store.number)

    def search(
        self,
        generation: Generation,
        queries: Sequence[Query],
        way_of: Callable[[Query], Way],
    ) -> Answers:
        """What is found for each query, by the way that ``way_of`` says for it.

        ``exhaustive`` queries give way to the others, whichever thread asks those.
        """
        slow = [
            place for place, query in enumerate(queries) if query.options.mode is Mode.EXHAUSTIVE
        ]
        found: dict[int, Answer] = {}
        if len(slow) < len(queries):
            with self._precedence:
                for kind, places in _passes(queries, way_of):
                    together = [queries[place] for place in places]
                    found.update(zip(places, self._pass(generation, together, *kind), strict=True))
        if slow:
            scored = self._score_all(generation, [queries[place] for place in slow])
            found.update(zip(slow, scored, strict=True))
        return [found[place] for place in range(len(queries))]

    def _pass(
        self,
        generation: Generation,
        queries: Sequence[Query],
        count: int,
        way: Way,
        enough: int,
        filter_text: str | None,
        wide: int,
    ) -> Answers:
        """One pass over the bits for those of ``queries`` that somebody waits for."""
        places = [place for place, query in enumerate(queries) if query.deadline.is_open()]
        pools: dict[int, Pool] = {}
        plan: FilterPlan | None = None
        rows_there = len(generation.index)
        if places:
            bits = self._calibration.query_bits(np.stack([queries[p].vector for p in places]))
            deadlines = [queries[p].deadline for p in places]
            if filter_text is None:
                near = generation.index.search(
                    bits, count, way.nprobe, enough, deadlines, first_share=way.first_share
                )
            else:
                direct = min(
                    queries[p].reads or reads_max(queries[p].options.depth) for p in places
                )
                wants, node = Wants(count, wide, way.nprobe, direct), tree_of(filter_text)
                try:
                    near, plan = pools_of(generation, node, bits, wants, deadlines)
                except DeadlineExceeded as error:
                    return [error] * len(queries)
            pools = dict(zip(places, near, strict=True))
        return [
            self._narrowed(generation, query, pools.get(place), plan, rows_there)
            for place, query in enumerate(queries)
        ]

    def _narrowed(
        self,
        generation: Generation,
        query: Query,
        pool: Pool | None,
        plan: FilterPlan | None,
        rows_there: int,
    ) -> Candidates | DeadlineExceeded:
        try:
            query.deadline.check()
            assert pool is not None, "a deadline that was over is open again"
            return self._narrow(generation, query, pool, plan, rows_there)
        except DeadlineExceeded as error:
            return error

    def _narrow(
        self,
        generation: Generation,
        query: Query,
        pool: Pool,
        plan: FilterPlan | None,
        rows_there: int,
    ) -> Candidates:
        """Asymmetric scores choose the candidates of the pool; their int8 codes are read."""
        pool = _without(pool, generation.store.ids.rows_of(query.options.exclude))
        read = PoolReader(generation.store.reader, self._calibration, query, pool)
        read.read(None if plan is None else plan.kind)
        best, corrupt = read.places, generation.index.moment().lost.union(read.damaged)
        unknown = len(corrupt) if plan is None else max(len(corrupt), generation.damaged_rows())
        return Candidates(
            shard=self._shard,
            origin=self.origin(generation),
            rows=pool.rows[best],
            distances=pool.distances[best],
            hamming_ranks=(best + 1).astype(np.int32),
            estimates=read.estimates,
            scores=read.scores,
            codes=read.codes,
            corrupt=unknown,
            documents=self._likely_winners(generation, query, pool.rows[best], read.scores),
            plan=plan,
            rows_there=rows_there,
        )

    def _likely_winners(
        self,
        generation: Generation,
        query: Query,
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> dict[int, Document]:
        """The documents of the best hits of this shard, if they are wanted, by row.

        Those that do not fit are left out: the router asks for them when they win.
        """
        if not query.documents_bytes_max:
            return {}
        best = best_first(scores, rows, query.documents_due)
        wanted = Wanted(frozenset(query.options.include), query.documents_bytes_max)
        check = query.deadline.check
        wanted_rows = rows[best].tolist()
        found = self.documents(generation.store, wanted_rows, wanted, check)
        pairs = zip(wanted_rows, found, strict=True)
        return {row: it for row, it in pairs if isinstance(it, Document)}

    def documents(
        self,
        store: Store,
        rows: Sequence[int],
        wanted: Wanted = EVERYTHING,
        check: Check | None = None,
    ) -> list[Found]:
        """What is ``wanted`` of the documents of ``rows``, as ``RowReader.documents`` gives it."""
        with self._precedence:
            found = store.reader.documents(rows, wanted, check)
        pairs = zip(rows, found, strict=True)
        store.reader.note_damaged(row for row, it in pairs if isinstance(it, Corrupt))
        return found

    def _score_all(self, generation: Generation, queries: Sequence[Query]) -> Answers:
        """Those of one filter share a pass over the codes."""
        found: dict[int, Answer] = {}
        for text in dict.fromkeys(_filter_of(query) for query in queries):
            places = [p for p, query in enumerate(queries) if _filter_of(query) == text]
            together = [queries[place] for place in places]
            found.update(zip(places, self._score(generation, together, text), strict=True))
        return [found[place] for place in range(len(queries))]

    def _score(
        self, generation: Generation, queries: Sequence[Query], filter_text: str | None
    ) -> Answers:
        moment, plan = generation.index.moment(), None
        among = moment.is_alive
        if filter_text is not None:
            try:
                check = any_of([query.deadline for query in queries])
                moment, bits = passing(generation, tree_of(filter_text), check)
            except DeadlineExceeded as error:
                return [error] * len(queries)
            alive = moment.is_alive

            def among(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
                return holds(bits, rows) & alive(rows)

            plan = FilterPlan(Plan.EXHAUSTIVE, moment.only(bits).living)
        scored = score_all(
            generation.store.reader,
            len(moment),
            among,
            self._calibration,
            queries,
            self._precedence.give_way,
        )
        answers: Answers = []
        for query, best in zip(queries, scored, strict=True):
            if isinstance(best, DeadlineExceeded):
                answers.append(best)
                continue
            excluded = generation.store.ids.rows_of(query.options.exclude)
            hits = np.flatnonzero(~np.isin(best.rows, excluded))
            kept = hits[best_first(best.scores[hits], best.rows[hits], query.hits_due)]
            zeros, scores = np.zeros(len(kept), dtype=np.int32), best.scores[kept]
            answers.append(
                Candidates(
                    shard=self._shard,
                    origin=self.origin(generation),
                    rows=best.rows[kept],
                    distances=zeros,
                    hamming_ranks=zeros,
                    estimates=scores,
                    scores=scores,
                    codes=best.codes[kept],
                    corrupt=best.corrupt,
                    plan=plan,
                    rows_there=len(moment),
                )
            )
        return answers


def _filter_of(query: Query) -> str | None:
    """Its canonical text."""
    text = query.options.filter
    return None if text is None else str(text)


Kind = tuple[int, Way, int, str | None, int]
"""What queries of one pass have in common: rows to keep, the way through the bits, hits due,
filter, rows to keep under it."""


def _passes(
    queries: Sequence[Query], way_of: Callable[[Query], Way]
) -> Iterator[tuple[Kind, list[int]]]:
    """The places of the queries that go together; none of those that are exhaustive."""
    kinds: dict[Kind, list[int]] = {}
    for place, query in enumerate(queries):
        if query.options.mode is not Mode.EXHAUSTIVE:
            kinds.setdefault(_kind(query, way_of(query)), []).append(place)
    for kind, places in kinds.items():
        for first in range(0, len(places), QUERIES_PER_PASS):
            yield kind, places[first : first + QUERIES_PER_PASS]


def _kind(query: Query, way: Way) -> Kind:
    """Rows that are excluded are kept, too."""
    excluded, text = len(query.options.exclude), _filter_of(query)
    count = pool_rows(query) + excluded
    wide = count if text is None else wide_pool_rows(query) + excluded
    return count, way, query.hits_due, text, wide


def _without(pool: Pool, rows: NDArray[np.int64]) -> Pool:
    """What is left of ``pool`` without ``rows`` (n,)."""
    if not len(rows):
        return pool
    kept = ~np.isin(pool.rows, rows)
    return pool.at(kept)
