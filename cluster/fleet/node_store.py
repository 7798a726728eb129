"""The data folder of a node: the replicas that it holds, and what it knows of the cluster.

    DATA/INDEX-UUID/manifest.json, complete.json …   of the index
    DATA/INDEX-UUID/cluster.json                     the newest table and orders (state.py)
    DATA/INDEX-UUID/shard-00003/                     a replica
    DATA/INDEX-UUID/shard-00003.incoming/            one that is being made (hydration.py)
    DATA/INDEX-UUID/shard-00003.epoch.json           its latest start (shard_worker/fencing.py)
    DATA/INDEX-UUID/shard-00003.table.json           the newest replica table that it knows
    DATA/INDEX-UUID/shard-00003.applied.json         how far it is (shard_worker/applied.py)
    DATA/INDEX-UUID/exports/NODE-shard-00003/        blocks that another node copies now

It knows no Ray. One process has it open; replicas are opened by others.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitsift.cluster.fleet.hydration import INCOMING, REPLACED, settle
from bitsift.cluster.fleet.removing import (
    OF_A_SHARD,
    OF_AN_EXPORT,
    OF_AN_INDEX,
    is_foreign,
    remove_named,
)
from bitsift.errors import BitsiftError, InvalidRequest, NotFound, Unavailable, reason
from bitsift.shard_worker.applied import applied_file
from bitsift.shard_worker.fencing import (
    epoch_file,
    fence,
    read_epoch,
    read_table_epoch,
    table_file,
)
from bitsift.shard_worker.layout import (
    COMPLETE_FILE,
    MANIFEST_FILE,
    SHARD_FILE,
    FolderLock,
    read_json,
    replace_file,
    shard_folder,
    sync_folder,
    write_json,
)
from bitsift.shard_worker.maintenance.backup import INDEX_FILES
from bitsift.shard_worker.open_mark import open_file
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.counters import NO_PAST, Past
from bitsift.shard_worker.store.lmdb_file import disk_named
from bitsift.shard_worker.types import ShardIdentity

log = logging.getLogger(__name__)

STATE_FILE = "cluster.json"
EXPORTS = "exports"
_LOCK_FILE = "node.lock"
_SHARD = re.compile(rf"shard-(\d{{5}})(?:{re.escape(INCOMING)})?")
_UUID = re.compile(r"[0-9a-fA-F-]{32,36}")


@dataclass(frozen=True, slots=True)
class Held:
    """A replica on this disk, or a part of one: the epoch of its latest start, and that of the
    newest table that it was sealed with.
    """

    shard: int
    is_whole: bool
    epoch: int
    sealed: int = 0


@dataclass(frozen=True, slots=True)
class HeldIndex:
    """What of one index is here. ``state`` is what was kept, None where nothing was."""

    uuid: str
    replicas: tuple[Held, ...]
    state: Mapping[str, Any] | None


class NodeStore:
    """The data folder of one node."""

    def __init__(self, folder: Path) -> None:
        """Raises Unavailable where another process has it, or where it cannot be made."""
        self.folder = folder
        with disk_named(f"{folder} is no data folder"):
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            self._lock = os.open(folder / _LOCK_FILE, flags, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise Unavailable(
                f"the data folder {folder} belongs to another node, or bitsift index builds in it "
                "now: give each node its own, with {node} in placement.data"
            ) from error
        for index in self._indexes():
            _remove_exports(index)
            for old in [path for path in index.iterdir() if REPLACED.fullmatch(path.name)]:
                settle(old)

    def close(self) -> None:
        os.close(self._lock)

    def index(self, uuid: str) -> Path:
        """The folder of one index. Raises InvalidRequest for what is no name of one."""
        if not _UUID.fullmatch(uuid):
            raise InvalidRequest(f"{uuid!r} is not the uuid of an index")
        return self.folder / uuid

    def replica(self, uuid: str, shard: int) -> Path:
        return shard_folder(self.index(uuid), shard)

    def export(self, uuid: str, shard: int, node: str) -> Path:
        """Where blocks lie for ``node`` to fetch."""
        return self.index(uuid) / EXPORTS / f"{node}-{shard:05d}"

    def _indexes(self) -> list[Path]:
        found = [path for path in self.folder.iterdir() if _UUID.fullmatch(path.name)]
        return sorted(path for path in found if path.is_dir())

    # --- what is here ----------------------------------------------------------------------

    def held(self) -> list[HeldIndex]:
        """All that lies here. What cannot be read is left out: it is copied again."""
        found = [
            HeldIndex(index.name, tuple(self._replicas(index)), _state(index))
            for index in self._indexes()
        ]
        return [
            it for it in found if it.replicas or not is_foreign(self.index(it.uuid), OF_AN_INDEX)
        ]

    def _replicas(self, index: Path) -> list[Held]:
        found = []
        for number in _numbers(index):
            folder = shard_folder(index, number)
            is_whole = (folder / SHARD_FILE).exists() and not _incoming(folder).exists()
            with contextlib.suppress(BitsiftError, OSError):
                epochs = read_epoch(folder), read_table_epoch(folder)
                found.append(Held(number, is_whole, *epochs))
        return found

    def index_files(self, uuid: str) -> dict[str, bytes]:
        """What belongs to the whole index, finished or not. Raises NotFound."""
        return _files_of(self.index(uuid))

    # --- what is kept and removed ----------------------------------------------------------

    def adopt(self, uuid: str, files: Mapping[str, bytes]) -> None:
        """Keep what belongs to the whole index: written once, it never changes."""
        index = self.index(uuid)
        with disk_named(f"{index} cannot be made"):
            index.mkdir(exist_ok=True)
            for name in INDEX_FILES:
                if name in files and not (index / name).exists():
                    replace_file(index / name, files[name])
            sync_folder(self.folder)

    def keep(self, uuid: str, state: Mapping[str, Any]) -> None:
        """Keep the newest table and orders, durably. An older epoch is left. Raises NotFound
        before ``adopt``.
        """
        index = self.index(uuid)
        if not (index / MANIFEST_FILE).exists():
            raise NotFound(f"{index} has no {MANIFEST_FILE}: nothing could be served from it")
        known = _state(index)
        if known is None or known["epoch"] <= state["epoch"]:
            with disk_named(f"{index / STATE_FILE} cannot be written"):
                write_json(index / STATE_FILE, dict(state))

    def fence(self, uuid: str, shard: int, epoch: int) -> Path:
        """Let actors of ``epoch`` alone open the replica, whose folder it returns."""
        folder = self.replica(uuid, shard)
        with disk_named(f"{folder} cannot be fenced"):
            fence(folder, epoch)
        return folder

    def create(self, uuid: str, identity: ShardIdentity, past: Past = NO_PAST) -> None:
        """Make an empty replica, where there is none. Raises StorageFull, Unavailable."""
        folder = self.replica(uuid, identity.shard)
        with disk_named(f"{folder} cannot be made"):
            if (folder / SHARD_FILE).exists():
                return
            remove_named(folder, OF_A_SHARD)
            Shard.create(folder, identity, past)
            sync_folder(self.folder)

    def remove(self, uuid: str) -> None:
        """Remove all of an index; nobody may have any of it open. Raises Unavailable."""
        index = self.index(uuid)
        if not index.exists():
            return
        for shard in _numbers(index):
            self.drop(uuid, shard)
        with disk_named(f"{index} cannot be removed"):
            _remove_exports(index)
            remove_named(index, OF_AN_INDEX)
        if index.exists():
            log.warning("%s has files that are not Bitsift's: they stay", index)

    def drop(self, uuid: str, shard: int) -> None:
        """Remove a replica that nobody has open. Raises Unavailable."""
        folder = self.replica(uuid, shard)
        with disk_named(f"{folder} cannot be removed"):
            if folder.exists():
                lock = FolderLock(folder)
                try:
                    # It is no replica from here on, wherever this is interrupted.
                    (folder / SHARD_FILE).unlink(missing_ok=True)
                    remove_named(folder, OF_A_SHARD)
                finally:
                    lock.release()
            remove_named(_incoming(folder), OF_A_SHARD)
            epoch_file(folder).unlink(missing_ok=True)
            table_file(folder).unlink(missing_ok=True)
            applied_file(folder).unlink(missing_ok=True)
            open_file(folder).unlink(missing_ok=True)


def read_index_files(index: Path) -> dict[str, bytes]:
    """The files of a finished index. Raises NotFound, Unavailable where its build has not ended."""
    files = _files_of(index)
    if COMPLETE_FILE not in files:
        raise Unavailable(f"the index {index} is not built completely: run bitsift index again")
    return files


def _files_of(index: Path) -> dict[str, bytes]:
    if not (index / MANIFEST_FILE).exists():
        raise NotFound(f"{index} is not an index: it has no {MANIFEST_FILE}")
    with disk_named(f"{index} cannot be read"):
        return {name: (index / name).read_bytes() for name in _there(index)}


def _numbers(index: Path) -> list[int]:
    """Of the shards of which there is a folder of ours, or one that is being made."""
    named = [(path, _SHARD.fullmatch(path.name)) for path in index.iterdir() if path.is_dir()]
    found = {it[1] for path, it in named if it and not is_foreign(path, OF_A_SHARD)}
    return sorted(map(int, found))


def _remove_exports(index: Path) -> None:
    place = index / EXPORTS
    if place.is_dir() and not place.is_symlink():
        for export in place.iterdir():
            remove_named(export, OF_AN_EXPORT)
        with contextlib.suppress(OSError):
            place.rmdir()


def _there(index: Path) -> Sequence[str]:
    return [name for name in INDEX_FILES if (index / name).exists()]


def _state(index: Path) -> Mapping[str, Any] | None:
    try:
        return read_json(index / STATE_FILE)
    except NotFound:
        return None
    except BitsiftError as error:
        log.warning("%s is not used: %s", index / STATE_FILE, reason(error))
        return None


def _incoming(folder: Path) -> Path:
    return folder.with_name(folder.name + INCOMING)
