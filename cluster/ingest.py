"""build_index: from sources to a finished index.

Survey (one pass: count, and a random sample over all sources) -> calibrate -> manifest -> shards ->
Ray Data: read, then a pool of workers that encode, quantize and store -> bits snapshots ->
complete.json. Every step can be killed: run again, stored records are found by their id and
position in the sources and are not encoded again.
"""

from __future__ import annotations

import functools
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from cluster import manifest as manifests
from cluster.datasource import Digest, digest_sources, read_sources, sample_rows
from cluster.ingest_progress import IndexStage, OnProgress
from cluster.launch import open_shards, ray_cluster, stop_shards
from cluster.manifest import BuildReport, Manifest
from cluster.source_plan import Fields, SourcePlan
from cluster.source_vectors import vectors_of
from cluster.sources import plan_sources
from cluster.worker import SUMMARY_SCHEMA, IndexWorker, Work, document_texts, load_vectors
from router.models import ModelSpec
from shard_worker.codes import DIMENSION_MAX, DIMENSION_MIN, Calibration, Transform, normalize
from shard_worker.errors import BitsiftError, InvalidRequest
from shard_worker.layout import shard_folder
from shard_worker.shard import Shard

SAMPLE_ROWS = 4_096
"""Vectors that the calibration is made from: each further one changes its range very little."""
SAMPLE_SEED = 20_240_131
TEXT_BATCH_ROWS = 1_024
"""Texts are sorted by length within a batch; a larger one saves little more padding."""
VECTOR_BATCH_ROWS = 8_192
MAX_REJECTS = 1_000
SHARDS_MAX = 4_096


def build_index(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    model: str = "minilm",
    shards: int | None = None,
    fields: Fields | None = None,
    vectors: str | Path | None = None,
    transform: Transform = Transform.NONE,
    max_rejects: int = MAX_REJECTS,
    encoders: int | None = None,
    backend: str = "auto",
    examples: Sequence[str] = (),
    ray_address: str | None = None,
    on_progress: OnProgress = lambda _: None,
) -> BuildReport:
    """Build the index ``out`` from ``sources``; go on where an earlier attempt stopped.

    ``model`` is a sentence-transformers name or path, or ``minilm``; it is not used where the
    sources carry vectors (``fields.vector`` or ``vectors``, a .npy file). ``shards`` defaults to
    one per core. ``transform`` is done to all vectors, of documents and of queries, before their
    signs are taken (`bitsift doctor` says which helps). ``encoders`` is the size of the pool.
    A finished index is left untouched.

    Raises InvalidRequest for sources, options or an existing index that do not fit, also after
    more than ``max_rejects`` bad records; StorageFull; Unavailable when the model fails.
    """
    index = Path(out).absolute()
    plan = plan_sources([str(source) for source in sources], fields or Fields(), vectors)
    shards = shards or os.cpu_count() or 1
    if not 1 <= shards <= SHARDS_MAX:
        raise InvalidRequest(f"shards: {shards} is not between 1 and {SHARDS_MAX}")
    ready_made = plan.expected_width is not None
    request = _request(plan, None if ready_made else model, shards, transform)
    finished = _finished(index, request)
    if finished is not None:
        return finished
    encoder = None if ready_made else {"name": model, "backend": backend}
    with ray_cluster(ray_address):
        return _Build(
            index, plan, request, transform, encoder, encoders, max_rejects, on_progress
        ).run(shards, tuple(examples))


def _request(
    plan: SourcePlan, model: str | None, shards: int, transform: Transform
) -> dict[str, Any]:
    """What identifies a build: another attempt must ask for the same."""
    return {
        "sources": plan.fingerprint,
        "files": len(plan.files),
        "model": model,
        "shards": shards,
        "transform": None if transform is Transform.NONE else transform.value,
        "fields": dict(plan.fields.named()),
    }


def _finished(index: Path, request: dict[str, Any]) -> BuildReport | None:
    """The report of a finished index. Raises InvalidRequest when the request is another one."""
    if not (index / manifests.MANIFEST_FILE).exists():
        if index.exists() and any(index.iterdir()):
            leftovers = {path.name for path in index.iterdir()}
            if not all(n.startswith("shard-") or n == manifests.REJECTS_FILE for n in leftovers):
                raise InvalidRequest(f"{index} exists and is not an index; choose another --out")
        return None
    held = manifests.read_manifest(index).request
    different = [name for name in request if held.get(name) != request[name]]
    if different:
        changes = "; ".join(f"{n} was {held.get(n)}, now {request[n]}" for n in different)
        raise InvalidRequest(
            f"{index} was built from another request ({changes}); choose another --out"
        )
    report = manifests.read_complete(index)
    if report is None:
        return None
    return replace(report, already_complete=True)


