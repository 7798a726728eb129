"""``python -m tests.chaos.kill_matrix``: every process of a server, killed, stopped and terminated,
idle and under load. Prints a table as it goes; the figures go into benchmarks/results, each with
its time, commit and load: cells that are not run again stay as they are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bitsift.cluster.bench.machine import describe_machine, write_result
from tests.chaos.cells import LOADS, SIGNALS, VICTIMS, Cell, Outcome, run_cell, served, what_is_left

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "kill_matrix.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kill_matrix", description=__doc__)
    parser.add_argument("--victims", nargs="*", default=VICTIMS, choices=VICTIMS)
    parser.add_argument("--signals", nargs="*", default=SIGNALS, choices=SIGNALS)
    parser.add_argument("--loads", nargs="*", default=LOADS, choices=LOADS)
    parser.add_argument("--stop-s", type=float, default=20.0, help="from SIGSTOP to SIGCONT")
    parser.add_argument("--missing", action="store_true", help="only cells that --out lacks")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    found = _read(options.out)
    chosen = _cells(options.victims, options.signals, options.loads)
    wanted = [cell for cell in chosen if not (options.missing and cell in found)]
    for cell in wanted:
        load = round(os.getloadavg()[0], 2)
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            outcome = _outcome(cell, Path(folder), options.stop_s)
        print(outcome.row(), flush=True)
        if outcome.problems:
            print(*(f"    {line}" for line in outcome.said), sep="\n", flush=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        machine = {"measured": now, "commit": describe_machine()["commit"], "load_average": load}
        found[cell] = asdict(outcome) | machine | {"stop_s": options.stop_s}
        _write(found, options.out)
    as_wanted = sum(not found[cell]["problems"] for cell in wanted)
    print(f"{as_wanted} of {len(wanted)} cells as wanted")
    raise SystemExit(as_wanted != len(wanted))


def _cells(*names: Sequence[str]) -> list[Cell]:
    return [Cell(*cell) for cell in itertools.product(*names)]


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


def _read(path: Path) -> dict[Cell, dict[str, Any]]:
    """The cells of an earlier run. A file without times is of one commit and one load."""
    if not path.exists():
        return {}
    result = json.loads(path.read_text())
    of_all = {key: result[key] for key in ("measured", "commit", "stop_s") if key in result}
    of_all["load_average"] = result["machine"]["load_average"]
    return {Cell(**found["cell"]): of_all | found for found in result["cells"]}


def _write(found: dict[Cell, dict[str, Any]], path: Path) -> None:
    whole = _cells(VICTIMS, SIGNALS, LOADS)
    cells = [found[cell] for cell in whole if cell in found]
    as_wanted = sum(not cell["problems"] for cell in cells)
    write_result(path, {"as_wanted": as_wanted, "of": len(whole), "cells": cells})


if __name__ == "__main__":
    main()
