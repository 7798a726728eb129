"""``python -m tests.chaos.rolling_restart``: each actor and each node of a cluster is restarted in
turn, under queries and writes. Needs root. The figures go into benchmarks/results; those of a
signal that is not sent again stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

from bitsift.cluster.bench.machine import describe_machine, write_result
from tests.chaos.rolling import Rolling, running

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "rolling_restart.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.rolling_restart")
    parser.add_argument("--per-s", type=float, default=20.0, help="queries a second")
    parser.add_argument("--signals", nargs="*", default=["TERM", "KILL"])
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    runs = _earlier(options.out)
    for name in options.signals:
        load = os.getloadavg()[0]
        with (
            tempfile.TemporaryDirectory(prefix="rolling-") as folder,
            running(Path(folder)) as (cluster, nodes),
        ):
            rolling = Rolling(cluster, nodes, options.per_s)
            number = signal.Signals[f"SIG{name}"]
            found = rolling.run(number, lambda line: print(line, flush=True))
        commit = describe_machine()["commit"]
        runs[number.name] = {"commit": commit, "load_average_before": round(load, 2), **found}
        print({key: value for key, value in found.items() if key != "restarts"}, flush=True)
        write_result(options.out, {"runs": [*runs.values()]})


def _earlier(path: Path) -> dict[str, Any]:
    """The runs of an earlier result, by signal."""
    if not path.exists():
        return {}
    return {run["signal"]: run for run in json.loads(path.read_text())["runs"]}


if __name__ == "__main__":
    main()
