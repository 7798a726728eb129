"""What a change costs: the same queries to two checkouts, in turns, in one run.

    python benchmarks/before_after.py OTHER-CHECKOUT INDEX [--rounds 200]

Each checkout serves its own copy of INDEX (an index of texts) without a query cache, on one machine
and in one Python environment. They are asked in turns (A B A B …), so a busy neighbour slows both
alike. Results go to benchmarks/results/before_after.json: the percentiles of each side and the
ratios of their medians, over everything and for each of four blocks.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bitsift.cluster.bench.clients import text_bodies, vector_bodies
from bitsift.cluster.bench.index import glosses
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.bench.timing import interleaved, percentiles

RESULT = Path(__file__).with_name("results") / "before_after.json"
HERE = Path(__file__).parents[1]
ROUNDS, WARM_UP, BLOCKS = 200, 40, 4
STOP_WITHIN_S = 60


def command_of(checkout: Path) -> str:
    """The module of the command line, which had another name once."""
    return "bitsift.cluster.cli" if (checkout / "bitsift" / "cluster").exists() else "cluster.cli"


@contextlib.contextmanager
def served(checkout: Path, index: Path) -> Iterator[str]:
    """The address of ``bitsift serve`` run from ``checkout``."""
    process = subprocess.Popen(
        [sys.executable, "-m", command_of(checkout), "serve", str(index), "--port", "0", "--json",
         "--query-cache", "0"],
        cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = ""
        while "}" not in said:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{checkout}: bitsift serve ended with {process.wait()}")
            said += line
        yield json.loads(said)["url"]
    finally:
        process.terminate()
        process.wait(STOP_WITHIN_S)


def queries(dimension: int, count: int) -> dict[str, list[bytes]]:
    """Bodies by kind; each is asked once of each side, so nothing is remembered."""
    # The second half of a gloss: like a question, a text that is in the index nowhere.
    texts = [text[len(text) // 2 :] for text in glosses(count)]
    vectors = np.random.default_rng(7).standard_normal((count, dimension), dtype=np.float32)
    return {
        "text": text_bodies(texts),
        "vector": vector_bodies(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("index", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="queries of a kind and block")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        clients = {}
        for name, checkout in (("before", options.before.absolute()), ("after", HERE)):
            copy = shutil.copytree(options.index, Path(folder) / name)
            url = stack.enter_context(served(checkout, copy))
            headers = {"Content-Type": "application/json"}
            clients[name] = stack.enter_context(httpx.Client(base_url=url, headers=headers))
        dimension = clients["after"].get("/v1/index").json()["dimension"]
        rounds = options.rounds * BLOCKS + WARM_UP
        for kind, bodies in queries(dimension, rounds).items():

            def ask(client: httpx.Client, bodies: list[bytes] = bodies) -> Any:
                def call(turn: int) -> None:
                    client.post("/v1/search", content=bodies[turn]).raise_for_status()

                return call

            seconds = interleaved(
                {name: ask(client) for name, client in clients.items()},
                options.rounds * BLOCKS,
                WARM_UP,
            )
            sides = {name: percentiles(values) for name, values in seconds.items()}
            blocks = [
                round(float(np.median(seconds["after"][at : at + options.rounds])
                            / np.median(seconds["before"][at : at + options.rounds])), 3)
                for at in range(0, options.rounds * BLOCKS, options.rounds)
            ]  # fmt: skip
            ratio = sides["after"]["p50_ms"] / sides["before"]["p50_ms"]
            found[kind] = {**sides, "p50_ratio": round(ratio, 3), "p50_ratio_of_blocks": blocks}
    print(json.dumps(write_result(RESULT, found), indent=2))


if __name__ == "__main__":
    main()
