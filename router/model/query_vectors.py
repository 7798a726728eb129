"""From the text of a query to its unit vector: cached, or encoded with others that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from bitsift.errors import InvalidRequest, Unavailable
from bitsift.router.batching import Batcher
from bitsift.router.description import IndexDescription
from bitsift.router.metrics import Metrics
from bitsift.router.model.blank import NO_VECTOR
from bitsift.shard_worker.codes import bad_rows

BATCH_CHARACTERS_MAX, TEXT_CHARACTERS = 800, 40
"""Of the texts that the encoder is given together; each counts as ``TEXT_CHARACTERS`` more than it
has. Nothing stops a batch that has begun, and its callers may have gone. Of a hundred glosses in
order of length the dearest batch takes 20 ms of CPU at 800 characters, 25 at 1,000; by eights in
their own order 35 (all-MiniLM-L6-v2 in OpenVINO, 2 busy cores). By order of length 1,000 cost
0.93 of the CPU a text, 800 cost 1.02 and more.
"""
QUERY_CACHE_DEFAULT = 4_096
"""Vectors remembered, least recently used out first: 16 MB of them at 1,024 dimensions."""

REMEMBERED_CHARACTERS_MAX = 1_024
"""Longer texts are encoded each time: what is remembered takes at most 8 KiB a vector of 1,024."""


def _weight(text: str) -> int:
    return len(text) + TEXT_CHARACTERS


class QueryEncoder(Protocol):
    """What the service needs of an encoder: float32 (n, dimension), unit vectors."""

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]: ...

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


class QueryVectors:
    """Encodes one batch of distinct texts at a time, in a thread of its own; in one event loop.

    ``remembered`` is how many vectors are kept by their text; 0 keeps none.
    """

    def __init__(
        self,
        description: IndexDescription,
        encoder: QueryEncoder | None,
        remembered: int,
        metrics: Metrics,
    ) -> None:
        self.failure: str | None = None
        """Why the encoder cannot be loaded."""
        self._description = description
        self._encoder = encoder
        self._known: LRUCache[str, NDArray[np.float32]] = LRUCache(remembered)
        self._hits = self._misses = 0
        self._thread = ThreadPoolExecutor(1, "encode")
        self._batcher: Batcher[str, NDArray[np.float32]] = Batcher(
            self._encode_batch,
            BATCH_CHARACTERS_MAX,
            weigh=_weight,
            observe=metrics.batches("encode"),
        )
        self._passages: Batcher[str, NDArray[np.float32] | None] = Batcher(
            self._encode_passages, BATCH_CHARACTERS_MAX, weigh=_weight, ends_when_left=True
        )

    @property
    def encoder(self) -> QueryEncoder | None:
        return self._encoder

    @encoder.setter
    def encoder(self, encoder: QueryEncoder | None) -> None:
        """Vectors of an earlier encoder are dropped."""
        self._known.clear()
        self._encoder = encoder

    async def of(self, text: str) -> NDArray[np.float32]:
        """The unit vector float32 (width,) of ``text``.

        Raises Unavailable while the encoder is loading or if it cannot be, InvalidRequest where
        there is none, or it has no vector for this text.
        """
        known = self._known.get(text)
        if known is not None:
            self._hits += 1
            return known
        self._misses += 1
        return await self._batcher.submit(text)

    async def of_passages(self, texts: Sequence[str]) -> list[NDArray[np.float32] | None]:
        """The unit vector float32 (width,) of each of ``texts`` as a document has it; None where
        the model has none.

        In batches of their own, so that queries of others wait for one of them at most. Raises
        Unavailable, Overloaded.
        """
        return list(await asyncio.gather(*map(self._passages.enqueue, texts)))

    @property
    def waiting(self) -> int:
        """How many texts wait for the encoder."""
        return self._batcher.waiting

    @property
    def is_encoding(self) -> bool:
        """Whether texts wait for the encoder, or are being encoded."""
        return not (self._batcher.is_idle and self._passages.is_idle)

    def wait_s(self, text: str) -> float:
        """How long ``text`` would wait for its vector if asked for now; 0 if it is cached."""
        return 0.0 if text in self._known else self._batcher.wait_s()

    def cache_facts(self) -> dict[str, int]:
        """Cache statistics for the operator: entries, limit, hits and misses."""
        return {
            "entries": len(self._known),
            "entries_max": int(self._known.maxsize),
            "hits": self._hits,
            "misses": self._misses,
        }

    async def _encode_batch(self, texts: list[str]) -> list[NDArray[np.float32] | InvalidRequest]:
        encoder = self._encoder
        if encoder is None:
            if self._description.model is None:
                raise InvalidRequest(
                    "this index was built from precomputed embeddings; search with a vector, or "
                    "build it with --model, naming the model that made them, to search with text"
                )
            if self.failure is not None:
                raise Unavailable(f"the encoder cannot be loaded: {self.failure}")
            raise Unavailable("the encoder is still loading; try again in a few seconds")
        distinct = list(dict.fromkeys(texts))
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(self._thread, encoder.encode_queries, distinct)
        units = dict(zip(distinct, self._units(encoded), strict=True))
        if encoder is self._encoder and self._known.maxsize:
            self._known.update(
                (text, unit)
                for text, unit in units.items()
                if unit is not None and len(text) <= REMEMBERED_CHARACTERS_MAX
            )
        found = (units[text] for text in texts)
        return [InvalidRequest(f"query: {NO_VECTOR}") if unit is None else unit for unit in found]

    async def _encode_passages(self, texts: list[str]) -> list[NDArray[np.float32] | None]:
        encoder = self._encoder
        if encoder is None:
            raise Unavailable("the encoder is still loading; try again in a few seconds")
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(self._thread, encoder.encode_documents, texts)
        return self._units(encoded)

    def _units(self, encoded: NDArray[Any]) -> list[NDArray[np.float32] | None]:
        """Padded and turned as the index's own vectors are, None for those that there are not;
        shared, so not to be written to.
        """
        bad = bad_rows(encoded)
        good = self._description.calibration.units(encoded[~bad])
        good.flags.writeable = False
        units = iter(good)
        return [None if is_bad else next(units) for is_bad in bad]
