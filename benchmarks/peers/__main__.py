"""Bitsift and its peers side by side: the same vectors, truth and threads, each in a process and a
virtual environment of its own.

    make bench-peers                     all: WordNet, in turns, and 1 M x 384 synthetic, apart
    python -m benchmarks.peers [--dataset synthetic] [--rows 1000000] [--dim 384] [--threads 1]
                               [--engines NAME …] [--apart] [--recall 0.98] [--plain]

``--dataset wordnet`` is the demo's glosses, encoded once into ``.peers``, and titles as queries.

Searches go round in turns: a few of each engine, case and setting, then again, so that what else
the machine does meets all alike. With ``--apart`` each engine is built, asked and ended before the
next: that needs the RAM and disk of the largest, not of all together. Cases: without a filter; with
one on an integer field that 1 % or 0.01 % of the rows pass, either always the same one (known) or a
new one each time (new); engines without such a field are asked without a filter only.

For each case and setting benchmarks/results/peers_….json has recall@10 against fp32 brute force and
p50; for each engine and case the cheapest setting whose recall is at least ``--recall`` (0.98), and
Bitsift's time over it; the SVG next to it has the curves. Environments are made in ``.peers`` from
``requirements/NAME.txt``.

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
from pathlib import Path
from typing import Any

from benchmarks.peers.data import PLAIN, Data, encode_wordnet, shifted
from benchmarks.peers.plot import plot
from bitsift.cluster.bench.machine import require_replaceable, write_result
from bitsift.cluster.sources.synthetic import SyntheticSpec

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
VENVS, REQUIREMENTS = ROOT / ".peers", Path(__file__).with_name("requirements")
ENGINES = {
    "bitsift_shard": None,
    "bitsift_lists": None,
    "faiss_flat": None,
    "faiss_hnsw": None,
    "faiss_ivf_rabitq": None,
    "lancedb_ivf": "lancedb",
    "qdrant_edge": "qdrant_edge",
    "turbovec_2": "turbovec",
    "turbovec_4": "turbovec",
    "usearch_hnsw": "usearch",
    "zvec_hnsw": "zvec",
    "zvec_ivf_rabitq": "zvec",
}
"""The modules in ``engines/``, and the environment that each needs; None: Bitsift's own."""
OURS, NO_PEERS = "bitsift_shard", {"bitsift_shard", "bitsift_lists", "faiss_flat"}
ROUNDS, RECALL = 5, 0.98


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


class Ended(SystemExit):
    """The process of an engine is gone."""


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
        self.name, self._folder = name, folder
        said = self._answer()
        self.settings: list[dict[str, Any]] = said["settings"]
        self.filters: bool = said["filters"]

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Ended(f"{self.name} ended; what it wrote is above")
        return json.loads(line)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)


@contextlib.contextmanager
def workers(names: Sequence[str], folder: Path, threads: int) -> Iterator[list[Worker]]:
    with contextlib.ExitStack() as stack:
        started = []
        for name in names:
            started.append(Worker(name, folder / name, threads))
            stack.callback(started[-1].close)
        yield started


def measured(
    data: Data, started: Sequence[Worker], rounds: int, *, is_plain: bool = False
) -> dict[str, Any]:
    """Builds one after the other, then searches in turns."""
    files = {name: str(data.folder / f"{name}.npy") for name in ("vectors", "draws", "queries")}
    built = {}
    for worker in started:
        built[worker.name] = {"filters": worker.filters} | worker.ask(do="build", **files)
        print(worker.name, built[worker.name], flush=True)
    cases = {name: it for name, it in data.cases().items() if name == PLAIN or not is_plain}
    turns = [
        (worker, case, place, setting)
        for case in cases
        for worker in started
        if case == PLAIN or worker.filters
        for place, setting in enumerate(worker.settings)
    ]
    points: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for number in range(rounds + 1):  # the first is not counted: it warms up
        few = slice(None) if number == 0 else slice(number - 1, None, rounds)
        for worker, case, place, setting in turns:
            asked = cases[case][:5] if number == 0 else cases[case][few]
            if case.endswith("new"):  # to this setting, too
                asked = shifted(asked, 2 * place + (number == 0))
            found = worker.ask(do="search", cases=asked, setting=setting, **files)
            if number:
                key = worker.name, case, json.dumps(setting)
                point = points.setdefault(key, {"ms": [], "recall": []})
                point["ms"] += found["ms"]
                pairs = zip(asked, found["ids"], strict=True)
                point["recall"] += [data.recall(one, ids) for one, ids in pairs]
    for worker in started:
        built[worker.name] |= worker.ask(do="memory")
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


