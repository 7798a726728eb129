"""The cuts are those that a parser would make, and cutting keeps nothing."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.router.json_scan import DEPTH_MAX, BrokenJson, Cutter, TooManyBrackets, has_more_parts

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('a"\\[]{},é', max_size=6),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text('"\\[]{},', max_size=3), inner, max_size=3),
    max_leaves=30,
)  # fmt: skip


def element_end(text: bytes, begin: int) -> int:
    return Cutter(text, 1_000_000).element_end(begin)


def cut(text: bytes) -> list[bytes]:
    """All elements of the array ``text``."""
    assert text.startswith(b"[")
    found, begin = [], 1
    while True:
        end = element_end(text, begin)
        found.append(text[begin:end])
        if text[end : end + 1] == b"]":
            return found
        begin = end + 1


def parts(value: Any) -> int:
    """Strings, commas and opening brackets of the JSON of ``value``."""
    if isinstance(value, str):
        return 1
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(parts, value))
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + len(value) + sum(map(parts, value.values()))
    return 0


@given(st.lists(values, min_size=1, max_size=6), st.sampled_from([None, 2]), st.booleans())
def test_an_array_is_cut_where_its_elements_end(
    elements: list[Any], indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(elements, indent=indent, ensure_ascii=ascii_only).encode()
    found = [json.loads(part) for part in cut(text)]
    assert json.dumps(found) == json.dumps(elements)


@given(values, st.integers(0, 60))
def test_parts_are_counted_as_a_parser_would_count_them(value: Any, limit: int) -> None:
    text = json.dumps(value).encode()
    assert has_more_parts(text, limit) == (len(text) > limit and parts(value) > limit)


@given(st.text('a"\\[]{}, ', max_size=40))
def test_what_is_no_json_is_cut_somewhere_or_refused(text: str) -> None:
    data = b"[" + text.encode() + b"]"
    try:
        found = cut(data)
    except BrokenJson:
        with pytest.raises(ValueError):  # noqa: PT011 (what a parser says is its own affair)
            json.loads(data)
    else:
        assert b",".join(found) == data[1 : 1 + len(b",".join(found))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "ends too early"),
        (b'{"a": 1', "ends too early"),
        (b'"a', "without an end"),
        (b"}", "a bracket too many"),
        (b"[" * (DEPTH_MAX + 10), "nested over 1,024 deep"),
    ],
)
def test_what_has_no_end_is_said_to_be_broken(text: bytes, said: str) -> None:
    with pytest.raises(BrokenJson, match=said):
        element_end(text, 0)


def test_more_steps_than_allowed_are_not_taken() -> None:
    text = b"[[[[[]]]]]," * 100 + b"]"
    cutter = Cutter(text, 500)
    first = cutter.element_end(0)
    begins = range(first + 1, len(text), first + 1)
    with pytest.raises(TooManyBrackets):
        [cutter.element_end(begin) for begin in begins]


@pytest.mark.parametrize(
    "piece", [b"[],", b'"a",', b"1.5,", b'{"a":{}},', b'"' + b"\\n" * 99 + b'",', b"[[[[]]]],"]
)
def test_cutting_and_counting_keep_nothing(piece: bytes) -> None:
    text = b"[" + piece * ((1 << 20) // len(piece)) + b"1]]"
    tracemalloc.start()
    try:
        assert element_end(text, 0) == len(text) - 1
        assert has_more_parts(text, 999)
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
    finally:
        tracemalloc.stop()
