"""Bitsift and its peers side by side: the same vectors, truth and threads, each in a process and a
virtual environment of its own.

    make bench-peers                     all, at 1 M x 384: 12 GB of disk, half an hour
    python -m benchmarks.peers [--rows 1000000] [--dim 384] [--threads 1] [--engines NAME …]

Searches go round in turns: a few of each engine, case and setting, then again, so that what else
the machine does meets all alike. Cases: without a filter; with one on an integer field that 1 % or
0.01 % of the rows pass, either always the same one (known) or a new one each time (new). For each
case and setting benchmarks/results/peers.json has recall@10 against fp32 brute force and p50; and
for each engine and case the cheapest setting whose recall is at least ``RECALL``, and Bitsift's
time over it. Environments are made in ``.peers`` from ``requirements/NAME.txt``.

A new peer is a module in ``engines/`` (engine.py has what it must do), a line in ``ENGINES``, and a
file of pinned packages unless it runs in Bitsift's own environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.sources.synthetic import (
    BLOCK_ROWS,
    SyntheticSpec,
    synthetic_block,
    synthetic_queries,
    write_npy,
)

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "peers.json"
VENVS, REQUIREMENTS = ROOT / ".peers", Path(__file__).with_name("requirements")
ENGINES = {
    "bitsift_shard": None,
    "faiss_flat": None,
    "lancedb_ivf": "lancedb",
    "qdrant_edge": "qdrant_edge",
}
"""The modules in ``engines/``, and the environment that each needs; None: Bitsift's own."""
OURS, BASE_LINE = "bitsift_shard", "faiss_flat"
SHARES = {"1%": 0.01, "0.01%": 0.0001}
QUERIES, ROUNDS, RECALL, TOP_K = 50, 5, 0.98, 10
Case = list[int | None]
"""Number of the query, and the range of ``draw`` that passes, or None twice."""


@dataclass(slots=True)
class Data:
    """Vectors, queries and a field independent of them, as files, and the fp32 scores of all."""

    folder: Path
    spec: SyntheticSpec
    draws: NDArray[np.int64]
    scores: NDArray[np.float32] = field(repr=False)

    @classmethod
    def made(cls, folder: Path, spec: SyntheticSpec) -> Data:
        write_npy(spec, folder / "vectors.npy")
        queries = synthetic_queries(spec, QUERIES)
        draws = np.random.default_rng(18).permutation(spec.rows)
        np.save(folder / "queries.npy", queries)
        np.save(folder / "draws.npy", draws)
        blocks = [
            synthetic_block(spec, first, min(BLOCK_ROWS, spec.rows - first)) @ queries.T
            for first in range(0, spec.rows, BLOCK_ROWS)
        ]
        return cls(folder, spec, draws, np.concatenate(blocks))

    def cases(self) -> dict[str, list[Case]]:
        random = np.random.default_rng(0)
        found: dict[str, list[Case]] = {"plain": [[query, None, None] for query in range(QUERIES)]}
        for name, share in SHARES.items():
            width = max(TOP_K, round(share * self.spec.rows))
            starts = random.integers(0, self.spec.rows - width, QUERIES).tolist()
            found[f"{name} known"] = [[query, 0, width] for query in range(QUERIES)]
            found[f"{name} new"] = [[q, low, low + width] for q, low in enumerate(starts)]
        return found

    def recall(self, case: Case, ids: Sequence[int]) -> float:
        query, low, high = case
        scores, rows = self.scores[:, query or 0], np.arange(self.spec.rows)
        if low is not None and high is not None:
            rows = np.flatnonzero((self.draws >= low) & (self.draws < high))
        assert not set(ids) - set(rows.tolist()), "rows that do not pass the filter"
        best = rows[np.argsort(-scores[rows], kind="stable")[:TOP_K]]
        return len(np.intersect1d(best, ids)) / len(best)


