"""build_index: from sources to a finished index.

Prepare: survey (one pass: count, and a random sample over all sources) -> calibrate -> empty
shards -> manifest. Load: Ray Data reads, then a pool of workers encodes, quantizes and stores ->
bits snapshots -> complete.json. Every step can be killed: on the next run, stored records are
recognized by their id and position in the sources and are not encoded again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bitsift.cluster.ingest.destination import Destination, IndexFolder
from bitsift.cluster.ingest.options import BuildOptions, checked_build
from bitsift.cluster.ingest.progress import IndexStage, OnProgress
from bitsift.cluster.ingest.rejects import list_rejects
from bitsift.cluster.manifest import BuildReport, Manifest
from bitsift.cluster.serving.launch import wait_open
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import SourcePlan
from bitsift.errors import InvalidRequest
from bitsift.router.model.location import DEFAULT_MODEL, model_location
from bitsift.router.model.prompts import AS_SAVED
from bitsift.router.model.spec import EncoderSpec
from bitsift.shard_worker.codes import Transform
from bitsift.shard_worker.wire.search import statuses_of


def quiet(_: IndexStage) -> None:
    """Ignores progress."""


def build_index(
    sources: Sequence[str | Path],
    out: str | Path,
    options: BuildOptions = BuildOptions(),  # noqa: B008 (frozen)
    *,
    ray_address: str | None = None,
    on_progress: OnProgress = quiet,
) -> BuildReport:
    """Build the index ``out`` from ``sources``, or resume an interrupted build.

    ``build_index(["a.jsonl"], "my-index", BuildOptions(shards=2))``. A finished index is left
    untouched. ``ray_address`` names a running Ray cluster; None starts a local one.

    Raises InvalidRequest for sources, options or an existing index that do not fit, and after more
    than ``options.max_rejects`` bad records; StorageFull; Unavailable when the model fails.
    """
    if ray_address is None:  # else the nodes may have it where this machine has not
        model_location(options.model or DEFAULT_MODEL)
    build = plan_build(sources, out, options)
    finished = build.finished()
    if finished is not None:
        return finished
    with ray_cluster(ray_address):
        return build.run(on_progress)


def plan_build(
    sources: Sequence[str | Path],
    out: str | Path | Destination,
    options: BuildOptions = BuildOptions(),  # noqa: B008 (frozen)
) -> Build:
    """The steps of `build_index`, for callers that do something between them."""
    options = checked_build(options)
    plan = plan_sources(
        [str(source) for source in sources],
        options.fields,
        options.vectors,
        options.stored,
        options.format,
        options.layout,
    )
    if options.chunk is not None and plan.expected_width is not None:
        raise InvalidRequest(
            "--chunk cuts texts, and these sources carry a vector for each whole record: leave out "
            "one of the two"
        )
    if isinstance(out, str | Path):
        out = IndexFolder(Path(out).absolute())
    return Build(out, plan, options)


@dataclass(frozen=True, slots=True, eq=False)
class Build:
    """One attempt at one index: `prepare`, start its shards, `load`."""

    destination: Destination
    plan: SourcePlan
    options: BuildOptions
    started: float = field(default_factory=time.monotonic)

    @property
    def shards(self) -> int:
        return self.options.shards or self.destination.shards_default

    @property
    def model(self) -> EncoderSpec | None:
        """The model of the index; None where the sources carry vectors and none was named."""
        name = self.options.model
        if name is None and self.plan.expected_width is not None:
            return None
        prompts = self.options.prompts
        return EncoderSpec(name or DEFAULT_MODEL, self.options.backend, prompts=prompts)

    @property
    def encoder(self) -> EncoderSpec | None:
        """The model of documents; None where the sources carry their vectors."""
        return None if self.plan.expected_width is not None else self.model

    def finished(self) -> BuildReport | None:
        """The report of a finished index; None if there is work to do.

        Raises InvalidRequest when something else is there, or was built from another request.
        """
        manifest = self.destination.manifest()
        if manifest is None:
            return None
        held, request = manifest.request, self._request()
        if self.options.shards is None:  # as many as there are: the machines may be others now
            del request["shards"]
        different = [name for name in request if held.get(name) != request[name]]
        if different:
            changes = "; ".join(f"{n} was {held.get(n)}, now {request[n]}" for n in different)
            raise InvalidRequest(
                f"{self.destination} was built from another request ({changes}); "
                "build this one elsewhere"
            )
        report = self.destination.report()
        if report is not None:
            return replace(report, already_complete=True)
        rejects = self.destination.rejects_file
        if rejects.is_symlink():
            raise InvalidRequest(
                f"{rejects} is a link to a file that would be overwritten; remove it"
            )
        return None

    def _request(self) -> dict[str, Any]:
        """What identifies a build: another attempt must ask for the same."""
        transform, prompts = self.options.transform, self.options.prompts
        return {
            "sources": self.plan.fingerprint,
            "files": len(self.plan.files),
            "model": None if self.model is None else self.model.name,
            "prompts": None if prompts == AS_SAVED else [prompts.query, prompts.document],
            "shards": self.shards,
            "transform": None if transform is Transform.NONE else transform.value,
            "chunk": self.options.chunk,
            "fields": dict(self.plan.fields.named()),
            "index_fields": list(self.options.index_fields) or None,
        }

    def run(self, on_progress: OnProgress = quiet) -> BuildReport:
        """All of it, on the connected Ray cluster."""
        for note in filter(None, (self.plan.passed_over_said, *self.plan.notes)):
            on_progress(IndexStage("survey", 0, None, 0, note))
        manifest = self.prepare(on_progress)
        with self.destination.open(manifest) as actors:
            return self.load(manifest, actors, on_progress)

    def prepare(self, on_progress: OnProgress = quiet) -> Manifest:
        """The sealed manifest: read from the index, or created from a survey of the sources.

        Raises InvalidRequest where something else is there.
        """
        sealed = self.destination.manifest()
        self.destination.prepare()
        if sealed is not None:
            return sealed
        from bitsift.cluster.ingest.calibrate import (  # Ray Data: a second, for a build
            NoDocuments,
            first_look,
        )

        try:
            look = first_look(
                self.plan, self.model, self.options.transform, on_progress, self.options.chunking
            )
        except NoDocuments as error:
            rejects = self.destination.rejects_file
            reasons = list_rejects(self.plan, rejects)
            raise InvalidRequest(f"{error}; all are listed in {rejects} ({reasons})") from error
        manifest = Manifest(
            uuid=str(uuid.uuid4()),
            name=self.destination.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            shards=self.shards,
            calibration=look.calibration,
            model=look.model,
            request=self._request(),
            records=look.records,
            examples=self.options.examples,
            index_fields=tuple(self.options.index_fields),
        )
        self.destination.seal(manifest)
        return manifest

    def load(
        self, manifest: Manifest, actors: Sequence[Any], on_progress: OnProgress = quiet
    ) -> BuildReport:
        """Fill the shards that ``actors`` have open or are opening; they may answer queries at the
        same time.

        Raises what `build_index` raises, Unavailable when a shard cannot be opened.
        """
        from bitsift.cluster.ingest.load import Load, answers

        wait_open(actors)
        encoders, max_rejects = self.options.encoders, self.options.max_rejects
        rejects = self.destination.rejects_file
        load = Load(self.plan, self.encoder, encoders, max_rejects, rejects, self.options.chunking)
        counts = load.run(manifest, actors, on_progress)
        answers([actor.save_bits.remote() for actor in actors])
        statuses = statuses_of(answers([actor.status.remote() for actor in actors]))
        documents = sum(status.documents for status in statuses)
        model = manifest.model
        report = BuildReport(
            documents=documents,
            rejects=counts.rejected,
            encoded=counts.created,
            seconds=round(time.monotonic() - self.started, 3),
            clipped_values=counts.clipped,
            bits_bytes=sum(status.bits_bytes for status in statuses),
            disk_bytes=sum(status.disk_bytes for status in statuses),
            float32_bytes=documents * manifest.calibration.dimension * 4,
            shard_documents=tuple(status.documents for status in statuses),
            passed_over=self.plan.passed_over_listed,
            merged=counts.merged,
            replaced=counts.replaced,
            cut=counts.cut,
            max_tokens=None if model is None else model.max_tokens,
            query_prompt=None if model is None else model.query_prompt,
            document_prompt=None if model is None else model.document_prompt,
        )
        self.destination.complete(report)
        return report
