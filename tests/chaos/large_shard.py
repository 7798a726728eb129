"""``python -m tests.chaos.large_shard``: how soon a killed shard of a million rows is READY again.

`bitsift serve` on an index of one shard; its process is killed several times, while queries are
asked. The figures go into benchmarks/results/shard_restart.json.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from tests.chaos.server import Server

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "shard_restart.json"
HEAL_S = 120
PAUSE_S = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.large_shard")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, nargs="*", default=[64])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the index, in place of a temporary one")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    runs = []
    for dimension in options.dimensions:
        with tempfile.TemporaryDirectory(prefix="large-", dir=options.folder) as folder:
            runs.append(_run(Path(folder), SyntheticSpec(options.rows, dimension), options.kills))
        print(runs[-1], flush=True)
        write_result(options.out, {"runs": runs})


def _run(folder: Path, spec: SyntheticSpec, kills: int) -> dict[str, Any]:
    write_index(folder / "index", spec, 1)
    used = sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
    body = {"vector": synthetic_queries(spec, 1)[0].tolist(), "top_k": 10, "mode": "exact"}
    server, back = Server(folder / "index", folder / "log"), []
    try:
        server.wait_ready()
        expected = _ids(server, body)
        load = os.getloadavg()[0]
        for _ in range(kills):
            (pid,) = server.pids("shard")
            os.kill(pid, signal.SIGKILL)
            back.append(_seconds_to(server, pid, body, expected))
            time.sleep(5)
        server.stop()
    finally:
        server.kill()
    return {
        "rows": spec.rows, "dimension": spec.dim, "index_bytes": used,
        "load_average_before": round(load, 2), "killed": kills,
        "ready_after_s": back, "median_s": statistics.median(back),
    }  # fmt: skip


def _seconds_to(server: Server, pid: int, body: dict[str, Any], expected: list[str]) -> float:
    """Until another process is READY, and the answers are those from before."""
    began_s = time.monotonic()

    def is_back() -> bool:
        (shard,) = server.cluster()["shards"]
        is_ready = shard["state"] == "READY" and shard["pid"] not in (0, pid)
        return is_ready and _ids(server, body) == expected

    while not is_back():
        assert time.monotonic() < began_s + HEAL_S, server.said()
        time.sleep(PAUSE_S)
    return round(time.monotonic() - began_s, 2)


def _ids(server: Server, body: dict[str, Any]) -> list[str]:
    answer = httpx.post(f"{server.url}/v1/search", json=body, timeout=30)
    return [hit["id"] for hit in answer.json().get("hits", [])]


if __name__ == "__main__":
    main()
