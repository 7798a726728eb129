"""Which way a search goes through the bits: all of them, the first of each row, or those of the
nearest lists.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitsift.options import Mode
from bitsift.shard_worker.bits.tuning import (
    LISTED_SHARE,
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
from bitsift.shard_worker.bits.way import EXACT, Way
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.generation import Generation
from bitsift.shard_worker.search.first_bits import DEPTH, FirstBits
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
        self._listed_share: float | None = None  # by which the curve was measured
        self._first = FirstBits(folder, calibration)
        self.nprobe = 0
        """The default number of lists to visit; 0 without lists."""

    def measure(self, generation: Generation) -> None:
        """Take the lists into RAM, and measure what was not measured before."""
        if generation.index.listed is not None:
            generation.index.listed.hold()
        self._scan_s_per_row = scan_seconds_per_row(generation.index)
        self._first.open(generation)
        self.measure_first(generation)
        self._curve, self._listed_share = self._measured_lists(generation)
        most = max(self._curve, default=0)
        self.nprobe = lists_for(self._curve, RECALL_TARGET) or most

    def wants_first(self, generation: Generation) -> bool:
        """Whether scans by first bits are to be measured."""
        return self._first.are_due(generation)

    def measure_first(self, generation: Generation) -> None:
        """Measure scans by first bits, unless what is known of them still holds."""
        if self._first.are_due(generation):
            self._first.measure(generation, self._some_vectors(generation.store))

    @property
    def first_share(self) -> float | None:
        """Of the rows, those that ``auto`` compares by more than their first bits; None: all."""
        return self._first.share(DEPTH)

    def keep(self, old: Generation, new: Generation) -> None:
        """Deleted rows were dropped from the lists: what was measured holds for the rest."""
        if old.index.listed is not None and new.index.listed is not None:
            keep_tuning(self._folder, len(old.index.listed), len(new.index.listed))

    def exact_scan_ms(self, rows: int) -> float:
        """What an exact scan of ``rows`` rows takes."""
        return self._scan_s_per_row * rows * 1e3

    def way(self, generation: Generation, query: Query) -> Way:
        """The cheapest that does what ``query`` asks for."""
        mode, recall = query.options.mode, query.options.recall
        if mode is Mode.EXACT:
            return EXACT
        index = generation.index
        first = Way(first_share=self._first.share(query.options.depth, recall))
        if index.listed is None or (mode is Mode.AUTO and self._is_affordable(first, len(index))):
            return first
        if recall is not None:
            lists = lists_for(self._curve, recall)
            return first if lists is None else self._by_lists(lists, query)
        lists = query.options.nprobe or self.nprobe  # none while lists are being measured
        return self._by_lists(lists, query) if lists else EXACT

    def _by_lists(self, lists: int, query: Query) -> Way:
        share = self._listed_share
        return Way(lists, None if share is None else share * max(1.0, query.options.depth / DEPTH))

    def _is_affordable(self, way: Way, rows: int) -> bool:
        s_per_row = self._scan_s_per_row
        if way.first_share is not None:
            s_per_row = self._first.seconds_per_row
        return s_per_row * rows * 1e3 <= self._budget_ms

    def _measured_lists(self, generation: Generation) -> tuple[Curve, float | None]:
        """The curve that was measured for the lists, or is now, and by which share in them."""
        index = generation.index
        if index.listed is None:
            return {}, None
        kept = read_tuning(self._folder, len(index.listed))
        if kept is not None:
            return kept
        share = None if self.first_share is None else LISTED_SHARE
        vectors = self._some_vectors(generation.store)
        curve = measure_curve(index, self._calibration, vectors, share)
        try:
            write_tuning(self._folder, len(index.listed), curve, share)
        except OSError as error:  # the next start measures again
            log.warning(
                "%s: the measured number of lists to visit was not saved: %s", self._folder, error
            )
        return curve, share

    def _some_vectors(self, store: Store) -> NDArray[np.float32]:
        """Decoded unit vectors of random rows, float32 (n, width), to tune with."""
        count = min(QUERIES, store.rows)
        rows = np.random.default_rng(store.rows).choice(store.rows, count, False)
        codes, intact = store.reader.read_codes(rows)
        vectors = self._calibration.decode(codes[intact])
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
