"""A large index of synthetic vectors, measured as it is built, trained and served.

Phases, each of which hands on its figures when it ends, so that a run that is cut off leaves them:

    build       build_index from a synthetic source, streamed; what it takes on disk
    train       the lists of every shard, where the build has not made them
    candidates  each Shard alone in this process (bench_candidates.py)
    serve       real shards, router and gateway (bench_served.py)

The memory of all processes is sampled through all of them.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitsift.cluster.bench.bars import large_figures, verdicts
from bitsift.cluster.bench.candidates import candidates_against_exact, memory_per_row
from bitsift.cluster.bench.disk import disk_use, drop_from_cache
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.bench.memory import MemorySampler
from bitsift.cluster.bench.served import measure_served
from bitsift.cluster.ingest.build import build_index
from bitsift.cluster.ingest.options import BuildOptions
from bitsift.cluster.ingest.progress import IndexStage
from bitsift.cluster.maintenance.removal import remove_index
from bitsift.cluster.manifest import open_manifest
from bitsift.cluster.serving.launch import open_shards, serve
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from bitsift.errors import StorageFull, Unavailable
from bitsift.router.shards.ray_calls import SHARDS, asked
from bitsift.shard_worker.wire.search import statuses_of

TRAIN_TIMEOUT_S = 7_200.0
POLL_S = 0.2
LINE_EVERY_S = 15.0
PHASES = ("build", "train", "candidates", "serve")
_ROW_OVERHEAD_BYTES = 120
"""Disk of a row in addition to its codes and bits: its id twice, its position, its list (measured
105).
"""

Log = Callable[[str], None]
OnFigures = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class LargeRun:
    """What to measure. ``queries`` are asked in each mode; ``time_limit_s`` starts no phase later.

    ``folder`` holds the index, which is deleted at the end unless ``keep``; a finished one of the
    same request in it is used again.
    """

    corpus: SyntheticSpec
    shards: int
    folder: Path
    queries: int = 200
    time_limit_s: float = float("inf")
    keep: bool = False

    @property
    def index(self) -> Path:
        return self.folder / "index"

    @property
    def asked(self) -> dict[str, Any]:
        """What figures must agree in to be of the same run."""
        corpus = self.corpus
        return {"rows": corpus.rows, "dimension": corpus.dim, "shards": self.shards}

    @property
    def disk_needed_bytes(self) -> int:
        """int8 codes, bits, the lists' own copy of the bits, and ids."""
        dim = self.corpus.dim
        return self.corpus.rows * (round(1.06 * (dim + dim / 4)) + _ROW_OVERHEAD_BYTES)


def measure_large(run: LargeRun, log: Log, result: Path) -> dict[str, Any]:
    """Run all phases; the figures and their bars are in ``result`` after each, and returned.

    Raises StorageFull before the first where the disk is too small.
    """
    needed_gb = run.disk_needed_bytes / 1e9
    log(f"{run.corpus.rows:,} rows take about {needed_gb:,.1f} GB of disk in {run.folder}")

    def write(phases: dict[str, Any]) -> None:
        bars = verdicts(large_figures(phases, run.corpus.rows), run.corpus.dim)
        write_result(result, {**run.asked, "bars": bars, **phases})

    large = _Large(run, log, write, earlier_phases(run, result))
    large.measure()
    if large.figures["complete"] and not run.keep:
        remove_index(run.index)
    return dict(json.loads(result.read_text()))


def earlier_phases(run: LargeRun, result: Path) -> dict[str, Any]:
    """Times and memory of building and training, of the run that made the index that is there."""
    if not (result.exists() and run.index.exists()):
        return {}
    earlier = json.loads(result.read_text())
    if any(earlier.get(name) != value for name, value in run.asked.items()):
        return {}
    return {name: earlier[name] for name in ("build", "train", "memory") if name in earlier}


