"""What HTTP, the router and Ray add to a search in a shard, over what any HTTP server costs.

    python -m benchmarks.over_http [--rows 100000] [--rounds 300]

A ``bitsift serve`` in processes of its own with one shard of synthetic vectors of 384 dimensions.
In turns, one client asks by a vector

    vector      it, over HTTP
    bare        a FastAPI route under uvicorn, in a process of its own, that reads the same body and
                returns the bytes of such an answer
    shard       the same index in this process, ``Shard.search`` with the documents of the hits

``added_over_shard`` is (vector - bare) / shard, of medians. The result goes to
benchmarks/results/over_http.json; what the encoder and many clients cost, `bitsift bench` measures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.cluster.bench.clients import connect, post, vector_bodies
from bitsift.cluster.bench.index import glosses, write_index
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.bench.timing import interleaved, median, percentiles
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.manifest import open_manifest
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from bitsift.options import SearchOptions
from bitsift.shard_worker.types import Query

RESULT = Path(__file__).with_name("results") / "over_http.json"
DIM, QUERIES, WARM_UP, START_S = 384, 200, 30, 120.0
DOCUMENTS_BYTES = 1 << 20
BARE = """
import sys, uvicorn
from fastapi import FastAPI, Request, Response
answer, app = open(sys.argv[1], "rb").read(), FastAPI()

@app.post("/v1/search")
async def search(request: Request) -> Response:
    await request.body()
    return Response(answer, media_type="application/json")

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error", access_log=False)
"""


@contextlib.contextmanager
def started(command: Sequence[str], url: str, body: bytes) -> Iterator[None]:
    """A process that answers ``body`` at ``url`` within; it is ended with the block."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline_s = time.monotonic() + START_S
            while b'"hits"' not in post(connect(url), body):
                assert process.poll() is None, f"{command[2]} ended"
                assert time.monotonic() < deadline_s, "it does not answer"
                time.sleep(0.2)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(START_S)


def free_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def asker(url: str, bodies: Sequence[bytes]) -> Callable[[int], object]:
    connection = connect(url)
    return lambda turn: post(connection, bodies[turn % len(bodies)])


def in_turns(
    url: str, bare_url: str, index: Path, vectors: NDArray[np.float32], rounds: int
) -> dict[str, Any]:
    """``index`` is what is served at ``url``, another copy of it."""
    manifest, bodies = open_manifest(index)[0], vector_bodies(vectors)
    with open_shard(index, manifest, 0) as shard:
        asked = [
            [Query(SearchOptions(vector=unit), DOCUMENTS_BYTES)]
            for unit in manifest.calibration.units(vectors)
        ]
        sides = {
            "vector": asker(url, bodies),
            "bare": asker(bare_url, bodies),
            "shard": lambda turn: shard.search(asked[turn % len(asked)]),
        }
        seconds = interleaved(sides, rounds, WARM_UP)
    p50 = {name: median(values) for name, values in seconds.items()}
    return {
        **{name: percentiles(values) for name, values in seconds.items()},
        "added_over_shard": round((p50["vector"] - p50["bare"]) / p50["shard"], 2),
    }


def measure(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    spec, texts = SyntheticSpec(rows, DIM), glosses(10_000)
    index, twin, answer = folder / "index", folder / "twin", folder / "answer.json"
    for copy in (index, twin):
        write_index(copy, spec, 1, texts=texts)
    vectors, url, bare_url = synthetic_queries(spec, QUERIES), free_url(), free_url()
    body = vector_bodies(vectors[:1])[0]
    serve = [sys.executable, "-m", "bitsift.cluster.cli", "serve", str(index)]
    with started([*serve, "--port", url.rpartition(":")[2]], url, body):
        answer.write_bytes(post(connect(url), body))
        bare = [sys.executable, "-c", BARE, str(answer), bare_url.rpartition(":")[2]]
        with started(bare, bare_url, body):
            return {"rows": rows, "dim": DIM, **in_turns(url, bare_url, twin, vectors, rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitsift-http-") as folder:
        found = measure(Path(folder), options.rows, options.rounds)
    print(json.dumps(write_result(RESULT, found), indent=2))


if __name__ == "__main__":
    main()
