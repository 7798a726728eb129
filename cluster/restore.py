"""Restoring an index from a backup repository: written aside, proven, renamed.

Every block is checked against its digest, and every shard is opened once before the index appears
under its name. So there is a whole index, or none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cluster.aside import written_aside
from cluster.manifest import open_manifest
from cluster.opened import open_shard
from shard_worker.backup import BackupFile
from shard_worker.errors import Corrupt, NotFound, StorageFull
from shard_worker.repository import BLOCK_BYTES, MARK_FILE, Repository, storage_error

_FETCHERS = 8
"""Blocks fetched at once, each in RAM."""

OnBytes = Callable[[int, int], None]
"""Called with the bytes that were written so far, and those that will be."""


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored; ``created`` is when the backup was made."""

    index: str
    index_uuid: str
    created: str
    shards: int
    documents: int
    files: int
    bytes: int


def restore(source: str, index: Path, on_bytes: OnBytes = lambda _, __: None) -> RestoreReport:
    """Make the index ``index`` from the repository ``source``.

    Raises InvalidRequest where ``index`` exists, NotFound where ``source`` holds no complete backup
    or lacks a block, ChecksumMismatch naming a damaged one, StorageFull. Nothing is left then.
    """
    repository = Repository(source)
    mark = repository.read_mark()
    if mark is None:
        raise NotFound(f"{source} holds no complete backup: it has no {MARK_FILE}")
    files = _files_of(mark, source)
    with written_aside(index) as aside:
        aside.mkdir()
        _check_room(aside, sum(file.bytes for file in files))
        _write_files(repository, files, aside, on_bytes)
        shards, documents = _prove(aside, str(mark["index_uuid"]))
    return RestoreReport(
        index=str(index),
        index_uuid=mark["index_uuid"],
        created=mark["created"],
        shards=shards,
        documents=documents,
        files=len(files),
        bytes=sum(file.bytes for file in files),
    )


def _files_of(mark: dict[str, Any], source: str) -> list[BackupFile]:
    """Raises Corrupt for a mark that no backup has written, such as one that leads elsewhere."""
    files = [
        BackupFile(file["name"], file["bytes"], tuple(file["blocks"])) for file in mark["files"]
    ]
    for file in files:
        path = PurePosixPath(file.name)
        leads_elsewhere = path.is_absolute() or ".." in path.parts
        if leads_elsewhere or -(-file.bytes // BLOCK_BYTES) != len(file.blocks):
            raise Corrupt(f"{source}/{MARK_FILE} names {file.name!r}, which is no file of an index")
    return files


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageFull(
            f"{folder} has {free / 1e9:,.1f} GB free, the index takes {needed / 1e9:,.1f} GB"
        )


def _write_files(
    repository: Repository, files: list[BackupFile], folder: Path, on_bytes: OnBytes
) -> None:
    total, done = sum(file.bytes for file in files), 0
    with ThreadPoolExecutor(_FETCHERS, thread_name_prefix="restore") as pool:
        for file in files:
            path = folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as opened:
                write = _BlockPlacer(repository, file, opened.fileno())
                try:
                    for written in pool.map(write, range(len(file.blocks))):
                        done += written
                        on_bytes(done, total)
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise


@dataclass(frozen=True, slots=True)
class _BlockPlacer:
    """Fetches the block of a number, and writes it where it belongs."""

    repository: Repository
    file: BackupFile
    descriptor: int

    def __call__(self, number: int) -> int:
        first = number * BLOCK_BYTES
        expected = min(BLOCK_BYTES, self.file.bytes - first)
        block = self.repository.read_block(self.file.blocks[number])
        if len(block) != expected:
            raise Corrupt(
                f"{self.file.name}: block {number} has {len(block)} bytes, not {expected}"
            )
        try:
            os.pwrite(self.descriptor, block, first)
        except OSError as error:
            raise storage_error(error, f"{self.file.name} cannot be written") from error
        return expected


def _prove(folder: Path, index_uuid: str) -> tuple[int, int]:
    """Open every shard once; how many there are, and their documents."""
    manifest, _ = open_manifest(folder)
    if manifest.uuid != index_uuid:
        raise Corrupt(f"the backup of index {index_uuid} holds index {manifest.uuid}")
    documents = 0
    for number in range(manifest.shards):
        with open_shard(folder, manifest, number) as shard:
            documents += shard.status().documents
    return manifest.shards, documents
