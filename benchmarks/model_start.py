"""What a process pays before it encodes its first query: a model that no process has compiled yet,
by torch alone, and one that was compiled before.

    python benchmarks/model_start.py [--model minilm] [--rounds 5]

Each load is a process of its own, in turns. Seconds of processor, seconds and the peak of RSS go to
benchmarks/results/model_start.json, medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bitsift.cluster.bench.machine import write_result

RESULT = Path(__file__).with_name("results") / "model_start.json"
WAYS = {"first": "auto", "torch": "torch", "compiled_before": "auto"}
PROGRAM = """
import json, resource, sys, time
started = time.perf_counter()
from bitsift.router.model.encoder import Encoder
encoder = Encoder.load(sys.argv[1], backend=sys.argv[2])
encoder.encode_queries(["what is the fear of spiders called"])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "cpu_s": used.ru_utime + used.ru_stime,
    "seconds": time.perf_counter() - started,
    "peak_rss_mib": used.ru_maxrss / 1024,
}))
"""


def load(model: str, backend: str, cache: Path) -> dict[str, float]:
    """One process that loads ``model`` with what is kept in ``cache``."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, model, backend], check=True, text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    seen: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as cache:
            for way, backend in WAYS.items():
                seen[way].append(load(arguments.model, backend, Path(cache)))
    result: dict[str, Any] = {"benchmark": "model_start", "model": arguments.model}
    for way, loads in seen.items():
        result[way] = {
            name: round(statistics.median(one[name] for one in loads), 2) for name in loads[0]
        }
    print(json.dumps(write_result(RESULT, result), indent=2))


if __name__ == "__main__":
    main()
