"""A filter as a line of text: the same trees as from JSON."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.filters.operands import FilterError
from bitsift.filters.parse import DEPTH_MAX, NODES_MAX, parse_json
from bitsift.filters.text import LINE_CHARACTERS_MAX, NUMBER_CHARACTERS_MAX, parse_text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("", {}),
        ("  \n ", {}),
        ("lang = de", {"lang": "de"}),
        ("lang=de", {"lang": "de"}),
        ("lang == 'de'", {"lang": "de"}),
        ("year >= 2020 and lang in [en, de]", {
            "year": {"$gte": 2020}, "lang": {"$in": ["en", "de"]},
        }),
        ("a < 1 and a <= 2 and a > 3 and a != 4", {
            "$and": [{"a": {"$lt": 1}}, {"a": {"$lte": 2}}, {"a": {"$gt": 3}}, {"a": {"$ne": 4}}],
        }),
        ("a = 1 or b = 2 and c = 3", {"$or": [{"a": 1}, {"b": 2, "c": 3}]}),
        ("(a = 1 or b = 2) and c = 3", {"$and": [{"$or": [{"a": 1}, {"b": 2}]}, {"c": 3}]}),
        ("not a = 1 and b = 2", {"$and": [{"$not": {"a": 1}}, {"b": 2}]}),
        ("not (a = 1 and b = 2)", {"$not": {"a": 1, "b": 2}}),
        ("NOT a exists OR not not b exists", {
            "$or": [{"$not": {"a": {"$exists": True}}},
                    {"$not": {"$not": {"b": {"$exists": True}}}}],
        }),
        ("a not in (1, 'x')", {"a": {"$nin": [1, "x"]}}),
        ("a in []", {"a": {"$in": []}}),
        ("tags all [a, 'b c']", {"tags": {"$all": ["a", "b c"]}}),
        ("name prefix Mc", {"name": {"$prefix": "Mc"}}),
        ("a = true or a = FALSE or a = null", {"$or": [{"a": True}, {"a": False}, {"a": None}]}),
        ("a = 'true'", {"a": "true"}),
        ("a in [1, -1.5, 2e3, .5, 01, 1.2.3, +1]", {
            "a": {"$in": [1, -1.5, 2000, 0.5, "01", "1.2.3", "+1"]},
        }),
        ("at >= 2026-01-31", {"at": {"$gte": {"$date": "2026-01-31"}}}),
        ("at < 2026-01-31T08:00+01:00", {"at": {"$lt": {"$date": "2026-01-31T07:00Z"}}}),
        ("at = '2026-01-31'", {"at": "2026-01-31"}),
        (r"a = 'it\'s \\ \"' or 'a b' = \"'\"".replace('\\"', '"'), {
            "$or": [{"a": "it's \\ \""}, {"a b": "'"}],
        }),
        ("'in' = in2", {"in": "in2"}),
        ("by.name = ä and id = x", {"by.name": "ä", "id": "x"}),
        ("metadata.id = 7", {"metadata.id": 7}),
        ("url = https://example.org/?a&b", {"url": "https://example.org/?a&b"}),
    ],
)  # fmt: skip
def test_a_line_is_the_tree_of_the_same_json(text: str, written: dict[str, Any]) -> None:
    assert parse_text(text) == parse_json(written)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("year", "character 5: expected =, !=, <, <=, >, >=, in, not in, all, prefix or exists, "
                 "not the end"),
        ("year like 5", "character 6: expected =,"),
        ("year => 5", "not '=>'; did you mean >=?"),
        ("year <> 5", "did you mean !=?"),
        ("! a = 1", "did you mean not?"),
        ("a = 1 && b = 2", "character 7: expected and, or, or the end, not '&&'; did you "
                           "mean and?"),
        ("a = 1 b = 2", "character 7: expected and, or, or the end, not 'b'"),
        ("a >", "character 4: expected a value, not the end"),
        ("a = (1)", "character 5: expected a value, not '('"),
        ("a in 1", "character 6: expected a list such as [en, de], not '1'"),
        ("a in [1", "character 8: expected a comma or ], not the end"),
        ("a in [1)", "expected a comma or ], not ')'"),
        ("a in [1,]", "expected a value, not ']'"),
        ("(a = 1", "expected and, or, or a closing parenthesis, not the end"),
        ("a = 1)", "expected and, or, or the end, not ')'"),
        ("and = 1", 'expected a field (in quotes, "and" is one), not \'and\''),
        ("a = or", 'expected a value (in quotes, "or" is one)'),
        ("a = 'x", "character 5: a quote that is not closed"),
        ("a > true", "character 3: takes a number, a string or a $date, not True"),
        ("a prefix 5", "character 3: takes a string, not 5"),
        ("$a = 5", "is no field: names that begin with $"),
        ("a = 1e999", "is no number that metadata could have"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(FilterError) as raised:
        parse_text(text)
    assert said in str(raised.value)


@given(st.text(st.sampled_from("ab 1'\"\\=<>!()[],.andornotinexists\n\x00é"), max_size=40))
def test_any_text_is_a_filter_or_is_refused(text: str) -> None:
    try:
        parse_text(text)
    except FilterError as error:
        assert str(error)


STRINGS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(STRINGS, st.sampled_from("'\""))
def test_any_string_can_be_written_in_quotes(string: str, quote: str) -> None:
    escaped = string.replace("\\", "\\\\").replace(quote, f"\\{quote}")
    assert parse_text(f"a = {quote}{escaped}{quote}") == parse_json({"a": string})


def test_parentheses_and_nots_are_nested_so_deep_at_most() -> None:
    for opening, closing in (("(", ")"), ("not ", "")):
        parse_text(f"{opening * DEPTH_MAX}a = 1{closing * DEPTH_MAX}")
        with pytest.raises(FilterError, match="is nested more than 32 deep"):
            parse_text(f"{opening * 2_000}a = 1")


def test_a_line_has_so_many_conditions_at_most() -> None:
    parse_text(" or ".join(["a=1"] * (NODES_MAX - 1)))
    with pytest.raises(FilterError, match="1,001 conditions"):
        parse_text(" or ".join(["a=1"] * NODES_MAX))


def test_a_line_has_so_many_characters_at_most() -> None:
    parse_text(f"a = {'x' * (LINE_CHARACTERS_MAX - 4)}")
    with pytest.raises(FilterError, match="at most 8,192: send a longer filter as JSON"):
        parse_text(f"a = {'x' * (LINE_CHARACTERS_MAX - 3)}")


def test_a_number_has_so_many_characters_at_most() -> None:
    number = "0." + "1" * (NUMBER_CHARACTERS_MAX - 2)
    assert parse_text(f"a = {number}") == parse_json({"a": float(number)})
    assert parse_text(f"a = {number}1") == parse_json({"a": f"{number}1"})
