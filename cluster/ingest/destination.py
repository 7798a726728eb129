"""Where an index is built: in a folder that all its shards share, or on the nodes (placed.py)."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bitsift.cluster import manifest as manifests
from bitsift.cluster.manifest import BuildReport, Manifest
from bitsift.cluster.new_index import check_new, make_folder, make_index
from bitsift.cluster.serving.launch import open_shards
from bitsift.shard_worker.layout import MANIFEST_FILE, REJECTS_FILE


class Destination(Protocol):
    """What a build asks of the place that it builds in. Every step may have been done before."""

    @property
    def name(self) -> str:
        """That of the index."""

    @property
    def rejects_file(self) -> Path:
        """Where the driver lists bad records."""

    @property
    def shards_default(self) -> int:
        """How many shards it is given, where nobody says."""

    def manifest(self) -> Manifest | None:
        """What an earlier attempt has sealed. Raises InvalidRequest for something else."""

    def report(self) -> BuildReport | None:
        """That of a finished index."""

    def prepare(self) -> None:
        """Before the sources are read: whether it can be written to. Raises Unavailable."""

    def seal(self, manifest: Manifest) -> None:
        """Keep the manifest, for good."""

    def open(self, manifest: Manifest) -> AbstractContextManager[list[Any]]:
        """The actors of the shards, each open, until the end of the block. Raises Unavailable."""

    def complete(self, report: BuildReport) -> None:
        """Mark the index as finished."""


@dataclass(frozen=True, slots=True)
class IndexFolder:
    """A folder with all shards, which every node that works on them sees."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def rejects_file(self) -> Path:
        return self.folder / REJECTS_FILE

    @property
    def shards_default(self) -> int:
        return os.cpu_count() or 1

    def manifest(self) -> Manifest | None:
        if not (self.folder / MANIFEST_FILE).exists():
            check_new(self.folder)
            return None
        return manifests.read_manifest(self.folder)

    def report(self) -> BuildReport | None:
        return manifests.read_complete(self.folder)

    def prepare(self) -> None:
        make_folder(self.folder)

    def seal(self, manifest: Manifest) -> None:
        """Empty shards come first: an attempt that is interrupted before leaves no manifest."""
        make_index(self.folder, manifest)

    def open(self, manifest: Manifest) -> AbstractContextManager[list[Any]]:
        return open_shards(self.folder, manifest)

    def complete(self, report: BuildReport) -> None:
        manifests.write_complete(self.folder, report)
