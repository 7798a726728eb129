"""SearchService: one question from text to answer. Knows nothing of Ray or HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.answer import (
    Answer,
    Coverage,
    Explanation,
    HammingStage,
    Hit,
    ScoreStage,
    Timings,
)
from router.description import IndexDescription
from router.fanout import FanOut
from router.merge import Ranking, rescore
from router.query_vectors import QUERY_CACHE_DEFAULT, QueryEncoder, QueryVectors
from shard_worker.errors import DeadlineExceeded, InvalidRequest, ShardUnavailable
from shard_worker.types import CANDIDATES_MAX, NPROBE_MAX, Document, Mode, Query

TOP_K_DEFAULT = 10
TOP_K_MAX = CANDIDATES_MAX
TIMEOUT_DEFAULT_S = 5.0
TIMEOUT_MAX_S = 60.0
QUERY_CHARACTERS_MAX = 8_192
SENDING_SHARDS_MAX = 4
"""So many shards send the documents of their own best along with the candidates, which spares a
second round of calls; more would read many documents that no one sees."""
FIELDS = frozenset({"title", "text", "metadata"})


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One question: ``text`` or a ready-made ``vector`` (dimension,), and how to answer it.

    ``candidates`` and ``nprobe`` None leave it to each shard how much it reads and visits.
    """

    text: str | None = None
    vector: NDArray[np.float32] | None = None
    top_k: int = TOP_K_DEFAULT
    candidates: int | None = None
    mode: Mode = Mode.AUTO
    nprobe: int | None = None
    timeout_s: float = TIMEOUT_DEFAULT_S
    include: frozenset[str] = FIELDS
    explain: bool = False
    require_complete: bool = False

    def __post_init__(self) -> None:
        """Check at the border. Raises InvalidRequest."""
        if (self.text is None) == (self.vector is None):
            raise InvalidRequest("ask with a text or with a vector, exactly one of them")
        if self.text is not None:
            _check_text(self.text)
        _check_range("top_k", self.top_k, 1, TOP_K_MAX)
        if self.candidates is not None:
            _check_range("candidates", self.candidates, 1, CANDIDATES_MAX)
        if self.nprobe is not None:
            _check_range("nprobe", self.nprobe, 1, NPROBE_MAX)
        if not 0 < self.timeout_s <= TIMEOUT_MAX_S:
            raise InvalidRequest(f"the timeout must be above 0 and at most {TIMEOUT_MAX_S:.0f} s")
        unknown = self.include - FIELDS
        if unknown:
            raise InvalidRequest(f"cannot include {sorted(unknown)}; choose of {sorted(FIELDS)}")


def _check_text(text: str) -> None:
    if not text.strip():
        raise InvalidRequest("the query is empty")
    _check_range("characters of the query", len(text), 1, QUERY_CHARACTERS_MAX)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("the query holds a lone surrogate: not valid Unicode") from error


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidRequest(f"{name}: {value} is not between {low} and {high}")


