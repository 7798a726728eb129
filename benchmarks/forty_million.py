"""The headline run: 40 million x 1,024 on one machine, built, trained, served and measured.

    python benchmarks/forty_million.py [--rows 40M] [--folder FOLDER] [--keep] [--minutes 120]

Needs about 60 GB of free disk and an hour and a half; says so before it starts. A run that was cut
off is taken up again by the same command. Figures are written after every phase.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from cluster.bench_large import Large, LargeRun
from cluster.machine import write_result
from cluster.plan import parse_count
from cluster.synthetic import SyntheticSpec
from shard_worker.errors import BitsiftError

RESULTS = Path(__file__).with_name("results")
GB, GIB = 10**9, 2**30


def bars(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The bars of the headline run that its figures speak of; made for 40 million."""
    served, memory, disk = (figures.get(name, {}) for name in ("serve", "memory", "disk"))

    def p50(name: str) -> float | None:
        return served.get(name, {}).get("p50_ms")

    rows = [
        ("memory_gb", memory.get("peak", {}).get("total"), GB, "<=", 8.0),
        ("disk_without_texts_gib", disk.get("without_texts"), GIB, "<=", 45.0),
        ("exact_p50_ms", p50("exact_warm"), 1, "<=", 150.0),
        ("approximate_p50_ms", p50("approximate_warm"), 1, "<=", 25.0),
        ("recall_at_10", served.get("recall_at_10"), 1, ">=", 0.95),
        ("lost", served.get("lost"), 1, "<=", 0),
    ]
    found = {}
    for name, value, unit, sign, bar in rows:
        if value is not None:
            value = round(value / unit, 4)
            met = value <= bar if sign == "<=" else value >= bar
            found[name] = {"value": value, "bar": f"{sign} {bar}", "met": met}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=parse_count, default=40_000_000)
    parser.add_argument("--dimension", type=int, default=1_024)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path(".bitsift/forty_million"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--minutes", type=float, default=240, help="start no phase later")
    parser.add_argument("--keep", action="store_true", help="keep the index at the end")
    arguments = parser.parse_args()
    corpus = SyntheticSpec(arguments.rows, arguments.dimension)
    run = LargeRun(
        corpus, arguments.shards, arguments.folder.absolute(), arguments.queries,
        arguments.minutes * 60,
    )  # fmt: skip
    result = arguments.out / "forty_million.json"
    asked = {"rows": corpus.rows, "dimension": corpus.dim, "shards": run.shards}
    started = time.monotonic()

    def log(line: str) -> None:
        print(f"{time.monotonic() - started:8.1f} s  {line}", file=sys.stderr, flush=True)

    def write(figures: dict[str, Any]) -> None:
        write_result(result, {**asked, "bars": bars(figures), **figures})

    figures = earlier_figures(result, asked, run.index)
    log(f"{corpus.rows:,} rows need {run.disk_needed_bytes / 1e9:,.1f} GB in {run.folder}")
    try:
        Large(run, log, write, figures).measure()
    except BitsiftError as error:
        sys.exit(f"error: {error.title}: {error.message}")
    if figures["complete"] and not arguments.keep:
        shutil.rmtree(run.index)
    print(json.dumps(bars(figures), indent=2))


def earlier_figures(result: Path, asked: dict[str, Any], index: Path) -> dict[str, Any]:
    """How long building and training took in the run that made the index that is there."""
    if not result.exists() or not index.exists():
        return {}
    earlier = json.loads(result.read_text())
    if any(earlier.get(name) != value for name, value in asked.items()):
        return {}
    return {name: earlier[name] for name in ("build", "train") if name in earlier}


if __name__ == "__main__":
    main()
