"""Qdrant Edge: HNSW over binary codes kept in RAM, an integer index of the field, rescored by the
original vectors. Its filterable graph is made with the payload index there before the points.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as qe
from numpy.typing import NDArray

from benchmarks.peers.engine import TOP_K, Range

BATCH_ROWS = 5_000


_ASKED = ((2.0, 64), (4.0, 128), (8.0, 256), (16.0, 512), (32.0, 512), (64.0, 1_024))
SETTINGS: list[dict[str, Any]] = [
    {"oversampling": oversampling, "ef": ef} for oversampling, ef in _ASKED
]


class QdrantEngine:
    filters, durable = True, True

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder, self._threads = folder, threads
        self._shard: Any = None

    def build(self, vectors: NDArray[np.float32], draws: NDArray[np.int64]) -> None:
        config = qe.EdgeConfig(
            vectors=qe.EdgeVectorParams(size=vectors.shape[1], distance=qe.Distance.Cosine),
            hnsw_config=qe.HnswIndexConfig(
                m=16, ef_construct=100, full_scan_threshold=10_000,
                max_indexing_threads=self._threads,
            ),
            quantization_config=qe.BinaryQuantizationConfig(always_ram=True),
            max_search_threads=self._threads,
        )  # fmt: skip
        self._shard = qe.EdgeShard.create(str(self._folder / "shard"), config)
        kind = qe.PayloadSchemaType.Integer
        self._shard.update(qe.UpdateOperation.create_field_index("draw", kind))
        for first in range(0, len(vectors), BATCH_ROWS):
            part = np.asarray(vectors[first : first + BATCH_ROWS]).tolist()
            points = [
                qe.Point(first + place, vector, {"draw": int(draws[first + place])})
                for place, vector in enumerate(part)
            ]
            self._shard.update(qe.UpdateOperation.upsert_points(points))
        self._shard.optimize()
        self._shard.flush()

    def search(
        self, vector: NDArray[np.float32], passing: Range, setting: dict[str, Any]
    ) -> list[int]:
        condition = None
        if passing is not None:
            within = qe.RangeFloat(gte=float(passing[0]), lt=float(passing[1]))
            condition = qe.Filter(must=[qe.FieldCondition("draw", range=within)])
        quantized = qe.QuantizationSearchParams(rescore=True, oversampling=setting["oversampling"])
        request = qe.QueryRequest(
            limit=TOP_K,
            query=qe.Query.Nearest(vector.tolist()),
            filter=condition,
            params=qe.SearchParams(hnsw_ef=setting["ef"], quantization=quantized),
        )
        return [int(point.id) for point in self._shard.query(request)]


engine = QdrantEngine
