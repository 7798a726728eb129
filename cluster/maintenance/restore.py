"""Restoring an index from a backup repository: written aside, proven, renamed.

Every block is checked against its digest, and every shard is opened once before the index appears
under its name. So there is a whole index, or none.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bitsift.cluster.maintenance.aside import written_aside
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.manifest import open_manifest
from bitsift.errors import Corrupt, NotFound, StorageFull
from bitsift.shard_worker.layout import STORE_FOLDER
from bitsift.shard_worker.maintenance.backup import INDEX_FILES, BackupFile
from bitsift.shard_worker.maintenance.repository import (
    BLOCK_BYTES,
    MARK_FILE,
    Repository,
    storage_error,
)
from bitsift.shard_worker.store.lmdb_file import DATA_FILE, disk_named

_INDEX_FILE = re.compile(
    rf"({'|'.join(INDEX_FILES)}|shard-\d{{5}}/([\w-]+\.(json|bits)|{STORE_FOLDER.pattern}/{DATA_FILE}))",
    re.ASCII,
)
_DIGEST = re.compile(r"[0-9a-f]{64}")
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


@dataclass(frozen=True, slots=True)
class Mark:
    """What ``Backup.finish`` writes."""

    index_uuid: str
    created: str
    files: list[BackupFile]


_MARK = TypeAdapter(Mark)


def restore(source: str, index: Path, on_bytes: OnBytes = lambda _, __: None) -> RestoreReport:
    """Make the index ``index`` from the repository ``source``.

    Raises InvalidRequest where ``index`` exists, NotFound where ``source`` holds no complete backup
    or lacks a block, ChecksumMismatch naming a damaged one, StorageFull. Nothing is left then.
    """
    repository = Repository(source)
    mark = repository.read_mark()
    if mark is None:
        raise NotFound(f"{source} has no complete backup: {MARK_FILE} is missing")
    found = mark_of(mark, source)
    files = found.files
    with written_aside(index) as aside, disk_named(f"{index} was not restored"):
        aside.mkdir()
        _check_room(aside, sum(file.bytes for file in files))
        _write_files(repository, files, aside, on_bytes)
        shards, documents = _prove(aside, found.index_uuid)
    return RestoreReport(
        index=str(index),
        index_uuid=found.index_uuid,
        created=found.created,
        shards=shards,
        documents=documents,
        files=len(files),
        bytes=sum(file.bytes for file in files),
    )


def mark_of(mark: dict[str, Any], source: str) -> Mark:
    """Raises Corrupt for a mark that no backup has written, such as one that leads elsewhere."""
    try:
        found = _MARK.validate_python(mark)
    except ValidationError as error:
        raise Corrupt(f"{source}/{MARK_FILE} was not written by a backup: {error}") from error
    for file in found.files:
        size_fits = -(-file.bytes // BLOCK_BYTES) == len(file.blocks)
        is_ours = _INDEX_FILE.fullmatch(file.name) and all(map(_DIGEST.fullmatch, file.blocks))
        if not (is_ours and size_fits):
            raise Corrupt(
                f"{source}/{MARK_FILE} names {file.name!r}, which is not a file of an index"
            )
    return found


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
        raise Corrupt(f"the backup of index {index_uuid} contains index {manifest.uuid}")
    documents = 0
    for number in range(manifest.shards):
        with open_shard(folder, manifest, number) as shard:
            documents += shard.status().documents
    return manifest.shards, documents
