"""Names and identity of a shard directory, and the one way a file is replaced.

What each file holds, and since which version of the format, is said in store/format.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import google_crc32c
import orjson

from bitsift.errors import (
    ChecksumMismatch,
    Corrupt,
    FormatMismatch,
    NotFound,
    Unavailable,
)
from bitsift.shard_worker.format_version import CURRENT, FORMAT_1, Format, format_in
from bitsift.shard_worker.types import ShardIdentity

MANIFEST_FILE, COMPLETE_FILE, REJECTS_FILE = "manifest.json", "complete.json", "rejects.jsonl"
"""Files of the whole index, next to its shards: see cluster/manifest.py."""
SHARD_FILE = "shard.json"
LOCK_FILE = "shard.lock"
STORE_FOLDER = re.compile(r"store(-\d{5,})?")
"""Where the data file of a generation lies; in format 1, of every generation."""
PARTIAL = re.compile(
    r"((manifest|complete|shard|bits-lists|bits-first)\.json|bits-(\d{5}|lists)\.bits|blocks\.pages)"
    r"(\.[0-9a-f]{32})?\.partial"
)
"""Our files while they are written; version 0.1.0 put no random number into the name."""


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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file, to be written, that becomes ``path`` whole or not at all.

    Written aside, under a name that nothing else has; then fsync, rename, fsync the folder. Where
    the block fails nothing is left; what a killed process left ``remove_partials`` removes.
    """
    with renamed_over(path) as file:
        yield file
    sync_folder(path.parent)


@contextlib.contextmanager
def renamed_over(path: Path) -> Iterator[IO[bytes]]:
    """The same up to the rename. Only ``sync_folder`` makes it sure against a crash."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    with aside.open("xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def replace_file(path: Path, *parts: bytes | memoryview) -> None:
    """Make ``path`` of ``parts``, whole or not at all."""
    with replacing(path) as file:
        for part in parts:
            file.write(part)


def remove_partials(folder: Path) -> None:
    """Remove what killed processes left of ``replacing`` in ``folder``, where none may run now."""
    for path in folder.iterdir():
        if PARTIAL.fullmatch(path.name) and not path.is_dir():
            path.unlink()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises NotFound, FormatMismatch (of a version that is not read), ChecksumMismatch, or Corrupt.
    """
    return _read_versioned(path)[1]


def _read_versioned(path: Path) -> tuple[Format, dict[str, Any]]:
    try:
        data = orjson.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"{path} does not exist") from error
    except orjson.JSONDecodeError as error:
        raise Corrupt(f"{path} is not valid JSON ({error}); restore it from a backup") from error
    version = format_in(path, data.get("format_version") if isinstance(data, dict) else None)
    if data.pop("checksum", None) != _checksum(data):
        raise ChecksumMismatch(f"{path} is damaged; restore it from a backup")
    del data["format_version"]
    return version, data


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write ``data`` atomically, format version first, checksum last."""
    replace_file(path, packed_json(data))


def packed_json(data: dict[str, Any]) -> bytes:
    """What ``write_json`` writes."""
    data = {"format_version": str(CURRENT), **data}
    # Read back, so that the checksum is of what a reader will have: floats are printed shortest.
    data["checksum"] = _checksum(orjson.loads(orjson.dumps(data)))
    return orjson.dumps(data, option=orjson.OPT_INDENT_2)


def _checksum(data: dict[str, Any]) -> str:
    """CRC32C of the compact form of ``data``, in hex."""
    return f"{google_crc32c.value(orjson.dumps(data)):08x}"


@dataclass(frozen=True, slots=True)
class ShardFile:
    """What ``shard.json`` says: which shard a directory is, and where its current store lies.

    ``others`` are facts of a newer minor version, which are kept.
    """

    identity: ShardIdentity
    store: str
    format: Format = CURRENT
    others: Mapping[str, Any] = field(default_factory=dict)

    def packed(self) -> bytes:
        """The bytes of the file, in the current format."""
        facts = self.identity.facts() | {"store": self.store}
        chosen = self.identity.index_fields
        return packed_json({**facts, **({"index_fields": chosen} if chosen else {}), **self.others})


def read_shard_file(folder: Path) -> ShardFile:
    """What ``shard.json`` in ``folder`` says. Raises as ``read_json`` does."""
    path = folder / SHARD_FILE
    version, data = _read_versioned(path)
    try:
        data.setdefault("index_fields", ())
        known = {key: data.pop(key) for key in ShardIdentity.__dataclass_fields__}
        known["index_fields"] = tuple(known["index_fields"])
        store = "store" if version.major == FORMAT_1.major else data.pop("store")
    except KeyError as error:
        raise Corrupt(f"{path} lacks {error}; restore it from a backup") from error
    if not isinstance(store, str) or not STORE_FOLDER.fullmatch(store):
        raise Corrupt(f"{path} names {store!r}, which is not the folder of a store; restore it")
    return ShardFile(ShardIdentity(**known), store, version, data)


def read_identity(folder: Path) -> ShardIdentity:
    """Which shard the directory ``folder`` is. Raises as ``read_json`` does."""
    return read_shard_file(folder).identity


def store_folder(folder: Path) -> Path:
    """Where the current store of the shard directory ``folder`` lies. Raises as ``read_json``."""
    return folder / read_shard_file(folder).store


def store_name(generation: int) -> str:
    """The folder of a store below that of its shard: one name a generation, never used again."""
    return f"store-{generation:05d}"


def check_identity(folder: Path, found: ShardIdentity, expected: ShardIdentity) -> None:
    """Refuse a directory mounted in the wrong place, naming both."""
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
        if path.is_symlink():
            raise Unavailable(f"{path} is a link to a file that would be overwritten; remove it")
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise Unavailable(
                f"{folder} is open in another process (pid {owner}); stop that one first, "
                "or ask the running cluster instead"
            ) from error
        with contextlib.suppress(OSError):  # the pid is for messages; a disk may be full
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)
