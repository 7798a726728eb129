"""What a filter's tree means: by brute force, and by laws that hold whatever is tested."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.filters.matching import matches
from bitsift.filters.parse import parse_json
from bitsift.filters.tree import EVERYTHING, And, Not, Operator, Or, Test
from tests.filters.brute_force import passes, random_document, random_filter

SEEDS = st.integers(0, 2**32)


def test_it_agrees_with_brute_force_on_filters_and_documents_at_random() -> None:
    chance = random.Random(0)
    passed = asked = 0
    for _ in range(2_000):
        written = random_filter(chance)
        tree = parse_json(written)
        for document_id, metadata in [random_document(chance) for _ in range(12)]:
            found, expected = (
                matches(tree, document_id, metadata),
                passes(written, document_id, metadata),
            )
            assert found == expected, (written, document_id, metadata)
            passed, asked = passed + found, asked + 1
    assert asked >= 20_000
    assert 0.2 < passed / asked < 0.8  # neither is rare


@given(SEEDS)
def test_the_laws_of_de_morgan_hold(seed: int) -> None:
    chance = random.Random(seed)
    one, other = (parse_json(random_filter(chance)) for _ in range(2))
    for document in [random_document(chance) for _ in range(5)]:
        both, either = matches(And((one, other)), *document), matches(Or((one, other)), *document)
        assert both is not matches(Or((Not(one), Not(other))), *document)
        assert either is not matches(And((Not(one), Not(other))), *document)
        assert matches(Not(Not(one)), *document) is matches(one, *document)


@given(SEEDS, st.sampled_from([("eq", "ne"), ("in", "nin")]))
def test_ne_is_the_contrary_of_eq_and_nin_of_in(seed: int, pair: tuple[str, str]) -> None:
    chance = random.Random(seed)
    operand = (1, "a") if pair[0] == "in" else chance.choice([1, "a", None, True])
    does, does_not = (Test("a", Operator(name), operand) for name in pair)
    for document in [random_document(chance) for _ in range(20)]:
        assert matches(does, *document) is not matches(does_not, *document)


@pytest.mark.parametrize(
    ("tree", "expected"), [(EVERYTHING, True), (Or(), False), (Not(And()), False)]
)
def test_and_of_nothing_passes_everything_and_or_of_nothing_passes_none(
    tree: Any, expected: bool
) -> None:
    assert matches(tree, "a", {}) is expected


@pytest.mark.parametrize("operator", ["$in", "$nin", "$all"])
def test_many_operands_are_looked_for_among_many_values_at_once(operator: str) -> None:
    """Each with each would be 200 million comparisons: minutes, in which nothing else is done."""
    tree = parse_json({"tags": {operator: list(range(-1_000, 0))}})
    assert matches(tree, "a", {"tags": list(range(200_000))}) is (operator == "$nin")
