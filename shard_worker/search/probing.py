"""How a search goes through the bits: all of them, or the nearest of so many lists."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitsift.options import Mode
from bitsift.shard_worker.bits.tuning import (
    QUERIES,
    RECALL_TARGET,
    Curve,
    keep_tuning,
    lists_for,
    measure_curve,
    read_tuning,
    scan_seconds_per_row,
    write_tuning,
)
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.generation import Generation
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.types import Query, ShardSettings

log = logging.getLogger(__name__)


class Probing:
    """What was measured of a shard's bits, and what follows from it for a query."""

    def __init__(self, folder: Path, calibration: Calibration, settings: ShardSettings) -> None:
        self._folder = folder
        self._calibration = calibration
        self._budget_ms = settings.exact_budget_ms
        self._scan_s_per_row = 0.0
        self._curve: Curve = {}
        self.nprobe = 0
        """The default number of lists to visit; 0 without lists."""

    def measure(self, generation: Generation) -> None:
        """Take the lists into RAM, and measure them unless that was done before."""
        self._curve = self._opened_lists(generation)
        most = max(self._curve, default=0)
        self.nprobe = lists_for(self._curve, RECALL_TARGET) or most
        self._scan_s_per_row = scan_seconds_per_row(generation.index)

    def keep(self, old: Generation, new: Generation) -> None:
        """Deleted rows were dropped from the lists: what was measured holds for the rest."""
        if old.index.listed is not None and new.index.listed is not None:
            keep_tuning(self._folder, len(old.index.listed), len(new.index.listed))

    def exact_scan_ms(self, rows: int) -> float:
        """What an exact scan of ``rows`` rows takes."""
        return self._scan_s_per_row * rows * 1e3

    def lists_to_visit(self, generation: Generation, query: Query) -> int | None:
        """How many lists are probed; None for an exact scan."""
        affordable = self.exact_scan_ms(len(generation.index)) <= self._budget_ms
        mode = query.options.mode
        if mode is Mode.EXACT or (mode is Mode.AUTO and affordable):
            return None
        if generation.index.listed is None:
            return None
        if query.options.recall is not None:
            return lists_for(self._curve, query.options.recall)
        return query.options.nprobe or self.nprobe or None  # none while lists are being measured

    def _opened_lists(self, generation: Generation) -> Curve:
        """Take the lists into RAM; the curve that was measured for them, or is now."""
        index = generation.index
        if index.listed is None:
            return {}
        index.listed.hold()
        curve = read_tuning(self._folder, len(index.listed))
        if curve is None:
            vectors = self._some_vectors(generation.store)
            curve = measure_curve(index, self._calibration, vectors)
            try:
                write_tuning(self._folder, len(index.listed), curve)
            except OSError as error:  # the next start measures again
                log.warning(
                    "%s: the measured number of lists to visit was not saved: %s",
                    self._folder,
                    error,
                )
        return curve

    def _some_vectors(self, store: Store) -> NDArray[np.float32]:
        """Decoded unit vectors of random rows, float32 (n, width), to tune with."""
        count = min(QUERIES, store.rows)
        rows = np.random.default_rng(store.rows).choice(store.rows, count, False)
        codes, intact = store.reader.read_codes(rows)
        vectors = self._calibration.decode(codes[intact])
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