class SearchService:
    """Answers questions against one index. Lives in one event loop."""

    def __init__(
        self,
        description: IndexDescription,
        shards: FanOut,
        encoder: QueryEncoder | None,
        query_cache: int = QUERY_CACHE_DEFAULT,
    ) -> None:
        """``encoder`` None: it is still loading, or the index has ready-made vectors only.

        ``query_cache`` is how many vectors of queries are remembered by their text.
        ``loading_total`` is how many records a load that runs meanwhile will have brought, None
        while none runs.
        """
        self.description = description
        self.loading_total: int | None = None
        self.shards = shards
        self.query_vectors = QueryVectors(description, encoder, query_cache)
        # A rotation takes seconds to make: now, not in the event loop at the first question.
        description.calibration.units(np.ones((1, description.dimension)))

    @property
    def encoder(self) -> QueryEncoder | None:
        return self.query_vectors.encoder

    @encoder.setter
    def encoder(self, encoder: QueryEncoder | None) -> None:
        self.query_vectors.encoder = encoder

    async def search(self, question: Question) -> Answer:
        """The answer to one question.

        Raises InvalidRequest, Unavailable (no encoder), DeadlineExceeded when nothing was encoded
        in time, ShardUnavailable when completeness was required or no shard answered.
        """
        started = time.monotonic()
        deadline = started + question.timeout_s
        vector = await self._vector(question, deadline)
        encoded = time.monotonic()
        query = _shard_query(vector, question, len(self.shards) <= SENDING_SHARDS_MAX)
        gathered, coverage = await self.shards.search(query, deadline)
        _check_coverage(coverage, question)
        fanned_out = time.monotonic()
        ranking = rescore(self.description.calibration, vector, gathered)
        rescored = time.monotonic()
        sent = {
            (part.shard, row): document
            for part in gathered
            for row, document in part.documents.items()
        }
        hits, coverage = await self._hits(question, ranking, sent, coverage, deadline)
        _check_coverage(coverage, question)
        done = time.monotonic()
        stages = (started, encoded, fanned_out, rescored, done)
        return Answer(hits, coverage, _timings(*stages), partial=bool(coverage.failures))

    async def _vector(self, question: Question, deadline: float) -> NDArray[np.float32]:
        """The unit query vector, float32 (width,)."""
        if question.vector is not None:
            units = self.description.calibration.units(question.vector[None, :])
            return np.asarray(units[0])
        assert question.text is not None
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self.query_vectors.of(question.text)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the query was not encoded in {question.timeout_s:.3f} s"
            ) from error

    async def _hits(
        self,
        question: Question,
        ranking: Ranking,
        sent: Mapping[tuple[int, int], Document],
        coverage: Coverage,
        deadline: float,
    ) -> tuple[tuple[Hit, ...], Coverage]:
        """The winners' documents: ``sent`` already, by (shard, row), or fetched.

        A damaged one is replaced by the next and reported.
        """
        documents: dict[int, Document] = {}
        asked = 0
        wanted = ranking.through_ties(question.top_k)
        while asked < wanted:
            places = range(asked, wanted)
            rows: dict[int, list[int]] = {}
            keys = {p: (int(ranking.shards[p]), int(ranking.rows[p])) for p in places}
            for shard, row in keys.values():
                if (shard, row) not in sent:
                    rows.setdefault(shard, []).append(row)
            fetched, failures = await self.shards.documents(rows, deadline)
            known = {**sent, **fetched}
            documents |= {place: known[key] for place, key in keys.items() if key in known}
            coverage = replace(coverage, failures=(*coverage.failures, *failures))
            missing = question.top_k - len(documents)
            asked = wanted
            if missing > 0 and time.monotonic() < deadline:
                wanted = min(len(ranking), asked + missing)
        # An upsert that lands between a shard's candidates and its documents may show both rows.
        by_age = sorted(documents, key=lambda place: int(ranking.rows[place]))
        newest = {documents[place].id: place for place in by_age}.values()
        order = sorted(newest, key=lambda p: (-float(ranking.scores[p]), documents[p].id))
        hits = [_hit(question, ranking, place, documents[place]) for place in order]
        return tuple(hits[: question.top_k]), coverage


def _shard_query(vector: NDArray[np.float32], question: Question, with_documents: bool) -> Query:
    """What every shard is asked; fixed candidates are ``top_k`` at least: one may hold all."""
    fixed = question.candidates
    candidates = None if fixed is None else max(fixed, question.top_k)
    return Query(vector, candidates, question.mode, question.nprobe, question.top_k, with_documents)


def _check_coverage(coverage: Coverage, question: Question) -> None:
    """Raise ShardUnavailable when nothing answered, or completeness was asked for and missed."""
    if coverage.failures and (question.require_complete or coverage.answered == 0):
        reasons = "; ".join(f"shard {f.shard}: {f.message}" for f in coverage.failures)
        raise ShardUnavailable(
            f"{coverage.answered} of {coverage.shards} shards answered completely "
            f"in {question.timeout_s:.3f} s ({reasons})"
        )


def _hit(question: Question, ranking: Ranking, place: int, document: Document) -> Hit:
    explain = None
    if question.explain:
        hamming = None
        if ranking.hamming_ranks[place]:
            hamming = HammingStage(int(ranking.hamming_ranks[place]), int(ranking.distances[place]))
        asymmetric = ScoreStage(
            int(ranking.asymmetric_ranks[place]), float(ranking.asymmetric[place])
        )
        explain = Explanation(
            hamming, asymmetric, ScoreStage(place + 1, float(ranking.scores[place]))
        )
    return Hit(
        id=document.id,
        score=float(ranking.scores[place]),
        title=document.title if "title" in question.include else None,
        text=document.text if "text" in question.include else None,
        metadata=document.metadata if "metadata" in question.include else None,
        shard=int(ranking.shards[place]),
        explain=explain,
    )


def _timings(
    started: float, encoded: float, fanned_out: float, rescored: float, done: float
) -> Timings:
    def ms(start: float, end: float) -> float:
        return round((end - start) * 1e3, 3)

    return Timings(
        encode=ms(started, encoded),
        fan_out=ms(encoded, fanned_out),
        rescore=ms(fanned_out, rescored),
        texts=ms(rescored, done),
        total=ms(started, done),
    )
