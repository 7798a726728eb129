"""Stream the sources into open shards: Ray Data reads, a pool of workers encodes and stores."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from bitsift.cluster.ingest.chunking import Chunking
from bitsift.cluster.ingest.datasource import Digest, digest_sources, read_sources
from bitsift.cluster.ingest.progress import IndexStage, OnProgress
from bitsift.cluster.ingest.rejects import FirstReasons
from bitsift.cluster.ingest.worker import SUMMARY_SCHEMA, IndexWorker, Work, load_vectors
from bitsift.cluster.manifest import Manifest
from bitsift.cluster.serving.control_store import living_nodes
from bitsift.cluster.sources.plan import SourcePlan
from bitsift.errors import InvalidRequest
from bitsift.router.model.spec import EncoderSpec
from bitsift.router.shards.ray_calls import SHARDS, Callee, asked, rows_of
from bitsift.shard_worker.wire.search import statuses_of

TEXT_BATCH_ROWS = 1_024
"""Texts are sorted by length within a batch; a larger one saves little more padding."""
VECTOR_BATCH_ROWS = 8_192
BATCHES_WAITING = 1
"""At an encoder, while it works on another: fetched by then, from wherever it was read."""
WORKERS = Callee("a loading process")
ANSWERS_TIMEOUT_S = 3_600.0
"""For all shards to say what they hold, or to save their bits: 5 GB of them to a slow disk."""


def answers(calls: Sequence[Any]) -> list[Any]:
    """What shards answer to a call of each. Raises BitsiftErrors."""
    said: list[Any] = asked(calls, SHARDS, ANSWERS_TIMEOUT_S)
    return said


@dataclass(slots=True)
class Counts:
    """What became of the ``records``, or of their passages: ``unchanged`` ones were already stored;
    of the ``merged`` and the ``replaced`` another record has the id; ``clipped`` counts values, and
    ``cut`` texts that are longer than the model reads.
    """

    records: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    clipped: int = 0
    merged: int = 0
    replaced: int = 0
    cut: int = 0

    def add(self, row: dict[str, Any]) -> None:
        """Count a summary of a batch."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + row[field.name])


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """One pass over the sources of ``plan``. ``encoder`` None takes the vectors that they carry;
    ``encoders`` is the size of the pool, None for what the cluster offers. ``chunking`` cuts texts.
    ``passed_by`` is that of `Work`, for an update.
    """

    plan: SourcePlan
    encoder: EncoderSpec | None
    encoders: int | None
    max_rejects: int
    rejects_file: Path
    chunking: Chunking | None = None
    passed_by: NDArray[np.int64] | None = None

    def run(
        self,
        manifest: Manifest,
        actors: Sequence[Any],
        on_progress: OnProgress,
        records: int | None = None,
    ) -> Counts:
        """All records, durable in the shards of ``actors`` or listed in the file of rejects.

        There are so many ``records``; None: as many as the manifest says.

        Raises InvalidRequest after more than ``max_rejects`` bad records, what a worker raised, and
        Unavailable when one is gone.
        """
        statuses = statuses_of(answers([actor.status.remote() for actor in actors]))
        work = Work(
            calibration=manifest.calibration.to_json(),
            shards=tuple(actors),
            encoder=self._worker_encoder(manifest),
            resuming=any(status.rows for status in statuses),
            chunking=self.chunking,
            passed_by=self.passed_by,
        )
        counts, total = Counts(), manifest.records if records is None else records
        reasons = FirstReasons()
        with self.rejects_file.open("wb") as rejects:
            for row in rows_of(self._summaries(work).iter_rows(), WORKERS):
                counts.add(row)
                rejects.write(row["rejects"])
                reasons.add_lines(row["rejects"])
                on_progress(IndexStage("index", counts.records, total, counts.rejected))
                self._check_rejects(counts.rejected, reasons)
        return counts

    def _summaries(self, work: Work) -> ray.data.Dataset:
        """One row per stored batch, as it is stored."""
        if self.encoder is None:
            load = functools.partial(load_vectors, work=work)
            digest = Digest("Load", SUMMARY_SCHEMA, load, at_once=True)
            return digest_sources(self.plan, digest, VECTOR_BATCH_ROWS, tasks=self.encoders)
        return read_sources(self.plan).map_batches(
            IndexWorker,
            fn_constructor_args=(work,),
            batch_size=TEXT_BATCH_ROWS,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                size=self._pool_size(), max_tasks_in_flight_per_actor=BATCHES_WAITING + 1
            ),
            num_cpus=0.01,
            num_gpus=1 if self._gpus() else None,
        )

    def _worker_encoder(self, manifest: Manifest) -> EncoderSpec | None:
        """The index's own model, on a share of the cores of its node for each of the pool."""
        if self.encoder is None:
            return None
        spec = manifest.encoder(self.encoder.backend)
        assert spec is not None
        cores, of_a_node = max(1, os.cpu_count() or 1), -(-self._pool_size() // _nodes())
        return replace(spec, threads=max(1, cores // of_a_node))

    def _pool_size(self) -> int:
        return self.encoders or self._gpus() or _nodes()

    def _gpus(self) -> int:
        return int(ray.cluster_resources().get("GPU", 0))

    def _check_rejects(self, rejected: int, reasons: FirstReasons) -> None:
        if rejected > self.max_rejects:
            raise InvalidRequest(
                f"more than {self.max_rejects} records are bad; see {self.rejects_file}, "
                f"fix the source files or raise --max-rejects ({reasons})"
            )


def _nodes() -> int:
    """How many nodes of the cluster have CPUs to encode on."""
    found = [facts for facts in living_nodes() if facts.resources_total.get("CPU")]
    return max(1, len(found))
