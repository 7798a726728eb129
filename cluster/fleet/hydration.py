"""A shard becomes equal to a copy of it elsewhere, block by block, in a folder aside.

    shard-00003            the replica, if there is one; nobody has it open
    shard-00003.incoming   what is made; it stays when the copy is interrupted, and is gone on with
    shard-00003.replaced-1234abcd   what was the replica, until it is removed

Every block is known by its digest (maintenance/repository.py). One that lies in ``incoming`` or in
the replica already is not fetched: so an interrupted copy goes on where it was, and a replica that
was away for a while gets what has changed. Whole, synced, of the right shard and locked against any
that might have it open, ``incoming`` takes the replica's name.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from bitsift.cluster.fleet.removing import OF_A_SHARD, remove_named
from bitsift.errors import ChecksumMismatch, Corrupt, NotFound, StorageFull
from bitsift.shard_worker.applied import applied_file
from bitsift.shard_worker.bits.tuning import MEASURED_FILES
from bitsift.shard_worker.layout import (
    LOCK_FILE,
    SHARD_FILE,
    FolderLock,
    check_identity,
    read_identity,
    store_folder,
    sync_folder,
)
from bitsift.shard_worker.maintenance.backup import BackupFile
from bitsift.shard_worker.maintenance.repository import BLOCK_BYTES, digest_of
from bitsift.shard_worker.store.lmdb_file import DATA_FILE, disk_named
from bitsift.shard_worker.types import ShardIdentity

INCOMING = ".incoming"
REPLACED = re.compile(r"shard-\d{5}\.replaced-[0-9a-f]{8}")
"""A replica that a copy has taken the place of, until it is removed."""
_FETCHERS = 4
"""Blocks fetched at once, each in RAM."""
_BURST_S = 0.25
"""How far ahead of its rate a copy may be."""


class Blocks(Protocol):
    """A shard to copy from: its files, named relative to its folder, and the blocks of them."""

    def files(self) -> Sequence[BackupFile]: ...

    def read_block(self, digest: str) -> bytes: ...

    def close(self) -> None: ...


class FolderBlocks:
    """The shard in a folder that nobody has open; it stays locked until ``close``."""

    def __init__(self, folder: Path) -> None:
        """Raises NotFound, Unavailable (open in another process), Corrupt."""
        store = store_folder(folder)
        self._lock = FolderLock(folder)
        names = [SHARD_FILE, *MEASURED_FILES, f"{store.name}/{DATA_FILE}"]
        names += [path.name for path in folder.glob("bits-*.bits")]
        self._files = [_listed(folder, name) for name in sorted(names) if (folder / name).exists()]
        self._places = {
            digest: (folder / file.name, number)
            for file in self._files
            for number, digest in enumerate(file.blocks)
        }

    def files(self) -> Sequence[BackupFile]:
        return self._files

    def read_block(self, digest: str) -> bytes:
        """Raises NotFound, ChecksumMismatch."""
        if digest not in self._places:
            raise NotFound(f"block {digest} does not exist here: ask for the list of files again")
        path, number = self._places[digest]
        with path.open("rb") as file:
            return checked(_block(file, number), digest, str(path))

    def close(self) -> None:
        self._lock.release()


def checked(block: bytes, digest: str, source: str) -> bytes:
    """``block``, if it is the one that ``digest`` names. Raises ChecksumMismatch."""
    if digest_of(block) != digest:
        raise ChecksumMismatch(f"{source}: block {digest} is damaged; verify it, and copy again")
    return block


@dataclass(slots=True)
class CopyProgress:
    """How far a copy is; ``fetched`` are the bytes that came from elsewhere."""

    total_bytes: int = 0
    done_bytes: int = 0
    fetched_bytes: int = 0


@dataclass(slots=True)
class Pace:
    """No more than ``bytes_per_s``."""

    bytes_per_s: int
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _due_s: float = 0.0

    def take(self, count: int) -> None:
        """Wait until ``count`` bytes more may be fetched."""
        with self._lock:
            now_s = time.monotonic()
            begins_s = max(self._due_s, now_s - _BURST_S)
            self._due_s = begins_s + count / self.bytes_per_s
        time.sleep(max(0.0, begins_s - now_s))


def hydrate(
    source: Blocks,
    folder: Path,
    identity: ShardIdentity,
    pace: Pace,
    progress: CopyProgress,
) -> None:
    """Make the shard in ``folder`` equal to ``source``, whatever is there.

    Raises Unavailable where somebody has it open, FormatMismatch where ``source`` is another shard,
    ChecksumMismatch, StorageFull, and what ``source`` raises. ``folder`` is as it was then.
    """
    aside = folder.with_name(folder.name + INCOMING)
    files = source.files()
    progress.total_bytes = sum(file.bytes for file in files)
    with disk_named(f"{folder} was not copied"), contextlib.ExitStack() as stack:
        aside.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            stack.callback(FolderLock(folder).release)
        _remove_others(aside, files)
        _check_room(aside, files)
        here = _Known([aside, folder])
        for file in files:
            _make_file(source, file, aside, here, pace, progress)
        check_identity(aside, read_identity(aside), identity)
        _exchange(aside, folder)


def _check_room(aside: Path, files: Sequence[BackupFile]) -> None:
    there = sum(path.stat().st_blocks * 512 for path in aside.rglob("*") if path.is_file())
    needed, free = sum(file.bytes for file in files) - there, shutil.disk_usage(aside).free
    if free < needed:
        raise StorageFull(
            f"{aside} has {free / 1e9:,.1f} GB free, but the copy needs {needed / 1e9:,.1f} GB: "
            "add disk, or place the shard on another node"
        )


def _remove_others(aside: Path, files: Sequence[BackupFile]) -> None:
    """What an earlier copy brought and this one does not."""
    names = {file.name for file in files}
    for path in aside.rglob("*"):
        name = str(path.relative_to(aside))
        if path.is_file() and name not in names and OF_A_SHARD.fullmatch(name):
            path.unlink()


class _Known:
    """Blocks that lie on this disk, by digest."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._places: dict[str, tuple[Path, int]] = {}
        for folder in folders:
            for path in folder.rglob("*"):
                if path.is_file() and path.name != LOCK_FILE:
                    for number, digest in enumerate(_digests(path)):
                        self._places.setdefault(digest, (path, number))

    def read(self, digest: str) -> bytes | None:
        """The block, None where there is none any more: files are written over meanwhile."""
        if digest not in self._places:
            return None
        path, number = self._places[digest]
        with contextlib.suppress(OSError), path.open("rb") as file:
            block = _block(file, number)
            return block if digest_of(block) == digest else None
        return None


