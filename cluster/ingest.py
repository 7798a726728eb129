"""build_index: from sources to a finished index.

Prepare: survey (one pass: count, and a random sample over all sources) -> calibrate -> empty
shards -> manifest. Load: Ray Data reads, then a pool of workers encodes, quantizes and stores ->
bits snapshots -> complete.json. Every step can be killed: run again, stored records are found by
their id and position in the sources and are not encoded again.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from cluster import manifest as manifests
from cluster.calibrate import first_look
from cluster.ingest_progress import IndexStage, OnProgress
from cluster.launch import open_shards, ray_cluster, stop_shards, wait_open
from cluster.load import Load
from cluster.manifest import BuildReport, Manifest
from cluster.source_plan import Fields, SourcePlan
from cluster.sources import plan_sources
from shard_worker.codes import Transform
from shard_worker.errors import InvalidRequest
from shard_worker.layout import MANIFEST_FILE, REJECTS_FILE, shard_folder
from shard_worker.shard import Shard

MAX_REJECTS = 1_000
SHARDS_MAX = 4_096


def _quiet(_: IndexStage) -> None:
    """Progress that nobody watches."""


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
    on_progress: OnProgress = _quiet,
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
    build = plan_build(
        sources, out, model=model, shards=shards, fields=fields, vectors=vectors,
        transform=transform, max_rejects=max_rejects, encoders=encoders, backend=backend,
        examples=examples,
    )  # fmt: skip
    finished = build.finished()
    if finished is not None:
        return finished
    with ray_cluster(ray_address):
        manifest = build.prepare(on_progress)
        actors = open_shards(build.index, manifest)
        try:
            return build.load(manifest, actors, on_progress)
        finally:
            stop_shards(actors)


def plan_build(
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
) -> Build:
    """The same in steps, for who does something between them; the options are `build_index`'s."""
    plan = plan_sources([str(source) for source in sources], fields or Fields(), vectors)
    shards = shards or os.cpu_count() or 1
    if not 1 <= shards <= SHARDS_MAX:
        raise InvalidRequest(f"shards: {shards} is not between 1 and {SHARDS_MAX}")
    ready_made = plan.expected_width is not None
    return Build(
        index=Path(out).absolute(),
        plan=plan,
        shards=shards,
        encoder=None if ready_made else {"name": model, "backend": backend},
        transform=transform,
        max_rejects=max_rejects,
        encoders=encoders,
        examples=tuple(examples),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Build:
    """One attempt at one index: `prepare`, start its shards, `load`. ``encoder`` holds the
    arguments of ``Encoder.load``; None for ready-made vectors.
    """

    index: Path
    plan: SourcePlan
    shards: int
    encoder: dict[str, Any] | None
    transform: Transform
    max_rejects: int
    encoders: int | None
    examples: tuple[str, ...]
    started: float = field(default_factory=time.monotonic)

    def finished(self) -> BuildReport | None:
        """The report of a finished index, None where there is work to do.

        Raises InvalidRequest when ``index`` is something else, or was built from another request.
        """
        if not (self.index / MANIFEST_FILE).exists():
            self._check_leftovers()
            return None
        held, request = manifests.read_manifest(self.index).request, self._request()
        different = [name for name in request if held.get(name) != request[name]]
        if different:
            changes = "; ".join(f"{n} was {held.get(n)}, now {request[n]}" for n in different)
            raise InvalidRequest(
                f"{self.index} was built from another request ({changes}); choose another --out"
            )
        report = manifests.read_complete(self.index)
        return None if report is None else replace(report, already_complete=True)

    def _check_leftovers(self) -> None:
        """Before there is a manifest, nothing but empty shards may lie in the folder."""
        names = [path.name for path in self.index.iterdir()] if self.index.exists() else []
        if not all(n.startswith("shard-") or n == REJECTS_FILE for n in names):
            raise InvalidRequest(f"{self.index} exists and is not an index; choose another --out")

    def _request(self) -> dict[str, Any]:
        """What identifies a build: another attempt must ask for the same."""
        return {
            "sources": self.plan.fingerprint,
            "files": len(self.plan.files),
            "model": None if self.encoder is None else self.encoder["name"],
            "shards": self.shards,
            "transform": None if self.transform is Transform.NONE else self.transform.value,
            "fields": dict(self.plan.fields.named()),
        }

    def prepare(self, on_progress: OnProgress = _quiet) -> Manifest:
        """The sealed manifest: read, or made from a first look at the sources.

        Empty shards come first, then the manifest: an interrupted attempt leaves no manifest.
        """
        self.index.mkdir(parents=True, exist_ok=True)
        if (self.index / MANIFEST_FILE).exists():
            return manifests.read_manifest(self.index)
        look = first_look(self.plan, self.encoder, self.transform, on_progress)
        manifest = Manifest(
            uuid=str(uuid.uuid4()),
            name=self.index.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            shards=self.shards,
            calibration=look.calibration,
            model=look.model,
            request=self._request(),
            records=look.records,
            examples=self.examples,
        )
        for shard in range(manifest.shards):
            Shard.create(shard_folder(self.index, shard), manifest.identity(shard))
        manifests.write_manifest(self.index, manifest)
        return manifest

    def load(
        self, manifest: Manifest, actors: Sequence[Any], on_progress: OnProgress = _quiet
    ) -> BuildReport:
        """Fill the shards that ``actors`` have open, or are opening; they may answer meanwhile.

        Raises what `build_index` raises, Unavailable when a shard cannot be opened.
        """
        wait_open(actors)
        rejects = self.index / REJECTS_FILE
        load = Load(self.plan, self.encoder, self.encoders, self.max_rejects, rejects)
        counts = load.run(manifest, actors, on_progress)
        ray.get([actor.save_bits.remote() for actor in actors])
        statuses = ray.get([actor.status.remote() for actor in actors])
        documents = sum(status.documents for status in statuses)
        report = BuildReport(
            documents=documents,
            rejects=counts.rejected,
            encoded=counts.stored,
            seconds=round(time.monotonic() - self.started, 3),
            clipped_values=counts.clipped,
            bits_bytes=sum(status.bits_bytes for status in statuses),
            disk_bytes=sum(status.disk_bytes for status in statuses),
            float32_bytes=documents * manifest.calibration.dimension * 4,
            shard_documents=tuple(status.documents for status in statuses),
        )
        manifests.write_complete(self.index, report)
        return report
