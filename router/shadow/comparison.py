"""What a search missed: its candidates against the truth, which came a little later.

Both have the same scores of the same rows (codes.py), so nothing but scores is compared, and
documents of equal scores count as each other. Rows are appended and die, and never come back, so
what was written in between is recognised:

    a row beyond those that were there when the first search began is not compared;
    a row of its candidates that scores above the last of the truth, and is not in it, has died.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.types import CANDIDATES_FIXED, Candidates, Origin, Plan, spare_hits

DEPTH = 10
"""How many of the best hits are compared: recall@10."""
PERSISTENCE = 0.9
"""p of rank-biased overlap: the best ten ranks have 86 % of the weight (Webber et al., eq. 21)."""
UNFILTERED, MIXED = "unfiltered", "mixed"
"""In the place of a plan: there was no filter; shards applied it in different ways."""
_TRUTH_ROWS = min(CANDIDATES_FIXED, spare_hits(DEPTH))
"""Where a shard sends fewer rows for the truth, these are all there are."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a search found in one shard: ``rows`` int64 (n,) of ``origin``, ``scores`` float32 (n,).

    ``rows_there`` rows were there when it began; None where the shard does not say.
    """

    origin: Origin
    rows_there: int | None
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]

    @classmethod
    def of(cls, found: Candidates) -> Seen:
        """A copy: the arrays of ``found`` are views of a whole message, with its documents."""
        return cls(found.origin, found.rows_there, found.rows.copy(), found.scores.copy())


@dataclass(frozen=True, slots=True)
class Compared:
    """``recall`` is the share of the best hits that were found, ``overlap`` the rank-biased overlap
    of both rankings; 0 to 1.
    """

    recall: float
    overlap: float


def plan_of(gathered: Sequence[Candidates]) -> str:
    """How the shards of one search applied its filter."""
    plans: set[Plan | None] = {None if part.plan is None else part.plan.kind for part in gathered}
    if len(plans) > 1:
        return MIXED
    (plan,) = plans or {None}
    return UNFILTERED if plan is None else plan.value


def compared(
    seen: Mapping[int, Seen], truth: Mapping[int, Candidates], depth: int
) -> Compared | None:
    """How much of the ``depth`` best rows of ``truth`` is in what was ``seen``, by shard.

    None where that cannot be said: a shard was compacted, or so much was written in between that
    the truth does not reach so deep.
    """
    best: list[NDArray[np.float32]] = []
    found: list[NDArray[np.float32]] = []
    floor = -np.inf
    for shard, before in seen.items():
        now = truth[shard]
        if now.origin != before.origin or before.rows_there is None:
            return None
        cut = float(now.scores.min()) if len(now) >= _TRUTH_ROWS else -np.inf
        floor = max(floor, cut)
        died = (before.scores > cut) & ~np.isin(before.rows, now.rows)
        best.append(now.scores[now.rows < before.rows_there])
        found.append(before.scores[(before.rows < before.rows_there) & ~died])
    right, given = _highest(best, depth), _highest(found, depth)
    if floor > -np.inf and (len(right) < depth or right[-1] < floor):
        return None
    if not len(right):
        return Compared(1.0, 1.0)  # nothing was to be found
    ranks = range(1, len(right) + 1)
    agreeing = [int(np.count_nonzero(given[:rank] >= right[rank - 1])) for rank in ranks]
    return Compared(agreeing[-1] / len(right), rank_biased_overlap(agreeing))


def rank_biased_overlap(agreeing: Sequence[int], p: float = PERSISTENCE) -> float:
    """RBO of two rankings that have ``agreeing[d - 1]`` items of their first d in common, as far as
    it is known, and extrapolated beyond: RBO_EXT, eq. 23 of W. Webber, A. Moffat, J. Zobel, "A
    similarity measure for indefinite rankings", ACM TOIS 28(4), 2010.
    """
    shares = [common / rank for rank, common in enumerate(agreeing, 1)]
    weighted = sum(share * p**rank for rank, share in enumerate(shares, 1))
    return shares[-1] * p ** len(shares) + (1 - p) / p * weighted


def _highest(scores: Sequence[NDArray[np.float32]], count: int) -> NDArray[np.float32]:
    """The ``count`` highest of all, highest first."""
    return np.sort(np.concatenate(scores))[::-1][:count]
