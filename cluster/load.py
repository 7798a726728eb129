"""Stream the sources into open shards: Ray Data reads, a pool of workers encodes and stores."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.data

from cluster.datasource import Digest, digest_sources, read_sources
from cluster.ingest_progress import IndexStage, OnProgress
from cluster.manifest import Manifest
from cluster.source_plan import SourcePlan
from cluster.worker import SUMMARY_SCHEMA, IndexWorker, Work, load_vectors
from router.models import ModelSpec
from shard_worker.errors import BitsiftError, InvalidRequest

TEXT_BATCH_ROWS = 1_024
"""Texts are sorted by length within a batch; a larger one saves little more padding."""
VECTOR_BATCH_ROWS = 8_192


@dataclass(slots=True)
class Counts:
    """What became of the records: ``same`` were there before; ``clipped`` counts values."""

    stored: int = 0
    same: int = 0
    rejected: int = 0
    clipped: int = 0

    @property
    def seen(self) -> int:
        return self.stored + self.same + self.rejected


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """One pass over the sources of ``plan``. ``encoder`` None takes the vectors that they carry;
    ``encoders`` is the size of the pool, None for what the cluster offers.
    """

    plan: SourcePlan
    encoder: dict[str, Any] | None
    encoders: int | None
    max_rejects: int
    rejects_file: Path

    def run(self, manifest: Manifest, actors: Sequence[Any], on_progress: OnProgress) -> Counts:
        """All records, durable in the shards of ``actors`` or listed in the file of rejects.

        Raises InvalidRequest after more than ``max_rejects`` bad records, and what a worker raised.
        """
        statuses = ray.get([actor.status.remote() for actor in actors])
        work = Work(
            calibration=manifest.calibration.to_json(),
            shards=tuple(actors),
            encoder=self._worker_encoder(manifest),
            resuming=any(status.rows for status in statuses),
        )
        results = self._summaries(work)
        counts = Counts()
        try:
            with self.rejects_file.open("wb") as rejects:
                for row in results.iter_rows():
                    counts.stored += row["stored"]
                    counts.same += row["same"]
                    counts.clipped += row["clipped"]
                    counts.rejected += row["rejected"]
                    rejects.write(row["rejects"])
                    on_progress(IndexStage("index", counts.seen, manifest.records, counts.rejected))
                    self._check_rejects(counts.rejected)
        except BitsiftError:
            raise
        except Exception as error:  # Ray Data wraps what the workers raise
            raise root_cause(error) from error
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
            compute=ray.data.ActorPoolStrategy(size=self._pool_size()),
            num_cpus=0.01,
            num_gpus=1 if self._gpus() else None,
        )

    def _worker_encoder(self, manifest: Manifest) -> dict[str, Any] | None:
        if self.encoder is None:
            return None
        assert manifest.model is not None
        cores = max(1, os.cpu_count() or 1)
        return {
            **self.encoder,
            "threads": max(1, cores // self._pool_size()),
            "expected": ModelSpec.from_json(manifest.model),
        }

    def _pool_size(self) -> int:
        return self.encoders or self._gpus() or 1

    def _gpus(self) -> int:
        return int(ray.cluster_resources().get("GPU", 0))

    def _check_rejects(self, rejected: int) -> None:
        if rejected > self.max_rejects:
            raise InvalidRequest(
                f"more than {self.max_rejects} records are bad; see {self.rejects_file}, "
                "mend the sources or raise --max-rejects"
            )


def root_cause(error: BaseException) -> BaseException:
    """The BitsiftError inside what Ray Data raised, or the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, BitsiftError):
            return seen
        cause = getattr(seen, "cause", None)
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
    return error
