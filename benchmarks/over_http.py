"""What HTTP, the router and Ray add to the search in a shard and to the encoder.

    python -m benchmarks.over_http [--rows 100000 1000000] [--rounds 300]

A ``bitsift serve`` in processes of its own with one shard of synthetic vectors of 384 dimensions,
said to come from the default model; no vector of a query is remembered. In turns, one client asks

    vector      it by a vector, over HTTP
    bare        a FastAPI route under uvicorn, in a process of its own, that reads the same body and
                returns the bytes of such an answer
    shard       the same index in this process, ``Shard.search`` with the documents of the hits
    text        it by a text, over HTTP
    encoder     the model, in this process, for that text

``added_over_shard`` is (vector - bare) / shard, ``text_over_encoder`` text / encoder, of medians.
Then 32 clients: ``texts_of_encoder`` is what they get of texts a second over what the encoder does
at its best, in batches of texts of one length; ``vectors_gain`` the exact vector queries a second
of 32 clients over those of one, ``faiss_gain`` that of raw FAISS in batches of 32 over one by one.
The result goes to benchmarks/results/over_http.json.
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

from bitsift.cluster.bench.clients import ask, connect, post, text_bodies, vector_bodies
from bitsift.cluster.bench.index import glosses, raw_bits, write_index
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.bench.shard import POOL, raw_index
from bitsift.cluster.bench.timing import interleaved, median, percentiles
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.manifest import Manifest, open_manifest
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from bitsift.options import SearchOptions
from bitsift.router.model.encoder import Encoder
from bitsift.router.model.location import DEFAULT_MODEL
from bitsift.shard_worker.types import Query

RESULT = Path(__file__).with_name("results") / "over_http.json"
DIM, CLIENTS, BATCH, WARM_UP, ROUNDS, START_S = 384, 32, 32, 30, 4, 120.0
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
def started(command: Sequence[str], url: str) -> Iterator[None]:
    """A process that answers at ``url`` within; it is ended with the block."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline_s = time.monotonic() + START_S
            while b'"hits"' not in post(connect(url), b'{"query": "a"}'):
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


def one_client(
    url: str, bare_url: str, index: Path, encoder: Encoder, queries: Queries, rounds: int
) -> dict[str, Any]:
    with open_shard(index, open_manifest(index)[0], 0) as shard:
        asked = [[Query(SearchOptions(vector=unit), DOCUMENTS_BYTES)] for unit in queries.units]
        sides = {
            "vector": asker(url, queries.vectors),
            "bare": asker(bare_url, queries.vectors),
            "shard": lambda turn: shard.search(asked[turn % len(asked)]),
            "text": asker(url, queries.texts),
            "encoder": lambda turn: encoder.encode_queries(
                [queries.said[turn % len(queries.said)]]
            ),
        }
        seconds = interleaved(sides, rounds, WARM_UP)
    p50 = {name: median(values) for name, values in seconds.items()}
    return {
        **{name: percentiles(values) for name, values in seconds.items()},
        "added_over_shard": round((p50["vector"] - p50["bare"]) / p50["shard"], 2),
        "text_over_encoder": round(p50["text"] / p50["encoder"], 2),
    }


class Queries:
    """The same queries as vectors and as texts; the texts are of the demo's glosses."""

    def __init__(self, spec: SyntheticSpec, manifest: Manifest, count: int) -> None:
        vectors = synthetic_queries(spec, count)
        self.units = manifest.calibration.units(vectors)
        self.vectors = vector_bodies(vectors)
        self.exact = vector_bodies(vectors, mode="exact")
        self.said = glosses(count)
        self.texts = text_bodies(self.said)


def many_clients(
    url: str, index: Path, spec: SyntheticSpec, encoder: Encoder, queries: Queries
) -> dict[str, Any]:
    texts, by_length = queries.texts * 4, sorted(queries.said, key=len)

    def rate(bodies: Sequence[bytes], clients: int) -> float:
        replies = ask(url, bodies, clients)
        assert not replies.lost, replies.failure
        return len(bodies) / replies.wall_s

    def encoded() -> float:
        began = time.perf_counter()
        for first in range(0, len(by_length), BATCH):
            encoder.encode_queries(by_length[first : first + BATCH])
        return len(by_length) / (time.perf_counter() - began)

    faiss_gain = measured_gain(raw_bits(open_manifest(index)[0], spec, spec.rows), queries)
    sides: dict[str, Callable[[], float]] = {
        "texts_s": lambda: rate(texts, CLIENTS),
        "encoder_s": encoded,
        "vectors_s_1": lambda: rate(queries.exact, 1),
        "vectors_s_32": lambda: rate(queries.exact * 4, CLIENTS),
    }
    rows: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            rows[name].append(side())
    found = {name: round(median(values[1:]), 1) for name, values in rows.items()}
    return {
        **found,
        "texts_of_encoder": round(found["texts_s"] / found["encoder_s"], 2),
        "vectors_gain": round(found["vectors_s_32"] / found["vectors_s_1"], 2),
        "faiss_gain": round(faiss_gain, 2),
    }


def measured_gain(bits: NDArray[np.uint8], queries: Queries) -> float:
    """Queries a second of raw FAISS in batches over those one by one."""
    index: Any = raw_index(bits)
    asked = np.packbits(queries.units > 0, axis=1)[:BATCH]
    sides = {
        "one": lambda _: [index.search(one[None], POOL) for one in asked],
        "batch": lambda _: [index.search(asked, POOL)],
    }
    seconds = interleaved(sides, 5, 1)
    return median(seconds["one"]) / median(seconds["batch"])


def measure(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    spec, encoder = SyntheticSpec(rows, DIM), Encoder.load(DEFAULT_MODEL)
    index, answer = folder / f"index-{rows}", folder / "answer.json"
    manifest = write_index(index, spec, 1, model=encoder.spec, texts=glosses(10_000))
    twin = folder / f"twin-{rows}"
    write_index(twin, spec, 1, model=encoder.spec, texts=glosses(10_000))
    queries, url, bare_url = Queries(spec, manifest, 200), free_url(), free_url()
    serve = [sys.executable, "-m", "bitsift.cluster.cli", "serve", str(index)]
    serve += ["--port", url.rpartition(":")[2], "--query-cache", "0"]
    with started(serve, url):
        answer.write_bytes(post(connect(url), queries.vectors[0]))
        bare = [sys.executable, "-c", BARE, str(answer), bare_url.rpartition(":")[2]]
        with started(bare, bare_url):
            alone = one_client(url, bare_url, twin, encoder, queries, rounds)
        together = many_clients(url, twin, spec, encoder, queries)
    return {"rows": rows, "dim": DIM, **alone, **together}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitsift-http-") as folder:
        found = [measure(Path(folder), rows, options.rounds) for rows in options.rows]
    print(json.dumps(write_result(RESULT, {"indexes": found}), indent=2))


if __name__ == "__main__":
    main()
