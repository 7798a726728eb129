"""Ids that are numbers: one rule, whatever a reader has made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from bitsift.document_ids import GivenId, given_id, id_of_number, is_number

JSON = TypeAdapter(GivenId)


@pytest.mark.parametrize(
    ("number", "key"),
    [(7, "7"), (7.0, "7"), (1e3, "1000"), (-0.0, "0"), (1.5, "1.5"), (2**64, str(2**64)),
     (np.int64(7), "7"), (np.float64(7), "7"), (np.float32(7), "7")],
)  # fmt: skip
def test_a_number_is_what_it_is_written_as(number: Any, key: str) -> None:
    assert id_of_number(number) == key


@pytest.mark.parametrize("number", [2.0**53, -1e300, float("nan"), float("inf")])
def test_a_number_that_may_have_lost_digits_is_refused(number: Any) -> None:
    with pytest.raises(ValueError, match="write such ids as strings"):
        id_of_number(number)


@pytest.mark.parametrize("value", [True, np.bool_(True), None, "7", b"7", [7]])
def test_what_is_no_number_stays_as_it_is(value: object) -> None:
    assert not is_number(value)
    assert given_id(value) is value


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_a_whole_number_that_became_a_float_is_the_same_id(number: Any) -> None:
    assert id_of_number(number * np.float64(1)) == id_of_number(number) == str(number)


def test_json_may_have_numbers_and_strings_and_nothing_else() -> None:
    assert [JSON.validate_json(text) for text in ("7", "7.0", "1e3", '"7.0"')] == [
        "7", "7", "1000", "7.0",
    ]  # fmt: skip
    for text in ("true", "null", "[7]", "9007199254740993.0"):
        with pytest.raises(ValidationError):
            JSON.validate_json(text)
