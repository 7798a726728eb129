"""One side of before_after_writes.py: a shard of some checkout, written to as it is told.

    PYTHONPATH=CHECKOUT python benchmarks/writing_side.py FOLDER ROWS

Each line of its input is a kind of write, a number of calls, and how they are looked at: "timed",
"profiled", or "plain". For each it prints one line of JSON. It imports what both checkouts have:
before commit 1749cdc the packages had no common name, and before 6837311 an operation had another.
"""

from __future__ import annotations

import cProfile
import importlib
import itertools
import json
import re
import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import bitsift

DIM = 1_024
LOADED = 1_000
"""Documents of a call of a bulk load."""
MANY = 100
_PACKAGE = "shard_worker" if bitsift.__file__.endswith("bitsift.py") else "bitsift.shard_worker"
_OF_LMDB = re.compile("<method '([a-z]+)' of '(?:Transaction|Cursor)' objects>")


def _module(name: str) -> Any:
    return importlib.import_module(f"{_PACKAGE}.{name}")


class Side:
    """A shard of ``rows`` documents, and the writes that it is asked for."""

    def __init__(self, folder: Path, rows: int) -> None:
        random = np.random.default_rng(3)
        sample = random.standard_normal((2_000, DIM), dtype=np.float32)
        sample /= np.linalg.norm(sample, axis=1, keepdims=True)
        calibration = _module("codes").Calibration.from_sample(sample, DIM)
        self._codes = random.integers(-127, 128, (1 << 14, DIM), dtype=np.int8)
        identity = _module("types").ShardIdentity(str(uuid.UUID(int=7)), 0, 1, DIM, DIM)
        shard_type = _module("shard").Shard
        shard_type.create(folder, identity)
        self.shard = shard_type(folder, calibration, identity)
        self._numbers, self._turns, self._stays = itertools.count(), itertools.count(), rows // 2
        self._replaced, self._deletable = itertools.count(), deque[int]()
        for _ in range(rows // LOADED):
            self.shard.write([self.load()])
        for _ in range(self._stays):
            self._deletable.popleft()

    def load(self) -> Any:
        return self._documents(self._new(LOADED), load=True)

    def create(self) -> Any:
        return self._documents(self._new(1))

    def replace(self, count: int = 1) -> Any:
        """Of the first half of the rows, over and over; they are never deleted."""
        numbers = [next(self._replaced) % self._stays for _ in range(count)]
        return self._documents(numbers)

    def delete(self, count: int = 1) -> Any:
        while len(self._deletable) < count:
            self.shard.write([self.load()])
        ids = [f"document-{self._deletable.popleft()}" for _ in range(count)]
        if _PACKAGE == "shard_worker":
            return _module("types").Deletes(ids)
        return _module("operations").Delete(ids)

    def _new(self, count: int) -> list[int]:
        numbers = list(itertools.islice(self._numbers, count))
        self._deletable.extend(numbers)
        return numbers

    def _documents(self, numbers: list[int], *, load: bool = False) -> Any:
        """Documents by number: a text of 200 characters and a vector, both new with each call."""
        turn, blank = next(self._turns), [""] * len(numbers)
        at = np.random.default_rng(turn).integers(0, len(self._codes), len(numbers))
        ids = [f"document-{number}" for number in numbers]
        texts = [f"{turn} {place} {'word ' * 40}" for place in at.tolist()]
        positions = numbers if load else [-2] * len(numbers)
        columns = ids, blank, texts, blank, positions, np.ascontiguousarray(self._codes[at])
        if _PACKAGE == "shard_worker":
            return _module("types").Documents(*columns, replace=not load)
        kind = "Insert" if load else "Upsert"
        return getattr(_module("operations"), kind)(*columns)

    def timed(self, make: Callable[[], Any], calls: int) -> dict[str, list[float]]:
        """Seconds of the wall clock and of this thread's CPU, of each call."""
        found: dict[str, list[float]] = {"wall": [], "cpu": []}
        for _ in range(calls):
            operation = make()
            wall, cpu = time.perf_counter(), time.thread_time()
            self.shard.write([operation])
            found["cpu"].append(time.thread_time() - cpu)
            found["wall"].append(time.perf_counter() - wall)
        return found

    def profiled(self, make: Callable[[], Any], calls: int) -> dict[str, float]:
        """Calls of LMDB by name, of one write, and of functions of Python and C in all."""
        counts: Counter[str] = Counter()
        for _ in range(calls):
            operation, profile = make(), cProfile.Profile()
            profile.runcall(self.shard.write, [operation])
            for entry in profile.getstats():
                counts["functions"] += entry.callcount
                called = _OF_LMDB.match(str(entry.code))
                if called:
                    counts[f"lmdb_{called[1]}"] += entry.callcount
        return {name: count / calls for name, count in sorted(counts.items())}

    def plain(self, make: Callable[[], Any], calls: int) -> dict[str, float]:
        for operation in [make() for _ in range(calls)]:
            self.shard.write([operation])
        return {}


def main() -> None:
    side = Side(Path(sys.argv[1]), int(sys.argv[2]))
    kinds = {
        "create": side.create,
        "replace": side.replace,
        "delete": side.delete,
        "load": side.load,
        "replace_100": lambda: side.replace(MANY),
        "delete_100": lambda: side.delete(MANY),
    }
    print(json.dumps({"package": _PACKAGE, "file": _module("shard").__file__}), flush=True)
    for line in sys.stdin:
        kind, calls, how = line.split()
        print(json.dumps(getattr(side, how)(kinds[kind], int(calls))), flush=True)
    side.shard.close()


if __name__ == "__main__":
    main()
