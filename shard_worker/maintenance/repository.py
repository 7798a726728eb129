"""A backup repository: blocks of files, each stored once under its digest, and one mark.

    DEST/blocks/ab/ab12…   one block of at most BLOCK_BYTES, zstd, named by the BLAKE2b-256 of its
                           plain bytes: the name says what it holds, so a damaged one is noticed
    DEST/backup.json       which blocks make up which file; written last, replaced as a whole
    DEST/bitsift-repository.json   of which index: written first, into an empty DEST. It says that
                           what follows is ours, should the first backup be killed

LMDB is copy-on-write, so most blocks of a later backup are there already and are not sent again.
A backup that is killed leaves the earlier ``backup.json`` and all blocks that it names.

Nothing else in DEST is ever removed or replaced, and a DEST that holds anything else, and neither
of the two files of JSON, is refused.

DEST is a folder, or any URL that fsspec has a driver for. A driver may raise anything: here its
errors become ours.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import orjson
import zstandard
from fsspec.implementations.local import LocalFileSystem

from bitsift.errors import (
    BitsiftError,
    ChecksumMismatch,
    Corrupt,
    FormatMismatch,
    InvalidRequest,
    NotFound,
    StorageFull,
    Unavailable,
)
from bitsift.shard_worker.layout import replacing, sync_folder

BLOCK_BYTES = 1 << 20
"""A change in a block sends all of it: one upsert among 1 M x 1,024 costs 3 MB, of 1.3 GB. An index
of 45 GB is 45,000 objects."""
MARK_FILE = "backup.json"
OWNER_FILE = "bitsift-repository.json"
BLOCKS_FOLDER = "blocks"
_BLOCK = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{62}(\.[0-9a-f]{32}\.partial)?")
"""Names below the folder of blocks that are ours: blocks, and leftovers of a killed backup."""
REPOSITORY_VERSION = 1
JSON_BYTES_MAX = 256 << 20
"""Of ``backup.json``: some 70 bytes a block, so an index of 4 TB."""
PACKED_BYTES_MAX = BLOCK_BYTES + (64 << 10)
"""zstd adds less than 1 % to what cannot be compressed."""
_ZSTD_LEVEL = 1
"""Texts are compressed already and codes hardly can be; zeros and B-tree pages can by any level."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def digest_of(block: bytes | memoryview) -> str:
    """The name of a block: 64 hex digits."""
    return hashlib.blake2b(block, digest_size=32).hexdigest()


