"""The sample for `bitsift doctor`: vectors of some of the user's documents, and queries."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitsift.cluster.evaluation.evaluate import TextEncoder
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.matrix_files import open_matrix
from bitsift.cluster.sources.plan import SourcePlan
from bitsift.cluster.sources.readers import read_documents
from bitsift.cluster.sources.vectors import vectors_of
from bitsift.errors import InvalidRequest
from bitsift.shard_worker.codes import bad_rows, normalize

HELD_OUT_MAX = 500
"""Enough to tell two settings apart that differ by 0.01 in recall@10."""
_SEED = 20_240_131
_MATRIX = ".npy"
_TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".gz", ".zst", ".bz2", ".xz")


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Unit vectors, float32 (n, dimension). ``held_out``: the queries are documents themselves.

    ``texts`` are title and text of the documents that were encoded, none where vectors were read.
    """

    documents: NDArray[np.float32]
    queries: NDArray[np.float32]
    held_out: bool
    texts: Sequence[tuple[str, str]] = ()


def take_sample(
    plan: SourcePlan, count: int, queries: Path | None, load: Callable[[], TextEncoder]
) -> Sample:
    """``count`` documents of ``plan`` at random, and ``queries``: texts, or vectors (.npy).

    Without ``queries`` a tenth of the sample is held out and asked for. ``load`` gives the model;
    it is not called where no text has to be encoded. Raises InvalidRequest.
    """
    encoder: TextEncoder | None = None
    if plan.expected_width is None or (queries is not None and queries.suffix != _MATRIX):
        encoder = load()
    documents, texts = _documents(plan, count, encoder)
    if queries is None:
        held_out = min(HELD_OUT_MAX, len(documents) // 10)
        return Sample(documents[held_out:], documents[:held_out], held_out=True, texts=texts)
    asked = _queries(queries, documents.shape[1], encoder)
    return Sample(documents, asked, held_out=False, texts=texts)


def _documents(
    plan: SourcePlan, count: int, encoder: TextEncoder | None
) -> tuple[NDArray[np.float32], Sequence[tuple[str, str]]]:
    """Unit vectors of ``count`` documents in random order, and what was encoded."""
    from bitsift.cluster.ingest.datasource import sample_rows
    from bitsift.cluster.ingest.worker import document_texts
    from bitsift.cluster.serving.ray_cluster import ray_cluster

    matrices = all(file.format.is_matrix for file in plan.files)
    with contextlib.nullcontext() if matrices else ray_cluster(None):
        sample = sample_rows(plan, count, _SEED).sample
    texts: Sequence[tuple[str, str]] = ()
    if plan.expected_width is not None:
        found = vectors_of(sample, plan.expected_width)
    else:
        assert encoder is not None
        found = encoder.encode_documents(document_texts(sample))
        known = ~bad_rows(found)
        parts = sample["title"].to_pylist(), sample["text"].to_pylist()
        texts = [
            pair for pair, is_known in zip(zip(*parts, strict=True), known, strict=True) if is_known
        ]
        found = found[known]
    order = np.random.default_rng(_SEED).permutation(len(found))
    return _units(np.asarray(found)[order]), texts


def _queries(path: Path, dimension: int, encoder: TextEncoder | None) -> NDArray[np.float32]:
    if encoder is None:
        matrix = open_matrix(str(path))
        vectors = np.asarray(matrix.rows(0, matrix.shape[0]), dtype=np.float32)
    else:
        vectors = encoder.encode_queries(_query_texts(path))
        vectors = vectors[~bad_rows(vectors)]
    if vectors.shape[1] != dimension:
        raise InvalidRequest(
            f"{path} has queries of {vectors.shape[1]} dimensions, but the documents "
            f"have {dimension}"
        )
    return _units(vectors)


def _query_texts(path: Path) -> list[str]:
    """One query a line, or the texts of records where the file holds records."""
    if not path.is_file():
        raise InvalidRequest(f"{path} is not a file of queries")
    if path.suffix in _TABLES:
        (file,) = plan_sources([path]).files
        texts: Sequence[str | None] = [
            text for table in read_documents(file) for text in table["text"].to_pylist()
        ]
    else:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [text for text in texts if text and text.strip()]


def _units(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    dimension = vectors.shape[1]
    return np.ascontiguousarray(normalize(vectors, dimension)[:, :dimension])
