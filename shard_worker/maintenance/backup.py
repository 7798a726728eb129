"""Copying shards into a backup repository while they are searched and written to.

Each shard copies itself, so nothing passes through the router: ``copy_shard`` where the shard is,
then ``Backup.finish`` once for all. The copy of a shard is what was committed at one moment; those
of two shards may be of different moments. Blocks are streamed: no temporary file, and some blocks
of RAM.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from bitsift.errors import Unavailable
from bitsift.shard_worker.layout import (
    COMPLETE_FILE,
    MANIFEST_FILE,
    REJECTS_FILE,
    SHARD_FILE,
    shard_folder,
)
from bitsift.shard_worker.maintenance.repository import BLOCK_BYTES, Repository, digest_of, name_of
from bitsift.shard_worker.shard import Shard

INDEX_FILES = (MANIFEST_FILE, COMPLETE_FILE, REJECTS_FILE)
"""Files of the whole index, next to its shards; the copy of shard 0 includes them."""
_SENDERS = 8
"""Blocks sent at once: object storage answers in some 50 ms, a disk syncs in some 5."""

OnBytes = Callable[[int], None]
"""Called with the number of bytes that were read since the last call."""


@dataclass(frozen=True, slots=True)
class BackupFile:
    """One file: its path below the index, its size, and its blocks in order."""

    name: str
    bytes: int
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShardCopy:
    """The files of one shard; ``blocks_new`` were sent, and take ``bytes_stored``."""

    files: tuple[BackupFile, ...]
    blocks_new: int
    bytes_stored: int


@dataclass(frozen=True, slots=True)
class BackupReport:
    """A completed backup. ``bytes`` and ``blocks`` are those of all files, before compression."""

    dest: str
    index_uuid: str
    created: str
    files: int
    bytes: int
    blocks: int
    blocks_new: int
    bytes_stored: int
    blocks_removed: int


class Backup:
    """One run into a repository. One at a time: the end of one takes what another still needs."""

    def __init__(self, dest: str, index_uuid: str) -> None:
        """Raises InvalidRequest where ``dest`` holds a backup of another index, or anything else
        but a backup, and what ``Repository`` raises.
        """
        self._repository = Repository(dest)
        self._index_uuid = index_uuid
        is_later = self._repository.claim(index_uuid)
        self._there = self._repository.names() if is_later else set[str]()

    def finish(self, copies: Sequence[ShardCopy]) -> BackupReport:
        """Write the mark, then remove what no file needs any more.

        Raises Unavailable when the build of the index has not ended, or when blocks are gone, and
        InvalidRequest where a backup of another index has been completed there since.
        """
        files = [file for copy in copies for file in copy.files]
        if COMPLETE_FILE not in {file.name for file in files}:
            raise Unavailable("the build of the index has not finished; back it up after that")
        needed = {name_of(digest) for file in files for digest in file.blocks}
        missing = needed - self._repository.names()
        if missing:
            raise Unavailable(
                f"{len(missing)} blocks are gone from {self._repository.dest}: another backup ran "
                "into it at the same time; run this one again"
            )
        self._repository.claim(self._index_uuid)  # another index's first may have ended since
        created = datetime.now(UTC).isoformat(timespec="seconds")
        listed = [asdict(file) for file in sorted(files, key=lambda file: file.name)]
        self._repository.write_mark(
            {"index_uuid": self._index_uuid, "created": created, "files": listed}
        )
        unneeded = self._there - needed
        self._repository.remove(unneeded)
        return BackupReport(
            dest=self._repository.dest,
            index_uuid=self._index_uuid,
            created=created,
            files=len(files),
            bytes=sum(file.bytes for file in files),
            blocks=len(needed),
            blocks_new=sum(copy.blocks_new for copy in copies),
            bytes_stored=sum(copy.bytes_stored for copy in copies),
            blocks_removed=len(unneeded),
        )


def copy_shard(shard: Shard, dest: str, on_bytes: OnBytes = lambda _: None) -> ShardCopy:
    """Copy an open shard while it answers and takes writes. Raises StorageFull, Unavailable.

    Files of bits are opened before the data is read: they are never newer than it, and a compaction
    cannot take them away.
    """
    number = shard.identity.shard
    within = shard_folder(Path(), number)
    with contextlib.ExitStack() as stack:
        snapshot = stack.enter_context(shard.snapshot())
        writer = stack.enter_context(_BlockWriter(Repository(dest), on_bytes))
        paths = {within / path.name: path for path in snapshot.sealed}
        if number == 0:
            paths |= {Path(name): shard.folder.parent / name for name in INDEX_FILES}
        opened = {}
        for name, path in paths.items():
            with contextlib.suppress(FileNotFoundError):
                opened[name] = stack.enter_context(path.open("rb"))
        files = [writer.add(str(name), stream) for name, stream in opened.items()]
        files.append(writer.add(str(within / SHARD_FILE), io.BytesIO(snapshot.shard_file)))
        with _piped(snapshot.copy_data) as stream:
            name = within / snapshot.data.relative_to(shard.folder)
            files.append(writer.add(str(name), stream))
        writer.wait()
        return ShardCopy(tuple(files), writer.blocks_new, writer.bytes_stored)


class _BlockWriter:
    """Cuts streams in blocks and sends those that the repository lacks, several at once."""

    def __init__(self, repository: Repository, on_bytes: OnBytes) -> None:
        self._repository = repository
        self._on_bytes = on_bytes
        self._there = repository.digests()
        self._pool = ThreadPoolExecutor(_SENDERS, thread_name_prefix="backup")
        self._sending: deque[Future[int]] = deque()
        self.blocks_new = 0
        self.bytes_stored = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, name: str, stream: IO[bytes]) -> BackupFile:
        """Send one file, read to its end. Raises what a block sent before it raised."""
        blocks, size = [], 0
        while block := stream.read(BLOCK_BYTES):
            digest = digest_of(block)
            if digest not in self._there:
                self._there.add(digest)
                self._send(digest, block)
            blocks.append(digest)
            size += len(block)
            self._on_bytes(len(block))
        return BackupFile(name, size, tuple(blocks))

    def _send(self, digest: str, block: bytes) -> None:
        if len(self._sending) >= 2 * _SENDERS:
            self.bytes_stored += self._sending.popleft().result()
        self._sending.append(self._pool.submit(self._repository.put_block, digest, block))
        self.blocks_new += 1

    def wait(self) -> None:
        """Until every block is durable."""
        while self._sending:
            self.bytes_stored += self._sending.popleft().result()


@contextlib.contextmanager
def _piped(write: Callable[[int], None]) -> Iterator[IO[bytes]]:
    """What ``write`` writes to a file descriptor, as a stream. Raises what it raised, at the end.

    Where the reader stops early, the pipe breaks and ``write`` ends with an error of its own.
    """
    reader, writer = os.pipe()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            write(writer)
        except BaseException as error:
            raised.append(error)
        finally:
            os.close(writer)

    thread = threading.Thread(target=run, name="backup-copy", daemon=True)
    thread.start()
    try:
        with os.fdopen(reader, "rb") as stream:
            yield stream
    finally:
        thread.join()
    if raised:
        raise raised[0]
