"""The seeds that `make test` runs, in two files, so that both its workers have some.

`make simulate` runs ten thousand. Each planted bug has a seed of its own (test_simulation.py).
"""

from __future__ import annotations

from tests.simulation.summary import Summary
from tests.simulation.world import run_seeds

SEEDS = 300
BLOCK = 50
OPERATIONS_MIN, FAULTS_MIN = 100, 5
HALVES = range(0, SEEDS // 2, BLOCK), range(SEEDS // 2, SEEDS, BLOCK)
"""Where the blocks of each file begin."""


def check_block(start: int) -> None:
    """No promise is broken by a history that begins with one of the seeds of a block."""
    summary = Summary()
    for one in run_seeds(range(start, start + BLOCK)):
        again = f"python -m tests.simulation --seed {one.plan.seed}"
        assert one.broken is None, f"{one.broken}: {again}"
        summary.add(one)
    figures = summary.figures()
    assert figures["operations"]["min"] >= OPERATIONS_MIN
    assert figures["faults"]["min"] >= FAULTS_MIN
    assert figures["answered"]["median"] >= OPERATIONS_MIN / 2
