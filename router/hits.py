"""The documents of the winners: sent along by their shards or fetched, within the answer's bytes.

A first call to each shard brings what is small. For a document that did not fit it brings the size,
so what the rest takes is known, and counted, before it is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bitsift.results import Explanation, HammingStage, Hit, ScoreStage, ShardFailure
from bitsift.router.answer_bytes import AnswerBytes
from bitsift.router.grouping import Groups
from bitsift.router.merge import Ranking, as_cosine
from bitsift.router.paging import digest
from bitsift.router.shards.fanout import FanOut
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.types import Document, Origin, Read, Unread, Wanted

FIRST_BYTES_MAX = 128 << 10
"""Documents of one question that the shards send unasked, or in the first call, all together."""
FETCHING_SHARE = 0.01
"""Answers in which a shard has more of the hits than it sends documents unasked."""
DECODED_MAX = 1 << 15
"""Numbers of vectors that are decoded in the event loop: 0.1 ms, with a rotation of 1,024 2 ms."""
Key = tuple[int, int]
"""Shard and row."""
_ONLY_IDS = Wanted(frozenset())
_ONLY_METADATA = frozenset(["metadata"])


def first_bytes(shards: int) -> int:
    """How much of ``FIRST_BYTES_MAX`` each of ``shards`` may send."""
    return FIRST_BYTES_MAX // max(1, shards)


@functools.lru_cache(maxsize=1_024)
def likely_hits(depth: int, shards: int) -> int:
    """How many of ``depth`` hits one of ``shards`` has at most, but for ``FETCHING_SHARE`` of the
    answers: a hash spreads documents over shards, so the number is binomial.
    """
    if shards == 1:
        return depth
    share, other = math.log(1 / shards), math.log1p(-1 / shards)
    beyond = float(shards)  # shards that have more than ``most``
    for most in range(depth):
        ways = math.lgamma(depth + 1) - math.lgamma(most + 1) - math.lgamma(depth - most + 1)
        beyond -= shards * math.exp(ways + most * share + (depth - most) * other)
        if beyond <= FETCHING_SHARE:
            return most
    return depth


@dataclass(slots=True, eq=False)
class Winners:
    """Finds the hits of one question in its ``ranking``, whose rows are of ``origins`` by shard.

    ``sent`` are documents that came with the candidates; ``seen`` are digests of the hits of pages
    before (paging.py). What could not be had is in ``failures``.
    """

    shards: FanOut
    ranking: Ranking
    origins: Mapping[int, Origin]
    sent: Mapping[Key, Document]
    fields: frozenset[str]
    deadline_s: float
    exclude: frozenset[str] = frozenset()
    seen: frozenset[bytes] = frozenset()
    failures: list[ShardFailure] = field(default_factory=list)
    skipped: Sequence[str] = ()
    """The ids of the hits that ``page`` skipped, but for those ``seen``."""
    size_bytes: int = 0
    """What was counted in the answer."""

    async def page(
        self, offset: int, top_k: int, answer: AnswerBytes
    ) -> list[tuple[int, Document]]:
        """Places in the ranking with their documents, best first, equal scores by id.

        The best ``offset`` of them are skipped, or those ``seen``, ``offset`` at most. A damaged
        document is replaced by the next. Raises InvalidRequest where ``answer`` has no room for
        them, Overloaded.
        """
        depth = offset + top_k
        found = await self._first(depth, _ONLY_IDS if offset else None)
        named, unread = found, [p for p, item in found.items() if isinstance(item, Unread)]
        if unread and len(found) > depth:  # equal scores are cut by id: those first
            ids = await self._fetch(unread, _ONLY_IDS)
            named = found | {p: it for p, it in ids.items() if isinstance(it, Document)}
        chosen = self._behind(named, self._cut(named, depth), offset)[:top_k]
        if offset:  # of those skipped the ids are enough
            found = await self._fetch(chosen, None)
            chosen = [place for place in chosen if place in found]
        return await self._whole(found, chosen, depth, answer)

    def _behind(
        self, named: Mapping[int, Document | Unread], places: list[int], offset: int
    ) -> list[int]:
        if self.seen:
            return [place for place in places if digest(_id(named[place])) not in self.seen]
        self.skipped = [_id(named[place]) for place in places[:offset]]
        return places[offset:]

    async def grouped(
        self, groups: Groups, count: int, answer: AnswerBytes
    ) -> list[tuple[int, Document]]:
        """Those of the ``count`` best that ``groups`` choose, as ``page`` gives them."""
        with contextlib.closing(answer.aside()) as aside:
            light = replace(self, fields=_ONLY_METADATA)
            places = groups.chosen(await light.page(0, count, aside))
        found = await self._fetch(places, None)
        there = [place for place in places if place in found]
        return await self._whole(found, there, count, answer)

    async def _whole(
        self,
        found: dict[int, Document | Unread],
        chosen: list[int],
        depth: int,
        answer: AnswerBytes,
    ) -> list[tuple[int, Document]]:
        """The documents at the places that were ``chosen``, counted before they are read."""
        size_bytes = sum(found[place].size_bytes for place in chosen)
        answer.take(size_bytes)
        self.size_bytes = size_bytes
        missing = {p: item for p in chosen if isinstance(item := found[p], Unread)}
        if missing:
            size_bytes = sum(item.size_bytes for item in missing.values())
            found |= await self._fetch(missing, Wanted(self.fields, size_bytes))
            chosen = self._cut({p: found[p] for p in chosen}, depth)
        return [(p, document) for p in chosen if isinstance(document := found[p], Document)]

    async def _first(self, depth: int, wanted: Wanted | None) -> dict[int, Document | Unread]:
        """What is there for the best places, until it is enough for ``depth`` hits."""
        found: dict[int, Document | Unread] = {}
        asked, end = 0, self.ranking.through_ties(depth)
        while asked < end:
            found |= await self._fetch(range(asked, end), wanted)
            missing = depth - len(found)
            asked = end
            if missing > 0 and time.monotonic() < self.deadline_s:
                end = min(len(self.ranking), asked + missing)
        return found

    async def _fetch(
        self, places: Iterable[int], wanted: Wanted | None
    ) -> dict[int, Document | Unread]:
        """What stands at ``places``; ``wanted`` None takes what was sent, and what is small."""
        keys = {p: (int(self.ranking.shards[p]), int(self.ranking.rows[p])) for p in places}
        known: dict[Key, Document | Unread] = {}
        if wanted is None:
            known |= {key: self.sent[key] for key in keys.values() if key in self.sent}
        rows: dict[int, list[int]] = {}
        for shard, row in keys.values():
            if (shard, row) not in known:
                rows.setdefault(shard, []).append(row)
        asked = wanted or Wanted(self.fields, first_bytes(len(rows)))
        deadline = Deadline(self.deadline_s)
        fetched = await self.shards.documents(
            {
                shard: Read(self.origins[shard], of_shard, asked, deadline)
                for shard, of_shard in rows.items()
            }
        )
        self.failures.extend(fetched.failures)
        known |= fetched.documents
        known |= fetched.unread
        return {place: known[key] for place, key in keys.items() if key in known}

    def _cut(self, found: Mapping[int, Document | Unread], depth: int) -> list[int]:
        """The places of the hits, in their order; one for each id that is known."""
        # An upsert that lands between a shard's candidates and its documents may show both rows, or
        # one whose id is excluded.
        hits = (place for place, item in found.items() if _id(item) not in self.exclude)
        by_age = sorted(hits, key=lambda place: int(self.ranking.rows[place]))
        newest = {_id(found[place]) or place: place for place in by_age}
        return sorted(
            newest.values(), key=lambda p: (-float(self.ranking.scores[p]), _id(found[p]))
        )[:depth]


def _id(item: Document | Unread) -> str:
    return item.id if isinstance(item, Document) else ""


async def vectors_of(
    documents: Sequence[Document], calibration: Calibration
) -> list[NDArray[np.float32] | None]:
    """The vector of each, float32 (dimension,); None where its code was not wanted."""
    if not any(document.code for document in documents):
        return [None] * len(documents)
    codes = [np.frombuffer(document.code, np.int8) for document in documents]
    if len(codes) * calibration.dimension <= DECODED_MAX:
        return list(calibration.vectors(np.stack(codes)))
    return list(await asyncio.to_thread(lambda: calibration.vectors(np.stack(codes))))


def make_hit(
    ranking: Ranking,
    place: int,
    document: Document,
    include: frozenset[str],
    vector: NDArray[np.float32] | None,
    *,
    explain: bool,
) -> Hit:
    """The hit at ``place`` of the ranking."""
    return Hit(
        id=document.id,
        score=as_cosine(float(ranking.scores[place])),
        title=document.title if "title" in include else None,
        text=document.text if "text" in include else None,
        metadata=document.metadata if "metadata" in include else None,
        shard=int(ranking.shards[place]),
        explain=_explanation(ranking, place) if explain else None,
        vector=vector,
    )


def _explanation(ranking: Ranking, place: int) -> Explanation:
    hamming = None
    if ranking.hamming_ranks[place]:
        hamming = HammingStage(int(ranking.hamming_ranks[place]), int(ranking.distances[place]))
    rank, score = int(ranking.asymmetric_ranks[place]), float(ranking.asymmetric[place])
    return Explanation(
        hamming, ScoreStage(rank, score), ScoreStage(place + 1, float(ranking.scores[place]))
    )
