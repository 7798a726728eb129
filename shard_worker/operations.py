"""What can be done to the documents of a shard: the operations of ``Shard.write``, its one door.

Live writes, streams and bulk loads are the same operations. Each is done whole or not at all, and
what became of each of its documents is decided in the transaction that does it. All of them may be
sent again: an operation that was done changes nothing when it comes a second time in a row.

Each carries a ``version`` (clock.py); 0 has the shard's own clock choose one, which is newer than
all that is there. An operation with a version that finds a newer one came late, and changes
nothing: SUPERSEDED; one that finds its own came twice: UNCHANGED. So copies of a shard that get the
same operations, in whatever order, end up with the same documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import BitsiftError
from bitsift.shard_worker.clock import NO_VERSION
from bitsift.write_status import WriteStatus

T = TypeVar("T")


ABSENT = 0
Condition = int | None
"""What must be there for a document to be written or deleted: a document of this version, none
(``ABSENT``), or whatever there is (None)."""


def is_met(condition: Condition, held: int) -> bool:
    """``held`` is the version of the document that is there, 0 or less where none is."""
    return condition is None or condition == max(held, ABSENT)


@dataclass(frozen=True, slots=True, eq=False)
class Documents:
    """A batch of documents to store, column by column, with their int8 codes.

    ``codes`` int8 (n, width). ``metadata`` holds JSON object texts, ``""`` for none. ``positions``
    are stable numbers of the records in a bulk load (``LIVE_POSITION`` otherwise): the same
    record delivered twice has the same position, another record with the same id has not.
    """

    ids: Sequence[str]
    titles: Sequence[str]
    texts: Sequence[str]
    metadata: Sequence[str]
    positions: Sequence[int]
    codes: NDArray[np.int8]
    version: int = NO_VERSION

    def __post_init__(self) -> None:
        n = len(self.ids)
        lengths = {len(self.titles), len(self.texts), len(self.metadata), len(self.positions)}
        assert lengths <= {n}, (n, lengths)
        assert self.codes.ndim == 2, self.codes.shape
        assert len(self.codes) == n, self.codes.shape
        assert self.codes.dtype == np.int8, self.codes.dtype

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size_bytes(self) -> int:
        """About what it takes in RAM."""
        texts = (self.ids, self.texts, self.titles, self.metadata)
        return self.codes.nbytes + sum(len(one) for column in texts for one in column)


@dataclass(frozen=True, slots=True, eq=False)
class Upsert(Documents):
    """Store documents, in the place of those that have their ids; of several with one id the last.

    CREATED, UPDATED or UNCHANGED; CONFLICT where its condition of ``expected``, which has one for
    each document or none at all, does not hold.
    """

    expected: Sequence[Condition] = ()

    def without_conditions(self, places: Sequence[int]) -> Upsert:
        """Those of its documents at ``places``, to be stored whatever is there."""

        def of(column: Sequence[T]) -> list[T]:
            return [column[place] for place in places]

        texts = of(self.ids), of(self.titles), of(self.texts), of(self.metadata)
        return Upsert(*texts, of(self.positions), self.codes[list(places)], self.version)


@dataclass(frozen=True, slots=True, eq=False)
class Insert(Documents):
    """Store records of a bulk load: of several with one id that of the greatest position, in
    whatever order they come; none in the place of a document that did not come from the load.

    CREATED, UPDATED; UNCHANGED where this very record was stored before, else REJECTED. The id of a
    deleted document is taken while its deletion is remembered, through compactions too: UNCHANGED,
    for a load that resumes must not bring the document back. One with a newer version than the
    deletion may.
    """


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the documents with these ids: DELETED or MISSING; CONFLICT as with an upsert."""

    ids: Sequence[str]
    version: int = NO_VERSION
    expected: Sequence[Condition] = ()

    def without_conditions(self, places: Sequence[int]) -> Delete:
        """Those of its ids at ``places``, to be deleted whatever is there."""
        return Delete([self.ids[place] for place in places], self.version)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Confirm:
    """An upsert of documents that are believed to be there, without their vectors.

    ``digests`` are those of their contents (``content_digest``). UNCHANGED where the shard holds
    that content, sound, with a vector that the model made; else MISSING or REJECTED: send it as an
    Upsert then.
    """

    ids: Sequence[str]
    digests: Sequence[bytes]
    version: int = NO_VERSION

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Resume:
    """An insert of records that may have been stored by an earlier attempt, without their vectors.

    UNCHANGED where the record at that position was, or the id was deleted since; REJECTED where a
    later record has it, or a document that did not come from the load; else MISSING: send it as an
    Insert then.
    """

    ids: Sequence[str]
    positions: Sequence[int]
    version: int = NO_VERSION

    def __len__(self) -> int:
        return len(self.ids)


class Statuses(list[WriteStatus]):
    """The status of each document or id of an operation, and ``versions``: that of the document
    which is there then; 0 where there is none, or the operation need not know.
    """

    def __init__(self, found: Iterable[WriteStatus] = (), versions: Iterable[int] = ()) -> None:
        super().__init__(found)
        self.versions = list(versions) or [NO_VERSION] * len(self)


Operation = Upsert | Insert | Delete | Confirm | Resume
ConditionalOperation = Upsert | Delete
Outcome = list[WriteStatus] | BitsiftError
"""What became of an operation: the status of each of its documents or ids, or why it failed."""


def has_conditions(operation: Operation) -> bool:
    """Whether any of its documents has one."""
    return isinstance(operation, ConditionalOperation) and any(
        condition is not None for condition in operation.expected
    )


def versions_of(outcome: list[WriteStatus]) -> list[int]:
    """The versions that an operation says of its documents."""
    return outcome.versions if isinstance(outcome, Statuses) else [NO_VERSION] * len(outcome)


def statuses(outcomes: Sequence[Outcome]) -> list[list[WriteStatus]]:
    """The statuses of operations that were all done. Raises the error of the first that failed."""
    for outcome in outcomes:
        if isinstance(outcome, BitsiftError):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BitsiftError)]
