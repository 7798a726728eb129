"""``python -m tests.fuzz``: every route fuzzed twice; the figures go into benchmarks/results."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitsift.cluster.bench.machine import write_result
from tests.child_gateway import child_gateway
from tests.fuzz.by_schema import fuzz_by_schema
from tests.fuzz.raw import Fuzzer
from tests.fuzz.targets import Served, Target

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "fuzz.json"


@contextmanager
def target_of(url: str | None, pid: int | None) -> Iterator[Target]:
    if url is not None and pid is not None:
        yield Served(url, pid)
        return
    with tempfile.TemporaryDirectory() as folder, child_gateway(Path(folder)) as child:
        yield child


def fuzz(target: Target, seconds: int, seed: int) -> dict[str, Any]:
    """Both fuzzers, one after the other, so many seconds each."""
    own = Fuzzer(target, seed)
    own.run(seconds)
    return {"raw_sockets": own.report(), "schemathesis": fuzz_by_schema(target, seconds, seed)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for each of the two")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--url", help="a server that runs; default: a gateway of its own")
    parser.add_argument("--pid", type=int, help="the process of that server's router")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if (options.url is None) != (options.pid is None):
        parser.error("--url and --pid go together")
    started = time.monotonic()
    with target_of(options.url, options.pid) as target:
        found = fuzz(target, options.seconds, options.seed)
    what = "bitsift serve" if options.url else "a gateway over two real shards"
    spent = {"target": what, "seconds": round(time.monotonic() - started, 1)}
    print(json.dumps(write_result(options.out, {**spent, **found}), indent=2))


if __name__ == "__main__":
    main()
