"""SearchService: one query from text to answer. Independent of Ray and HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import (
    BitsiftError,
    DeadlineExceeded,
    Overloaded,
    RequestOutcome,
    ShardUnavailable,
    Unavailable,
)
from bitsift.listing import Counted, CountOptions, GetOptions, ListOptions, Page
from bitsift.options import SearchOptions
from bitsift.results import (
    Answer,
    Coverage,
    Facets,
    FilterStage,
    Hit,
    ShardFailure,
    Total,
)
from bitsift.router import listing, tracing
from bitsift.router.answer_bytes import AnswerBytes, ReadMemory
from bitsift.router.description import IndexDescription
from bitsift.router.facets import both, facets_of, with_failures
from bitsift.router.finish import finished, with_needed
from bitsift.router.grouping import Groups
from bitsift.router.hits import Winners, first_bytes, likely_hits, make_hit, vectors_of
from bitsift.router.liked import Liked, moved, unlisted
from bitsift.router.loop_lag import LoopLag
from bitsift.router.merge import merge
from bitsift.router.metrics import LEFT, Metrics
from bitsift.router.model.query_vectors import QUERY_CACHE_DEFAULT, QueryEncoder, QueryVectors
from bitsift.router.multi_get import multi_get, stored_document
from bitsift.router.paging import behind, next_cursor, seen_by
from bitsift.router.shadow.settings import ShadowSettings
from bitsift.router.shadow.shadow import Shadow
from bitsift.router.shards.fanout import FanOut
from bitsift.router.summary import check_coverage, filter_stages, timings_of, total_of
from bitsift.router.your_writes import shards_that_know
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.types import FIELDS, Candidates, Message, Query
from bitsift.write_results import StoredDocument, StoredDocuments
from bitsift.write_token import WriteToken

_GONE = (Unavailable.__name__, ShardUnavailable.__name__)
_ACT_HERE = {"read_your_writes", "facets", "facet_limit", "cursor", "sort", "highlight"}
_OF_THE_ROUTER: dict[str, Any] = {
    option.name: option.default
    for option in fields(SearchOptions)
    if option.name in _ACT_HERE | {"text_characters"}
}
"""Options that act in the router, with their defaults: shards are not sent them."""
SENDING_SHARDS_MAX = 32
"""Up to so many shards send the documents of their own best along with the candidates, which saves
a second round of calls; with more shards, many documents would be read in vain."""
WAIT_SHARE_MAX = 0.5
"""Of its time, what a search may expect to wait. Where more is asked than can be done, waits grow
up to what is allowed, and whoever is answered too late has cost as much as the others."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found, what it was counted as, and when on the monotonic clock.

    ``lost_its_replica``: documents are missing, because whoever had their rows has gone.
    """

    hits: tuple[Hit, ...]
    coverage: Coverage
    filter: tuple[FilterStage, ...] | None
    total: Total | None
    gathered: Sequence[Candidates]
    lost_its_replica: bool
    size_bytes: int
    fanned_out_s: float
    rescored_s: float
    skipped: Sequence[str] = ()


class SearchService:
    """Answers questions against one index. Lives in one event loop."""

    def __init__(
        self,
        description: IndexDescription,
        shards: FanOut,
        encoder: QueryEncoder | None,
        query_cache: int = QUERY_CACHE_DEFAULT,
        shadow: ShadowSettings = ShadowSettings(),  # noqa: B008 (frozen)
    ) -> None:
        """``encoder`` None: it is still loading, or the index has precomputed embeddings only.

        ``query_cache`` is how many vectors of queries are cached by their text. ``shadow`` says how
        many searches are asked again to measure recall; by default none.
        ``loading_total`` is how many records a running load will bring in total; None if none is
        running. ``healed`` is what was healed lately (cluster/serving).
        ``syncs`` is which replicas are in step, as the controller says (cluster/fleet/sync.py).
        """
        self.description = description
        self.loading_total: int | None = None
        self.healed: Sequence[Mapping[str, str]] = ()
        self.syncs: Sequence[Mapping[str, Any]] = ()
        self.shards = shards
        self.query_vectors = QueryVectors(description, encoder, query_cache, shards.metrics)
        self.shadow = Shadow(
            shadow, lambda: self.shards, shards.metrics, lambda: self.query_vectors.is_encoding
        )
        self.memory = ReadMemory()
        self.loop_lag = LoopLag(shards.metrics.loop_was_late)
        # A rotation takes seconds to make: now, not in the event loop at the first question.
        description.calibration.units(np.ones((1, description.dimension)))

    def switch(self, shards: FanOut, index: str) -> None:
        """Ask ``shards`` from now on: the same documents, spread anew, in the index of uuid
        ``index``. Searches under way end where they began.
        """
        self.shards = shards
        self.description = replace(self.description, uuid=index, shards=len(shards))

    @property
    def metrics(self) -> Metrics:
        """What is counted; new shards count on."""
        return self.shards.metrics

    @property
    def encoder(self) -> QueryEncoder | None:
        return self.query_vectors.encoder

    @encoder.setter
    def encoder(self, encoder: QueryEncoder | None) -> None:
        self.query_vectors.encoder = encoder

    async def search(
        self,
        options: SearchOptions,
        answer: AnswerBytes | None = None,
        liked: Liked | None = None,
        *,
        together: bool = False,
    ) -> Answer:
        """The answer to one search; its documents are counted in ``answer``, if it is given.
        ``liked`` is shared by searches with the same ``like`` and ``unlike``. Several that one
        caller asks ``together`` wait for each other, so they may wait for all of their time.

        ``options`` have been checked. Raises InvalidRequest (a vector of another dimension, the
        token of another index), NotFound (a document that hits should be like),
        Overloaded when it cannot be answered in its time or the documents have no room, Unavailable
        (no encoder), DeadlineExceeded when nothing was found in time, ShardUnavailable when
        completeness was required or no shard answered.
        """
        if answer is None:
            with contextlib.closing(AnswerBytes(self.memory)) as answer:
                return await self.search(options, answer, liked, together=together)
        try:
            with tracing.span("search", mode=options.mode.value, top_k=options.top_k):
                self._check_queues(options, together=together)
                found = await self._search(options, answer, liked or Liked())
        except BitsiftError as error:
            self.metrics.search_failed(options.mode, type(error).__name__)
            raise
        except asyncio.CancelledError:
            self.metrics.search_failed(options.mode, LEFT)
            raise
        self.metrics.search_answered(options.mode, found.timings_ms, partial=found.partial)
        return found

    async def _search(self, options: SearchOptions, answer: AnswerBytes, liked: Liked) -> Answer:
        started = time.monotonic()
        deadline_s = started + options.timeout_s
        first, seen = options, seen_by(options)
        with tracing.span("encode"):
            vector = await self._moved(options, deadline_s, liked)
        options = unlisted(replace(options, vector=vector))
        options = with_needed(behind(options, seen) if seen else options)
        encoded = time.monotonic()
        finding = self._found(options, deadline_s, answer, seen)
        if options.facets:
            found, (facets, uncounted) = await both(finding, self._facets(options, deadline_s))
            found = replace(found, coverage=with_failures(found.coverage, uncounted))
        else:
            found, facets = await finding, None
        check_coverage(found.coverage, options)
        vector = np.asarray(options.vector)
        hits = await finished(found.hits, first, vector, self.query_vectors, deadline_s)
        stages = (started, encoded, found.fanned_out_s, found.rescored_s, time.monotonic())
        partial = bool(found.coverage.failures)
        timings = timings_of(*stages)
        following = next_cursor(first, seen, found.skipped, found.hits, partial=partial)
        if not partial and options.group_by is None:
            self.shadow.answered(options, found.gathered)
        return Answer(
            hits,
            found.coverage,
            timings,
            partial=partial,
            filter=found.filter,
            total=found.total,
            facets=facets,
            cursor=following,
        )

    async def _found(
        self,
        options: SearchOptions,
        deadline_s: float,
        answer: AnswerBytes,
        seen: frozenset[bytes],
    ) -> _Found:
        async def find() -> _Found:
            if options.group_by is not None:
                return await self._find_groups(options, deadline_s, answer)
            return await self._find(options, deadline_s, answer, seen=seen)

        found = await find()
        if found.lost_its_replica and time.monotonic() < deadline_s:  # others may have all of it
            answer.give_back(found.size_bytes)
            found = await find()
        return found

    async def _facets(
        self, options: SearchOptions, deadline_s: float
    ) -> tuple[Facets | None, Sequence[ShardFailure]]:
        """The facets of all that passes, and why shards did not count."""
        asked = await self._asked(options.read_your_writes, deadline_s)
        return await facets_of(*asked, options, deadline_s)

    async def _find_groups(
        self, options: SearchOptions, deadline_s: float, answer: AnswerBytes
    ) -> _Found:
        """The hits of all parts of the ranking that are looked at (grouping.py)."""
        groups = Groups(options)
        found = await self._find(groups.next(), deadline_s, answer, groups)
        while not (groups.is_done or found.coverage.failures):
            more = await self._find(groups.next(), deadline_s, answer, groups)
            found = replace(
                more,
                hits=(*found.hits, *more.hits),
                filter=found.filter,
                total=found.total,
                size_bytes=found.size_bytes + more.size_bytes,
                fanned_out_s=found.fanned_out_s,
                rescored_s=found.rescored_s,
            )
        hits = sorted(found.hits, key=lambda hit: (-hit.score, hit.id))
        return replace(found, hits=tuple(hits))

    async def _find(
        self,
        options: SearchOptions,
        deadline_s: float,
        answer: AnswerBytes,
        groups: Groups | None = None,
        seen: frozenset[bytes] = frozenset(),
    ) -> _Found:
        """Candidates of all shards, and the documents of the best, or of those that ``groups``
        choose: of the same shards, even if others take their place meanwhile.
        """
        asked, written = await self._asked(options.read_your_writes, deadline_s)
        query = asked_of_each(options, len(asked), Deadline(deadline_s), sends=groups is None)
        with tracing.span("fan_out", shards=len(asked)):
            gathered, coverage = await asked.search(query, written)
        check_coverage(coverage, options)
        fanned_out_s = time.monotonic()
        with tracing.span("rescore"):
            ranking = merge(gathered, self.description.dimension).down_to(options.min_score)
        rescored_s = time.monotonic()
        sent = {
            (part.shard, row): held for part in gathered for row, held in part.documents.items()
        }
        origins = {part.shard: part.origin for part in gathered}
        include, exclude = frozenset(options.include), frozenset(options.exclude)
        winners = Winners(asked, ranking, origins, sent, include, deadline_s, exclude, seen)
        with tracing.span("texts"):
            if groups is None:
                found = await winners.page(options.offset, options.top_k, answer)
            else:
                found = await winners.grouped(groups, options.top_k, answer)
        vectors = await vectors_of([it for _, it in found], self.description.calibration)
        hits = tuple(
            make_hit(ranking, place, document, winners.fields, vector, explain=options.explain)
            for (place, document), vector in zip(found, vectors, strict=True)
        )
        coverage = replace(coverage, failures=(*coverage.failures, *winners.failures))
        lost = any(failure.error in _GONE for failure in winners.failures)
        plans = filter_stages(gathered) if options.explain and options.filter else None
        total = total_of(gathered, coverage) if options.filter else None
        size_bytes = winners.size_bytes
        times = fanned_out_s, rescored_s
        return _Found(
            hits, coverage, plans, total, gathered, lost, size_bytes, *times, winners.skipped
        )

    async def document(
        self,
        document_id: str,
        timeout_s: float,
        read_your_writes: str | None = None,
        include: Collection[str] = (),
    ) -> StoredDocument:
        """A document, with its vector where that is included. Raises NotFound, ChecksumMismatch,
        InvalidRequest (a token of another index), or if too few replicas answer, the error that
        they had.
        """
        deadline_s = time.monotonic() + timeout_s
        asked, written = await self._asked(read_your_writes, deadline_s)
        wanted, left_s = FIELDS.union(include), deadline_s - time.monotonic()
        shard, found = await asked.document(document_id, left_s, written, wanted)
        (vector,) = await vectors_of([found], self.description.calibration)
        return stored_document(found, shard, vector)

    async def documents(self, options: GetOptions, answer: AnswerBytes) -> StoredDocuments:
        """Several documents by their ids, counted in ``answer``. Raises as in multi_get.py."""
        deadline_s = time.monotonic() + options.timeout_s
        asked = await self._asked(options.read_your_writes, deadline_s)
        return await multi_get(*asked, options, self.description.calibration, deadline_s, answer)

    async def count(self, options: CountOptions) -> Counted:
        """How many documents pass a filter. Raises as ``page`` in listing.py."""
        deadline_s = time.monotonic() + options.timeout_s
        asked = await self._asked(options.read_your_writes, deadline_s)
        return await listing.count(*asked, options, deadline_s)

    async def page(self, options: ListOptions, answer: AnswerBytes) -> Page:
        """Some documents that pass a filter; they are counted in ``answer``. Raises as there."""
        deadline_s = time.monotonic() + options.timeout_s
        asked = await self._asked(options.read_your_writes, deadline_s)
        return await listing.page(*asked, options, deadline_s, answer)

    async def _asked(
        self, token: str | None, deadline_s: float
    ) -> tuple[FanOut, WriteToken | None]:
        """The shards to ask, and what they must have applied. Raises as ``shards_that_know``."""
        if token is None:
            return self.shards, None
        return await shards_that_know(
            token, lambda: (self.shards, self.description.uuid), deadline_s
        )

    def _check_queues(self, options: SearchOptions, *, together: bool) -> None:
        """Raises Overloaded when what waits already leaves too little time for this search."""
        wait_s = self.shards.wait_s(options.mode)
        if options.query is not None:
            wait_s += self.query_vectors.wait_s(options.query)
        if wait_s > (1.0 if together else WAIT_SHARE_MAX) * options.timeout_s:
            raise Overloaded(
                f"waiting queries need {wait_s:.1f} s, too much of the {options.timeout_s:.3f} s "
                "that this one has; try again later"
            )

    async def _moved(
        self, options: SearchOptions, deadline_s: float, liked: Liked
    ) -> NDArray[np.float32]:
        """The unit vector to search for, float32 (width,). Raises as ``_vector`` and ``moved``."""
        has_one = options.query is not None or options.vector is not None
        query = await self._vector(options, deadline_s) if has_one else None
        if query is not None and not (options.like or options.unlike):
            return query
        asked = await self._asked(options.read_your_writes, deadline_s)
        return await moved(query, options, self.description.calibration, asked, deadline_s, liked)

    async def _vector(self, options: SearchOptions, deadline_s: float) -> NDArray[np.float32]:
        """The unit vector of text or embedding, float32 (width,)."""
        if options.vector is not None:
            units = self.description.calibration.units(np.asarray(options.vector)[None, :])
            return np.asarray(units[0])
        assert options.query is not None, "neither a text nor a vector"
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                return await self.query_vectors.of(options.query)
        except TimeoutError as error:
            late = DeadlineExceeded(f"the query was not encoded in {options.timeout_s:.3f} s")
            raise late.with_outcome(RequestOutcome.NOT_DONE) from error


def asked_of_each(
    options: SearchOptions, shards: int, deadline: Deadline, *, sends: bool = True
) -> Query:
    """What each of ``shards`` is asked; ``sends``: which of its own may be hits with it.

    Of a later page none knows which of its own are on it.
    """
    options = replace(options, **_OF_THE_ROUTER)
    if options.offset or shards > SENDING_SHARDS_MAX or not sends:
        return Query(options, 0, deadline, message=Message())
    likely = likely_hits(options.top_k, shards)
    return Query(options, first_bytes(shards), deadline, likely, Message())
