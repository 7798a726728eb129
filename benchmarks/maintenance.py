"""How long it takes to check, copy, restore and export an index of a million rows.

    python benchmarks/maintenance.py [--rows 1M] [--dim 1024] [--shards 2]
                                     [--folder .bitsift/maintenance]

Synthetic vectors with WordNet's glosses as texts; an index that is in FOLDER already is used, and
all is removed at the end. The bar: `bitsift verify` of 1 M x 1,024 in 60 s,
with nothing of it in the page cache. Later backups come after 1, 100 and 10,000 upserts. Seconds of
CPU are given next to those of the clock, for machines that do other work.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bitsift.cluster.bench.disk import drop_from_cache
from bitsift.cluster.bench.index import glosses, write_index
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.maintenance.backup import back_up
from bitsift.cluster.maintenance.export import export
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.maintenance.restore import restore
from bitsift.cluster.maintenance.verify import verify
from bitsift.cluster.manifest import read_manifest
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.quantities import parse_count
from bitsift.shard_worker.operations import Upsert, statuses
from bitsift.shard_worker.types import LIVE_POSITION

RESULTS = Path(__file__).with_name("results")
TEXTS = 100_000


def timed(name: str, figures: dict[str, Any], run: Callable[[], Any]) -> Any:
    started, cpu = time.perf_counter(), sum(os.times()[:4])
    result = run()
    figures[f"{name}_s"] = round(time.perf_counter() - started, 1)
    figures[f"{name}_cpu_s"] = round(sum(os.times()[:4]) - cpu, 1)
    print(f"{name}: {figures[f'{name}_s']} s, {figures[f'{name}_cpu_s']} s of a core", flush=True)
    return result


def rewrite(index: Path, count: int) -> None:
    """Give ``count`` documents of the first shard another content."""
    manifest = read_manifest(index)
    with open_shard(index, manifest, 0) as shard:
        ids = [str(number * manifest.shards) for number in range(count)]
        codes = np.zeros((count, manifest.calibration.width), dtype=np.int8)
        blank = [""] * count
        texts = [f"rewritten {name}" for name in ids]
        statuses(shard.write([Upsert(ids, blank, texts, blank, [LIVE_POSITION] * count, codes)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=parse_count, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1_024)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(".bitsift/maintenance"))
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        measure(asked, Path(scratch))


def measure(asked: argparse.Namespace, folder: Path) -> None:
    index, dest = folder / "index", folder / "backup"
    figures: dict[str, Any] = {"rows": asked.rows, "dimension": asked.dim, "shards": asked.shards}
    spec = SyntheticSpec(asked.rows, asked.dim)
    write_index(index, spec, asked.shards, texts=glosses(TEXTS))
    drop_from_cache(index)
    assert timed("verify", figures, lambda: verify(index)).is_sound
    first = timed("backup", figures, lambda: back_up(index, str(dest)))
    figures |= {"index_bytes": first.bytes, "backup_bytes": first.bytes_stored}
    for count in (1, 100, 10_000):
        rewrite(index, count)
        name = f"backup_after_{count}"
        figures[f"{name}_bytes"] = timed(
            name, figures, lambda: back_up(index, str(dest))
        ).bytes_stored
    timed("restore", figures, lambda: restore(str(dest), folder / "restored"))
    exported = timed("export", figures, lambda: export(index, folder / "export"))
    figures["export_bytes"] = exported.bytes
    bars = {"verify_s": {"bar": 60, "met": figures["verify_s"] <= 60}}
    write_result(RESULTS / "maintenance.json", {**figures, "bars": bars})


if __name__ == "__main__":
    main()
