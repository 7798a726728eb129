"""The headline run: 40 million x 1,024 on one machine, built, trained, served and measured.

    python benchmarks/forty_million.py [--rows 40M] [--folder FOLDER] [--keep] [--minutes 240]

Needs about 60 GB of free disk and an hour and a half; says so before it starts. A run that was cut
off is taken up again by the same command. Figures are written after every phase.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bitsift.cluster.bench.large import LargeRun, measure_large
from bitsift.cluster.bench.plots import plot_large
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.errors import BitsiftError
from bitsift.quantities import parse_count

RESULTS = Path(__file__).with_name("results")
STARTED = time.monotonic()


def log(line: str) -> None:
    print(f"{time.monotonic() - STARTED:8.1f} s  {line}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=parse_count, default=40_000_000)
    parser.add_argument("--dim", type=int, default=1_024)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path(".bitsift/forty_million"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--minutes", type=float, default=240, help="start no phase later")
    parser.add_argument("--keep", action="store_true", help="keep the index at the end")
    asked = parser.parse_args()
    run = LargeRun(
        SyntheticSpec(asked.rows, asked.dim), asked.shards, asked.folder.absolute(),
        asked.queries, asked.minutes * 60, asked.keep,
    )  # fmt: skip
    result = asked.out / "forty_million.json"
    try:
        figures = measure_large(run, log, result)
    except BitsiftError as error:
        sys.exit(f"error: {error.title}: {error.message}")
    plot_large(figures, result.with_suffix(".svg"))
    for name, bar in figures["bars"].items():
        print(
            f"{name:30} {bar['value']:>12,.6g}  {bar['bar']:10} {'met' if bar['met'] else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
