"""What is at a path."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.filters.dates import Date
from bitsift.filters.tree import sort_key
from bitsift.filters.values import values_at, values_of
from tests.filters.brute_force import FIELDS, random_metadata

NEW_YEAR = Date(1_767_225_600_000_000)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, {}),
        ({"a": None, "b": [], "c": {}, "d": [None, {}, [[]]], "e": {"f": None}}, {}),
        ({"a": 1, "b": True, "c": "x", "d": 0.5}, {"a": [1], "b": [True], "c": ["x"], "d": [0.5]}),
        ({"tags": ["a", ["b", ["a"]]]}, {"tags": ["a", "b", "a"]}),
        ({"by": [{"name": "x"}, {"name": "y"}]}, {"by": [], "by.name": ["x", "y"]}),
        ({"a": {"b": {"c": 1}}}, {"a": [], "a.b": [], "a.b.c": [1]}),
        ({"a.b": 1, "a": {"b": 2}}, {"a": [], "a.b": [1, 2]}),
        ({"a": [1, {"b": 2}]}, {"a": [1], "a.b": [2]}),
        ({"at": "2026-01-01"}, {"at": ["2026-01-01", NEW_YEAR]}),
        ({"at": {"$date": "2026-01-01"}}, {"at": [NEW_YEAR]}),
        ({"at": {"$date": "soon"}}, {"at": [], "at.$date": ["soon"]}),
        ({"at": {"$date": "2026-01-01", "by": 1}}, {
            "at": [], "at.$date": ["2026-01-01", NEW_YEAR], "at.by": [1],
        }),
    ],
)  # fmt: skip
def test_each_field_has_its_values(metadata: dict[str, Any], expected: dict[str, Any]) -> None:
    assert values_of(metadata) == expected


@given(st.integers(0, 2**32))
def test_one_field_is_read_as_all_are(seed: int) -> None:
    metadata = random_metadata(random.Random(seed))
    every = values_of(metadata)
    for path in {*FIELDS, *every, "a.b.c.a", "a.", ".a"}:
        at = values_at(metadata, path)
        if path not in every:
            assert at is None, path
        else:
            assert at is not None, path
            assert Counter(map(sort_key, at)) == Counter(map(sort_key, every[path]))


def test_metadata_as_deep_as_it_may_be_is_read() -> None:
    deep: Any = "x"
    for _ in range(254):
        deep = {"a": deep}
    path = ".".join("a" * 254)
    assert values_at(deep, path) == ["x"]
    assert len(values_of(deep)) == 254


def test_long_paths_take_no_more_than_the_document_does() -> None:
    """Of one document of 4 MiB the paths would be 10,000 times as much: no memory holds that."""
    dots = {"." * 1_000_000: 1, "ok": 2}
    assert len(values_of(dots, path_characters_max=100)) == 103  # of 0 to 101 dots, and "ok"
    assert values_at(dots, "." * 999_998) == []
    below = {"k" * 1_000_000: {f"a{number}": number for number in range(100_000)}}
    assert values_of(below, path_characters_max=100) == {"k" * 101: []}
    assert values_at(below, "k" * 1_000_000) == []
    assert values_at({"a": below}, "a") == []


@given(st.integers(0, 2**32), st.integers(0, 6))
def test_cut_paths_change_nothing_of_shorter_ones(seed: int, most: int) -> None:
    metadata = random_metadata(random.Random(seed))
    every = values_of(metadata)
    cut = values_of(metadata, path_characters_max=most)
    assert {path: cut[path] for path in cut if len(path) <= most} == {
        path: values for path, values in every.items() if len(path) <= most
    }
    assert {path for path in cut if len(path) > most} == {
        path[: most + 1] for path in every if len(path) > most
    }


def test_only_wanted_fields_are_collected() -> None:
    found = values_of({"a": {"b": 1, "c": 2}, "d": [1, 2]}, {"a.b", "d"}.__contains__)
    assert found == {"a.b": [1], "d": [1, 2]}
