"""``python -m tests.simulation --seeds 10000``: a cluster that is simulated, seed by seed.

A seed that breaks an invariant is shrunk and printed; ``--seed N`` runs it alone. ``--bug NAME``
puts one of the planted bugs into the code first, and ends with the first seed that finds it.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bitsift.cluster.bench.machine import write_result
from tests.simulation.bugs import BUGS
from tests.simulation.plan import plan_of
from tests.simulation.shrink import shrunk
from tests.simulation.summary import Summary
from tests.simulation.world import Run, run, run_all, run_seeds

SEEDS_AT_ONCE = 50
PROGRESS_S = 10.0
EXPLAINED_MAX = 3
"""Seeds that are shrunk, at the end."""
_bugs = {bug.__name__: bug for bug in BUGS}


def main() -> int:
    """The exit code: 1 where an invariant was broken."""
    given = _arguments()
    logging.disable(logging.CRITICAL)
    seeds = range(given.start, given.start + given.seeds)
    if given.seed is not None:
        seeds = range(given.seed, given.seed + 1)
    if given.bug is not None:
        return _hunt(given.bug, seeds)
    begun_s, summary = time.monotonic(), Summary()
    shown_s = begun_s
    for one in _runs(seeds, given.jobs):
        summary.add(one)
        if one.broken is not None:
            print(f"seed {one.plan.seed}: {one.broken}", flush=True)
        if time.monotonic() > shown_s + PROGRESS_S:
            shown_s = time.monotonic()
            rate = summary.seeds / (shown_s - begun_s)
            left_s = (len(seeds) - summary.seeds) / rate
            print(f"{summary.seeds:,} of {len(seeds):,} seeds, {rate:.0f}/s, {left_s:.0f} s left",
                  file=sys.stderr, flush=True)  # fmt: skip
    for seed in summary.failed[:EXPLAINED_MAX]:
        _explain(seed)
    seconds = round(time.monotonic() - begun_s, 1)
    figures = {"start": seeds.start, **summary.figures(), "seconds": seconds, "jobs": given.jobs}
    print(json.dumps(figures, indent=2))
    if given.out is not None:
        write_result(given.out, figures)
    return 1 if summary.failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--bug", choices=sorted(_bugs))
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, help="a file for the figures, as JSON")
    return parser.parse_args()


def _runs(seeds: range, jobs: int) -> Iterator[Run]:
    """In their order."""
    if len(seeds) == 1 or jobs == 1:
        yield from run_seeds(seeds)
        return
    parts = [seeds[at : at + SEEDS_AT_ONCE] for at in range(0, len(seeds), SEEDS_AT_ONCE)]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(run_all, parts):
            yield from part


def _explain(seed: int) -> None:
    small = shrunk(plan_of(seed), lambda plan: run(plan).broken is not None)
    print(f"seed {seed}, shrunk: {run(small).broken}")
    for part in small.events:
        print(f"    {part}")


def _hunt(name: str, seeds: range) -> int:
    with _bugs[name]():
        for one in run_seeds(seeds):
            if one.broken is not None:
                print(f"{name}: seed {one.plan.seed}: {one.broken}")
                return 0
    print(f"{name} was not found in {len(seeds)} seeds")
    return 1


if __name__ == "__main__":
    sys.exit(main())
