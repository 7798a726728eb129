"""What is known of which rows pass a filter: a lower and an upper bound, as packed bits.

A row of the lower bound passes, one outside of the upper bound does not, and of those between
the document must be read: a value that was not kept, a field that is not indexed, a damaged column.
And, Or and Not hold for bounds as for sets, so the answer is right whatever the index knows.

Bits are packed as FAISS reads them, lowest first; beyond the last row they are 0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.filters.dates import Date
from bitsift.filters.tree import CONTRARIES, DOCUMENT_ID, And, Node, Not, Operator, Or, Test
from bitsift.shard_worker.fields.column import Column, id_hash

Bits = NDArray[np.uint8]
_RANGES = (Operator.GT, Operator.GTE, Operator.LT, Operator.LTE)


def packed(rows: Iterable[NDArray[Any]], count: int) -> Bits:
    """``rows`` of ``count`` as bits: in pieces, each of row numbers or of a mark for each row."""
    flags: NDArray[np.bool_] | None = None
    for piece in rows:
        if piece.dtype == np.bool_:
            flags = piece if flags is None else flags | piece
        elif len(piece):
            flags = np.zeros(count, dtype=np.bool_) if flags is None else flags.copy()
            flags[piece] = True
    if flags is None:
        return np.zeros(-(-count // 8), dtype=np.uint8)
    return np.packbits(flags, bitorder="little")


def put(bits: Bits, at: int, more: Bits, skipped: int, count: int) -> None:
    """Add ``more``, bits of ``count`` rows of which the first ``skipped`` are left out, to ``bits``
    from row ``at`` on; what goes beyond its end is left out, too.
    """
    if skipped % 8 or at % 8:
        flags = np.unpackbits(more, count=count, bitorder="little")[skipped:]
        before = np.zeros(at % 8, dtype=np.uint8)
        more = np.packbits(np.concatenate([before, flags]), bitorder="little")
    else:
        more = more[skipped // 8 :]
    target = bits[at // 8 : at // 8 + len(more)]
    target |= more[: len(target)]


def full(count: int) -> Bits:
    """The bits of all of ``count`` rows."""
    bits = np.full(-(-count // 8), 0xFF, dtype=np.uint8)
    if count % 8:
        bits[-1] = (1 << count % 8) - 1
    return bits


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """``lower`` and ``upper``, bits of the same ``count`` rows; nobody writes to them."""

    lower: Bits
    upper: Bits
    count: int

    @classmethod
    def exactly(cls, bits: Bits, count: int) -> Bounds:
        return cls(bits, bits, count)

    @classmethod
    def nothing(cls, count: int) -> Bounds:
        return cls.exactly(np.zeros(-(-count // 8), dtype=np.uint8), count)

    @classmethod
    def unknown(cls, count: int) -> Bounds:
        """Of rows whose documents must be read."""
        return cls(np.zeros(-(-count // 8), dtype=np.uint8), full(count), count)

    @property
    def doubtful(self) -> Bits:
        """The rows whose documents must be read."""
        return np.zeros_like(self.lower) if self.is_exact else self.upper & ~self.lower

    @property
    def is_exact(self) -> bool:
        """Whether nothing has to be read. May be False where nothing has to be, either."""
        return self.lower is self.upper

    def contrary(self) -> Bounds:
        whole = full(self.count)
        lower = whole & ~self.upper
        return Bounds(lower, lower if self.is_exact else whole & ~self.lower, self.count)

    def both(self, other: Bounds) -> Bounds:
        lower = self.lower & other.lower
        exact = self.is_exact and other.is_exact
        return Bounds(lower, lower if exact else self.upper & other.upper, self.count)

    def either(self, other: Bounds) -> Bounds:
        lower = self.lower | other.lower
        exact = self.is_exact and other.is_exact
        return Bounds(lower, lower if exact else self.upper | other.upper, self.count)

    def without(self, rows: Bits) -> Bounds:
        """The same, but that ``rows`` do not pass."""
        lower = self.lower & ~rows
        return Bounds(lower, lower if self.is_exact else self.upper & ~rows, self.count)


ColumnOf = Callable[[str], Column | None]
"""The column of a field, None where no row has it. Raises Unindexed."""


class Unindexed(Exception):
    """Of this field nothing is known in this segment."""


def bounds_of(node: Node, column_of: ColumnOf, count: int) -> Bounds:
    """What a segment of ``count`` rows knows of ``node``."""
    if isinstance(node, Not):
        return bounds_of(node.of, column_of, count).contrary()
    if isinstance(node, And):
        found = Bounds.exactly(full(count), count)
        for group in _grouped(node.of):
            found = found.both(_of_group(group, column_of, count))
            if not found.upper.any():
                break
        return found
    if isinstance(node, Or):
        found = Bounds.nothing(count)
        for each in node.of:
            found = found.either(bounds_of(each, column_of, count))
        return found
    try:
        return _of_test(node, column_of(node.field), count)
    except Unindexed:
        return Bounds.unknown(count)


def _grouped(nodes: Sequence[Node]) -> list[list[Node]]:
    """Each alone, but tests of one field for a range, of operands of one type, together."""
    found: dict[object, list[Node]] = {}
    for place, node in enumerate(nodes):
        key: object = place
        if isinstance(node, Test) and node.operator in _RANGES and node.field != DOCUMENT_ID:
            is_float = isinstance(node.operand, float)
            key = node.field, int if is_float else type(node.operand)
        found.setdefault(key, []).append(node)
    return list(found.values())


def _of_group(group: Sequence[Node], column_of: ColumnOf, count: int) -> Bounds:
    tests = [each for each in group if isinstance(each, Test)]
    if len(tests) > 1:
        with contextlib.suppress(Unindexed):
            column = column_of(tests[0].field)
            rows = None if column is None else column.between(tests)
            if rows is not None and column is not None:
                return _with_doubt(packed(rows, count), tests[0], column, count)
    found = bounds_of(group[0], column_of, count)
    for each in group[1:]:
        found = found.both(bounds_of(each, column_of, count))
    return found


def _of_test(test: Test, column: Column | None, count: int) -> Bounds:
    """The operators that are made of others, as ``bitsift.filters.matching`` defines them."""
    operator, operand = test.operator, test.operand
    if operator in CONTRARIES:
        contrary = Test(test.field, CONTRARIES[operator], operand)
        return _of_test(contrary, column, count).contrary()
    if operator is Operator.EXISTS:
        if test.field == DOCUMENT_ID:
            return Bounds.exactly(full(count), count) if operand else Bounds.nothing(count)
        existing = _existing(column, count)
        return existing if operand else existing.contrary()
    if operator is Operator.ALL:
        assert isinstance(operand, tuple), operand
        found = Bounds.exactly(full(count), count)
        for each in operand:
            found = found.both(_of_test(Test(test.field, Operator.EQ, each), column, count))
        return found
    if test.field == DOCUMENT_ID:
        return _of_ids(test, column, count)
    found = Bounds.nothing(count) if column is None else _of_column(test, column, count)
    missing = operand is None or (operator is Operator.IN and None in _several(operand))
    return found.either(_existing(column, count).contrary()) if missing else found


def _several(operand: object) -> tuple[object, ...]:
    assert isinstance(operand, tuple), operand
    return operand


def _existing(column: Column | None, count: int) -> Bounds:
    if column is None:
        return Bounds.nothing(count)
    return Bounds.exactly(packed(column.present(), count), count)


def _of_ids(test: Test, column: Column | None, count: int) -> Bounds:
    """Of ids two bytes are kept: those of others are among the rows that are in doubt."""
    operands = test.operand if isinstance(test.operand, tuple) else (test.operand,)
    equal = test.operator in (Operator.EQ, Operator.IN)
    if column is None or not equal or any(isinstance(each, Date) for each in operands):
        return Bounds.unknown(count)
    hashes = tuple(id_hash(each) for each in operands if isinstance(each, str))
    alike = packed(column.found(Test(test.field, Operator.IN, hashes)), count)
    return Bounds(np.zeros_like(alike), alike, count)


def _of_column(test: Test, column: Column, count: int) -> Bounds:
    return _with_doubt(packed(column.found(test), count), test, column, count)


def _with_doubt(lower: Bits, test: Test, column: Column, count: int) -> Bounds:
    """``lower``, and rows with a value that is not kept and may pass: of any range of its type."""
    doubtful = [rows for rows in column.doubtful(test) if len(rows)]
    if not doubtful:
        return Bounds.exactly(lower, count)
    return Bounds(lower, lower | packed(doubtful, count), count)
