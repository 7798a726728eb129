"""Scans by first bits: of how many rows the rest is compared, so that nearly nothing is missed.

It is measured on the shard's own rows: documents drawn at random are asked for, and the best rows
that the whole funnel finds by first bits are compared with those that it finds by all bits.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import BitsiftError, NotFound
from bitsift.options import SearchOptions
from bitsift.shard_worker.bits.planes import first_bytes
from bitsift.shard_worker.bits.tuning import FIRST_FILE, scan_seconds_per_row, shared
from bitsift.shard_worker.codes import Calibration, best_first
from bitsift.shard_worker.generation import Generation
from bitsift.shard_worker.layout import read_json, write_json
from bitsift.shard_worker.search.reading import PoolReader, pool_rows
from bitsift.shard_worker.types import Query

log = logging.getLogger(__name__)

TARGET = 0.9995
"""Documents are easier queries than questions, so it lies above the 0.999 that is promised."""
DEPTH = 20
"""Best rows that are looked for; a search for more compares as many more rows by all bits."""
SHARES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
"""Shares of the rows that are compared by all of their bits. Beyond the last a scan by all bits is
as fast: of 500,000 rows x 1,024 by one core 2.4 ms, by this share 1.6."""
ROWS_MIN = 100_000
"""A scan of fewer rows by all of their bits takes half a millisecond."""
_TOGETHER = 8
Curve = dict[float, float]
"""For each of SHARES that was tried the share of the best rows that was found."""


class FirstBits:
    """What was measured of one shard."""

    def __init__(self, folder: Path, calibration: Calibration) -> None:
        self._folder = folder
        self._calibration = calibration
        self._rows, self._curve = 0, Curve()
        self.seconds_per_row = 0.0
        """What a scan that reaches TARGET takes."""

    def open(self, generation: Generation) -> None:
        """Take what was kept, unless too few rows are left."""
        is_large = len(generation.index) >= ROWS_MIN
        self._rows, self._curve = _read(self._folder) if is_large else (0, {})
        self._time(generation)

    def are_due(self, generation: Generation) -> bool:
        """Whether there are many rows, and twice or half of those that were measured, or an earlier
        release gave up before the last of SHARES.
        """
        rows, row_bytes = len(generation.index), generation.index.row_bytes
        is_done = SHARES[-1] in self._curve or max(self._curve.values(), default=0.0) >= TARGET
        is_known = is_done and self._rows / 2 <= rows <= 2 * self._rows
        return first_bytes(row_bytes) < row_bytes and rows >= ROWS_MIN and not is_known

    def measure(self, generation: Generation, vectors: NDArray[np.float32]) -> None:
        """``vectors`` float32 (n, width) are unit vectors to ask for."""
        self._rows, self._curve = len(generation.index), Curve()
        exact = self._best(generation, vectors, None)
        for share in SHARES:
            found = shared(exact, self._best(generation, vectors, share))
            self._curve[share] = found
            if found >= 1.0:
                break
        try:
            _write(self._folder, self._rows, self._curve)
        except OSError as error:  # the next start measures again
            log.warning("%s: the measured share of rows was not saved: %s", self._folder, error)
        self._time(generation)

    def share(self, depth: int, recall: float | None = None) -> float | None:
        """Of the rows, for a search of ``depth`` hits; None: all bits of all rows."""
        target = TARGET if recall is None else recall
        share = min((it for it, found in self._curve.items() if found >= target), default=None)
        wanted = None if share is None else share * max(1.0, depth / DEPTH)
        return wanted if wanted is not None and wanted <= SHARES[-1] else None

    def _time(self, generation: Generation) -> None:
        if (share := self.share(DEPTH)) is not None:
            self.seconds_per_row = scan_seconds_per_row(generation.index, share)

    def _best(
        self, generation: Generation, vectors: NDArray[np.float32], share: float | None
    ) -> list[NDArray[np.int64]]:
        """The rows that the funnel finds for each vector."""
        found = []
        for first in range(0, len(vectors), _TOGETHER):
            some = vectors[first : first + _TOGETHER]
            queries = [Query(SearchOptions(vector=vector, top_k=DEPTH)) for vector in some]
            bits, count = self._calibration.query_bits(some), pool_rows(queries[0])
            pools = generation.index.search(bits, count, first_share=share)
            for query, pool in zip(queries, pools, strict=True):
                read = PoolReader(generation.store.reader, self._calibration, query, pool)
                read.read(None)
                rows = pool.rows[read.places]
                found.append(rows[best_first(read.scores, rows, DEPTH)])
        return found


def _write(folder: Path, rows: int, curve: Curve) -> None:
    """Keep what was measured on a shard of ``rows`` rows."""
    recall = {str(share): value for share, value in curve.items()}
    write_json(folder / FIRST_FILE, {"rows": rows, "recall": recall})


def _read(folder: Path) -> tuple[int, Curve]:
    """The rows that a shard had when it was measured, and the curve; 0 and none if it was not."""
    try:
        data = read_json(folder / FIRST_FILE)
        curve = {float(share): float(value) for share, value in data["recall"].items()}
        return int(data["rows"]), curve
    except NotFound:
        return 0, {}
    except (BitsiftError, AttributeError, KeyError, TypeError, ValueError) as error:
        log.warning("measuring again how many rows to compare by all of their bits: %s", error)
        return 0, {}
