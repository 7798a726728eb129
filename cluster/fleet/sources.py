"""Where the shards of an index are copied from: another node, a folder, or a backup."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from bitsift.cluster.fleet.hydration import Blocks, FolderBlocks
from bitsift.cluster.fleet.node_store import read_index_files
from bitsift.cluster.fleet.polls import agent_said
from bitsift.cluster.fleet.spec import IndexSource
from bitsift.cluster.maintenance.restore import mark_of
from bitsift.cluster.manifest import BuildReport, Manifest, read_complete, read_manifest
from bitsift.errors import NotFound
from bitsift.router.shards.ray_calls import asked, shard_callee
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.maintenance.backup import INDEX_FILES, BackupFile, ShardCopy
from bitsift.shard_worker.maintenance.repository import MARK_FILE, Repository, name_of
from bitsift.shard_worker.wire.structures import unpack_fact

T = TypeVar("T")
EXPORT_TIMEOUT_S = 3_600.0
"""For a node to read a whole shard, and to keep what of it is asked for."""
BLOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class PeerBlocks:
    """A shard on another node, by way of the ``agent`` of that node.

    ``actor`` has it open; None: it is the shard of the ``folder`` that only that node has.
    """

    agent: Any
    peer: str
    uuid: str
    shard: int
    node: str
    actor: Any = None
    folder: str | None = None

    def files(self) -> Sequence[BackupFile]:
        arguments = self.uuid, self.shard, self.node, self.actor, self.folder
        found: Sequence[BackupFile] = self._ask("export", EXPORT_TIMEOUT_S, *arguments)
        return found

    def read_block(self, digest: str) -> bytes:
        return bytes(self._ask("block", BLOCK_TIMEOUT_S, self.uuid, self.shard, self.node, digest))

    def close(self) -> None:
        """The peer may forget it."""
        self.agent.release.remote(self.uuid, self.shard, self.node)

    def _ask(self, method: str, timeout_s: float, *arguments: Any) -> Any:
        return agent_said(self.agent, self.peer, method, *arguments, timeout_s=timeout_s)


class RepositoryBlocks:
    """A shard whose blocks lie in a repository: a backup, or what an actor has exported."""

    def __init__(self, repository: Repository, files: Sequence[BackupFile], shard: int) -> None:
        self._repository = repository
        self._files = within_shard(files, shard)

    def files(self) -> Sequence[BackupFile]:
        return self._files

    def read_block(self, digest: str) -> bytes:
        return self._repository.read_block(digest)

    def close(self) -> None:
        """Nothing is open."""


def exported(actor: Any, shard: int, folder: Path) -> RepositoryBlocks:
    """An open shard of this node, read by its ``actor`` into blocks that lie in ``folder``.

    Raises StorageFull, Unavailable: what befell the actor, or that it is gone.
    """
    repository = Repository(str(folder))
    packed = asked(actor.backup.remote(str(folder)), shard_callee(shard), EXPORT_TIMEOUT_S)
    found = RepositoryBlocks(repository, unpack_fact(packed, ShardCopy).files, shard)
    needed = {name_of(digest) for file in found.files() for digest in file.blocks}
    repository.remove(repository.names() - needed)
    return found


def of_source(source: IndexSource, shard: int) -> Blocks:
    """A shard of the spec's index, as this node sees it."""
    if source.backup is not None:
        repository = Repository(source.backup)
        return RepositoryBlocks(repository, _files_of(repository), shard)
    assert source.folder is not None
    return FolderBlocks(shard_folder(Path(source.folder), shard))


def index_files_of(source: IndexSource) -> dict[str, bytes]:
    """What belongs to the whole index. Raises NotFound, Unavailable, ChecksumMismatch."""
    if source.folder is not None:
        return read_index_files(Path(source.folder))
    assert source.backup is not None
    repository = Repository(source.backup)
    found = {}
    for file in _files_of(repository):
        if file.name in INDEX_FILES:
            found[file.name] = b"".join(map(repository.read_block, file.blocks))
    return found


def manifest_of(files: Mapping[str, bytes]) -> Manifest:
    """The manifest among the files of an index. Raises as ``read_manifest``."""
    return _read(files, read_manifest)


def why_other(served: Manifest, found: Manifest) -> str:
    """Why a cluster that serves one index does not take the other from its spec."""
    said = (
        f"the data folders hold index {served.uuid}, but the spec names index {found.uuid}: run "
        "bitsift cluster down, and give it other data folders"
    )
    pairs = (
        ("model", served.model and served.model.name, found.model and found.model.name),
        ("dimension", served.calibration.dimension, found.calibration.dimension),
    )
    others = [f"its {what} is {new}, not {old}" for what, old, new in pairs if old != new]
    if others:
        return f"{said} ({', and '.join(others)}, which only another index can have)"
    if served.shards != found.shards:
        return (
            f"{said}; or leave [index] as it was: bitsift cluster reshard {found.shards} gives the "
            f"index {found.shards} shards in the place of {served.shards} while it answers"
        )
    return said


def report_of(files: Mapping[str, bytes]) -> BuildReport | None:
    """The report among them, None while the build is unfinished. Raises as ``read_complete``."""
    return _read(files, read_complete)


def _read(files: Mapping[str, bytes], read: Callable[[Path], T]) -> T:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        return read(Path(folder))


def _files_of(repository: Repository) -> list[BackupFile]:
    mark = repository.read_mark()
    if mark is None:
        raise NotFound(f"{repository.dest} holds no complete backup: it has no {MARK_FILE}")
    return mark_of(mark, repository.dest).files


def within_shard(files: Sequence[BackupFile], shard: int) -> list[BackupFile]:
    """Those of one shard, named relative to its folder."""
    within = f"{shard_folder(Path(), shard)}/"
    found = [file for file in files if file.name.startswith(within)]
    return [replace(file, name=file.name.removeprefix(within)) for file in found]