def compared(found: dict[str, Any], recall: float = RECALL) -> dict[str, Any]:
    """Of each case the cheapest point of each engine that reaches ``recall``, and our p50 over that
    of the fastest peer, which neither the base line nor our lists are; None where none reaches it.
    """
    result = {}
    for case, by_engine in found.items():
        best = {
            name: min((it for it in curve if it["recall"] >= recall), key=lambda it: it["p50_ms"],
                      default=None)
            for name, curve in by_engine.items()
        }  # fmt: skip
        own = best.get(OURS)
        peers = [
            it["p50_ms"] for name, it in best.items() if it is not None and name not in NO_PEERS
        ]
        ratio = round(own["p50_ms"] / min(peers), 2) if own and peers else None
        result[case] = {"cheapest": best, "bitsift_over_fastest_peer": ratio}
    return result


def run(
    data: Data,
    names: Sequence[str],
    threads: int,
    rounds: int,
    *,
    apart: bool,
    recall: float = RECALL,
    is_plain: bool = False,
) -> dict[str, Any]:
    """All in turns, or each ``apart``: then one that fails leaves the results of the others."""
    groups = [[name] for name in names] if apart else [list(names)]
    engines: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for group in groups:
        try:
            with workers(group, data.folder, threads) as started:
                part = measured(data, started, rounds, is_plain=is_plain)
        except Ended as ended:
            if not apart:
                raise
            print(ended, flush=True)
            engines[group[0]] = {"failed": True}
            continue
        engines |= part["engines"]
        for case, by_engine in part["curves"].items():
            found.setdefault(case, {}).update(by_engine)
    return {"engines": engines, "curves": found, "compared": compared(found, recall)}


def pinned(names: Sequence[str]) -> dict[str, list[str]]:
    """The packages of each environment that is used."""
    environments = {environment for name in names if (environment := ENGINES[name])}
    return {
        environment: (REQUIREMENTS / f"{environment}.txt").read_text().split()
        for environment in sorted(environments)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", choices=("synthetic", "wordnet"), default="synthetic")
    parser.add_argument("--rows", type=int, help="a million, or all of WordNet's glosses")
    parser.add_argument("--dim", type=int, default=384, help="of synthetic vectors")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--recall", type=float, default=RECALL, help="that is compared at")
    parser.add_argument("--plain", action="store_true", help="no filters")
    parser.add_argument("--apart", action="store_true", help="one engine after the other")
    parser.add_argument("--out", type=Path, help="a file; default: by what is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        if options.dataset == "wordnet":
            data = Data.wordnet(Path(name), encode_wordnet(VENVS, options.rows))
        else:
            spec = SyntheticSpec(options.rows or 1_000_000, options.dim)
            data = Data.synthetic(Path(name), spec)
        file = f"peers_{options.dataset}_{data.rows}x{data.dim}_{options.threads}.json"
        out = options.out or RESULTS / file
        require_replaceable(out)  # before hours are spent
        found = run(
            data, options.engines, options.threads, options.rounds, apart=options.apart,
            recall=options.recall, is_plain=options.plain,
        )  # fmt: skip
    print(json.dumps(found["compared"], indent=1))
    facts = {
        "dataset": options.dataset, "rows": data.rows, "dim": data.dim, "threads": options.threads,
        "apart": options.apart, "recall_min": options.recall,
        "environments": pinned(options.engines),
    }  # fmt: skip
    plot(write_result(out, facts | found), out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
