"""One order of all gathered candidates: by their decoded int8 scores, which have one scale.

A shard computes them itself: a score does not depend on the rows that are scored with it
(``Calibration.scores``), so it is the same as if the router had all codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.types import Candidates

ROWS_MAX = 1 << 40
"""More than one shard can have: (shard, row) as one number, which sorts in a fifth of the time."""


def as_cosine(score: float) -> float:
    """A score as an answer says it: decoded int8 vectors are longer than 1 by up to some 0.002."""
    return min(1.0, max(-1.0, score))


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Gathered candidates of all shards, best decoded score first. All arrays are (n,).

    ``asymmetric`` holds cosines of the fp32 query and the ±1 code; ``asymmetric_ranks`` the
    1-based rank by it among the gathered; ``distances`` Hamming bits.
    """

    shards: NDArray[np.int64]
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    asymmetric: NDArray[np.float32]
    asymmetric_ranks: NDArray[np.int64]
    distances: NDArray[np.int32]
    hamming_ranks: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.rows)

    def down_to(self, min_score: float | None) -> Ranking:
        """Those that score ``min_score`` or more, as an answer says their scores."""
        if min_score is None or not len(self):
            return self
        scores = self.scores.astype(np.float64)
        kept = int(np.count_nonzero(np.clip(scores, -1.0, 1.0) >= min_score))
        return Ranking(*(getattr(self, field.name)[:kept] for field in fields(self)))

    def through_ties(self, count: int) -> int:
        """How many leading candidates reach the score of the ``count``-th: ties are cut by id."""
        if count >= len(self):
            return len(self)
        return int(np.count_nonzero(self.scores >= self.scores[count - 1]))


def merge(gathered: Sequence[Candidates], dimension: int) -> Ranking:
    """Rank the candidates of all shards by their scores; ``dimension`` is the index's.

    Equal scores stand in (shard, row) order here; the service orders them by document id.
    """
    parts = sorted((part for part in gathered if len(part)), key=lambda part: part.shard)
    if not parts:
        return _NOTHING
    shards = np.repeat([part.shard for part in parts], [len(part) for part in parts])
    rows = np.concatenate([part.rows for part in parts])
    estimates = np.concatenate([part.estimates for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    by_row = np.argsort(shards * ROWS_MAX + rows)
    best = by_row[np.argsort(-scores[by_row], kind="stable")]
    ranks = np.empty(len(rows), dtype=np.int64)
    by_estimate = by_row[np.argsort(-estimates[by_row], kind="stable")]
    ranks[by_estimate] = np.arange(1, len(rows) + 1)
    return Ranking(
        shards=shards[best].astype(np.int64),
        rows=rows[best],
        scores=scores[best],
        asymmetric=(estimates[best] / np.sqrt(dimension)).astype(np.float32),
        asymmetric_ranks=ranks[best],
        distances=np.concatenate([part.distances for part in parts])[best],
        hamming_ranks=np.concatenate([part.hamming_ranks for part in parts])[best],
    )


_NOTHING = Ranking(*(np.empty(0, dtype) for dtype in ("i8", "i8", "f4", "f4", "i8", "i4", "i4")))
