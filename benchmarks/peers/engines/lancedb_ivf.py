"""LanceDB: a table with an IVF_RQ index (1 bit a dimension) and a BTREE index of the field.

Filters are prefilters, its default. In the lists that it visits it may miss the few rows that pass,
so a setting with all lists is among those tried.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import BTree, IvfRq
from numpy.typing import NDArray

from benchmarks.peers.engine import TOP_K, Range

BATCH_ROWS = 50_000


SETTINGS: list[dict[str, Any]] = [
    {"nprobes": nprobes, "refine": refine}
    for nprobes, refine in ((20, 10), (20, 20), (50, 20), (100, 50), (1_000, 50))
]


class LanceEngine:
    filters, durable = True, True

    def __init__(self, folder: Path, threads: int) -> None:
        self._db: Any = lancedb.connect(folder)
        self._table: Any = None

    def build(self, vectors: NDArray[np.float32], draws: NDArray[np.int64]) -> None:
        dim = vectors.shape[1]

        def batch(first: int) -> pa.RecordBatch:
            part = np.ascontiguousarray(vectors[first : first + BATCH_ROWS])
            flat = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), dim)
            ids = pa.array(np.arange(first, first + len(part)))
            columns = [ids, flat, pa.array(draws[first : first + BATCH_ROWS])]
            return pa.record_batch(columns, names=["id", "vector", "draw"])

        first, *others = range(0, len(vectors), BATCH_ROWS)
        self._table = self._db.create_table("t", pa.Table.from_batches([batch(first)]))
        for start in others:
            self._table.add(pa.Table.from_batches([batch(start)]))
        self._table.create_index("vector", config=IvfRq(distance_type="cosine"))
        self._table.create_index("draw", config=BTree())
        self._table.optimize()

    def search(
        self, vector: NDArray[np.float32], passing: Range, setting: dict[str, Any]
    ) -> list[int]:
        query = (
            self._table.search(vector)
            .distance_type("cosine")
            .limit(TOP_K)
            .select(["id", "_distance"])
        )
        query = query.nprobes(setting["nprobes"]).refine_factor(setting["refine"])
        if passing is not None:
            query = query.where(f"draw >= {passing[0]} AND draw < {passing[1]}", prefilter=True)
        ids: list[int] = query.to_arrow()["id"].to_pylist()
        return ids


engine = LanceEngine
