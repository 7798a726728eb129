"""``make crash-test``: some hundred kills; the figures go into benchmarks/results."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from cluster.machine import write_result
from tests.crash.loop import CrashLoop

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "crash_loop.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=240)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--folder", help="where the shard lies; default: a temporary folder")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        loop = CrashLoop(Path(folder), options.seed)
        loop.run(options.kills)
        loop.close()
    spent = {"seed": options.seed, "seconds": round(time.monotonic() - started, 1)}
    print(json.dumps(write_result(RESULT, {**spent, **loop.report()}), indent=2))


if __name__ == "__main__":
    main()
