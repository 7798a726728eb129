"""The funnel taken apart: documents as shards hold them, and what each stage alone makes of them.

Whole searches are measured through the router's own service (evaluate.py). Here are the stages
that no search ends with: they show where quality is lost, and `bitsift doctor` tries settings
with them without building an index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.bits.hamming import nearest
from bitsift.shard_worker.codes import (
    Calibration,
    Transform,
    asymmetric_scores,
    best_first,
    normalize,
)
from bitsift.shard_worker.types import CANDIDATES_FIXED, POOL_FACTOR

SAMPLE_ROWS = 4_096
"""As many as `bitsift index` calibrates with."""
_QUERIES_AT_ONCE = 64
"""FAISS parallelises over queries."""


class CodedDocuments:
    """int8 codes (n, width) and bits (n, width/8) of documents that lie in one shard."""

    def __init__(self, calibration: Calibration, codes: NDArray[np.int8]) -> None:
        self.calibration = calibration
        self.codes = codes
        self.bits = calibration.bits(codes)

    def __len__(self) -> int:
        return len(self.codes)

    def pools(self, units: NDArray[np.float32], count: int) -> Iterator[NDArray[np.int64]]:
        """For each query (n, width) the ``count`` nearest rows by (Hamming distance, row)."""
        asked = self.calibration.query_bits(units)
        for first in range(0, len(asked), _QUERIES_AT_ONCE):
            found = nearest(self.bits, asked[first : first + _QUERIES_AT_ONCE], count)
            for distances, rows in zip(*found, strict=True):
                yield rows[np.lexsort((rows, distances))]

    def raw_scores(
        self, query: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """The query against the codes as they are, not decoded: what others do, for comparison."""
        return np.asarray(self.codes[rows].astype(np.float32) @ query)

    def scores(self, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.calibration.scores(query, self.codes[rows])

    def asymmetric(
        self, query: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        return asymmetric_scores(self.calibration.centered(query), self.bits[rows])

    def hamming(self, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Minus the Hamming distance."""
        differing = self.bits[rows] ^ self.calibration.query_bits(query[None])
        return np.asarray(-np.bitwise_count(differing).sum(axis=1, dtype=np.float32))


Scorer = Callable[[CodedDocuments, NDArray[np.float32], NDArray[np.int64]], NDArray[np.float32]]
"""One of ``CodedDocuments``' scores of a query (width,) against rows (n,)."""

PARTIAL_STAGES: dict[str, tuple[Scorer, int]] = {
    "hamming": (CodedDocuments.hamming, CANDIDATES_FIXED),
    "asymmetric": (CodedDocuments.asymmetric, CANDIDATES_FIXED * POOL_FACTOR),
    "hamming_raw_int8": (CodedDocuments.raw_scores, CANDIDATES_FIXED),
    "hamming_int8": (CodedDocuments.scores, CANDIDATES_FIXED),
}
"""What orders the answer, and of how many rows by Hamming distance in each shard."""


def partial_answers(
    shards: Sequence[CodedDocuments],
    parts: Sequence[NDArray[np.int64]],
    units: NDArray[np.float32],
    top_k: int,
) -> dict[str, list[NDArray[np.int64]]]:
    """The answers to ``units`` (n, width) of each stage that no search ends with.

    ``parts[i]`` says which document each row of ``shards[i]`` is. Answers are documents, best
    first.
    """
    found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in PARTIAL_STAGES}
    pools = [list(shard.pools(units, CANDIDATES_FIXED * POOL_FACTOR)) for shard in shards]
    for place, query in enumerate(units):
        for name, (scorer, kept) in PARTIAL_STAGES.items():
            pool = [pools_of_shard[place][:kept] for pools_of_shard in pools]
            scores = [scorer(shard, query, rows) for shard, rows in zip(shards, pool, strict=True)]
            documents = [part[rows] for part, rows in zip(parts, pool, strict=True)]
            together = np.concatenate(documents)
            found[name].append(together[best_first(np.concatenate(scores), together, top_k)])
    return found


def calibrate(vectors: NDArray[np.float32], transform: Transform = Transform.NONE) -> Calibration:
    """The calibration of an index of these vectors (n, dimension), from a sample of them."""
    dimension = vectors.shape[1]
    sample = np.random.default_rng(0).permutation(len(vectors))[:SAMPLE_ROWS]
    return Calibration.from_sample(normalize(vectors[sample], dimension), dimension, transform)


def exact_top(
    queries: NDArray[np.float32], documents: NDArray[np.float32], count: int
) -> NDArray[np.int64]:
    """The ``count`` documents of highest fp32 cosine for each query, best first: int64 (n, count).

    Both are unit vectors (n, dimension).
    """
    found = np.empty((len(queries), min(count, len(documents))), dtype=np.int64)
    rows = np.arange(len(documents), dtype=np.int64)
    for first in range(0, len(queries), _QUERIES_AT_ONCE):
        block = queries[first : first + _QUERIES_AT_ONCE] @ documents.T
        for place, scores in enumerate(block, start=first):
            found[place] = best_first(scores, rows, count)
    return found
