"""Another number of shards for an index of a million rows: how long, and are answers the same?

    python -m benchmarks.reshard [--rows 1M] [--dim 64] [--shards 2,3,8] [--folder .bitsift/reshard]

Synthetic vectors with WordNet's glosses as texts, some changed and deleted, in an index of the
first number of shards; it is resharded to the next, and that one to the one after: stopped, and
live, on a cluster that is asked and written to (reshard_live.py). The bars: exhaustive answers
(ids, scores, order) are identical before and after; no query fails meanwhile. Seconds of a core are
noted beside those of the clock, for machines that have other work to do.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reshard_live import measure_live
from bitsift.cluster.bench.index import glosses, write_index
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.maintenance.reshard import reshard
from bitsift.cluster.maintenance.verify import verify
from bitsift.cluster.manifest import read_manifest
from bitsift.cluster.serving.local import open_local
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_block
from bitsift.options import Mode, SearchOptions
from bitsift.quantities import parse_count
from bitsift.router.shards.placement import Placement
from bitsift.shard_worker.operations import Delete, Upsert, statuses
from bitsift.shard_worker.types import GIVEN_VECTOR_POSITION

RESULTS = Path(__file__).with_name("results")
TEXTS, QUERIES, TOP_K = 100_000, 20, 100
CHANGED, DELETED = range(0, 20_000, 2), range(1, 20_000, 2)
Answers = list[list[tuple[str, float]]]


def change(index: Path, rows: int) -> None:
    """Give some documents another vector, and delete some, one operation each."""
    manifest, random = read_manifest(index), np.random.default_rng(1)
    for number in range(manifest.shards):
        with open_shard(index, manifest, number) as shard:
            mine = Placement(manifest.shards)
            changed = [str(n) for n in CHANGED if n < rows and number in mine.owners(str(n))]
            deleted = [str(n) for n in DELETED if n < rows and number in mine.owners(str(n))]
            codes = random.integers(-127, 128, (len(changed), manifest.calibration.width), np.int8)
            where = [GIVEN_VECTOR_POSITION]
            upserts = [Upsert([name], [""], ["new"], [""], where, codes[at : at + 1])
                       for at, name in enumerate(changed)]  # fmt: skip
            statuses(shard.write([*upserts, *(Delete([name]) for name in deleted)]))


def answers(index: Path, spec: SyntheticSpec) -> Answers:
    """Ids and scores of exhaustive answers, in order."""

    async def ask() -> Answers:
        found = []
        for vector in synthetic_block(spec, 0, QUERIES):
            options = SearchOptions(
                vector=vector, mode=Mode.EXHAUSTIVE, top_k=TOP_K, timeout_ms=60_000
            )
            answer = await service.search(options)
            assert not answer.partial, answer.coverage
            found.append([(hit.id, hit.score) for hit in answer.hits])
        return found

    with open_local(index) as service:
        return asyncio.run(ask())


def measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    spec, counts = SyntheticSpec(asked.rows, asked.dim), asked.shards
    write_index(folder / str(counts[0]), spec, counts[0], texts=glosses(TEXTS))
    change(folder / str(counts[0]), asked.rows)
    before, steps = answers(folder / str(counts[0]), spec), []
    for old, new in itertools.pairwise(counts):
        started, cpu = time.perf_counter(), sum(os.times()[:4])
        report = reshard(folder / str(old), folder / str(new), new)
        step = {
            "from": old,
            "to": new,
            "documents": report.documents,
            "s": round(time.perf_counter() - started, 1),
            "cpu_s": round(sum(os.times()[:4]) - cpu, 1),
            "identical": answers(folder / str(new), spec) == before,
        }
        steps.append(step)
        print(step, flush=True)
    sound = verify(folder / str(counts[-1])).is_sound
    for number in counts[1:]:
        shutil.rmtree(folder / str(number))
    live = measure_live(folder / str(counts[0]), counts, spec, QUERIES, TOP_K, folder)
    return {"rows": asked.rows, "dimension": asked.dim, "queries": QUERIES, "top_k": TOP_K,
            "steps": steps, "sound": sound, "live": live}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=parse_count, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--shards", type=lambda text: [int(n) for n in text.split(",")],
                        default=[2, 3, 8])  # fmt: skip
    parser.add_argument("--folder", type=Path, default=Path(".bitsift/reshard"))
    parser.add_argument("--out", type=Path, default=RESULTS / "reshard.json")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.folder.resolve()) as scratch:
        figures = measure(asked, Path(scratch))
    steps = [*figures["steps"], *figures["live"]]
    identical = all(step["identical"] for step in steps) and figures["sound"]
    failed = sum(step["failed"] for step in figures["live"])
    lost = sum(step["lost"] for step in figures["live"])
    bars = {
        "identical": {"bar": True, "met": identical},
        "failed_queries": {"bar": 0, "value": failed, "met": failed == 0},
        "lost_writes": {"bar": 0, "value": lost, "met": lost == 0},
    }
    write_result(asked.out, {**figures, "bars": bars})


if __name__ == "__main__":
    main()