class Repository:
    """One repository. Any number of threads and processes may add blocks at once."""

    def __init__(self, dest: str) -> None:
        """``dest`` is a path or a URL. Raises InvalidRequest where its driver is not installed, and
        where it is a file.
        """
        self.dest = dest
        options = {"skip_instance_cache": True, "use_listings_cache": False}
        try:
            self._files, self._root = fsspec.core.url_to_fs(dest, **options)
        except (ImportError, ValueError) as error:
            raise InvalidRequest(
                f"{dest} cannot be used: {error}; the driver must be installed on every machine "
                "that has a shard (s3fs for s3://, gcsfs for gs://)"
            ) from error
        self._is_local = isinstance(self._files, LocalFileSystem)
        if self._is_local and os.path.lexists(self._root) and not os.path.isdir(self._root):
            raise InvalidRequest(
                f"{dest} is not a folder; name the folder of a backup, or a new one"
            )

    def claim(self, index_uuid: str) -> bool:
        """Make DEST the repository of one index; True where a backup was completed there before.

        Raises InvalidRequest, having changed nothing, where DEST is of another index or holds what
        no backup made; and what ``read_mark`` raises.
        """
        mark = self.read_mark()
        owner = self._read_json(OWNER_FILE) if mark is None else mark
        if owner is None:
            if not self._is_empty():
                raise InvalidRequest(
                    f"{self.dest} is not empty and is not a backup; choose an empty or new folder, "
                    "such as one below it"
                )
            self._write_json(OWNER_FILE, {"index_uuid": index_uuid})
        elif not isinstance(held := owner.get("index_uuid"), str):
            raise Corrupt(f"{self.dest} does not say which index it is of; choose another")
        elif held != index_uuid:
            raise InvalidRequest(
                f"{self.dest} has a backup of index {held}, but this is {index_uuid}; "
                "choose another destination"
            )
        return mark is not None

    def _is_empty(self) -> bool:
        with self._asking("be read"):
            try:
                found = self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return True
        return all(name.rstrip("/") == self._root.rstrip("/") for name in found)

    # --- blocks ----------------------------------------------------------------------------

    def digests(self) -> set[str]:
        """The names of all blocks that are there."""
        return {name.rpartition("/")[2] for name in self.names() if not name.endswith(".partial")}

    def names(self) -> set[str]:
        """Our files below the folder of blocks, leftovers of a killed backup among them."""
        folder = f"{self._root}/{BLOCKS_FOLDER}"
        depth = 2 if self._is_local else None  # object storage lists all at once, without depth
        with self._asking("be read"):
            found = self._files.find(folder, maxdepth=depth)
        names = {name[len(folder) + 1 :] for name in found if name.startswith(f"{folder}/")}
        return {name for name in names if _BLOCK.fullmatch(name)}

    def put_block(self, digest: str, block: bytes) -> int:
        """Store a block durably; returns the bytes that it takes."""
        packed = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(block)
        self._put(f"{BLOCKS_FOLDER}/{name_of(digest)}", packed)
        return len(packed)

    def read_block(self, digest: str) -> bytes:
        """The plain bytes of a block. Raises NotFound, Corrupt or ChecksumMismatch, naming it."""
        name = f"{BLOCKS_FOLDER}/{name_of(digest)}"
        packed = self._read(name, PACKED_BYTES_MAX)
        try:
            # The size that the frame claims is taken from memory before anything is unpacked.
            claimed = zstandard.frame_content_size(packed)
            is_block = 0 <= claimed <= BLOCK_BYTES
            block = zstandard.ZstdDecompressor().decompress(packed) if is_block else b""
        except zstandard.ZstdError:
            block = b""
        if digest_of(block) != digest:
            raise ChecksumMismatch(f"{self.dest}/{name} is damaged; restore from another backup")
        return block

    def remove(self, names: set[str]) -> None:
        """Remove some of ``names()``, but no links; what is gone already is no error."""
        with self._asking("be written"):
            for name in sorted(names):
                assert _BLOCK.fullmatch(name), name
                path = f"{self._root}/{BLOCKS_FOLDER}/{name}"
                if self._is_local and os.path.islink(path):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    self._files.rm_file(path)

    # --- the mark --------------------------------------------------------------------------

    def read_mark(self) -> dict[str, Any] | None:
        """What ``backup.json`` says; None where no backup was completed.

        Raises Corrupt, ChecksumMismatch, or FormatMismatch (made by another version).
        """
        return self._read_json(MARK_FILE)

    def write_mark(self, content: dict[str, Any]) -> None:
        """Complete a backup: one atomic step that takes the place of the earlier one."""
        self._write_json(MARK_FILE, content)

    def _read_json(self, name: str) -> dict[str, Any] | None:
        path = f"{self.dest}/{name}"
        try:
            data = orjson.loads(self._read(name, JSON_BYTES_MAX))
        except NotFound:
            return None
        except orjson.JSONDecodeError as error:
            raise Corrupt(f"{path} is not valid JSON ({error}); use another backup") from error
        version = data.get("repository_version") if isinstance(data, dict) else None
        if version != REPOSITORY_VERSION:
            raise FormatMismatch(
                f"{path} has version {version}, this program reads version {REPOSITORY_VERSION}"
            )
        content = data.get("content")
        if not isinstance(content, dict) or data.get("digest") != digest_of(orjson.dumps(content)):
            raise ChecksumMismatch(f"{path} is damaged; use another backup")
        return content

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        data = {
            "repository_version": REPOSITORY_VERSION,
            "content": content,
            "digest": digest_of(orjson.dumps(content)),
        }
        self._put(name, orjson.dumps(data))

    # --- files -----------------------------------------------------------------------------

    def _put(self, name: str, data: bytes) -> None:
        path = f"{self._root}/{name}"
        with self._asking("be written"):
            if self._is_local:
                _put_local(Path(path), data)
            else:
                self._files.pipe_file(path, data)

    def _read(self, name: str, bytes_max: int) -> bytes:
        """Raises NotFound, and Corrupt for what is larger than ``bytes_max`` without reading it."""
        with self._asking("be read"):
            try:
                data = self._files.cat_file(f"{self._root}/{name}", start=0, end=bytes_max + 1)
            except FileNotFoundError as error:
                raise NotFound(f"{self.dest}/{name} is missing; use another backup") from error
        if len(data) > bytes_max:
            raise Corrupt(
                f"{self.dest}/{name} is larger than {bytes_max:,} bytes, which no backup writes; "
                "use another backup"
            )
        return bytes(data)

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Translate whatever a driver raises."""
        try:
            yield
        except BitsiftError:
            raise
        except Exception as error:  # botocore's, google's and others' errors have no common root
            raise storage_error(error, f"{self.dest} cannot {what}") from error


def storage_error(error: Exception, what: str) -> BitsiftError:
    """StorageFull where ``error`` says that there is no room, else Unavailable."""
    full = isinstance(error, OSError) and error.errno in _NO_ROOM
    return (StorageFull if full else Unavailable)(f"{what}: {type(error).__name__}: {error}")


def name_of(digest: str) -> str:
    """Where a block lies below the folder of blocks: 256 folders, for file systems' sake."""
    return f"{digest[:2]}/{digest}"


def _put_local(path: Path, data: bytes) -> None:
    """Write aside, sync, rename. Two shards may put one block at once: each has its own aside."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        sync_folder(path.parent.parent)
    with replacing(path) as file:
        file.write(data)
