"""The facts of an index that are fixed when its build starts, and the mark that it ended.

``manifest.json`` is sealed: written once, before the first row. ``complete.json`` is written last;
an index without it is a build that has not ended, served by none but who fills it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.description import IndexDescription
from shard_worker.codes import Calibration, padded
from shard_worker.errors import Corrupt, NotFound, Unavailable
from shard_worker.layout import COMPLETE_FILE, MANIFEST_FILE, read_json, write_json
from shard_worker.types import ShardIdentity


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """What was decided when the build started. ``request`` is what the build was asked to do.

    ``records`` counts the sources' records, good and bad, as the survey found them.
    """

    uuid: str
    name: str
    created: str
    shards: int
    calibration: Calibration
    model: dict[str, Any] | None
    request: dict[str, Any]
    records: int
    examples: tuple[str, ...] = ()

    def identity(self, shard: int) -> ShardIdentity:
        dimension = self.calibration.dimension
        return ShardIdentity(self.uuid, shard, self.shards, dimension, padded(dimension))

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
        )


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did. Bytes are those of all shards; ``seconds`` of the attempt that ended it.

    ``documents`` are in the index; ``encoded`` were encoded or quantized by this attempt, the
    others were there before. ``clipped_values`` lay outside the calibrated range.
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


def write_manifest(index: Path, manifest: Manifest) -> None:
    """Seal ``manifest.json``."""
    data = {field.name: getattr(manifest, field.name) for field in dataclasses.fields(Manifest)}
    write_json(index / MANIFEST_FILE, {**data, "calibration": manifest.calibration.to_json()})


def read_manifest(index: Path) -> Manifest:
    """Raises NotFound, Corrupt or FormatMismatch."""
    path = index / MANIFEST_FILE
    data = read_json(path)
    try:
        known = {field.name: data[field.name] for field in dataclasses.fields(Manifest)}
    except KeyError as error:
        raise Corrupt(f"{path} lacks {error}; restore it from a backup") from error
    known["calibration"] = Calibration.from_json(data["calibration"])
    known["examples"] = tuple(data["examples"])
    return Manifest(**known)


def write_complete(index: Path, report: BuildReport) -> None:
    """Say that the build has ended."""
    write_json(index / COMPLETE_FILE, dataclasses.asdict(report))


def read_complete(index: Path) -> BuildReport | None:
    """The report of the ended build, or None while it has not ended."""
    try:
        data = read_json(index / COMPLETE_FILE)
    except NotFound:
        return None
    known = {field.name: data[field.name] for field in dataclasses.fields(BuildReport)}
    known["shard_documents"] = tuple(known["shard_documents"])
    return BuildReport(**known)


def open_manifest(index: Path) -> tuple[Manifest, BuildReport]:
    """Manifest and report of a finished index.

    Raises NotFound when there is none, Unavailable while its build has not ended.
    """
    if not (index / MANIFEST_FILE).exists():
        raise NotFound(f"{index} is not an index: it has no {MANIFEST_FILE}")
    manifest, report = read_manifest(index), read_complete(index)
    if report is None:
        raise Unavailable(
            f"the build of {index} has not ended; run the same 'bitsift index' again to go on"
        )
    return manifest, report
