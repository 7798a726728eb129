"""A filter as a tree: which documents pass, said once for parsers, planner and tests.

And, Or and Not of Tests. Nodes are frozen and hashable: equal trees are one key of a cache and of a
batch. What a tree means is defined by ``bitsift.filters.matching.matches``; the rules:

* **A field has values**: those at its path in the metadata, where a path is keys joined by dots. An
  array stands for its elements, and an array or an object within it likewise, so ``tags`` of
  ``{"tags": ["a", "b"]}`` is a and b, and ``by.name`` of ``{"by": [{"name": "x"}]}`` is x. A test
  holds if it holds for **any** value. (bitsift/filters/values.py)
* **Null counts as missing**: it is no value, wherever it is. A field *exists* if it has a value, at
  its path or below it: ``{}``, ``[]`` and ``[null]`` have none.
* **Types are apart**: string, number, bool and date. A test compares with values of its operand's
  type, and holds for none of another: ``gt 1`` is false for ``"2"``, ``eq 1`` for ``true``.
  - Numbers are equal by value, 1 and 1.0 too, and exactly: 2**53 and 2**53 + 1 differ.
  - Strings are equal and ordered by code point (the order of their UTF-8 bytes), as they are
    written: no case is folded, nothing is normalised.
  - A stored string that reads as a date (``date_of``) is a string *and* that date, an instant:
    ``eq Date`` and ``lt Date`` find it, and ``eq "2026-01-31"`` finds just this string.
    ``{"$date": "2026-01-31"}`` in metadata is a date alone.
* ``ne`` is the contrary of ``eq``, and ``nin`` of ``in``: a document without the field, or with
  another type, passes; one with an array passes if **no** element is equal.
* ``all``: every one of the operands is equal to some value.
* ``prefix``: a string that begins so.
* **Null as operand** of eq, ne, in and nin is "missing": ``eq None`` passes without the field.
* And of nothing passes every document, Or of nothing none. Not takes one node.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from bitsift.filters.dates import Date

DOCUMENT_ID = "$id"
"""The ``field`` of a Test of the document's id, which is a string and always there. No path in
metadata is written so: callers write ``id``, and ``metadata.id`` for a field of that name."""

Value = str | int | float | bool | Date
"""One typed value, in metadata or as an operand. Floats are finite."""

Operand = Value | None | tuple[Value | None, ...]
"""A tuple for ``in``, ``nin`` and ``all``, without repeats and in the order of ``sort_key``; a bool
for ``exists``; a string for ``prefix``; no bool and no None for gt, gte, lt, lte."""


class Operator(StrEnum):
    """How a Test compares the values of a field with its operand."""

    EQ = "eq"
    NE = "ne"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    IN = "in"
    NIN = "nin"
    EXISTS = "exists"
    PREFIX = "prefix"
    ALL = "all"


CONTRARIES = {Operator.NE: Operator.EQ, Operator.NIN: Operator.IN}
"""Operators that pass what others do not."""


class Kind(StrEnum):
    """The types that are apart."""

    NULL = "null"
    BOOL = "bool"
    NUMBER = "number"
    STRING = "string"
    DATE = "date"


_KINDS = {
    type(None): Kind.NULL,
    bool: Kind.BOOL,
    int: Kind.NUMBER,
    float: Kind.NUMBER,
    str: Kind.STRING,
    Date: Kind.DATE,
}
_ORDER = {kind: place for place, kind in enumerate(Kind)}


def kind_of(value: Value | None) -> Kind:
    """The type of one value; a bool is no number."""
    return _KINDS[type(value)]


def sort_key(value: Value | None) -> tuple[int, Value]:
    """Orders values by type, then by value. Equal keys: equal values of one type."""
    return _ORDER[kind_of(value)], 0 if value is None else value


@dataclass(frozen=True, slots=True)
class And:
    """Passes what all of its nodes pass."""

    of: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Or:
    """Passes what any of its nodes passes."""

    of: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Not:
    """Passes what its node does not pass."""

    of: Node


@dataclass(frozen=True, slots=True)
class Test:
    """Passes a document if a value of ``field`` stands to ``operand`` as ``operator`` says.

    ``field`` is a path in the metadata, or DOCUMENT_ID. Nothing is checked here: what comes from
    outside comes through ``bitsift.filters.operands``.
    """

    __test__ = False  # for pytest, which collects classes called Test…

    field: str
    operator: Operator
    operand: Operand
    _kinds: tuple[Kind, ...] = dataclasses.field(init=False, repr=False)
    """Of the operands: to Python, True and 1 are equal."""

    def __post_init__(self) -> None:
        operands = self.operand if isinstance(self.operand, tuple) else (self.operand,)
        object.__setattr__(self, "_kinds", tuple(map(kind_of, operands)))


Node = And | Or | Not | Test

EVERYTHING = And()
"""Passes every document."""


def nodes(root: Node) -> Iterator[Node]:
    """``root`` and everything below it."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, Not):
            waiting.append(node.of)
        elif not isinstance(node, Test):
            waiting.extend(node.of)


def fields_of(root: Node) -> frozenset[str]:
    """The fields that a filter tests."""
    return frozenset(node.field for node in nodes(root) if isinstance(node, Test))
