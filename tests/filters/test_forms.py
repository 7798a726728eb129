"""The canonical text of a filter, and its tree."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitsift.errors import InvalidRequest
from bitsift.filters.forms import CHARACTERS_MAX, PASSES_ALL, canonical, tree_of
from bitsift.filters.operands import FilterError
from bitsift.filters.parse import parse_json
from tests.filters.brute_force import random_filter


@pytest.mark.parametrize(
    "written",
    [
        {"lang": "de", "year": {"$gte": 2020}},
        {"$and": [{"lang": {"$eq": "de"}}, {"year": {"$gte": 2020.0}}]},
        "lang = de and year >= 2020",
        '  {"lang": "de", "year": {"$gte": 2020}}\n',
        '{"$and":[{"lang":"de"},{"year":{"$gte":2020}}]}',
    ],
)
def test_the_forms_of_one_filter_have_one_text(written: Any) -> None:
    text = canonical(written)
    assert text == '{"$and":[{"lang":"de"},{"year":{"$gte":2020}}]}'
    assert tree_of(text) == parse_json({"lang": "de", "year": {"$gte": 2020}})


def test_dates_of_python_are_dates() -> None:
    moment = datetime(2026, 1, 31, 8, tzinfo=UTC)
    assert canonical({"a": moment}) == '{"a":{"$date":"2026-01-31T08:00:00Z"}}'
    assert canonical({"a": {"$lt": date(2026, 1, 31)}}) == '{"a":{"$lt":{"$date":"2026-01-31"}}}'


@given(st.integers(0, 2**32))
@example(1)
def test_a_canonical_text_is_its_own(seed: int) -> None:
    written = random_filter(random.Random(seed))
    text = canonical(written)
    assert canonical(text) == text
    assert tree_of(text) == parse_json(written)


@pytest.mark.parametrize("written", [{}, "", "{}", {"$and": [{}, {"$and": []}]}])
def test_what_passes_everything_is_one_text(written: Any) -> None:
    assert canonical(written) == PASSES_ALL


def test_broken_json_is_refused_with_its_place() -> None:
    with pytest.raises(FilterError, match="broken JSON: .* at character 8"):
        canonical('{"a": 1')


def test_a_filter_has_so_many_characters_at_most() -> None:
    fits = {"a": "x" * (CHARACTERS_MAX - len('{"a":""}'))}
    assert len(canonical(fits)) == CHARACTERS_MAX
    for wrong in ({"a": fits["a"] + "x"}, '{"a": 1}' + " " * CHARACTERS_MAX):
        with pytest.raises(FilterError, match="at most 65,536"):
            canonical(wrong)


def test_a_text_of_a_release_that_knows_more_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"filter: a: there is no such operator as '\$near'"):
        tree_of('{"a":{"$near":1}}')


def test_so_many_trees_are_kept() -> None:
    from bitsift.filters.forms import TREES_MAX

    for at in range(TREES_MAX + 1):
        tree_of(f'{{"a":{at}}}')
    assert tree_of.cache_info().currsize == TREES_MAX
