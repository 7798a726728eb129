"""Latency of text queries over HTTP against a running gateway, one client, warm; and the encoder.

bitsift demo &   then   python benchmarks/latency.py --url http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import time

import httpx
import machine
import numpy as np

_WORDS = """fear joy animal instrument small large measures sound water old person walks light
stone colour feeling house science doctor child rain music machine plant flower bird metal glass"""
WORDS = _WORDS.split()


def questions(count: int, seed: int = 1) -> list[str]:
    """Distinct queries of four to nine words."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(4, 10))) for _ in range(count)]


def percentiles(values: list[float]) -> dict[str, float]:
    p50, p90, p99 = np.percentile(values, [50, 90, 99])
    return {"p50": round(p50, 2), "p90": round(p90, 2), "p99": round(p99, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--queries", type=int, default=1_000)
    arguments = parser.parse_args()
    spent: list[float] = []
    stages: dict[str, list[float]] = {}
    with httpx.Client(base_url=arguments.url) as client:
        index = client.get("/v1/index").json()
        for warm, text in enumerate(questions(arguments.queries + 100)):
            started = time.perf_counter()
            answer = client.post("/v1/search", json={"query": text}).json()
            if warm >= 100:
                spent.append((time.perf_counter() - started) * 1e3)
                for name, value in answer["timings_ms"].items():
                    stages.setdefault(name, []).append(value)
        shards = client.get("/v1/cluster").json()["shards"]
    machine.write(
        "latency",
        {
            "documents": index["documents"],
            "shards": index["shards"],
            "queries": len(spent),
            "http_ms": percentiles(spent),
            "stages_ms": {name: percentiles(values) for name, values in stages.items()},
            "shard_resident_mb": [round(s["resident_bytes"] / 1e6, 1) for s in shards],
            "bits_mb": [round(s["bits_bytes"] / 1e6, 1) for s in shards],
        },
    )


if __name__ == "__main__":
    main()
