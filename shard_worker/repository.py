"""A backup repository: blocks of files, each stored once under its digest, and one mark.

    DEST/blocks/ab/ab12…   one block of at most BLOCK_BYTES, zstd, named by the BLAKE2b-256 of its
                           plain bytes: the name says what it holds, so a damaged one is noticed
    DEST/backup.json       which blocks make up which file; written last, replaced as a whole

LMDB is copy-on-write, so most blocks of a later backup are there already and are not sent again.
Whoever dies on the way leaves the earlier ``backup.json`` and all blocks that it names.

DEST is a folder, or any URL that fsspec has a driver for. A driver raises what it likes: here its
errors become ours.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import orjson
import zstandard
from fsspec.implementations.local import LocalFileSystem

from shard_worker.errors import (
    BitsiftError,
    ChecksumMismatch,
    Corrupt,
    FormatMismatch,
    InvalidRequest,
    NotFound,
    StorageFull,
    Unavailable,
)
from shard_worker.layout import sync_folder

BLOCK_BYTES = 1 << 20
"""A change in a block sends all of it: one upsert among 1 M x 1,024 costs 3 MB, of 1.3 GB. An index
of 45 GB is 45,000 objects."""
MARK_FILE = "backup.json"
BLOCKS_FOLDER = "blocks"
REPOSITORY_VERSION = 1
_ZSTD_LEVEL = 1
"""Texts are compressed already and codes hardly can be; zeros and B-tree pages can by any level."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def digest_of(block: bytes | memoryview) -> str:
    """The name of a block: 64 hex digits."""
    return hashlib.blake2b(block, digest_size=32).hexdigest()


class Repository:
    """One repository. Any number of threads and processes may add blocks at once."""

    def __init__(self, dest: str) -> None:
        """``dest`` is a path or a URL. Raises InvalidRequest where its driver is not installed."""
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

    # --- blocks ----------------------------------------------------------------------------

    def digests(self) -> set[str]:
        """The names of all blocks that are there."""
        return {name.rpartition("/")[2] for name in self.names()}

    def names(self) -> set[str]:
        """All files below the folder of blocks, leftovers of a killed backup among them."""
        folder = f"{self._root}/{BLOCKS_FOLDER}"
        with self._asking("be read"):
            found = self._files.find(folder)
        return {name[len(folder) + 1 :] for name in found if name.startswith(f"{folder}/")}

    def put_block(self, digest: str, block: bytes) -> int:
        """Store a block durably; returns the bytes that it takes."""
        packed = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(block)
        self._put(f"{BLOCKS_FOLDER}/{name_of(digest)}", packed)
        return len(packed)

    def read_block(self, digest: str) -> bytes:
        """The plain bytes of a block. Raises NotFound or ChecksumMismatch, naming it."""
        name = f"{BLOCKS_FOLDER}/{name_of(digest)}"
        packed = self._read(name)
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
        """Remove files from the folder of blocks; what is gone already is no error."""
        with self._asking("be written"):
            for name in sorted(names):
                with contextlib.suppress(FileNotFoundError):
                    self._files.rm_file(f"{self._root}/{BLOCKS_FOLDER}/{name}")

    # --- the mark --------------------------------------------------------------------------

    def read_mark(self) -> dict[str, Any] | None:
        """What ``backup.json`` says; None where no backup was completed.

        Raises Corrupt, ChecksumMismatch, or FormatMismatch (made by another version).
        """
        path = f"{self.dest}/{MARK_FILE}"
        try:
            mark = orjson.loads(self._read(MARK_FILE))
        except NotFound:
            return None
        except orjson.JSONDecodeError as error:
            raise Corrupt(f"{path} is not valid JSON ({error}); use another backup") from error
        version = mark.get("repository_version") if isinstance(mark, dict) else None
        if version != REPOSITORY_VERSION:
            raise FormatMismatch(
                f"{path} has version {version}, this program reads version {REPOSITORY_VERSION}"
            )
        content = mark.get("content")
        if not isinstance(content, dict) or mark.get("digest") != digest_of(orjson.dumps(content)):
            raise ChecksumMismatch(f"{path} is damaged; use another backup")
        return content

    def write_mark(self, content: dict[str, Any]) -> None:
        """Complete a backup: one atomic step that takes the place of the earlier one."""
        mark = {
            "repository_version": REPOSITORY_VERSION,
            "content": content,
            "digest": digest_of(orjson.dumps(content)),
        }
        self._put(MARK_FILE, orjson.dumps(mark))

    # --- files -----------------------------------------------------------------------------

    def _put(self, name: str, data: bytes) -> None:
        path = f"{self._root}/{name}"
        with self._asking("be written"):
            if self._is_local:
                _put_local(Path(path), data)
            else:
                self._files.pipe_file(path, data)

    def _read(self, name: str) -> bytes:
        """Raises NotFound."""
        with self._asking("be read"):
            try:
                return bytes(self._files.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError as error:
                raise NotFound(f"{self.dest}/{name} is missing; use another backup") from error

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
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
