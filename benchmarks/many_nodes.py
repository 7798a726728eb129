"""What it costs to spread an index over nodes: 8 shards x 2 replicas on 4 over 2 shards on one.

    python -m benchmarks.many_nodes [--rows 1M] [--dim 1024] [--rounds 300]

Both are real Ray clusters on this machine, by ``bitsift cluster up``, with the same rows.
One client asks them in turns (A B A B …) with the same vectors, so a busy neighbour slows both
alike. They share the cores: four nodes add nothing here, and what is measured is what more shards
cost. ``--other`` adds four nodes that run another checkout. Several sizes may be given.

``--realtime`` (root) puts both before all other processes of the machine while they are asked, some
seconds: on a machine that others use, the times are theirs otherwise. Threads that are started
later have it too. The result goes to benchmarks/results/many_nodes.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import orjson
import psutil

from bitsift.cluster.bench.clients import connect, post, vector_bodies
from bitsift.cluster.bench.index import glosses, write_index
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.bench.timing import interleaved, median, percentiles
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from bitsift.quantities import parse_count
from bitsift.shard_worker.layout import COMPLETE_FILE
from tests.fleets import Cluster, urls
from tests.ray_nodes import ray_nodes

RESULT = Path(__file__).with_name("results") / "many_nodes.json"
HERE = Path(__file__).parents[1]
ROUNDS, WARM_UP, CHECKED, BLOCKS = 300, 50, 8, 4
SPEC = """
[index]
folder = "{index}"
[placement]
data = "data/{{node}}"
replicas = {replicas}
routers = 1
[serve]
host = "127.0.0.1"
port = 0
"""
Stages = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Layout:
    """How many shards and replicas, on which nodes."""

    shards: int
    replicas: int
    nodes: str


ONE = Layout(2, 1, "a")
MANY = Layout(8, 2, "abcd")


@contextlib.contextmanager
def cluster(folder: Path, index: Path, layout: Layout, checkout: Path) -> Iterator[str]:
    """The address of the router of a cluster that serves ``index`` with the code of ``checkout``.

    Each of its nodes copies the index into a folder of its own.
    """
    folder.mkdir()
    (folder / "spec.toml").write_text(SPEC.format(index=index, replicas=layout.replicas))
    with contextlib.ExitStack() as stack:
        with running_in(checkout):
            nodes = stack.enter_context(ray_nodes({name: {} for name in layout.nodes}))
            made = Cluster(folder, nodes, [], {})
            (url,) = urls(made.run("up", folder / "spec.toml")).values()
        yield url
        with running_in(checkout):
            made.run("down")


@contextlib.contextmanager
def running_in(checkout: Path) -> Iterator[None]:
    """What is started has the code of ``checkout``, and so has what that starts."""
    here = mock.patch.dict(os.environ, {"PYTHONPATH": str(checkout)})
    with contextlib.chdir(checkout), here:
        yield


def measure(
    sides: dict[str, str], spec: SyntheticSpec, rounds: int, *, realtime: bool
) -> dict[str, Any]:
    """Percentiles of each side, with the times of the router's stages, and ratios of medians."""
    vectors = synthetic_queries(spec, rounds + WARM_UP)
    bodies = vector_bodies(vectors)
    clients = {name: connect(url) for name, url in sides.items()}
    stages: dict[str, Stages] = {name: {} for name in sides}

    def ask(side: str) -> Any:
        def call(turn: int) -> None:
            answer = orjson.loads(post(clients[side], bodies[turn]))
            assert answer.get("partial") is False, answer
            if turn >= WARM_UP:
                for stage, ms in answer["timings_ms"].items():
                    stages[side].setdefault(stage, []).append(ms)

        return call

    require_the_same_answers(
        sides, vector_bodies(vectors[:CHECKED], mode="exhaustive", timeout_ms=60_000)
    )
    routers = {name: router_of(url) for name, url in sides.items()}
    load_before = round(os.getloadavg()[0], 2)
    before_s = {name: cpu_s(router) for name, router in routers.items()}
    with before_all_others() if realtime else contextlib.nullcontext():
        seconds = interleaved({name: ask(name) for name in sides}, rounds, WARM_UP)
    found = {}
    for name in sides:
        spent_ms = (cpu_s(routers[name]) - before_s[name]) / (rounds + WARM_UP) * 1e3
        found[name] = percentiles(seconds[name]) | {"router_cpu_ms": round(spent_ms, 3)}
        parts = stages[name].items()
        found[name] |= {f"{stage}_p50_ms": round(median(ms), 3) for stage, ms in parts}
    return {**found, **_ratios(seconds), "load_before": load_before}


