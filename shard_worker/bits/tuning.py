"""How many lists an approximate search visits, and what an exact scan costs: both are measured.

It is measured on the shard's own rows: documents drawn at random are asked for, and the candidates
from more and more lists are compared with those of the exact scan. The curve is stored next to the
lists. Documents are easier queries than most questions, so the default's target lies above the 0.98
that is promised (recall@40 of the candidates at a tenth of the exact scan's time).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import BitsiftError, NotFound
from bitsift.options import RECALL_MAX
from bitsift.shard_worker.bits.hamming import nearest
from bitsift.shard_worker.bits.index import BinaryIndex, Pool
from bitsift.shard_worker.codes import Calibration, asymmetric_scores, best_first
from bitsift.shard_worker.layout import read_json, write_json
from bitsift.shard_worker.types import CANDIDATES_FIXED, POOL_FACTOR

log = logging.getLogger(__name__)

TUNING_FILE, FIRST_FILE = MEASURED_FILES = "bits-lists.json", "bits-first.json"
RECALL_TARGET = 0.985
"""Of a search that says neither ``nprobe`` nor ``recall``."""
QUERIES = 384
"""Of 128, two halves of 40 M rows that are alike wanted 144 and 324 lists for one recall."""
_ROUNDING = 1e-6
SCAN_ROWS = 1 << 20
SCAN_ROWS_MIN = 100_000
SCAN_BYTES_S = 28e9
"""One core of an EPYC scans 228 M codes of 128 bytes a second: taken where a shard is too small to
measure it."""


def scan_seconds_per_row(index: BinaryIndex, first_share: float | None = None) -> float:
    """Time of a scan by one core, the best of nine, over at most SCAN_ROWS rows.

    Of three, beside other work, one of two shards that are alike was taken for too slow to scan.
    """
    rows = min(len(index), SCAN_ROWS)
    if rows < SCAN_ROWS_MIN:
        return index.row_bytes / SCAN_BYTES_S
    bits = index.contiguous(rows)
    spent = []
    for _ in range(9):
        started = time.perf_counter()
        count = CANDIDATES_FIXED * POOL_FACTOR
        nearest(bits, bits[:1].joined(), count, first_share=first_share)
        spent.append(time.perf_counter() - started)
    return min(spent) / len(bits)


Curve = dict[int, float]
"""For each number of lists visited, ascending, the recall of the candidates against those of the
exact scan. Where it ends at all lists, that is 1."""


def lists_for(curve: Curve, recall: float) -> int | None:
    """The smallest number of lists that reaches ``recall``; None: none that was measured does.

    Between two that were measured recall lies above the straight line over the logarithm, so that
    is taken: of 20 M rows 193 lists, where 144 found 0.9812 and 216 0.9865.
    """
    below: tuple[int, float] | None = None
    for nprobe, found in sorted(curve.items()):
        if found >= recall:
            if below is None:
                return nprobe
            fewer, found_by_fewer = below
            part = (recall - found_by_fewer) / (found - found_by_fewer)
            return math.ceil(fewer * math.pow(nprobe / fewer, part) - _ROUNDING)
        below = nprobe, found
    return None


LISTED_SHARE = 1 / 16
"""Of the rows in lists, those that are compared by all bits where first bits say enough of a
shard's rows. 1 M x 1,024, 900 of 8,192 lists: 0.89 ms in the place of 1.39, for 0.0007 of
recall@10; with half of it 0.68 ms for 0.0017."""


def measure_curve(
    index: BinaryIndex,
    calibration: Calibration,
    vectors: NDArray[np.float32],
    first_share: float | None = None,
) -> Curve:
    """The curve up to the highest recall that a search may ask for, by ``first_share`` in lists.

    ``vectors`` float32 (n, width) are unit vectors to ask for.
    """
    assert index.listed is not None
    exact = _candidates(vectors, index, calibration)
    curve: Curve = {}
    nprobe = -(-index.listed.lists // 512)
    while True:
        found = _candidates(vectors, index, calibration, nprobe, first_share)
        curve[nprobe] = shared(exact, found)
        if curve[nprobe] >= RECALL_MAX or nprobe >= index.listed.lists:
            return curve
        nprobe = min(-(-3 * nprobe // 2), index.listed.lists)


def shared(exact: Sequence[NDArray[np.int64]], found: Sequence[NDArray[np.int64]]) -> float:
    """The share of the ``exact`` rows that were ``found``, the mean of the queries."""
    pairs = [(a, b) for a, b in zip(exact, found, strict=True) if len(a)]
    shares = [len(np.intersect1d(a, b)) / len(a) for a, b in pairs]
    return round(float(np.mean(shares)), 5) if shares else 1.0  # no row is alive


def _candidates(
    vectors: NDArray[np.float32],
    index: BinaryIndex,
    calibration: Calibration,
    nprobe: int | None = None,
    first_share: float | None = None,
) -> list[NDArray[np.int64]]:
    """The rows that the funnel would read for each vector."""
    found = []
    for first in range(0, len(vectors), 16):
        part = vectors[first : first + 16]
        bits, part = calibration.query_bits(part), calibration.centered(part)
        count = CANDIDATES_FIXED * POOL_FACTOR
        pools = index.search(bits, count, nprobe, first_share=first_share)
        found += [_narrowed(vector, pool) for vector, pool in zip(part, pools, strict=True)]
    return found


def _narrowed(vector: NDArray[np.float32], pool: Pool) -> NDArray[np.int64]:
    estimates = asymmetric_scores(vector, pool.bits())
    return pool.rows[best_first(estimates, pool.rows, CANDIDATES_FIXED)]


def write_tuning(folder: Path, rows: int, curve: Curve, first_share: float | None = None) -> None:
    """Keep what was measured on lists of ``rows`` rows, by ``first_share``. ``nprobe`` is for an
    earlier release, if one opens the shard again.
    """
    recall = {str(lists): value for lists, value in curve.items()}
    nprobe = lists_for(curve, RECALL_TARGET) or max(curve)
    facts = {"rows": rows, "nprobe": nprobe, "recall": recall, "first_share": first_share}
    write_json(folder / TUNING_FILE, facts)


def keep_tuning(folder: Path, rows_before: int, rows: int) -> None:
    """Deleted rows were dropped from lists of ``rows_before`` rows: what was measured holds for the
    rest.

    Where nothing was kept, nothing is; then it is measured again.
    """
    try:
        data = read_json(folder / TUNING_FILE)
    except BitsiftError:
        return
    if data.get("rows") == rows_before:
        write_json(folder / TUNING_FILE, {**data, "rows": rows})


def read_tuning(folder: Path, rows: int) -> tuple[Curve, float | None] | None:
    """The curve measured on the lists of ``rows`` rows, and the share that was compared by more
    than first bits; None where there is none: it is derived data.

    Earlier releases compared all bits in lists; the curve of the first ones ends at RECALL_TARGET.
    """
    try:
        data = read_json(folder / TUNING_FILE)
        if data["rows"] != rows:
            return None
        share = data.get("first_share")
        curve = {int(lists): float(recall) for lists, recall in data["recall"].items()}
        return curve, None if share is None else float(share)
    except NotFound:
        return None
    except (BitsiftError, AttributeError, KeyError, TypeError, ValueError) as error:
        log.warning("measuring again how many lists to visit: %s", error)
        return None
