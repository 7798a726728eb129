"""What becomes of each document or id of an operation, decided in the transaction that does it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import lmdb
import numpy as np
from numpy.typing import NDArray

from bitsift.errors import Corrupt
from bitsift.shard_worker.clock import FIRST_VERSION, NO_VERSION
from bitsift.shard_worker.operations import (
    Confirm,
    Delete,
    Documents,
    Insert,
    Operation,
    Resume,
    Statuses,
    Upsert,
    has_conditions,
    is_met,
)
from bitsift.shard_worker.store.deletions import Deletions, Touched
from bitsift.shard_worker.store.ids import Lookup
from bitsift.shard_worker.store.packing import id_keys
from bitsift.shard_worker.store.row_reader import RowReader
from bitsift.shard_worker.store.tombstones import Tombstone
from bitsift.shard_worker.store.versions import Versions
from bitsift.shard_worker.types import GIVEN_VECTOR_POSITION
from bitsift.write_status import WriteStatus

_STAY = (WriteStatus.UNCHANGED, WriteStatus.CONFLICT)
"""What is there stays."""


def _none() -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Admitted:
    """What is to become of one operation: the status of each of its documents or ids, their keys
    uint64 (n,), the places of the documents to store, ascending, the rows that die, and what is to
    be remembered of deletions.
    """

    statuses: list[WriteStatus]
    keys: NDArray[np.uint64]
    stored: NDArray[np.int64]
    dead: NDArray[np.int64] = field(default_factory=_none)
    touched: Touched = field(default_factory=Touched)
    held: Sequence[int] = ()
    """The versions that were there, where the operation has conditions."""

    @property
    def changes(self) -> bool:
        """Whether anything is to be written."""
        return bool(len(self.stored) or len(self.dead) or len(self.touched.gone))

    def said(self, version: int) -> Statuses:
        """What is answered, where what is stored gets this ``version``."""
        versions = [it if status in _STAY else NO_VERSION for it, status in self._was()]
        for place in self.stored.tolist():
            versions[place] = version
        return Statuses(self.statuses, versions)

    def _was(self) -> Iterable[tuple[int, WriteStatus]]:
        return zip(self.held or [NO_VERSION] * len(self.statuses), self.statuses, strict=True)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """What a store keeps and an operation is decided by; format 1 keeps no versions."""

    reader: RowReader
    versions: Versions | None = None
    deletions: Deletions | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Admission:
    """One operation on its way: what it is decided by."""

    stored: Stored
    txn: lmdb.Transaction
    lookup: Lookup
    keys: NDArray[np.uint64]
    known: NDArray[np.bool_]
    buried: NDArray[np.bool_]
    """Under which keys tombstones lie; looked up only for what is decided by it."""
    version: int

    @property
    def reader(self) -> RowReader:
        return self.stored.reader

    def find(self, document_id: str, place: int) -> tuple[int | None, int | None]:
        """The living row that holds the id at ``place``, and its last row, living or dead."""
        if not self.known[place]:
            return None, None
        last = self.reader.newest_row_of(self.txn, self.lookup, document_id, self.keys[place])
        alive = last is not None and not self.reader.is_dead(self.txn, last)
        return last if alive else None, last

    def held(self, row: int | None) -> int:
        """The version of the document in ``row``; 0 for none."""
        versions = self.stored.versions
        if row is None:
            return NO_VERSION
        return max(FIRST_VERSION, NO_VERSION if versions is None else versions.of(self.txn, row))

    def deletion(self, document_id: str, place: int, last: int | None) -> Tombstone | None:
        """What is remembered of the deletion of an id that no living row has."""
        if self.stored.deletions is None or (last is None and not self.buried[place]):
            return None
        return self.stored.deletions.of(self.txn, document_id, self.keys[place], last)

    def late(
        self, document_id: str, place: int, row: int | None, last: int | None
    ) -> WriteStatus | None:
        """SUPERSEDED where the document in ``row``, or else the deletion of the id, is newer than
        this operation, UNCHANGED where it is of this operation, else None. An operation without a
        version of its own is newer than all that is there.
        """
        if self.version == NO_VERSION:
            return None
        if row is not None:
            versions = self.stored.versions
            held = NO_VERSION if versions is None else versions.of(self.txn, row)
        else:
            stone = self.deletion(document_id, place, last)
            held = NO_VERSION if stone is None else stone.version
        if held < self.version:
            return None
        return WriteStatus.UNCHANGED if held == self.version else WriteStatus.SUPERSEDED

    def status_of_record(
        self, document_id: str, place: int, position: int
    ) -> tuple[WriteStatus, int | None]:
        """What becomes of the record at ``position`` of a bulk load, and the row that it replaces:
        CREATED where its id is free, UPDATED where the load stored an earlier record under it.

        The id of a deleted document is not free while that is remembered: a load that goes on must
        not bring the document back. One with a version that is newer than the deletion may.
        """
        row, last = self.find(document_id, place)
        if row is None and (stone := self.deletion(document_id, place, last)) is not None:
            free = self.version > stone.version
            return WriteStatus.CREATED if free else WriteStatus.UNCHANGED, None
        if last is None:
            return WriteStatus.CREATED, None
        try:
            held = self.reader.content(self.txn, last)[4]
        except Corrupt:
            return WriteStatus.REJECTED, None
        if held == position >= 0:
            return WriteStatus.UNCHANGED, None
        if row is not None and 0 <= held < position:
            return WriteStatus.UPDATED, row
        return WriteStatus.REJECTED, None


def admit(stored: Stored, txn: lmdb.Transaction, lookup: Lookup, operation: Operation) -> Admitted:
    """Decide on ``operation`` by what ``txn`` sees; nothing is written yet.

    What comes late, by its version, changes nothing: SUPERSEDED, or UNCHANGED the second time.
    """
    keys = id_keys(operation.ids)
    known = lookup.holds(txn, keys)
    buried = np.zeros(len(keys), dtype=np.bool_)
    versioned = operation.version != NO_VERSION
    if stored.deletions is not None and (versioned or isinstance(operation, Insert | Resume)):
        buried = stored.deletions.have_tombstones(txn, keys)
    admission = _Admission(stored, txn, lookup, keys, known, buried, operation.version)
    match operation:
        case Delete():
            return _delete(admission, operation)
        case Confirm():
            return _confirm(admission, operation)
        case Resume():
            return _resume(admission, operation)
    conditional = has_conditions(operation)
    if not conditional and not (known | buried).any() and len(np.unique(keys)) == len(keys):
        every = np.arange(len(keys), dtype=np.int64)
        created, unseen = [WriteStatus.CREATED] * len(keys), isinstance(operation, Insert)
        return Admitted(created, keys, every, touched=Touched(revived=_none() if unseen else every))
    if isinstance(operation, Upsert):
        return _upsert(admission, operation)
    return _insert(admission, operation)


def _places(places: Sequence[int]) -> NDArray[np.int64]:
    return np.array(places, dtype=np.int64)


def _delete(admission: _Admission, delete: Delete) -> Admitted:
    """Where other copies of the shard got the same deletion, by its version, an id that is missing
    here is remembered as deleted too.
    """
    statuses, dead, gone = list[WriteStatus](), set[int](), list[int]()
    conditional, helds = has_conditions(delete), list[int]()
    for place, document_id in enumerate(delete.ids):
        row, last = admission.find(document_id, place)
        if (late := admission.late(document_id, place, row, last)) is not None:
            statuses.append(late)
        elif conditional and not is_met(delete.expected[place], admission.held(row)):
            statuses.append(WriteStatus.CONFLICT)
        elif row is None or row in dead:
            statuses.append(WriteStatus.MISSING)
            if row is None and delete.version != NO_VERSION:
                gone.append(place)
        else:
            statuses.append(WriteStatus.DELETED)
            dead.add(row)
        if conditional:
            helds.append(admission.held(row))
    touched = Touched(gone=_places(gone), changed=np.flatnonzero(admission.known))
    dying = _places(sorted(dead))
    return Admitted(statuses, admission.keys, _none(), dying, touched, held=helds)


def _confirm(admission: _Admission, confirm: Confirm) -> Admitted:
    """A damaged document is not confirmed: the upsert that follows replaces it."""
    reader, txn = admission.reader, admission.txn
    statuses = []
    for place, (document_id, digest) in enumerate(zip(confirm.ids, confirm.digests, strict=True)):
        row, _ = admission.find(document_id, place)
        if row is None:
            statuses.append(WriteStatus.MISSING)
        elif (
            reader.has_content(txn, row, digest)
            and reader.intact(row, [reader.record(txn, row)])[0]
        ):
            statuses.append(WriteStatus.UNCHANGED)
        else:
            statuses.append(WriteStatus.REJECTED)
    return Admitted(statuses, admission.keys, _none())


def _resume(admission: _Admission, resume: Resume) -> Admitted:
    statuses = []
    for place, (document_id, position) in enumerate(zip(resume.ids, resume.positions, strict=True)):
        status, _ = admission.status_of_record(document_id, place, position)
        is_wanted = status in (WriteStatus.CREATED, WriteStatus.UPDATED)
        statuses.append(WriteStatus.MISSING if is_wanted else status)
    return Admitted(statuses, admission.keys, _none())


def _upsert(admission: _Admission, batch: Upsert) -> Admitted:
    """The same content is stored again only for a newer version: other copies of the shard have it,
    and what came in between must lose against it here as well.
    """
    last_places = {document_id: place for place, document_id in enumerate(batch.ids)}
    statuses = [WriteStatus.UNCHANGED] * len(batch)
    stored, dead, revived = list[int](), list[int](), list[int]()
    held = [NO_VERSION] * len(batch) if has_conditions(batch) else []
    for document_id, place in last_places.items():
        row, last = admission.find(document_id, place)
        if (late := admission.late(document_id, place, row, last)) is not None:
            statuses[place] = late
            continue
        if held:
            held[place] = admission.held(row)
            if not is_met(batch.expected[place], held[place]):
                statuses[place] = WriteStatus.CONFLICT
                continue
        same = row is not None and _is_same(admission, row, batch, place)
        if same and batch.version == NO_VERSION:
            continue
        stored.append(place)
        if not same:
            statuses[place] = WriteStatus.CREATED if row is None else WriteStatus.UPDATED
        if row is None:
            revived.append(place)
        else:
            dead.append(row)
    return replace(_stored(admission, statuses, stored, dead, revived), held=held)


def _stored(
    admission: _Admission,
    statuses: list[WriteStatus],
    stored: list[int],
    dead: list[int],
    revived: list[int],
) -> Admitted:
    """What becomes of documents, those of ``revived`` among the ``stored`` places."""
    changed = _places([place for place in revived if admission.known[place]])
    touched = Touched(revived=_places(revived), changed=changed)
    places = _places(sorted(stored)), _places(dead)
    return Admitted(statuses, admission.keys, *places, touched)


def _insert(admission: _Admission, batch: Documents) -> Admitted:
    """Of several records with one id that of the greatest position wins, in whatever order."""
    statuses = [WriteStatus.REJECTED] * len(batch)
    winners = dict[str, int]()
    for place, document_id in enumerate(batch.ids):
        other = winners.get(document_id)
        if other is None or batch.positions[other] < batch.positions[place]:
            winners[document_id] = place
    stored, dead, revived = list[int](), list[int](), list[int]()
    for document_id, place in winners.items():
        position = batch.positions[place]
        statuses[place], row = admission.status_of_record(document_id, place, position)
        if row is not None:
            dead.append(row)
        elif statuses[place] is WriteStatus.CREATED:
            if admission.buried[place] or admission.known[place]:
                revived.append(place)
        else:
            continue
        stored.append(place)
    return _stored(admission, statuses, stored, dead, revived)


def _is_same(admission: _Admission, row: int, batch: Documents, place: int) -> bool:
    """Whether the document in ``row`` says what the one at ``place`` says.

    The model makes vectors a little different each time, so they are compared only where one was
    given. A sound document takes the place of a damaged one.
    """
    reader, txn = admission.reader, admission.txn
    try:
        content = reader.content(txn, row)
    except Corrupt:
        return False
    if content[1:4] != (batch.titles[place], batch.texts[place], batch.metadata[place]):
        return False
    record = reader.record(txn, row)
    if not reader.intact(row, [record])[0]:
        return False
    if batch.positions[place] != GIVEN_VECTOR_POSITION:
        return content[4] != GIVEN_VECTOR_POSITION
    return bool(record[: reader.width] == batch.codes[place].tobytes())
