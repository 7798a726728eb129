"""How many int8 codes a query needs, decided from the asymmetric scores. No I/O.

What is decided before the first code is read is compiled, too (``bitsift_worth_reading`` in
native/kernels.c); where no kernel is, it is the numpy below.

Before any code is read (``reads``):

The asymmetric score of a row is its true score s in other units, plus noise:
``e = a·s·sqrt(dimension) + N(0, σ²)``. For random rows of Gaussian vectors a = sqrt(2/π) = 0.80 and
σ = sqrt(1 - 2/π) = 0.60; measured with all-MiniLM-L6-v2 on CISI: 0.79 and 0.58, alike for every
query. So the rows to read follow from the estimates alone:

1. ``t``, the estimate that the true ``top_k``-th score stands for, is where the expected number of
   rows above it is ``top_k``: ``Σ Φ((e_i - t)/σ) = top_k``.
2. ``p_i = Φ((e_i - t)/σ)`` is the probability that row i belongs to the true ``top_k``. (A prior
   that falls exponentially shifts every e_i alike, and so changes no p_i.)
3. Reading the best m is expected to miss ``Σ_{i>m} p_i`` rows. ``reads`` is the smallest m that
   misses at most the share ``missed`` of ``top_k``.

A clear margin at the cut leaves little probability behind it, a flat tail much. σ comes from the
pool itself (``noise``), for what all its rows agree on cannot reorder them: with m_j the mean of
the ±1 bit j over the pool, ``σ² = (1 - 2/π) Σ q_j² (1 - m_j²)``. Measured: 0.47 for CISI's
narrow subject, 0.59 for XQuAD's many, 0.16 for CISI with three large constant dimensions added,
where σ = 0.5 would read 157 codes instead of 40.

Once some were read (``further_reads``) their scores say how good the estimates are: the line
``s = a·e + b`` through them, and the spread τ about it. Rows are chosen by e, which does not bias
the line. So ``p_i = Φ((a·e_i + b - s_k)/τ)`` is the probability that an unread row beats the
``top_k``-th best score so far, and reading goes on while ``Σ p_i`` says that too many do. Where
estimates say little, a is small and all rows look alike: then much is read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.codes import asymmetric_scores, best_first, partial_sums
from bitsift.shard_worker.native import kernels

READS_MIN, READS_PER_HIT_MIN = 20, 2
"""Never fewer reads than these, while there are rows: a guard that seldom binds at ``top_k`` 10. It
lifts recall@10 on adi (82 documents) from 0.980 to 0.986, for 0.2 reads on CISI, 1.8 on XQuAD."""
READS_MAX, READS_PER_HIT_MAX = 160, 4
"""Never more than the larger of 160 and this many per hit."""
MISSED = 0.001
"""The share of the true ``top_k`` expected beyond the cut, the one tuned number: of 0.0085, 0.004,
0.002 and 0.001 the largest that brings recall@10 of one shard above 0.99 on all of adi, Cranfield,
CISI, NPL and XQuAD (MiniLM; 0.991 to 0.998), for 29 to 57 reads a query; 0.0085 found 0.982 to
0.992 with 23 to 39. A factor for each row, as RaBitQ has it, or weights for each
dimension found no more at the same number of reads.
"""
MISSED_FURTHER = 0.002
"""The same share for ``further_reads``. Filters that let a tenth pass, all of another topic than
the query, 1 M synthetic vectors of 384 dimensions: recall@10 0.967 at 0.0085 with 450 reads, 0.979
at 0.004 with 594, 0.9875 at 0.002 with 719 (bits choose 0.81 with 159)."""
_CONSIDERED = 2
"""Rows beyond this many times the most that may be read are taken for hopeless: with all 800 of a
pool CISI would read 0.2 more."""
_LINE_POINTS_MIN = 8
"""Scores that a line is drawn through; there are twenty where twenty rows pass."""
_SIGN_NOISE = float(np.sqrt(1 - 2 / np.pi))
_NOISE_POOL, _NOISE_ROWS = 400, 100
"""``noise`` looks at 100 rows spread over the nearest 400: as good as all of them, in a quarter of
the time, and the same for a larger pool."""
_BRACKET = 4.0
"""``t`` lies within this many σ of the ``top_k``-th best estimate while Φ(-4) x rows < 1."""
_SIGMA_MIN = 1e-6
"""A pool of equal codes has no noise."""
_EXPONENT_MAX = np.float32(80)
"""exp of more overflows float32 at 88."""
_STEPS_MAX, _TOLERANCE = 12, 1e-5
"""``t`` is found when the expected number of rows is so near to ``top_k``, a hundredth of MISSED:
after 3 to 6 steps."""
_SLOPE, _CURVE = np.float32(1.5976), np.float32(0.07056)
"""Φ's logistic has the exponent ``_SLOPE`` x + ``_CURVE`` x³ (Bowling et al. 2009)."""


