"""Every 100th document of the demo, asked for by its own text: is it the first hit?

bitsift demo &   then   python benchmarks/self_search.py --url http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

from bitsift import Client
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.demo import CORPUS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    lines = gzip.decompress(CORPUS.read_bytes()).splitlines()[::100]
    rows = [json.loads(line) for line in lines]
    misses = []
    with Client(parser.parse_args().url) as client:
        for start in range(0, len(rows), 50):
            part = rows[start : start + 50]
            answers = client.search_many(
                [f"{row['title']} {row['text']}" for row in part], top_k=2, timeout_ms=60_000
            )
            for row, answer in zip(part, answers, strict=True):
                if answer.hits[0].id != row["_id"]:
                    misses.append({"asked": row["_id"], "first": answer.hits[0].id,
                                   "scores": [hit.score for hit in answer.hits]})  # fmt: skip
    result = {"asked": len(rows), "first": len(rows) - len(misses), "misses": misses}
    write_result(Path(__file__).with_name("results") / "self_search.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
