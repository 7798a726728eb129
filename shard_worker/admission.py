"""What becomes of each document or id of an operation, decided in the transaction that does it."""

from __future__ import annotations

from dataclasses import dataclass

import lmdb
import numpy as np
from numpy.typing import NDArray

from shard_worker.errors import Corrupt
from shard_worker.held import HeldRows
from shard_worker.ids import Lookup
from shard_worker.packing import id_keys
from shard_worker.types import GIVEN_VECTOR_POSITION, Deletes, Documents, Operation, Outcome

_NO_ROWS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Admitted:
    """What is to become of one operation: the outcome of each of its documents or ids, their keys
    uint64 (n,), the places of the documents to store, ascending, and the rows that die.
    """

    outcomes: list[Outcome]
    keys: NDArray[np.uint64]
    stored: NDArray[np.int64]
    dead: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Admission:
    """One operation on its way: what it is decided by."""

    held: HeldRows
    txn: lmdb.Transaction
    lookup: Lookup
    keys: NDArray[np.uint64]
    known: NDArray[np.bool_]

    def row_of(self, document_id: str, place: int) -> int | None:
        """The living row that holds the id at ``place``."""
        if not self.known[place]:
            return None
        return self.held.row_of(self.txn, self.lookup, document_id, self.keys[place])

    def newest_row_of(self, document_id: str, place: int) -> int | None:
        """The last row of the id at ``place``, living or dead."""
        if not self.known[place]:
            return None
        return self.held.newest_row_of(self.txn, self.lookup, document_id, self.keys[place])


def admit(held: HeldRows, txn: lmdb.Transaction, lookup: Lookup, operation: Operation) -> Admitted:
    """Decide on ``operation`` by what ``txn`` sees; nothing is written yet."""
    keys = id_keys(operation.ids)
    known = lookup.holds(txn, keys)
    admission = _Admission(held, txn, lookup, keys, known)
    if isinstance(operation, Deletes):
        return _deletes(admission, operation)
    if not known.any() and len(np.unique(keys)) == len(keys):
        everything = np.arange(len(keys), dtype=np.int64)
        return Admitted([Outcome.STORED] * len(keys), keys, everything, _NO_ROWS)
    return (_upserts if operation.replace else _loaded)(admission, operation)


def _deletes(admission: _Admission, deletes: Deletes) -> Admitted:
    outcomes, dead = [], set[int]()
    for place, document_id in enumerate(deletes.ids):
        row = admission.row_of(document_id, place)
        gone = row is None or row in dead
        outcomes.append(Outcome.MISSING if gone else Outcome.DELETED)
        if row is not None:
            dead.add(row)
    return Admitted(outcomes, admission.keys, _NO_ROWS, np.array(sorted(dead), dtype=np.int64))


def _upserts(admission: _Admission, batch: Documents) -> Admitted:
    """Of several documents of one id the last counts; the others are STORED and gone at once."""
    last = {document_id: place for place, document_id in enumerate(batch.ids)}
    outcomes = [Outcome.STORED] * len(batch)
    stored, dead = list[int](), list[int]()
    for document_id, place in last.items():
        row = admission.row_of(document_id, place)
        if row is not None and _is_same(admission, row, batch, place):
            outcomes[place] = Outcome.SAME
            continue
        stored.append(place)
        if row is not None:
            outcomes[place] = Outcome.REPLACED
            dead.append(row)
    rows = np.array(sorted(stored), dtype=np.int64), np.array(dead, dtype=np.int64)
    return Admitted(outcomes, admission.keys, *rows)


def _loaded(admission: _Admission, batch: Documents) -> Admitted:
    """Of several documents of one id the first counts, and one that is there stays.

    One that was deleted stays deleted: a load that was killed and goes on brings it again.
    """
    outcomes, winners = [], dict[str, int]()
    for place, document_id in enumerate(batch.ids):
        row = admission.newest_row_of(document_id, place)
        if row is not None:
            outcomes.append(_of_held(admission, row, batch.positions[place]))
        elif document_id in winners:
            outcomes.append(Outcome.DUPLICATE)
        else:
            winners[document_id] = place
            outcomes.append(Outcome.STORED)
    return Admitted(
        outcomes, admission.keys, np.array(list(winners.values()), dtype=np.int64), _NO_ROWS
    )


def _of_held(admission: _Admission, row: int, position: int) -> Outcome:
    """Whether the record at ``position`` of a bulk load is the one that is in ``row`` already."""
    try:
        same = admission.held.content(admission.txn, row)[4] == position and position >= 0
    except Corrupt:
        same = False
    return Outcome.SAME if same else Outcome.DUPLICATE


def _is_same(admission: _Admission, row: int, batch: Documents, place: int) -> bool:
    """Whether the document in ``row`` says what the one at ``place`` says.

    The model makes vectors a little different each time, so they are compared only where one was
    given. A sound document takes the place of a damaged one.
    """
    held, txn = admission.held, admission.txn
    try:
        content = held.content(txn, row)
    except Corrupt:
        return False
    if content[1:4] != (batch.titles[place], batch.texts[place], batch.metadata[place]):
        return False
    record = held.record(txn, row)
    if not held.intact(row, [record])[0]:
        return False
    if batch.positions[place] != GIVEN_VECTOR_POSITION:
        return content[4] != GIVEN_VECTOR_POSITION
    return bool(record[: held.width] == batch.codes[place].tobytes())