def python_of(environment: str | None) -> str:
    """The interpreter of an environment, which is made unless it is there as it is pinned."""
    if environment is None:
        return sys.executable
    folder, wanted = VENVS / environment, REQUIREMENTS / f"{environment}.txt"
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if not stamp.exists() or stamp.read_bytes() != wanted.read_bytes():
        print(f"installing {wanted.name} into {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "-q", "--no-deps", "-r", str(wanted)]
        subprocess.run(install, check=True)
        shutil.copyfile(wanted, stamp)
    return str(python)


class Worker:
    """An engine in a process of its own."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        folder.mkdir()
        number = str(threads)
        environment = os.environ | {
            "OMP_NUM_THREADS": number, "RAYON_NUM_THREADS": number, "TOKIO_WORKER_THREADS": number,
            "LANCE_CPU_THREADS": number, "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        command = [python_of(ENGINES[name]), "-m", "benchmarks.peers.engine", name, str(folder)]
        self._process = subprocess.Popen(
            [*command, number], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.name = name
        self.settings: list[dict[str, Any]] = self._answer()["settings"]

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended; what it wrote is above")
        return json.loads(line)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def workers(names: Sequence[str], folder: Path, threads: int) -> Iterator[list[Worker]]:
    with contextlib.ExitStack() as stack:
        started = []
        for name in names:
            started.append(Worker(name, folder / name, threads))
            stack.callback(started[-1].close)
        yield started


def measured(data: Data, started: Sequence[Worker], rounds: int) -> dict[str, Any]:
    """Builds one after the other, then searches in turns."""
    files = {name: str(data.folder / f"{name}.npy") for name in ("vectors", "draws", "queries")}
    built = {}
    for worker in started:
        built[worker.name] = worker.ask(do="build", **files)
        print(worker.name, built[worker.name], flush=True)
    cases = data.cases()
    turns = [
        (worker, case, setting)
        for case in cases
        for worker in started
        for setting in worker.settings
    ]
    points: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for number in range(rounds + 1):  # the first is not counted: it warms up
        few = slice(None) if number == 0 else slice(number - 1, None, rounds)
        for worker, case, setting in turns:
            asked = cases[case][:5] if number == 0 else cases[case][few]
            found = worker.ask(do="search", cases=asked, setting=setting, **files)
            built[worker.name]["resident_bytes"] = found["resident_bytes"]
            if number:
                key = worker.name, case, json.dumps(setting)
                point = points.setdefault(key, {"ms": [], "recall": []})
                point["ms"] += found["ms"]
                pairs = zip(asked, found["ids"], strict=True)
                point["recall"] += [data.recall(one, ids) for one, ids in pairs]
    return {"engines": built, "curves": curves(points)}


def curves(points: dict[tuple[str, str, str], dict[str, list[float]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for (name, case, setting), point in points.items():
        found.setdefault(case, {}).setdefault(name, []).append({
            "setting": json.loads(setting),
            "p50_ms": round(statistics.median(point["ms"]), 3),
            "recall": round(statistics.fmean(point["recall"]), 4),
        })  # fmt: skip
    return found


def compared(found: dict[str, Any]) -> dict[str, Any]:
    """Of each case the cheapest point of each engine that reaches ``RECALL``, and our p50 over that
    of the fastest peer, which the base line is not; None where none reaches it.
    """
    result = {}
    for case, by_engine in found.items():
        best = {
            name: min((it for it in curve if it["recall"] >= RECALL), key=lambda it: it["p50_ms"],
                      default=None)
            for name, curve in by_engine.items()
        }  # fmt: skip
        own = best.get(OURS)
        peers = [
            it["p50_ms"]
            for name, it in best.items()
            if it is not None and name not in (OURS, BASE_LINE)
        ]
        ratio = round(own["p50_ms"] / min(peers), 2) if own and peers else None
        result[case] = {"cheapest": best, "bitsift_over_fastest_peer": ratio}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    spec = SyntheticSpec(options.rows, options.dim)
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        folder = Path(name)
        data = Data.made(folder, spec)
        with workers(options.engines, folder, options.threads) as started:
            found = measured(data, started, options.rounds)
    found["compared"] = compared(found["curves"])
    print(json.dumps(found["compared"], indent=1))
    facts = {"rows": spec.rows, "dim": spec.dim, "threads": options.threads, "recall_min": RECALL}
    write_result(options.out, facts | found)


if __name__ == "__main__":
    main()
