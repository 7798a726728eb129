"""What a peer must do to be measured, and the process that does it.

    PYTHON -m benchmarks.peers.engine NAME FOLDER THREADS

runs in the peer's own virtual environment, so nothing here or in ``engines/`` imports Bitsift,
but for its own. It answers requests on standard input, a JSON object a line, each by one line:

    {"do": "build", "vectors": FILE, "draws": FILE}     fills FOLDER and opens it
    {"do": "search", "cases": [[query, low, high], …], "setting": {…}}
                                    times each: the ids of the best ten, and milliseconds
    {"do": "memory"}                                    what it holds now

Its first line says what settings it has, and whether it can filter by a field.

``vectors`` is an .npy file of float32 unit vectors, ``draws`` one of an int64 field of each; the id
of a row is its number. A case searches the rows with ``low <= draw < high``, all if both are null.
Printing of the libraries goes to standard error.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

TOP_K = 10
Range = tuple[int, int] | None
"""Which values of ``draw`` pass a filter: from the first up to, without it, the second."""


class Engine(Protocol):
    """One peer. Its module has ``engine``, such a class, and ``SETTINGS``, what ``search`` may be
    given, from the cheapest to the dearest: a curve of recall and time.
    """

    filters: bool
    """Whether it can search the rows whose field is in a range; the base line is told which rows.
    If not, it is given no ``passing``."""
    durable: bool
    """Whether ``folder`` has all that it needs at the end of ``build``; if not, it is in RAM."""

    def __init__(self, folder: Path, threads: int) -> None: ...

    def build(self, vectors: NDArray[np.float32], draws: NDArray[np.int64]) -> None:
        """Fill the empty ``folder`` and its indexes, durably, and open it."""

    def search(
        self, vector: NDArray[np.float32], passing: Range, setting: dict[str, Any]
    ) -> list[int]:
        """The ids of the best ``TOP_K`` rows by cosine, of those that pass."""


def memory() -> dict[str, int]:
    """What is resident, and what of it the kernel cannot drop, as it can pages of mapped files.

    What the allocator kept of the build is given back first.
    """
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {key: value for key, _, value in (line.partition(":") for line in lines)}
    kib = {name: int(found[name].split()[0]) for name in ("VmRSS", "RssAnon")}
    return {"resident_bytes": kib["VmRSS"] << 10, "anonymous_bytes": kib["RssAnon"] << 10}


def sync(file: Path) -> None:
    """``file`` is on the disk: libraries that write one do not wait for that."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def folder_bytes(folder: Path) -> int:
    return sum(it.stat().st_blocks * 512 for it in folder.rglob("*") if it.is_file())


def answer(engine: Engine, folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "build":
        vectors = np.load(request["vectors"], mmap_mode="r")
        started = time.perf_counter()
        engine.build(vectors, np.load(request["draws"]))
        took = time.perf_counter() - started
        said = {"build_s": round(took, 1), "disk_bytes": folder_bytes(folder)}
        return said | {"durable": engine.durable}
    if request["do"] == "memory":
        return memory()
    queries, found, ms = np.load(request["queries"]), [], []
    for query, low, high in request["cases"]:
        passing = None if low is None else (low, high)
        started = time.perf_counter()
        ids = engine.search(queries[query], passing, request["setting"])
        ms.append((time.perf_counter() - started) * 1e3)
        found.append(ids)
    return {"ids": found, "ms": ms}


def main() -> None:
    name, folder, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    module = importlib.import_module(f"benchmarks.peers.engines.{name}")
    engine: Engine = module.engine(Path(folder), int(threads))
    first = {"settings": module.SETTINGS, "filters": engine.filters}
    print(json.dumps(first), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(engine, Path(folder), json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
