"""What zvec's engines have in common: a collection with vectors and an inverted index of the field.

The graph or the lists hold small codes; what they find is scored again from the fp32 vectors, which
zvec maps from the disk. Without that its RaBitQ is slower and finds less (20,000 x 384).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zvec
from numpy.typing import NDArray

from benchmarks.peers.engine import TOP_K, Range

BATCH_ROWS = 1_000


class ZvecEngine:
    filters, durable = True, True

    def __init__(self, folder: Path, threads: int) -> None:
        zvec.init(query_threads=threads, optimize_threads=threads)
        self._folder, self._threads = folder, threads
        self._collection: Any = None

    def index(self, rows: int) -> Any:
        """What is made of so many vectors."""
        raise NotImplementedError

    def parameters(self, setting: dict[str, Any]) -> Any:
        raise NotImplementedError

    def build(self, vectors: NDArray[np.float32], draws: NDArray[np.int64]) -> None:
        rows, dim = vectors.shape
        inverted = zvec.InvertIndexParam(enable_range_optimization=True)
        schema = zvec.CollectionSchema(
            name="t",
            fields=[zvec.FieldSchema("draw", zvec.DataType.INT64, index_param=inverted)],
            vectors=zvec.VectorSchema("v", zvec.DataType.VECTOR_FP32, dim, self.index(rows)),
        )
        self._collection = zvec.create_and_open(str(self._folder / "collection"), schema)
        for first in range(0, rows, BATCH_ROWS):
            part = np.ascontiguousarray(vectors[first : first + BATCH_ROWS])
            documents = [
                zvec.Doc(
                    id=str(first + place),
                    vectors={"v": vector},
                    fields={"draw": int(draws[first + place])},
                )
                for place, vector in enumerate(part)
            ]
            assert all(said.ok() for said in self._collection.insert(documents))
        self._collection.optimize(zvec.OptimizeOption(concurrency=self._threads))
        self._collection.flush()

    def search(
        self, vector: NDArray[np.float32], passing: Range, setting: dict[str, Any]
    ) -> list[int]:
        query = zvec.Query("v", vector=vector, param=self.parameters(setting))
        text = None if passing is None else f"draw >= {passing[0]} AND draw < {passing[1]}"
        found = self._collection.query(query, topk=TOP_K, filter=text, output_fields=[])
        return [int(document.id) for document in found]