@dataclass(slots=True)
class _Large:
    """One run: ``figures`` grows phase by phase."""

    run: LargeRun
    log: Log
    on_figures: OnFigures
    figures: dict[str, Any]
    sampler: MemorySampler = field(default_factory=MemorySampler)

    def measure(self) -> None:
        """Run all phases that the time limit allows; ``figures["complete"]`` says whether all ran.

        Raises StorageFull before the first.
        """
        check_space(self.run)
        started = time.monotonic()
        self.figures["complete"] = False
        with ray_cluster(None), self.sampler:
            for name in PHASES:
                if time.monotonic() - started > self.run.time_limit_s:
                    self.log(f"{name}: skipped, like all later phases: the time limit has passed")
                    self.on_figures(self.figures)
                    return
                self._phase(name)
        self.figures["complete"] = True
        self.on_figures(self.figures)

    def _phase(self, name: str) -> None:
        self.log(f"{name}: begins")
        self.sampler.phase, started = name, time.monotonic()
        figures = getattr(self, f"_{name}")()
        if figures is not None:
            self.figures[name] = {**figures, "phase_s": round(time.monotonic() - started, 1)}
        self.sampler.sample()
        earlier = self.figures.get("memory", {}).get("by_phase", {})
        self.figures["memory"] = memory_figures(self.sampler, earlier)
        self.on_figures(self.figures)
        self.log(f"{name}: ended after {time.monotonic() - started:,.0f} s")

    def _build(self) -> dict[str, Any] | None:
        """None when an earlier run has built it, whose figures are kept."""
        run = self.run
        options = BuildOptions(shards=run.shards)
        report = build_index([str(run.corpus)], run.index, options, on_progress=_progress(self.log))
        disk = disk_use(run.index)
        self.figures["disk"] = disk_figures(disk, run.corpus.rows)
        manifest, _ = open_manifest(run.index)
        if self.figures.get("build", {}).get("index_uuid") == manifest.uuid:
            return None
        return {
            "index_uuid": manifest.uuid,
            "documents": report.documents,
            "seconds": report.seconds,
            "documents_s": round(report.encoded / report.seconds),
            "resumed": report.encoded < report.documents,
            "shard_documents": report.shard_documents,
        }

    def _train(self) -> dict[str, Any] | None:
        """Have the shards make their lists, all at once; None when they had them already."""
        manifest, _ = open_manifest(self.run.index)
        started = time.monotonic()
        with open_shards(self.run.index, manifest) as actors:
            opened_s = time.monotonic() - started
            had = all(status.lists for status in _statuses(actors))
            if not had:
                asked([actor.train.remote() for actor in actors], SHARDS, TRAIN_TIMEOUT_S)
            statuses = _statuses(actors)
            trained_s = time.monotonic() - started - opened_s
        self.figures["disk"] = disk_figures(disk_use(self.run.index), self.run.corpus.rows)
        found = {
            "lists": [status.lists for status in statuses],
            "nprobe": [status.nprobe for status in statuses],
        }
        if had and "train" in self.figures:
            self.figures["train"] |= found
            return None
        seconds = None if had else round(trained_s, 1)
        return {"seconds": seconds, "open_s": round(opened_s, 2), **found}

    def _candidates(self) -> dict[str, Any]:
        run = self.run
        queries = synthetic_queries(run.corpus, run.queries)
        return candidates_against_exact(run.index, queries) | memory_per_row(run.index)

    def _serve(self) -> dict[str, Any]:
        """Cold first: the shards have just been started and their stores forgotten."""
        run = self.run
        drop_from_cache(run.index)
        started = time.monotonic()
        serving = serve(run.index, "127.0.0.1", 0)
        try:
            serving.wait_ready()
            ready_s = time.monotonic() - started
            wait_trained(serving.shards)
            pids = [status.pid for status in _statuses(serving.shards)]
            figures = measure_served(serving.url, pids, run.corpus, run.queries, self.log)
            statuses = _statuses(serving.shards)
        finally:
            serving.stop()
        figures["ready_s"] = round(ready_s, 2)
        figures["shard_status"] = [dataclasses.asdict(status) for status in statuses]
        return figures


def check_space(run: LargeRun) -> None:
    """Raises StorageFull when an index that is still to be built would not fit."""
    run.folder.mkdir(parents=True, exist_ok=True)
    held = sum(path.stat().st_size for path in run.index.rglob("*") if path.is_file())
    needed = max(0, run.disk_needed_bytes - held)
    free = shutil.disk_usage(run.folder).free
    if needed > free:
        raise StorageFull(
            f"{run.corpus.rows:,} rows of {run.corpus.dim} dimensions need "
            f"{needed / 2**30:.1f} GiB more in {run.folder}, {free / 2**30:.1f} GiB are free; "
            "name a larger disk or fewer rows"
        )


def _statuses(actors: list[Any]) -> list[Any]:
    return statuses_of(asked([actor.status.remote() for actor in actors], SHARDS, TRAIN_TIMEOUT_S))


def wait_trained(actors: list[Any]) -> None:
    """Until no shard is making lists. Raises Unavailable after ``TRAIN_TIMEOUT_S``."""
    deadline = time.monotonic() + TRAIN_TIMEOUT_S
    while any(status.training for status in _statuses(actors)):
        if time.monotonic() > deadline:
            raise Unavailable(f"the shards did not end training in {TRAIN_TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)


def _progress(log: Log) -> Callable[[IndexStage], None]:
    """A line every ``LINE_EVERY_S`` seconds."""
    started, last, stage_before = time.monotonic(), -LINE_EVERY_S, ""

    def show(stage: IndexStage) -> None:
        nonlocal last, stage_before
        now = time.monotonic() - started
        if now - last < LINE_EVERY_S and stage.stage == stage_before:
            return
        last, stage_before = now, stage.stage
        log(f"build: {stage.stage}, {stage.documents:,} of {stage.total or 0:,} documents")

    return show


# --- figures ---------------------------------------------------------------------------------


def memory_figures(sampler: MemorySampler, earlier: dict[str, Any]) -> dict[str, Any]:
    """Peaks by phase, the largest of all, and about 400 samples of the course.

    ``earlier`` holds peaks by phase of the run that built the index: they count as well.
    """
    by_phase = dict(earlier)
    for name, peak in sampler.peaks.items():
        if name not in by_phase or by_phase[name]["total"] < peak.total:
            by_phase[name] = peak.to_json()
    step = max(1, len(sampler.series) // 400)
    return {
        "peak": max(by_phase.values(), key=lambda peak: int(peak["total"])),
        "by_phase": by_phase,
        "slowest_sample_s": round(sampler.sampling_s, 3),
        "series": [
            {"s": seconds, "phase": phase, **found.to_json()}
            for seconds, phase, found in sampler.series[::step]
        ],
    }


def disk_figures(disk: dict[str, int], rows: int) -> dict[str, Any]:
    """Bytes by part, and a row's share of codes and bits."""
    return {**disk, "payload_bytes_per_row": round(disk["payload"] / rows, 2)}
