"""The figures that this project is held to, and how a measured one is held against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

GB, GIB = 10**9, 2**30
TRAIN_ROWS = 10_000_000
"""What the bar on training is meant for; more rows are not held to it."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure is held against. ``limit`` takes the dimension of a vector."""

    limit: Callable[[int], float]
    at_least: bool
    meaning: str

    def verdict(self, value: float, dimension: int) -> dict[str, Any]:
        """The figure, its bar and whether it is met."""
        limit = self.limit(dimension)
        met = value >= limit if self.at_least else value <= limit
        sign = "≥" if self.at_least else "≤"
        return {
            "value": value,
            "bar": f"{sign} {limit:,.6g}",
            "limit": limit,
            "at_least": self.at_least,
            "met": met,
            "what": self.meaning,
        }


def _least(value: float, meaning: str) -> Bar:
    return Bar(lambda _: value, True, meaning)


def _most(value: float, meaning: str) -> Bar:
    return Bar(lambda _: value, False, meaning)


BARS: dict[str, Bar] = {
    "shard_over_faiss": _most(1.3, "Shard.search over raw FAISS, exact, one query"),
    "shard_minus_faiss_ms": _most(1.0, "the same as a difference"),
    "ram_bytes_per_row": Bar(lambda dim: dim / 8 + 2, False, "RAM of a row, exact"),
    "disk_bytes_per_row": Bar(lambda dim: 1.06 * (dim + dim / 8), False, "disk, codes and bits"),
    "recall_candidates": _least(0.98, "approximate candidates against exact, recall@40"),
    "approx_speedup": _least(10, "exact over approximate, Shard.search"),
    "load_rows_s": _least(40_000, "precomputed embeddings into durable shards"),
    "cluster_overhead_ms": _most(8, "vector to hits through router and actors, minus the scan"),
    "http_overhead_ms": _most(1.5, "HTTP on loopback, added"),
    "batch_gain": _least(3, "vector queries/s, 32 clients over 1"),
    "text_over_encoder": _most(3, "text query over HTTP, over the encoder alone"),
    "throughput_ratio": _least(0.5, "text queries/s, 32 clients, over the encoder's best"),
    "encode_gain": _least(2, "`bitsift index` over fp32 torch, texts of 120 to 250 words"),
    # a large synthetic index; the last six are promised of 40 million x 1,024
    "train_s": _most(900, "making the lists of 10 million rows"),
    "ram_with_lists_bytes_per_row": Bar(lambda dim: dim / 8 + 9, False, "RAM of a row with lists"),
    "memory_gb": _most(8, "all processes, at any moment"),
    "disk_without_texts_gib": _most(45, "disk without texts"),
    "exact_p50_ms": _most(150, "exact over HTTP, one client, warm"),
    "approximate_p50_ms": _most(25, "approximate over HTTP, one client, warm"),
    "recall_at_10": _least(0.95, "final hits, approximate against exact"),
    "lost": _most(0, "queries without a complete answer"),
}


def verdicts(figures: dict[str, Any], dimension: int) -> dict[str, Any]:
    """Each measured figure that has a bar, with it; in the order of ``BARS``."""
    measured = {key: figures[key] for key in BARS if figures.get(key) is not None}
    return {key: BARS[key].verdict(value, dimension) for key, value in measured.items()}


def large_figures(phases: dict[str, Any], rows: int) -> dict[str, Any]:
    """The figures with bars among those of a large run (bench_large.py), as far as it has come."""

    def find(*path: str) -> Any:
        found: Any = phases
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    def scaled(unit: int, *path: str) -> float | None:
        value = find(*path)
        return None if value is None else round(value / unit, 3)

    return {
        "recall_candidates": find("candidates", "recall_candidates"),
        "approx_speedup": find("candidates", "approx_speedup"),
        "train_s": find("train", "seconds") if rows <= TRAIN_ROWS else None,
        "ram_with_lists_bytes_per_row": find("candidates", "ram_bytes_per_row"),
        "memory_gb": scaled(GB, "memory", "peak", "total"),
        "disk_without_texts_gib": scaled(GIB, "disk", "without_texts"),
        "exact_p50_ms": find("serve", "exact_warm", "p50_ms"),
        "approximate_p50_ms": find("serve", "approximate_warm", "p50_ms"),
        "recall_at_10": find("serve", "recall_at_10"),
        "lost": find("serve", "lost"),
    }
