"""How fast `bitsift index` is: precomputed embeddings into shards, and texts through the model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bitsift.cluster.bench.index import abstracts
from bitsift.cluster.ingest.build import build_index
from bitsift.cluster.ingest.options import BuildOptions
from bitsift.cluster.sources.synthetic import SyntheticSpec, write_npy
from bitsift.router.model.location import model_location

WARM_TEXTS = 32
TORCH_TEXTS = 256
INDEX_TEXTS = 4_096, 7_168
"""Two builds: what the second takes longer is encoding alone, without start, model loading and the
sample for the calibration, which is encoded as well and is as large for both (SAMPLE_ROWS)."""


def measure_load(folder: Path, rows: int, dim: int, shards: int) -> dict[str, Any]:
    """``load_rows_s``: an .npy file of fp32 vectors into durable shards, from the call of
    ``build_index`` to its end; leaves the index "loaded" in ``folder``.
    """
    source = folder / "vectors.npy"
    write_npy(SyntheticSpec(rows, dim), source)
    report = build_index([source], folder / "loaded", BuildOptions(shards=shards))
    source.unlink()
    return {"load_rows_s": round(report.documents / report.seconds)}


def measure_encoding(folder: Path, model: str, dataset: Path | None) -> dict[str, Any]:
    """``encode_gain``: `bitsift index` on texts of 120 to 250 words over fp32 torch.

    sentence-transformers' own ``encode`` runs before and after the builds, on the same cores.
    """
    from sentence_transformers import SentenceTransformer

    texts = abstracts(max(INDEX_TEXTS), dataset)
    torch_model = SentenceTransformer(model_location(model), device="cpu").eval()
    torch_model.encode(texts[:WARM_TEXTS])
    rates = [_torch_rate(torch_model, texts[:TORCH_TEXTS])]
    few, many = INDEX_TEXTS
    longer_s = _build_seconds(folder, texts[:many], model) - _build_seconds(
        folder, texts[:few], model
    )
    rates.append(_torch_rate(torch_model, texts[-TORCH_TEXTS:]))
    index_rate, torch_rate = (many - few) / longer_s, float(np.mean(rates))
    return {
        "encode_gain": round(index_rate / torch_rate, 3),
        "index_documents_s": round(index_rate, 1),
        "torch_documents_s": round(torch_rate, 1),
        "words_per_text": round(float(np.mean([len(text.split()) for text in texts])), 1),
    }


def _build_seconds(folder: Path, texts: Sequence[str], model: str) -> float:
    source = folder / f"texts-{len(texts)}.jsonl"
    source.write_bytes(b"\n".join(orjson.dumps({"text": text}) for text in _distinct(texts)))
    options = BuildOptions(model=model)
    return build_index([source], folder / f"encoded-{len(texts)}", options).seconds


def _torch_rate(model: Any, texts: Sequence[str]) -> float:
    started = time.perf_counter()
    model.encode(list(texts))
    return len(texts) / (time.perf_counter() - started)


def _distinct(texts: Sequence[str]) -> list[str]:
    """A text that comes twice would be one document: give each its number as last word."""
    return [f"{text} {number}" for number, text in enumerate(texts)]
