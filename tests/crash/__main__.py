"""``make crash-test``: some hundred kills; the figures go into benchmarks/results.

With ``--at-once`` several shards live and die at the same time, each with clients of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bitsift.cluster.bench.machine import write_result
from tests.crash.loop import run_loop, together

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "crash_loop.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=240)
    parser.add_argument("--at-once", type=int, default=1, help="loops that share the kills")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--folder", help="where the shards lie; default: a temporary folder")
    options = parser.parse_args()
    started, loops = time.monotonic(), options.at_once
    spawned = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        ProcessPoolExecutor(loops, mp_context=spawned) as pool,
    ):
        folders = [Path(folder) / str(number) for number in range(loops)]
        seeds = [options.seed + 1_000 * number for number in range(loops)]
        kills = [-(-options.kills // loops)] * loops
        reports = list(pool.map(run_loop, folders, kills, seeds))
    spent = {
        "seed": options.seed, "loops": loops, "seconds": round(time.monotonic() - started, 1)
    }  # fmt: skip
    print(json.dumps(write_result(RESULT, {**spent, **together(reports)}), indent=2))


if __name__ == "__main__":
    main()
