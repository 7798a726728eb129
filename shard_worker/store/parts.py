"""What an open store is made of, and what is looked at before it is trusted."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import lmdb

from bitsift.errors import Corrupt, FormatMismatch, StorageFull
from bitsift.shard_worker.format_version import CURRENT, FORMAT_1, Format, format_in
from bitsift.shard_worker.store.commits import Commits
from bitsift.shard_worker.store.counters import Counters
from bitsift.shard_worker.store.deletions import Deletions
from bitsift.shard_worker.store.environment import Environment
from bitsift.shard_worker.store.format import COUNTERS, FIELDS, FORMAT, IDENTITY, META, databases_of
from bitsift.shard_worker.store.lmdb_btree import leads_to_all_keys
from bitsift.shard_worker.store.lmdb_file import DATA_FILE, Room, check_data_file, damage_named
from bitsift.shard_worker.store.packing import pack_meta
from bitsift.shard_worker.store.row_reader import RowReader
from bitsift.shard_worker.store.rows import RowWriter
from bitsift.shard_worker.store.tombstones import Tombstones
from bitsift.shard_worker.store.versions import Versions
from bitsift.shard_worker.types import ShardIdentity


def make_store(folder: Path, identity: ShardIdentity, counters: Counters, max_bytes: int) -> None:
    """Make an empty store in ``folder``, in the current format, which says ``counters`` of itself.

    Raises StorageFull.
    """
    try:
        folder.mkdir(exist_ok=True)
        with contextlib.closing(
            Environment(folder, databases_of(CURRENT), max_bytes, create=True)
        ) as env:
            commits = Commits(env)
            with env.writing() as txn:
                said = ((IDENTITY, identity.facts()), (FORMAT, dataclasses.asdict(CURRENT)))
                for key, facts in said:
                    txn.put(key, pack_meta(facts), db=env.databases[META])
                commits.commit(txn, counters)
    except (lmdb.Error, OSError) as error:
        raise StorageFull(f"{folder}: the store cannot be created ({error})") from error


class Parts:
    """The open file of one store, its transactions, and what reads and writes its databases.

    ``versions``, ``tombstones`` and ``deletions`` are None where the store's format has none.
    """

    def __init__(self, folder: Path, identity: ShardIdentity, max_bytes: int) -> None:
        """Raises as ``Store`` does."""
        path = folder / DATA_FILE
        check_data_file(path)
        with contextlib.ExitStack() as opened, damage_named(path):
            self.env = Environment(folder, [META], max_bytes)
            opened.callback(self.env.close)
            self.env.reap_readers()
            self.room = Room(path, max_bytes)
            opened.callback(self.room.close)
            self.format = self._format()
            self.env.open_databases(databases_of(self.format))
            if self.format.major > FORMAT_1.major:
                self.env.open_where_there(FIELDS.decode())
            self.commits = Commits(self.env, self.format)
            self.reader = RowReader(folder, self.env, identity.width)
            opened.callback(self.reader.close)
            self.versions: Versions | None = None
            self.tombstones: Tombstones | None = None
            self.deletions: Deletions | None = None
            if self.format.major > FORMAT_1.major:
                shape = self.reader.record_bytes, self.reader.block_rows
                self.versions, self.tombstones = Versions(self.env, *shape), Tombstones(self.env)
                self.deletions = Deletions(self.env, self.reader, self.tombstones)
            self.writer = RowWriter(self.env, self.room, self.reader, self.versions)
            self._check_identity(identity)
            self.commits.read()
            self._check_dead()
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    @property
    def _path(self) -> Path:
        return self.env.folder / DATA_FILE

    def _format(self) -> Format:
        """The format that the store is in. Raises FormatMismatch."""
        commits = Commits(self.env)
        with self.env.begin() as txn:
            if txn.get(FORMAT, db=self.env.databases[META]) is None:
                return FORMAT_1
            facts = commits.meta_in(txn, FORMAT)
        return format_in(self._path, f"{facts.get('major')}.{facts.get('minor')}")

    def _check_identity(self, identity: ShardIdentity) -> None:
        """A data file that was put in the place of another, or created again, is refused."""
        with self.env.begin() as txn:
            found, expected = self.commits.meta_in(txn, IDENTITY), identity.facts()
        if found != expected:
            raise FormatMismatch(
                f"{self._path} belongs to shard {found.get('shard')} of index "
                f"{found.get('index_uuid')}; expected shard {identity.shard} of index "
                f"{identity.index_uuid}"
            )

    def _check_dead(self) -> None:
        """A dead row that is not found would be alive."""
        if not self.leads_to_all_keys("dead"):
            raise Corrupt(self.damaged_dead)

    @property
    def damaged_dead(self) -> str:
        """What is said of a damaged list of dead rows."""
        return f"{self._path}: the list of dead rows is damaged; restore it from a backup"

    def leads_to_all_keys(self, name: str) -> bool:
        """Whether all keys of a database are found. No write may run meanwhile. Raises Corrupt."""
        path = self._path
        with self.env.begin() as txn:
            record = bytes(txn.get(name.encode(), b""))
        with path.open("rb") as data:
            try:
                return leads_to_all_keys(data.fileno(), self.env.page_bytes, record)
            except Corrupt as error:
                raise Corrupt(f"{path}: {name}: {error}; restore it from a backup") from error

    def unknown_meta(self) -> list[tuple[bytes, bytes]]:
        """What a newer minor version says of the store under keys of its own, as it is."""
        with self.env.begin() as txn, txn.cursor(db=self.env.databases[META]) as cursor:
            found = [(bytes(key), bytes(value)) for key, value in cursor.iternext()]
        known = IDENTITY, COUNTERS, FORMAT, FIELDS
        return [(key, value) for key, value in found if key not in known]