def _ratios(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Of the medians of each side over those of the first one, of all calls and of blocks."""
    first, *others = seconds
    size = len(seconds[first]) // BLOCKS
    found: dict[str, Any] = {}
    for name in others:
        blocks = [
            median(seconds[name][at : at + size]) / median(seconds[first][at : at + size])
            for at in range(0, size * BLOCKS, size)
        ]
        found[f"{name}_over_{first}"] = round(median(seconds[name]) / median(seconds[first]), 3)
        found[f"{name}_over_{first}_of_blocks"] = [round(ratio, 3) for ratio in blocks]
    return found


def require_the_same_answers(sides: dict[str, str], bodies: list[bytes]) -> None:
    """All rows are compared: whoever has the same rows has the same hits, with the same scores."""
    for body in bodies:
        answers = []
        for url in sides.values():
            hits = orjson.loads(post(connect(url), body))["hits"]
            answers.append([(hit["id"], hit["score"], hit["text"]) for hit in hits])
        assert all(answer == answers[0] for answer in answers), answers


@contextlib.contextmanager
def before_all_others() -> Iterator[None]:
    """This process and all that it started run before any other of the machine."""
    own = psutil.Process()
    set_policy([own, *own.children(recursive=True)], os.SCHED_RR, 1)
    try:
        yield
    finally:
        set_policy([own, *own.children(recursive=True)], os.SCHED_OTHER, 0)


def set_policy(processes: list[psutil.Process], policy: int, priority: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for thread in process.threads():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setscheduler(thread.id, policy, os.sched_param(priority))


def router_of(url: str) -> psutil.Process:
    """The process that listens there."""
    port = urlsplit(url).port
    listening = (c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN)
    return psutil.Process(next(c.pid for c in listening if c.laddr.port == port))


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def run(spec: SyntheticSpec, options: argparse.Namespace) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(prefix="bitsift-many-nodes-") as name,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        layouts = {"two_on_one": (ONE, HERE), "eight_on_four": (MANY, HERE)}
        if options.other is not None:
            layouts["eight_on_four_before"] = (MANY, options.other.absolute())
        sides = {}
        for side, (layout, checkout) in layouts.items():
            index = written(options.indexes or folder, spec, layout.shards)
            serving = cluster(folder / side, index, layout, checkout)
            sides[side] = stack.enter_context(serving)
        found = measure(sides, spec, options.rounds, realtime=options.realtime)
        return {"rows": spec.rows, "dimension": spec.dim} | found


def written(folder: Path, spec: SyntheticSpec, shards: int) -> Path:
    """The index of these rows in ``folder``, made unless it is there."""
    index = folder / f"{spec.rows}x{spec.dim}-{shards}"
    if not (index / COMPLETE_FILE).exists():
        shutil.rmtree(index, ignore_errors=True)
        write_index(index, spec, shards, texts=glosses(1_000))
    return index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default=["100k", "1M"], nargs="+")
    parser.add_argument("--dim", type=int, default=1_024)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--other", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--indexes", type=Path, help="a folder that keeps what was built")
    options = parser.parse_args()
    sizes = [SyntheticSpec(parse_count(rows), options.dim) for rows in options.rows]
    result = {"realtime": options.realtime, "sizes": [run(spec, options) for spec in sizes]}
    print(json.dumps(write_result(RESULT, result), indent=2))


if __name__ == "__main__":
    main()
