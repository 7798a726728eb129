"""``python -m tests.chaos.kill_matrix``: every process of a server, killed, stopped and terminated,
idle and under load. Prints a table as it goes; the figures go into benchmarks/results.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from dataclasses import asdict
from pathlib import Path

from bitsift.cluster.bench.machine import write_result
from tests.chaos.cells import LOADS, SIGNALS, VICTIMS, Cell, Outcome, run_cell, served, what_is_left

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "kill_matrix.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kill_matrix", description=__doc__)
    parser.add_argument("--victims", nargs="*", default=VICTIMS, choices=VICTIMS)
    parser.add_argument("--signals", nargs="*", default=SIGNALS, choices=SIGNALS)
    parser.add_argument("--loads", nargs="*", default=LOADS, choices=LOADS)
    parser.add_argument("--stop-s", type=float, default=20.0, help="from SIGSTOP to SIGCONT")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    outcomes: list[Outcome] = []
    for cell in itertools.product(options.victims, options.signals, options.loads):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            outcomes.append(_outcome(Cell(*cell), Path(folder), options.stop_s))
        print(outcomes[-1].row(), flush=True)
        if outcomes[-1].problems:
            print(*(f"    {line}" for line in outcomes[-1].said), sep="\n", flush=True)
        _write(outcomes, options.stop_s, options.out)
    wanted = sum(not outcome.problems for outcome in outcomes)
    print(f"{wanted} of {len(outcomes)} cells as wanted")
    raise SystemExit(wanted != len(outcomes))


def _outcome(cell: Cell, folder: Path, stop_s: float) -> Outcome:
    """A cell with a server of its own: what one breaks, another does not meet. One that breaks off
    is not as wanted; the others are run.
    """
    try:
        with served(folder) as server:
            outcome = run_cell(cell, server, stop_s)
            outcome.problems += what_is_left(server)
            return outcome
    except Exception as error:
        problem = f"broke off: {type(error).__name__}: {error}"
        said = (folder / "log").read_text().splitlines()
        return Outcome(cell, None, {}, {}, 0, said, [problem])


def _write(outcomes: list[Outcome], stop_s: float, path: Path) -> None:
    cells = [asdict(outcome) for outcome in outcomes]
    as_wanted = sum(not outcome.problems for outcome in outcomes)
    write_result(path, {"stop_s": stop_s, "as_wanted": as_wanted, "cells": cells})


if __name__ == "__main__":
    main()
