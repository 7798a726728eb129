"""How fast `bitsift index` is: ready-made vectors into shards, and texts through the model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from cluster.bench_index import abstracts
from cluster.ingest import build_index
from cluster.ingest_progress import IndexStage
from cluster.synthetic import SyntheticSpec, write_npy
from router.models import model_location

WARM_TEXTS = 32
TORCH_TEXTS = 256
INDEX_TEXTS = 3_072
"""Three batches of the build: its first carries the loading of the model, the others are timed."""


@dataclass(slots=True)
class Pace:
    """Watches a build: documents per second between its first stored batch and its last."""

    marks: list[tuple[float, int]] = field(default_factory=list)

    def __call__(self, stage: IndexStage) -> None:
        """An ``OnProgress``."""
        if stage.stage == "index":
            self.marks.append((time.perf_counter(), stage.documents))

    def documents_s(self) -> float | None:
        """None where the build stored all in one batch."""
        if len(self.marks) < 2:
            return None
        (first_s, first), (last_s, last) = self.marks[0], self.marks[-1]
        return (last - first) / (last_s - first_s)


def measure_load(folder: Path, rows: int, dim: int, shards: int) -> dict[str, Any]:
    """``load_rows_s``: an .npy file of fp32 vectors into durable shards; leaves "loaded" there."""
    source = folder / "vectors.npy"
    write_npy(SyntheticSpec(rows, dim), source)
    pace = Pace()
    report = build_index([source], folder / "loaded", shards=shards, on_progress=pace)
    source.unlink()
    whole = report.documents / report.seconds
    return {
        "load_rows_s": round(pace.documents_s() or whole),
        "load_whole_build_rows_s": round(whole),
    }


def measure_encoding(folder: Path, model: str, dataset: Path | None) -> dict[str, Any]:
    """``encode_gain``: `bitsift index` on texts of 120 to 250 words over fp32 torch.

    sentence-transformers' own ``encode`` runs before and after the build, on the same cores.
    """
    from sentence_transformers import SentenceTransformer

    texts = abstracts(INDEX_TEXTS, dataset)
    torch_model = SentenceTransformer(model_location(model), device="cpu").eval()
    torch_model.encode(texts[:WARM_TEXTS])
    rates = [_torch_rate(torch_model, texts[:TORCH_TEXTS])]
    source = folder / "texts.jsonl"
    source.write_bytes(b"\n".join(orjson.dumps({"text": text}) for text in _distinct(texts)))
    pace = Pace()
    report = build_index([source], folder / "encoded", model=model, on_progress=pace)
    rates.append(_torch_rate(torch_model, texts[-TORCH_TEXTS:]))
    index_rate = pace.documents_s() or report.documents / report.seconds
    torch_rate = float(np.mean(rates))
    return {
        "encode_gain": round(index_rate / torch_rate, 3),
        "index_documents_s": round(index_rate, 1),
        "torch_documents_s": round(torch_rate, 1),
        "words_per_text": round(float(np.mean([len(text.split()) for text in texts])), 1),
    }


def _torch_rate(model: Any, texts: Sequence[str]) -> float:
    started = time.perf_counter()
    model.encode(list(texts))
    return len(texts) / (time.perf_counter() - started)


def _distinct(texts: Sequence[str]) -> list[str]:
    """A text that comes twice would be one document: give each its number as last word."""
    return [f"{text} {number}" for number, text in enumerate(texts)]
