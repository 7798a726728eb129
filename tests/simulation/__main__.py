"""``python -m tests.simulation --seeds 10000``: a cluster that is simulated, seed by seed.

A seed that breaks an invariant is shrunk and printed; ``--seed N`` runs it alone. ``--bug NAME``
puts one of the planted bugs into the code first, and ends with the first seed that finds it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.simulation.bugs import BUGS
from tests.simulation.plan import plan_of
from tests.simulation.shrink import shrunk
from tests.simulation.world import Run, run, run_seed

_bugs = {bug.__name__: bug for bug in BUGS}


def _explain(seed: int) -> None:
    small = shrunk(plan_of(seed), lambda plan: run(plan).broken is not None)
    print(f"seed {seed}: {run(small).broken}")
    for fault in small.faults:
        print(f"    {fault}")
    for asked in small.asked:
        print(f"    {asked}")


def main() -> int:
    """The exit code: 1 where an invariant was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--bug", choices=sorted(_bugs))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a file for the figures, as JSON")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    first, seeds = (given.first, given.seeds) if given.seed is None else (given.seed, 1)
    if given.bug is not None:
        return _hunt(given.bug, range(first, first + seeds))
    begun, broken, faults, operations, acknowledged = time.monotonic(), list[int](), 0, 0, 0
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        pool = ProcessPoolExecutor(given.jobs, context) if seeds > 1 else None
        every = range(first, first + seeds)
        runs: Iterable[Run] = map(run_seed, every)
        if pool is not None:
            runs = stack.enter_context(pool).map(run_seed, every, chunksize=8)
        for one in runs:
            faults, operations = faults + one.faults, operations + len(one.plan.asked)
            acknowledged += one.acknowledged
            if one.broken is not None:
                print(f"seed {one.plan.seed}: {one.broken}", flush=True)
                broken.append(one.plan.seed)
    for seed in broken[:3]:
        _explain(seed)
    figures = {
        "seeds": seeds, "first": first, "broken": broken, "operations": operations,
        "acknowledged_writes": acknowledged, "faults": faults,
        "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip
    print(json.dumps(figures))
    if given.out is not None:
        given.out.write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if broken else 0


def _hunt(name: str, seeds: range) -> int:
    for seed in seeds:
        with _bugs[name]():
            found = run(plan_of(seed))
        if found.broken is not None:
            print(f"{name}: seed {seed}: {found.broken}")
            return 0
    print(f"{name} was not found in {len(seeds)} seeds")
    return 1


if __name__ == "__main__":
    sys.exit(main())