def _make_file(
    source: Blocks,
    file: BackupFile,
    aside: Path,
    here: _Known,
    pace: Pace,
    progress: CopyProgress,
) -> None:
    path = aside / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "w+b") as opened:

        def place(number: int) -> None:
            digest = file.blocks[number]
            expected = min(BLOCK_BYTES, file.bytes - number * BLOCK_BYTES)
            if digest_of(os.pread(opened.fileno(), expected, number * BLOCK_BYTES)) != digest:
                block = here.read(digest)
                if block is None:
                    pace.take(expected)
                    block = checked(source.read_block(digest), digest, file.name)
                    progress.fetched_bytes += len(block)
                if len(block) != expected:
                    raise Corrupt(f"{file.name}: block {number} has {len(block)} bytes")
                os.pwrite(opened.fileno(), block, number * BLOCK_BYTES)
            progress.done_bytes += expected

        with ThreadPoolExecutor(_FETCHERS, thread_name_prefix="hydrate") as pool:
            try:
                deque(pool.map(place, range(len(file.blocks))), maxlen=0)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        opened.truncate(file.bytes)
        os.fsync(opened.fileno())


def _exchange(aside: Path, folder: Path) -> None:
    """``aside`` takes the place of ``folder``, which is locked by us, and is removed."""
    for inner in [*aside.rglob("*"), aside]:
        if inner.is_dir():
            sync_folder(inner)
    old = folder.with_name(f"{folder.name}.replaced-{secrets.token_hex(4)}")
    applied_file(folder).unlink(missing_ok=True)  # it was said of what is replaced
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    sync_folder(folder.parent)
    settle(old)


def settle(old: Path) -> None:
    """Undo or end the exchange that gave a replica the name ``old``; nobody may have it open.

    What in it is not Bitsift's goes to the replica's place again.
    """
    folder = old.with_name(old.name.partition(".")[0])
    if not old.exists():
        return
    if not folder.exists():
        old.rename(folder)
        return
    remove_named(old, OF_A_SHARD)
    for path in list(old.iterdir()) if old.exists() else ():
        if not os.path.lexists(folder / path.name):
            path.rename(folder / path.name)
    with contextlib.suppress(OSError):  # something has a name that the new one has, too: it stays
        old.rmdir()


def _listed(folder: Path, name: str) -> BackupFile:
    path = folder / name
    return BackupFile(name, path.stat().st_size, tuple(_digests(path)))


def _digests(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield digest_of(block)


def _block(file: IO[bytes], number: int) -> bytes:
    return os.pread(file.fileno(), BLOCK_BYTES, number * BLOCK_BYTES)
