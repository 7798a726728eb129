"""`bitsift bench`: what this machine does, each figure beside its bar.

Every ratio has both its sides measured in one run, in turns (timing.py): machines are noisy.

    shard        Shard.search beside raw FAISS; RAM and disk of a row         bench_shard.py
    approximate  lists beside the exact scan: recall, speed-up                bench_candidates.py
    cluster      loading; router and actors; HTTP; batching                   bench_serving.py
    text         text queries beside the encoder                              bench_serving.py
    encode       `bitsift index` beside sentence-transformers                 bench_build.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shard_worker.errors import InvalidRequest

ROWS_DEFAULT = 1_000_000
DIMENSION_DEFAULT = 1_024
Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure is held against (issue 3). ``limit`` may depend on the dimension."""

    limit: Callable[[int], float]
    at_least: bool
    meaning: str

    def verdict(self, value: float, dimension: int) -> dict[str, Any]:
        """The figure, its bar and whether it is met."""
        limit = self.limit(dimension)
        met = value >= limit if self.at_least else value <= limit
        sign = "≥" if self.at_least else "≤"
        return {"value": value, "bar": f"{sign} {limit:,.6g}", "met": met, "what": self.meaning}


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
    "load_rows_s": _least(40_000, "ready-made vectors into durable shards"),
    "cluster_overhead_ms": _most(8, "vector to hits through router and actors, minus the scan"),
    "http_overhead_ms": _most(1.5, "HTTP on loopback, added"),
    "batch_gain": _least(3, "vector queries/s, 32 clients over 1"),
    "text_over_encoder": _most(3, "text query over HTTP, over the encoder alone"),
    "throughput_ratio": _least(0.5, "text queries/s, 32 clients, over the encoder's best"),
    "encode_gain": _least(2, "`bitsift index` over fp32 torch, texts of 120 to 250 words"),
}
GROUPS: dict[str, tuple[str, ...]] = {
    "shard": (
        "shard_over_faiss",
        "shard_minus_faiss_ms",
        "ram_bytes_per_row",
        "disk_bytes_per_row",
    ),
    "approximate": ("recall_candidates", "approx_speedup"),
    "cluster": ("load_rows_s", "cluster_overhead_ms", "http_overhead_ms", "batch_gain"),
    "text": ("text_over_encoder", "throughput_ratio"),
    "encode": ("encode_gain",),
}


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure: ``groups`` of ``GROUPS``, at ``rows`` rows of ``dimension``."""

    groups: tuple[str, ...]
    rows: int = ROWS_DEFAULT
    dimension: int = DIMENSION_DEFAULT
    model: str = "minilm"
    dataset: Path | None = None


def groups_of(names: Sequence[str]) -> tuple[str, ...]:
    """The groups that are named, or that measure the keys that are; all for none.

    Raises InvalidRequest for an unknown name.
    """
    wanted = set()
    for name in names:
        owners = [group for group, keys in GROUPS.items() if name == group or name in keys]
        if not owners:
            known = [*GROUPS, *BARS]
            raise InvalidRequest(f"nothing is called {name!r}; choose of {', '.join(known)}")
        wanted.update(owners)
    return tuple(group for group in GROUPS if not names or group in wanted)


def run_bench(request: BenchRequest, log: Log) -> dict[str, Any]:
    """Measure the groups one after another on temporary indexes; figures and bars by key.

    A figure that could not be measured is None, and ``notes`` say why.
    """
    from cluster.launch import ray_cluster

    figures: dict[str, Any] = {}
    notes = []
    with tempfile.TemporaryDirectory(prefix="bitsift-bench-") as folder, ray_cluster(None):
        for group in request.groups:
            log(f"{group}: measuring {', '.join(GROUPS[group])}")
            found = _measure(group, Path(folder), request)
            note = found.pop("note", None)
            notes += [note] if note else []
            figures |= found
            log(f"{group}: " + ", ".join(f"{key} {figures[key]}" for key in GROUPS[group]))
    return {
        "rows": request.rows,
        "dimension": request.dimension,
        "bars": verdicts(figures, request.dimension),
        "figures": figures,
        "notes": notes,
    }


def verdicts(figures: dict[str, Any], dimension: int) -> dict[str, Any]:
    """Each measured figure that has a bar, with it."""
    measured = {key: figures[key] for key in BARS if figures.get(key) is not None}
    return {key: BARS[key].verdict(value, dimension) for key, value in measured.items()}


def _measure(group: str, folder: Path, request: BenchRequest) -> dict[str, Any]:
    from cluster import bench_build, bench_serving, bench_shard

    rows, dimension = request.rows, request.dimension
    if group == "shard":
        return bench_shard.measure_shard(folder, rows, dimension)
    if group == "approximate":
        return bench_shard.measure_approximate(folder, rows, dimension)
    if group == "cluster":
        return bench_serving.measure_cluster(folder, rows, dimension)
    if group == "text":
        return bench_serving.measure_texts(folder, rows, request.model)
    return bench_build.measure_encoding(folder, request.model, request.dataset)
