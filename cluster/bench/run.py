"""`bitsift bench`: what this machine does, each figure next to its target.

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

from bitsift.cluster.bench.bars import BARS, verdicts
from bitsift.errors import InvalidRequest

ROWS_DEFAULT = 1_000_000
DIMENSION_DEFAULT = 1_024
Log = Callable[[str], None]


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

    A name may hold several, joined by commas. Raises InvalidRequest for an unknown one.
    """
    wanted = set()
    for name in (part.strip() for joined in names for part in joined.split(",")):
        owners = [group for group, keys in GROUPS.items() if name == group or name in keys]
        if not owners:
            known = [*GROUPS, *BARS]
            raise InvalidRequest(f"there is no {name!r}; choose from {', '.join(known)}")
        wanted.update(owners)
    return tuple(group for group in GROUPS if not names or group in wanted)


def run_bench(request: BenchRequest, log: Log) -> dict[str, Any]:
    """Measure the groups one after another on temporary indexes; figures and bars by key.

    A figure that could not be measured is None, and ``notes`` say why.
    """
    figures: dict[str, Any] = {}
    notes = []
    with tempfile.TemporaryDirectory(prefix="bitsift-bench-") as folder:
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


def _measure(group: str, folder: Path, request: BenchRequest) -> dict[str, Any]:
    from bitsift.cluster.bench import build as bench_build
    from bitsift.cluster.bench import serving as bench_serving
    from bitsift.cluster.bench import shard as bench_shard

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
