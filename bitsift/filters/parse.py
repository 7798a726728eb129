"""A filter as JSON, as users of Pinecone, Chroma and MongoDB know it:
``{"lang": "de", "year": {"$gte": 2020}, "$or": [{"tags": "a"}, {"tags": {"$exists": false}}]}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bitsift.filters.dates import Date
from bitsift.filters.operands import FilterError, fail, name_of, path_of, shown, test_of
from bitsift.filters.tree import And, Node, Not, Operator, Or, Test, nodes
from bitsift.filters.values import DATE_KEY
from bitsift.nearest import no_such_name

DEPTH_MAX = 32
"""``$and``, ``$or`` and ``$not`` within each other."""
NODES_MAX = 1_000
"""Tests, and what joins them."""
_OPERATORS = {f"${operator}": operator for operator in Operator}
_AND, _OR, _NOT = "$and", "$or", "$not"
_JOINING = (_AND, _OR, _NOT)
_MEANT = {
    "$nor": '{"$not": {"$or": […]}}',
    "$contains": "$eq, which any element of an array may satisfy",
    "$not_contains": "$ne, which no element of an array may fail",
    "$regex": "$prefix",
    "$startswith": "$prefix",
    "$between": "$gte and $lte",
    "$size": "$exists",
    "$elemMatch": "a path with a dot, of which any element counts",
}
"""What serves for operators of other systems whose names are not near."""


def parse_json(written: Any) -> Node:
    """The tree of a filter that was read from JSON; ``{}`` passes everything. Raises FilterError.

    Dates of Python count as ``{"$date": …}``.
    """
    root = _filter(written, "", 0)
    check_nodes(root)
    return root


def join(kind: type[And] | type[Or], parts: Sequence[Node]) -> Node:
    """``parts`` as one node: parts of the same kind are taken apart, a single one is itself."""
    flat: list[Node] = []
    for part in parts:
        flat.extend(part.of if isinstance(part, kind) else (part,))
    return flat[0] if len(flat) == 1 else kind(tuple(flat))


def check_depth(depth: int, place: str) -> None:
    """Raises FilterError."""
    if depth > DEPTH_MAX:
        raise fail(place, f"is nested more than {DEPTH_MAX} deep")


def check_nodes(root: Node) -> None:
    """Raises FilterError."""
    count = sum(1 for _ in nodes(root))
    if count > NODES_MAX:
        raise FilterError(f"a filter of {count:,} conditions, at most {NODES_MAX:,}")


def _filter(written: Any, place: str, depth: int) -> Node:
    check_depth(depth, place)
    if not isinstance(written, Mapping):
        raise fail(place, f'a filter is an object such as {{"year": {{"$gte": 2020}}}}, not '
                   f"{shown(written)}")  # fmt: skip
    return join(And, [_entry(key, below, place, depth) for key, below in written.items()])


def _entry(key: Any, below: Any, place: str, depth: int) -> Node:
    at = _below(place, key)
    if not isinstance(key, str):
        raise fail(place, f"{shown(key)} is no name of a field")
    match key:
        case "$and":
            return join(And, list(_several(below, at, depth)))
        case "$or":
            return join(Or, list(_several(below, at, depth)))
        case "$not":
            return Not(_filter(below, at, depth + 1))
    if key in _OPERATORS:
        raise fail(at, f'belongs to a field: {{"year": {{"{key}": …}}}}')
    if key.startswith("$"):
        raise fail(place, _unknown(key, _JOINING))
    return _field(path_of(key, at), below, at, depth)


def _several(written: Any, place: str, depth: int) -> Iterator[Node]:
    if not isinstance(written, list | tuple):
        raise fail(place, f"takes a list of filters, not {shown(written)}")
    for at, part in enumerate(written):
        yield _filter(part, _below(place, at), depth + 1)


def _field(path: str, written: Any, place: str, depth: int) -> Node:
    """A value, or an object of operators that must all hold."""
    if not isinstance(written, Mapping) or DATE_KEY in written:
        return test_of(path, Operator.EQ, written, place)
    if not written:
        raise fail(place, 'no operator: write {"$exists": true}, or a value')
    return join(And, [_test(path, key, value, place, depth) for key, value in written.items()])


def _test(path: str, key: Any, value: Any, place: str, depth: int) -> Node:
    at = _below(place, key)
    if key in _OPERATORS:
        return test_of(path, _OPERATORS[key], value, at)
    if key == _NOT:
        check_depth(depth + 1, at)
        if not isinstance(value, Mapping):
            raise fail(at, f"takes an object of operators, not {shown(value)}: did you mean $ne?")
        return Not(_field(path, value, at, depth + 1))
    if key in _JOINING:
        raise fail(at, f'belongs above fields: {{"{key}": [{{"year": 2020}}, …]}}')
    if isinstance(key, str) and not key.startswith("$") and f"${key}" not in _OPERATORS:
        raise fail(place, f"a field within another is written with a dot: {name_of(path)}.{key}")
    raise fail(place, _unknown(str(key), _OPERATORS))


def _unknown(key: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    if key in _MEANT:
        return f"there is no such operator as {key}; use {_MEANT[key]}"
    others = f"the operators are {', '.join(known)}"
    return no_such_name(f"operator as {shown(key)}", key, list(known), others)


def _below(place: str, key: object) -> str:
    step = str(key)[:64]
    return f"{place}.{step}" if place else step


def as_json(node: Node) -> dict[str, Any]:
    """The filter as ``parse_json`` reads it: equal trees are written the same."""
    match node:
        case And(of):
            return {_AND: [as_json(each) for each in of]} if of else {}
        case Or(of):
            return {_OR: [as_json(each) for each in of]}
        case Not(of):
            return {_NOT: as_json(of)}
        case Test(field, Operator.EQ, operand):
            return {name_of(field): value_as_json(operand)}
        case Test(field, operator, operand):
            return {name_of(field): {f"${operator}": value_as_json(operand)}}


def value_as_json(operand: Any) -> Any:
    """An operand, or a value, as JSON has it."""
    if isinstance(operand, tuple):
        return [value_as_json(each) for each in operand]
    return {DATE_KEY: str(operand)} if isinstance(operand, Date) else operand
