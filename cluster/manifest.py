"""The facts of an index that are fixed when its build starts, and the mark that it finished.

``manifest.json`` is sealed: written once, before the first row. ``complete.json`` is written last;
until it exists, the build has not finished, and only the process building the index may serve it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitsift.errors import Corrupt, NotFound, Unavailable
from bitsift.router.description import IndexDescription, ModelSpec
from bitsift.router.model.spec import EncoderSpec
from bitsift.shard_worker.codes import Calibration, padded
from bitsift.shard_worker.layout import (
    COMPLETE_FILE,
    MANIFEST_FILE,
    packed_json,
    read_json,
    replace_file,
)
from bitsift.shard_worker.types import ShardIdentity

SHARDS_MAX = 4_096


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """What was decided when the build started. ``request`` is what the build was asked to do.

    ``records`` counts the sources' records, good and bad, as the survey found them.
    ``index_fields`` are those of ShardIdentity; absent in earlier manifests.
    ``calibrated_at`` is how many documents there were when the calibration was made: 0 for an index
    that was created empty. None, and absent in earlier manifests: it was made from the sources.
    """

    uuid: str
    name: str
    created: str
    shards: int
    calibration: Calibration
    model: ModelSpec | None
    request: dict[str, Any]
    records: int
    examples: tuple[str, ...] = ()
    calibrated_at: int | None = None
    index_fields: tuple[str, ...] = ()

    def identity(self, shard: int) -> ShardIdentity:
        dimension = self.calibration.dimension
        width, chosen = padded(dimension), self.index_fields
        return ShardIdentity(self.uuid, shard, self.shards, dimension, width, chosen)

    def encoder(self, backend: str = "auto") -> EncoderSpec | None:
        """The model that made the vectors, in exactly that state; None for precomputed ones."""
        if self.model is None:
            return None
        return EncoderSpec(self.model.name, backend, self.model)

    def describe(self) -> IndexDescription:
        """What the router is told of this index."""
        return IndexDescription(
            name=self.name,
            uuid=self.uuid,
            created=self.created,
            shards=self.shards,
            calibration=self.calibration,
            model=self.model,
            examples=self.examples,
            index_fields=self.index_fields,
        )


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did. Bytes are totals of all shards; ``seconds`` is the time of the last
    attempt.

    ``documents`` are in the index; ``encoded`` of them were encoded or quantized by this attempt,
    the others by earlier ones. ``clipped_values`` lay outside the calibrated range. ``passed_over``
    lists files below the sources that were not read: path and reason, first ones only. ``merged``
    records without an id said what another said; the ids of ``replaced`` ones a later record had.
    ``cut`` of the texts that this attempt encoded have more than the ``max_tokens`` that the model
    reads. The prompts are those of the model, None where there is none, and in reports of earlier
    releases.
    """

    documents: int
    rejects: int
    encoded: int
    seconds: float
    clipped_values: int
    bits_bytes: int
    disk_bytes: int
    float32_bytes: int
    shard_documents: tuple[int, ...]
    already_complete: bool = False
    passed_over: tuple[dict[str, str], ...] = ()
    merged: int = 0
    replaced: int = 0
    cut: int = 0
    max_tokens: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None


def packed_manifest(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``."""
    data = {field.name: getattr(manifest, field.name) for field in dataclasses.fields(Manifest)}
    data["calibration"] = manifest.calibration.to_json()
    data["model"] = None if manifest.model is None else manifest.model.to_json()
    return packed_json(data)


def write_manifest(index: Path, manifest: Manifest) -> None:
    """Seal ``manifest.json``."""
    replace_file(index / MANIFEST_FILE, packed_manifest(manifest))


def read_manifest(index: Path) -> Manifest:
    """Raises NotFound, Corrupt or FormatMismatch."""
    path = index / MANIFEST_FILE
    data = read_json(path)
    try:
        data = {"calibrated_at": None, "index_fields": (), **data}
        known = {field.name: data[field.name] for field in dataclasses.fields(Manifest)}
    except KeyError as error:
        raise Corrupt(f"{path} lacks {error}; restore it from a backup") from error
    known["calibration"] = Calibration.from_json(data["calibration"])
    known["model"] = None if data["model"] is None else ModelSpec.from_json(data["model"])
    known["examples"] = tuple(data["examples"])
    known["index_fields"] = tuple(data["index_fields"])
    return Manifest(**known)


def report_without_records(
    shard_documents: Sequence[int],
    dimension: int,
    *,
    seconds: float = 0.0,
    bits_bytes: int = 0,
    disk_bytes: int = 0,
) -> BuildReport:
    """That of an index for which no record was read: made of stored codes, or empty."""
    documents = sum(shard_documents)
    return BuildReport(
        documents=documents,
        rejects=0,
        encoded=0,
        seconds=seconds,
        clipped_values=0,
        bits_bytes=bits_bytes,
        disk_bytes=disk_bytes,
        float32_bytes=documents * dimension * 4,
        shard_documents=tuple(shard_documents),
    )


def packed_report(report: BuildReport) -> bytes:
    """The bytes of ``complete.json``."""
    return packed_json(dataclasses.asdict(report))


def write_complete(index: Path, report: BuildReport) -> None:
    """Mark the build as finished."""
    replace_file(index / COMPLETE_FILE, packed_report(report))


def read_complete(index: Path) -> BuildReport | None:
    """The report of the finished build, or None while it is unfinished."""
    try:
        data = read_json(index / COMPLETE_FILE)
    except NotFound:
        return None
    names = [field.name for field in dataclasses.fields(BuildReport)]
    known = {name: data[name] for name in names if name in data}  # an earlier release said less
    known["shard_documents"] = tuple(known["shard_documents"])
    known["passed_over"] = tuple(known.get("passed_over", ()))
    return BuildReport(**known)


def open_manifest(index: Path) -> tuple[Manifest, BuildReport]:
    """Manifest and report of a finished index.

    Raises NotFound when there is none, Unavailable while its build is unfinished.
    """
    if not (index / MANIFEST_FILE).exists():
        raise NotFound(f"{index} is not an index: it has no {MANIFEST_FILE}")
    manifest, report = read_manifest(index), read_complete(index)
    if report is None:
        raise Unavailable(
            f"the build of {index} has not finished; run the same command again to resume"
        )
    return manifest, report
