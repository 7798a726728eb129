"""A segment of the field index: up to 65,536 consecutive rows, once written never changed.

It is a function of its rows' documents, which never change either: a deleted row stays in it, and a
search leaves it out as always. It has a column for each field, and a catalog, which says which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from bitsift.filters.tree import DOCUMENT_ID
from bitsift.filters.values import values_of
from bitsift.shard_worker.fields.building import (
    COLUMN_BYTES_MIN,
    COLUMN_BYTES_PER_ROW_MAX,
    Builder,
    packed_hashes,
)
from bitsift.shard_worker.fields.column import id_hash, utf8
from bitsift.shard_worker.types import FieldFacts

FIELDS_MAX = 256
"""Fields of a segment, the first ones that occur; others are looked for in the documents. So many
may be chosen."""
FIELD_BYTES_MAX = 256
"""Of a field's path, as UTF-8."""
FIELDS_SAID_MAX = 100
"""Fields that a shard speaks of."""
_TYPES = ("string", "number", "bool", "date")
LAYOUT = 1
"""How blocks are laid out: segments of another layout are not read, and written again."""
Texts = tuple[str, str]
"""Of a document: its id, and its metadata as JSON text, "" for none."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """The catalog of the rows from ``first`` on, ``count`` of them.

    ``columns`` has the number of each indexed field's column, ``facts`` what is said of each field:
    of one that is not indexed, only its ``rows``. Where there were more fields than are looked at
    ``is_complete`` is False. ``unread`` are rows, counted from ``first``, whose documents are
    damaged.
    """

    first: int
    count: int
    columns: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    is_complete: bool = True
    unread: Sequence[int] = ()

    @property
    def stop(self) -> int:
        return self.first + self.count

    @property
    def numbers(self) -> range:
        """Of its blocks: the catalog is 0."""
        return range(len(self.columns) + 1)

    def own(self, marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What ``marks``, of all rows or of the first ones, say of its rows: bool (count,)."""
        found = np.zeros(self.count, dtype=np.bool_)
        part = marks[self.first : self.stop]
        found[: len(part)] = part
        return found

    def packed(self) -> bytes:
        names = sorted(self.columns, key=lambda name: self.columns[name])
        said = {"layout": LAYOUT, "complete": self.is_complete, "unread": self.unread}
        return orjson.dumps({**said, "columns": names, "facts": self.facts})

    @classmethod
    def unpacked(cls, first: int, count: int, packed: bytes) -> Segment | None:
        """What ``packed`` gave; None where that is of another layout."""
        said: dict[str, Any] = orjson.loads(packed)
        if said.get("layout") != LAYOUT:
            return None
        columns = {name: number for number, name in enumerate(said["columns"], 1)}
        return cls(first, count, columns, said["facts"], said["complete"], said["unread"])


def facts_of(segments: Sequence[Segment]) -> dict[str, FieldFacts]:
    """What ``segments`` together say of the fields that the most rows have."""
    rows: Counter[str] = Counter()
    values: dict[str, int] = {}
    types: dict[str, set[str]] = {}
    unindexed = set[str]()
    for segment in segments:
        for name, said in segment.facts.items():
            rows[name] += said["rows"]
            kept = {kind: said[kind] for kind in _TYPES if kind in said}
            values[name] = max(values.get(name, 0), sum(kept.values()))
            odd = {kind for of, kind in (("long", "string"), ("inexact", "number")) if of in said}
            types.setdefault(name, set()).update(kept, odd)
            if name not in segment.columns:
                unindexed.add(name)
    return {
        name: FieldFacts(count, values[name], sorted(types[name]), name not in unindexed)
        for name, count in rows.most_common(FIELDS_SAID_MAX)
    }


def build(
    first: int,
    count: int,
    documents: Iterable[Texts | None],
    chosen: Sequence[str] = (),
) -> tuple[Segment, dict[int, bytes]]:
    """The segment of the rows from ``first`` on, ``count`` of them, and its blocks by number.

    ``documents`` has one for each row, None where it cannot be read. Fields have columns if they
    are ``chosen`` or below one that is; () is all.
    """
    making = _Making(count, chosen)
    for row, texts in enumerate(documents):
        making.add(row, texts)
    assert making.rows == count, (making.rows, count)
    builders = making.builders
    columns = {name: number for number, name in enumerate([DOCUMENT_ID, *sorted(builders)], 1)}
    facts = making.unindexed | {name: builder.facts() for name, builder in builders.items()}
    facts = {name: facts[name] for name in sorted(facts)}
    segment = Segment(first, count, columns, facts, making.is_complete, tuple(making.unread))
    blocks = {0: segment.packed(), columns[DOCUMENT_ID]: packed_hashes(making.hashes)}
    return segment, blocks | {columns[name]: it.packed(count) for name, it in builders.items()}


class _Making:
    """A segment while its documents are read."""

    def __init__(self, count: int, chosen: Sequence[str]) -> None:
        self._bytes_max = COLUMN_BYTES_MIN + COLUMN_BYTES_PER_ROW_MAX * count
        self._chosen = frozenset(chosen)
        self.rows = 0
        self.builders: dict[str, Builder] = {}
        self.hashes: list[int] = []
        self.unindexed: dict[str, dict[str, int]] = {}
        self.is_complete = True
        self.unread: list[int] = []

    def add(self, row: int, texts: Texts | None) -> None:
        self.rows += 1
        if texts is None:
            self.unread.append(row)
            self.hashes.append(-1)
            return
        document_id, metadata = texts
        self.hashes.append(id_hash(document_id))
        if not metadata:
            return
        found = values_of(orjson.loads(metadata), self._is_known, FIELD_BYTES_MAX)
        for name, values in found.items():
            builder = self.builders.get(name)
            if builder is None:
                self.unindexed[name]["rows"] += 1
                continue
            builder.add(row, values)
            if builder.value_bytes > self._bytes_max:
                self.unindexed[name] = {"rows": builder.facts()["rows"]}
                del self.builders[name]

    def _is_known(self, name: str) -> bool:
        """Whether anything is kept of the field; it has a builder from now on, if there is room."""
        if name in self.builders or name in self.unindexed:
            return True
        if name == DOCUMENT_ID:  # no filter names such a field
            return False
        is_chosen = not self._chosen or self._is_chosen(name)
        others = 0 if self._chosen and is_chosen else len(self.unindexed)  # these take no room
        if len(self.builders) + others >= FIELDS_MAX or len(utf8(name)) > FIELD_BYTES_MAX:
            self.is_complete = False
            return False
        if is_chosen:
            self.builders[name] = Builder()
        else:
            self.unindexed[name] = {"rows": 0}
        return True

    def _is_chosen(self, name: str) -> bool:
        while name not in self._chosen:
            name, dot, _ = name.rpartition(".")
            if not dot:
                return False
        return True
