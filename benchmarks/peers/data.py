"""What all engines are given: vectors, queries and a field independent of them, and the truth."""

from __future__ import annotations

import gzip
import json
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bitsift.cluster.demo import CORPUS
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries, write_npy
from bitsift.router.model.encoder import Encoder
from bitsift.router.write.document_rules import model_text

SHARES = {"1%": 0.01, "0.01%": 0.0001}
PLAIN = "plain"
QUERIES, TOP_K = 100, 10
SHIFT_MAX = 100
"""So far a new filter is moved to be another one."""
MODEL = "minilm"
TIE = 1e-6
"""Scores of fp32 that differ by less are equal: libraries add in different orders."""
_BLOCK_ROWS = 16_384
_STAMP = ".installed"  # .ci/clean removes the folders in .peers that have one
Case = list[int | None]
"""Number of the query, and the range of ``draw`` that passes, or None twice."""


def shifted(cases: Sequence[Case], by: int) -> list[Case]:
    """The same queries with other filters, which nothing has cached."""
    assert by <= SHIFT_MAX
    return [
        [query, None if low is None else low + by, None if high is None else high + by]
        for query, low, high in cases
    ]


class TextEncoder(Protocol):
    """What is needed of ``Encoder``."""

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]: ...

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


@dataclass(slots=True)
class Data:
    """Files in ``folder``, and the fp32 scores of all rows for each query (queries, rows)."""

    folder: Path
    draws: NDArray[np.int64]
    scores: NDArray[np.float32] = field(repr=False)
    dim: int
    _tenth: dict[tuple[int | None, ...], tuple[float, int]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.draws)

    @classmethod
    def synthetic(cls, folder: Path, spec: SyntheticSpec) -> Data:
        write_npy(spec, folder / "vectors.npy")
        return cls._of(folder, synthetic_queries(spec, QUERIES))

    @classmethod
    def wordnet(cls, folder: Path, encoded: Path) -> Data:
        """From what ``encode_wordnet`` left."""
        (folder / "vectors.npy").symlink_to(encoded / "vectors.npy")
        return cls._of(folder, np.load(encoded / "queries.npy"))

    @classmethod
    def _of(cls, folder: Path, queries: NDArray[np.float32]) -> Data:
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        draws = np.random.default_rng(18).permutation(len(vectors))
        np.save(folder / "queries.npy", queries)
        np.save(folder / "draws.npy", draws)
        scores = np.empty((len(queries), len(vectors)), dtype=np.float32)
        for first in range(0, len(vectors), _BLOCK_ROWS):
            block = vectors[first : first + _BLOCK_ROWS]
            scores[:, first : first + len(block)] = queries @ block.T
        return cls(folder, draws, scores, vectors.shape[1])

    def cases(self) -> dict[str, list[Case]]:
        random = np.random.default_rng(0)
        found: dict[str, list[Case]] = {PLAIN: [[query, None, None] for query in range(QUERIES)]}
        for name, share in SHARES.items():
            width = max(TOP_K, round(share * self.rows))
            starts = random.integers(0, self.rows - width - SHIFT_MAX, QUERIES).tolist()
            found[f"{name} known"] = [[query, 0, width] for query in range(QUERIES)]
            found[f"{name} new"] = [[q, low, low + width] for q, low in enumerate(starts)]
        return found

    def recall(self, case: Case, ids: Sequence[int]) -> float:
        """How many of ``ids`` are as near as the tenth nearest of the rows that pass."""
        query, low, high = case
        scores, found = self.scores[query or 0], np.unique(np.asarray(ids, dtype=np.int64))
        passes = np.ones(self.rows, dtype=bool)
        if low is not None and high is not None:
            passes = (self.draws >= low) & (self.draws < high)
        assert passes[found].all(), "rows that do not pass the filter"
        if tuple(case) not in self._tenth:
            best = np.sort(scores[passes])[-TOP_K:]
            self._tenth[tuple(case)] = float(best[0]), len(best)
        tenth, count = self._tenth[tuple(case)]
        return min(int((scores[found] >= tenth - TIE).sum()), count) / count


def encode_wordnet(folder: Path, rows: int | None, encoder: TextEncoder | None = None) -> Path:
    """Vectors of so many of the demo's glosses, and of the titles of some of these as queries: the
    folder below ``folder`` that has them, which is made unless it is there.
    """
    lines = gzip.decompress(CORPUS.read_bytes()).splitlines()
    order = np.random.default_rng(18).permutation(len(lines))[:rows]
    chosen = [json.loads(lines[place]) for place in order]
    place = folder / f"wordnet-{len(chosen)}"
    wanted = f"{MODEL} {QUERIES} {zlib.crc32(CORPUS.read_bytes()):08x}"
    if (place / _STAMP).exists() and (place / _STAMP).read_text() == wanted:
        return place
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    print(f"encoding {len(chosen):,} glosses into {place}", flush=True)
    encoder = encoder or Encoder.load(MODEL)
    texts = [model_text(it["title"], it["text"]) for it in chosen]
    np.save(place / "vectors.npy", encoder.encode_documents(texts))
    titles = [it["title"] for it in chosen[:QUERIES]]
    np.save(place / "queries.npy", encoder.encode_queries(titles))
    (place / _STAMP).write_text(wanted)
    return place
