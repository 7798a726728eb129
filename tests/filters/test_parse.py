"""A filter as JSON: what is read, and what is refused in which words."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.filters.dates import Date
from bitsift.filters.forms import canonical
from bitsift.filters.operands import VALUES_MAX, FilterError
from bitsift.filters.parse import DEPTH_MAX, NODES_MAX, as_json, parse_json
from bitsift.filters.tree import DOCUMENT_ID, EVERYTHING, And, Not, Operator, Or, Test
from tests.filters.brute_force import random_filter

A, B = Test("a", Operator.EQ, 1), Test("b", Operator.GT, "x")


@pytest.mark.parametrize(
    ("written", "tree"),
    [
        ({}, EVERYTHING),
        ({"a": 1}, A),
        ({"a": {"$eq": 1.0}}, A),
        ({"a": 1, "b": {"$gt": "x"}}, And((A, B))),
        ({"$and": [{"a": 1}, {"b": {"$gt": "x"}}]}, And((A, B))),
        ({"a": 1, "$and": [{"b": {"$gt": "x"}}]}, And((A, B))),
        ({"$and": [{"$and": [{"$or": [{"a": 1}]}]}]}, A),
        ({"$or": [{"$or": [{"a": 1}]}, {"b": {"$gt": "x"}}]}, Or((A, B))),
        ({"$or": []}, Or()),
        ({"$and": []}, EVERYTHING),
        ({"$not": {"a": 1}}, Not(A)),
        ({"a": {"$not": {"$eq": 1}}}, Not(A)),
        ({"a": {"$gte": 1, "$lt": 2}}, And((
            Test("a", Operator.GTE, 1), Test("a", Operator.LT, 2),
        ))),
        ({"a": {"$in": [2, 1, 1.0, True, None]}}, Test("a", Operator.IN, (None, True, 1, 2))),
        ({"a": {"$in": []}}, Test("a", Operator.IN, ())),
        ({"a": {"$date": "1970-01-01"}}, Test("a", Operator.EQ, Date(0))),
        ({"a": {"$nin": [{"$date": "1970-01-01"}]}}, Test("a", Operator.NIN, (Date(0),))),
        ({"id": "x"}, Test(DOCUMENT_ID, Operator.EQ, "x")),
        ({"id": 7}, Test(DOCUMENT_ID, Operator.EQ, "7")),
        ({"id": {"$in": [7.0, "a"]}}, Test(DOCUMENT_ID, Operator.IN, ("7", "a"))),
        ({"metadata.id": 1}, Test("id", Operator.EQ, 1)),
        ({"metadata.a": 1}, A),
        ({"metadata.metadata.a": 1}, Test("metadata.a", Operator.EQ, 1)),
        ({"metadata": 1}, Test("metadata", Operator.EQ, 1)),
        ({"a": 2**70}, Test("a", Operator.EQ, float(2**70))),
    ],
)  # fmt: skip
def test_a_filter_is_read(written: dict[str, Any], tree: Any) -> None:
    found = parse_json(written)
    assert found == tree
    assert parse_json(as_json(found)) == found


@given(st.integers(0, 2**32))
def test_what_is_written_is_read_as_the_same(seed: int) -> None:
    tree = parse_json(random_filter(random.Random(seed)))
    assert parse_json(as_json(tree)) == tree
    assert hash(parse_json(as_json(tree))) == hash(tree)


def test_one_and_true_are_different_tests_though_python_holds_them_for_equal() -> None:
    assert parse_json({"a": 1}) != parse_json({"a": True})
    assert parse_json({"a": {"$in": [0]}}) != parse_json({"a": {"$in": [False]}})
    assert parse_json({"a": -0.0}) == parse_json({"a": 0})


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ([], "a filter is an object"),
        ({"a": {"$gtee": 1}}, "a: there is no such operator as '$gtee'; did you mean $gte?"),
        ({"a": {"gte": 1}}, "a: there is no such operator as 'gte'; did you mean $gte?"),
        ({"a": {"$zzz": 1}}, "the operators are $eq, $ne,"),
        ({"a": {"$contains": 1}}, "use $eq, which any element"),
        ({"$nor": []}, "there is no such operator as $nor; use"),
        ({"$xor": []}, "did you mean $or?"),
        ({"$or": [{"y": 1}, {"$and": [{"a": {"$lte": None}}]}]}, "$or.1.$and.0.a.$lte: takes"),
        ({"$or": {}}, "$or: takes a list"),
        ({"$and": [5]}, "$and.0: a filter is an object"),
        ({"$not": [{"a": 1}]}, "$not: a filter is an object"),
        ({"$gt": 5}, '$gt: belongs to a field: {"year": {"$gt"'),
        ({"a": {"$or": []}}, "a.$or: belongs above fields"),
        ({"a": {"b": 1}}, "a: a field within another is written with a dot: a.b"),
        ({"a": {}}, "a: no operator"),
        ({"a": [1]}, "a: takes one value, not a list: for any of several $in"),
        ({"a": {"$in": 1}}, "a.$in: takes a list, not 1"),
        ({"a": {"$in": [1, [2]]}}, "a.$in.1: is a list within a list"),
        ({"a": {"$in": [{"b": 1}]}}, "a.$in.0: takes a string, a number"),
        ({"a": {"$all": []}}, "a.$all: takes the values that a field must have"),
        ({"a": {"$all": [None]}}, "and no null"),
        ({"a": {"$gt": True}}, "a.$gt: takes a number, a string or a $date, not True"),
        ({"a": {"$gt": None}}, "a.$gt: takes a number, a string or a $date, not None"),
        ({"a": {"$prefix": 1}}, "a.$prefix: takes a string, not 1"),
        ({"a": {"$exists": "yes"}}, "a.$exists: takes true or false, not 'yes'"),
        ({"a": {"$not": 1}}, "a.$not: takes an object of operators, not 1: did you mean $ne?"),
        ({"a": {"$date": "2026-02-30"}}, "a: '2026-02-30' is no date: write 2026-01-31"),
        ({"a": {"$date": 5}}, "a: a date is written"),
        ({"a": float("nan")}, "a: nan is no number"),
        ({"a": 10**400}, "is no number that metadata could have"),
        ({"a": "\ud800"}, "a: holds a lone surrogate"),
        ({"": 1}, "a field has a name"),
        ({"metadata.": 1}, "a field has a name"),
        ({"a.$b": 1}, "is no field: names that begin with $ are operators"),
    ],
)
def test_a_mistake_is_refused_with_its_place_and_the_right_word(written: Any, said: str) -> None:
    with pytest.raises(FilterError) as raised:
        parse_json(written)
    assert said in str(raised.value)


def nested(depth: int) -> dict[str, Any]:
    written: dict[str, Any] = {"a": 1}
    for _ in range(depth):
        written = {"$not": written}
    return written


def test_a_filter_is_nested_so_deep_at_most() -> None:
    parse_json(nested(DEPTH_MAX))
    for wrong in (nested(DEPTH_MAX + 1), nested(100_000), {"a": {"$not": nested(DEPTH_MAX)}}):
        with pytest.raises(FilterError):
            parse_json(wrong)
    with pytest.raises(FilterError, match="is nested more than 32 deep"):
        parse_json(nested(DEPTH_MAX + 1))


def test_a_filter_has_so_many_conditions_at_most() -> None:
    parse_json({"$or": [{"a": at} for at in range(NODES_MAX - 1)]})
    with pytest.raises(FilterError, match="a filter of 1,001 conditions, at most 1,000"):
        parse_json({"$or": [{"a": at} for at in range(NODES_MAX)]})


def test_a_list_has_so_many_values_at_most() -> None:
    parse_json({"a": {"$in": list(range(VALUES_MAX))}})
    with pytest.raises(FilterError, match=r"a\.\$in: 1,001 values, at most 1,000"):
        parse_json({"a": {"$in": list(range(VALUES_MAX + 1))}})


def test_an_operand_that_is_nested_deeper_than_python_shows_is_refused() -> None:
    with pytest.raises(FilterError, match="takes true or false, not what is nested so deep"):
        canonical('{"a": {"$exists": ' + "[" * 1_000 + "]" * 1_000 + "}}")


def test_an_id_that_may_have_lost_digits_is_refused() -> None:
    for operand in (2.0**53, {"$gte": 1e300}, {"$in": ["a", 2.0**60]}):
        with pytest.raises(FilterError, match="is not exact: write such ids as strings"):
            parse_json({"id": operand})