def noise(query: NDArray[np.float32], bits: NDArray[np.uint8]) -> float:
    """Standard deviation σ of the asymmetric score, in its own units, among the rows of a pool.

    ``query`` float32 (width,); ``bits`` uint8 (n, width/8), the pool's codes by Hamming distance,
    nearest first. Fewer than two codes have no noise: 0.
    """
    if len(bits) < 2:
        return 0.0
    nearest = bits[:_NOISE_POOL]
    sample = nearest[:: -(-len(nearest) // _NOISE_ROWS)]
    rows = len(sample)
    ones = np.add.reduce(np.unpackbits(sample, axis=1), axis=0, dtype=np.uint8)
    share = ones / np.float32(rows)
    # 4·share·(1 - share) = 1 - m²; n/(n - 1) as for any variance of a sample.
    spread = (4 * rows / (rows - 1)) * share * (1 - share)
    return float(_SIGN_NOISE * np.sqrt((query * query) @ spread))


def rows_to_read(
    query: NDArray[np.float32],
    bits: NDArray[np.uint8],
    rows: NDArray[np.int64],
    top_k: int,
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The asymmetric scores float32 (n,) of a pool for ``query`` (width,), and the places of the
    rows that are worth reading, best first.

    ``bits`` uint8 (n, width/8) nearest first; ``rows`` int64 (n,) order equal scores.
    """
    lowest, highest = _bounds(top_k)
    if kernels.is_there():
        table, most = partial_sums(query), _CONSIDERED * highest
        return kernels.worth_reading(bits, table, query, rows, top_k, MISSED, lowest, highest, most)
    estimates = asymmetric_scores(query, bits)
    best = best_first(estimates, rows, _CONSIDERED * highest)
    return estimates, best[: reads(estimates[best], noise(query, bits), top_k)]


def _bounds(top_k: int) -> tuple[int, int]:
    """The fewest and the most rows to read."""
    return max(READS_MIN, READS_PER_HIT_MIN * top_k), reads_max(top_k)


def reads_max(top_k: int) -> int:
    """More rows than this are never read."""
    return max(READS_MAX, READS_PER_HIT_MAX * top_k)


def reads(estimates: NDArray[np.float32], sigma: float, top_k: int, missed: float = MISSED) -> int:
    """How many of the best rows to read: never fewer than ``top_k``, as far as there are rows.

    ``estimates`` float32 (n,), asymmetric scores of the pool, best first; ``sigma`` from ``noise``.
    ``missed`` is the share of the true ``top_k`` expected beyond the cut. At the default the share
    truly missed was 0.013 on CISI and 0.001 on XQuAD: a scale for ``doctor`` to set, no promise.
    """
    rows = len(estimates)
    lowest, highest = _bounds(top_k)
    if rows <= lowest:
        return rows
    beyond = np.cumsum(_memberships(estimates, sigma, top_k)[::-1], dtype=np.float64)[::-1]
    needed = int(np.count_nonzero(beyond > missed * top_k))
    return min(max(needed, lowest), highest)


def further_reads(
    estimates: NDArray[np.float32],
    scores: NDArray[np.float32],
    unread: NDArray[np.float32],
    top_k: int,
    missed: float = MISSED_FURTHER,
) -> int:
    """How many more rows to read, after some.

    ``estimates`` and ``scores`` float32 (n,) are of the rows that were read, ``unread`` float32
    (m,) the estimates of those that were not, best first; ``missed`` is the share of ``top_k`` that
    is expected to be among the unread afterwards. All m, while fewer than ``top_k`` scores are
    known, or too few for a line.
    """
    if len(scores) < max(top_k, _LINE_POINTS_MIN):
        return len(unread)
    x, y = estimates.astype(np.float64), scores.astype(np.float64)
    x_mean = x.sum() / len(x)
    x -= x_mean
    y -= y.sum() / len(y)
    slope = max(0.0, float(x @ y) / max(float(x @ x), _SIGMA_MIN))
    off = y - slope * x
    spread = max(float(np.sqrt(off @ off / (len(y) - 2))), _SIGMA_MIN)
    due = np.partition(y, len(y) - top_k)[len(y) - top_k]
    chances = _normal_cdf(((slope * (unread - x_mean) - due) / spread).astype(np.float32))
    beyond = np.cumsum(chances[::-1], dtype=np.float64)[::-1]
    return int(np.count_nonzero(beyond > missed * top_k))


def _memberships(estimates: NDArray[np.float32], sigma: float, top_k: int) -> NDArray[np.float32]:
    """The probability of each row to be in the true ``top_k``; ``t`` is found by Newton's method,
    kept within its bracket by halving it.
    """
    distances = (estimates - estimates[top_k - 1]) / np.float32(max(sigma, _SIGMA_MIN))
    low, high, middle = -_BRACKET, _BRACKET, 0.0
    for _ in range(_STEPS_MAX):
        above = distances - np.float32(middle)
        chances = _normal_cdf(above)
        too_many = float(chances.sum()) - top_k
        if abs(too_many) <= _TOLERANCE * top_k:
            break
        low, high = (middle, high) if too_many > 0 else (low, middle)
        slope = float((chances * (1 - chances)) @ (_SLOPE + 3 * _CURVE * above * above))
        middle += too_many / max(slope, _SIGMA_MIN)
        if not low < middle < high:
            middle = (low + high) / 2
    return chances


def _normal_cdf(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Φ to within 0.0002."""
    exponent = x * x
    exponent *= -_CURVE
    exponent -= _SLOPE
    exponent *= x
    np.minimum(exponent, _EXPONENT_MAX, out=exponent)
    np.exp(exponent, out=exponent)
    exponent += 1
    return np.asarray(1 / exponent)