@ray.remote(num_cpus=0)
def _encode_sample(
    encoder: dict[str, Any], texts: list[str]
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """The sample's vectors and the model's facts, encoded in a worker: no torch in the driver."""
    from router.encoder import Encoder

    loaded = Encoder.load(**encoder)
    return loaded.encode_documents(texts), loaded.spec.to_json()


@dataclass(slots=True)
class _Counts:
    stored: int = 0
    same: int = 0
    rejected: int = 0
    clipped: int = 0

    @property
    def seen(self) -> int:
        return self.stored + self.same + self.rejected


@dataclass(frozen=True, slots=True)
class _Build:
    """One attempt at one index."""

    index: Path
    plan: SourcePlan
    request: dict[str, Any]
    transform: Transform
    encoder: dict[str, Any] | None
    encoders: int | None
    max_rejects: int
    on_progress: OnProgress

    def run(self, shards: int, examples: tuple[str, ...]) -> BuildReport:
        started = time.monotonic()
        self.index.mkdir(parents=True, exist_ok=True)
        manifest = self._manifest(shards, examples)
        actors = open_shards(self.index, manifest)
        try:
            counts = self._load(manifest, actors)
            ray.get([actor.save_bits.remote() for actor in actors])
            statuses = ray.get([actor.status.remote() for actor in actors])
        finally:
            stop_shards(actors)
        documents = sum(status.documents for status in statuses)
        report = BuildReport(
            documents=documents,
            rejects=counts.rejected,
            encoded=counts.stored,
            seconds=round(time.monotonic() - started, 3),
            clipped_values=counts.clipped,
            bits_bytes=sum(status.bits_bytes for status in statuses),
            disk_bytes=sum(status.disk_bytes for status in statuses),
            float32_bytes=documents * manifest.calibration.dimension * 4,
            shard_documents=tuple(status.documents for status in statuses),
        )
        manifests.write_complete(self.index, report)
        return report

    def _manifest(self, shards: int, examples: tuple[str, ...]) -> Manifest:
        """The sealed manifest: read, or made from a survey of the sources."""
        if (self.index / manifests.MANIFEST_FILE).exists():
            return manifests.read_manifest(self.index)
        self.on_progress(IndexStage("survey", 0, None, 0))
        survey = sample_rows(self.plan, SAMPLE_ROWS, SAMPLE_SEED)
        if survey.documents == 0:
            raise InvalidRequest(
                f"no usable document in {self.request['files']} files: "
                f"all {survey.rejects} records are bad"
            )
        self.on_progress(IndexStage("calibrate", 0, None, survey.rejects))
        vectors, model = self._sample_vectors(survey.sample)
        dimension = vectors.shape[1]
        if not DIMENSION_MIN <= dimension <= DIMENSION_MAX:
            raise InvalidRequest(
                f"vectors of {dimension} dimensions; {DIMENSION_MIN} to {DIMENSION_MAX} can be used"
            )
        manifest = Manifest(
            uuid=str(uuid.uuid4()),
            name=self.index.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            shards=shards,
            calibration=Calibration.from_sample(
                normalize(vectors, dimension), dimension, self.transform
            ),
            model=model,
            request=self.request,
            records=survey.documents + survey.rejects,
            examples=examples,
        )
        self._seal(manifest)
        return manifest

    def _sample_vectors(
        self, sample: Any
    ) -> tuple[NDArray[np.floating[Any]], dict[str, Any] | None]:
        if self.encoder is None:
            assert self.plan.expected_width is not None
            return vectors_of(sample, self.plan.expected_width), None
        return ray.get(_encode_sample.remote(self.encoder, document_texts(sample)))

    def _seal(self, manifest: Manifest) -> None:
        """Empty shards first, then the manifest: an interrupted attempt leaves no manifest."""
        for shard in range(manifest.shards):
            Shard.create(shard_folder(self.index, shard), manifest.identity(shard))
        manifests.write_manifest(self.index, manifest)

    def _load(self, manifest: Manifest, actors: list[Any]) -> _Counts:
        """Stream all records through the pool of workers; write rejects.jsonl."""
        statuses = ray.get([actor.status.remote() for actor in actors])
        work = Work(
            calibration=manifest.calibration.to_json(),
            shards=tuple(actors),
            encoder=self._worker_encoder(manifest),
            resuming=any(status.rows for status in statuses),
        )
        results = self._summaries(work)
        counts = _Counts()
        try:
            with (self.index / manifests.REJECTS_FILE).open("wb") as rejects:
                for row in results.iter_rows():
                    counts.stored += row["stored"]
                    counts.same += row["same"]
                    counts.clipped += row["clipped"]
                    counts.rejected += row["rejected"]
                    rejects.write(row["rejects"])
                    self.on_progress(
                        IndexStage("index", counts.seen, manifest.records, counts.rejected)
                    )
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
                f"more than {self.max_rejects} records are bad; see "
                f"{self.index / manifests.REJECTS_FILE}, mend the sources or raise --max-rejects"
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
