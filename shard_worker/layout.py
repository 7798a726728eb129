"""Names and identity of a shard directory, and the one way a file is replaced.

INDEX/shard-00000/shard.json        which shard of which index this is
INDEX/shard-00000/shard.lock        held exclusively by the one process that has it open
INDEX/shard-00000/store/data.mdb    LMDB (store.py)
INDEX/shard-00000/store.next        what compaction makes; left over when it was interrupted
INDEX/shard-00000/bits-00000.bits   segments of the binary index (index.py), derived
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
from pathlib import Path
from typing import Any

import google_crc32c
import orjson

from shard_worker.errors import (
    ChecksumMismatch,
    Corrupt,
    FormatMismatch,
    NotFound,
    Unavailable,
)
from shard_worker.types import ShardIdentity

FORMAT_VERSION = 1
MANIFEST_FILE, COMPLETE_FILE, REJECTS_FILE = "manifest.json", "complete.json", "rejects.jsonl"
"""Of the whole index, beside its shards: see cluster/manifest.py."""
SHARD_FILE = "shard.json"
LOCK_FILE = "shard.lock"
STORE_FOLDER = "store"
NEXT_FOLDER = "store.next"


def shard_folder(index: Path, shard: int) -> Path:
    """The directory of shard number ``shard`` of an index."""
    return index / f"shard-{shard:05d}"


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write ``path`` whole or not at all: write aside, fsync, rename, fsync the folder."""
    aside = path.with_name(path.name + ".partial")
    with aside.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises NotFound, FormatMismatch (another format version), ChecksumMismatch, or Corrupt.
    """
    try:
        data = orjson.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"{path} does not exist") from error
    except orjson.JSONDecodeError as error:
        raise Corrupt(f"{path} is not valid JSON ({error}); restore it from a backup") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise FormatMismatch(
            f"{path} has format version {version}, this program reads version {FORMAT_VERSION}"
        )
    if data.pop("checksum", None) != _checksum(data):
        raise ChecksumMismatch(f"{path} is damaged; restore it from a backup")
    return dict(data)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write ``data`` atomically, format version first, checksum last."""
    data = {"format_version": FORMAT_VERSION, **data}
    # Read back, so that the checksum is of what a reader will have: floats are printed shortest.
    data["checksum"] = _checksum(orjson.loads(orjson.dumps(data)))
    replace_file(path, orjson.dumps(data, option=orjson.OPT_INDENT_2))


def _checksum(data: dict[str, Any]) -> str:
    """CRC32C of the compact form of ``data``, in hex."""
    return f"{google_crc32c.value(orjson.dumps(data)):08x}"


def write_identity(folder: Path, identity: ShardIdentity) -> None:
    """Make ``folder`` the directory of this shard."""
    write_json(folder / SHARD_FILE, dataclasses.asdict(identity))


def read_identity(folder: Path) -> ShardIdentity:
    """What ``shard.json`` in ``folder`` says. Raises as ``read_json`` does."""
    data = read_json(folder / SHARD_FILE)
    try:
        return ShardIdentity(**{key: data[key] for key in ShardIdentity.__dataclass_fields__})
    except KeyError as error:
        raise Corrupt(f"{folder / SHARD_FILE} lacks {error}; restore it from a backup") from error


def check_identity(folder: Path, found: ShardIdentity, expected: ShardIdentity) -> None:
    """Refuse a directory that was mounted in the wrong place, naming both."""
    if found != expected:
        raise FormatMismatch(
            f"{folder} holds shard {found.shard} of {found.shards} of index {found.index_uuid}, "
            f"dimension {found.dimension}; expected shard {expected.shard} of {expected.shards} "
            f"of index {expected.index_uuid}, dimension {expected.dimension}"
        )


class FolderLock:
    """Exclusive ownership of a shard directory, released by the kernel when the process dies."""

    def __init__(self, folder: Path) -> None:
        """Raises Unavailable when another process has the directory open."""
        path = folder / LOCK_FILE
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise Unavailable(
                f"{folder} is open in another process (pid {owner}); stop that one first, "
                "or ask the running cluster instead"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)
