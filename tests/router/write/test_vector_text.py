"""Vectors as texts: every way that programs print them, and the reason for those that are none."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bitsift.router.write.document_rules import numbers_of
from bitsift.router.write.vector_text import numbers_of_text


@pytest.mark.parametrize(
    "text",
    [
        "[0.5, -2, 3e1]",
        " [0.5,-2,3e1]\n",
        "[0.5 -2.\n 30.]",
        "[ 0.5   -2.    30.  ]",
        "{0.5,-2,30}",
        "(0.5, -2, 30)",
        "0.5 -2 30",
        "0.5,-2,30",
        "0.5;-2;30",
        "0.5, -2 , 30,",
        "array([ 0.5, -2. , 30. ], dtype=float32)",
        "np.array([0.5, -2, 30])",
        "tensor([ 0.5, -2.0,\n 30.0], device='cuda:0')",
        "[np.float32(0.5), np.float32(-2.0), np.float32(30.0)]",
    ],
)
def test_every_print_of_a_vector_is_read(text: str) -> None:
    """inputs.md F21."""
    found = numbers_of_text(text)
    assert not isinstance(found, str), found
    assert found.tolist() == [0.5, -2, 30]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[0.1 0.2 ... 0.9]", "printed with '...'"),
        ("[0.1, 0.2, ..., 0.9]", r"json\.dumps\(vector\.tolist\(\)\)"),
        ("[1, 2", r"begins with \[ and does not end with \]: '\[1, 2'"),
        ("{1:0.5,3:0.2}/5", "sparse"),
        ('{"1": 0.5}', "sparse"),
        ("[[1, 2], [3, 4]]", "something else than numbers"),
        ("[[1 2]\n [3 4]]", "not a list of numbers"),
        ("{1,NULL}", "not a list of numbers: '1,NULL'"),
        ("[0,5; -2,25; 30,0]", r"decimal commas\? write points\): '0,5; -2,25; 30,0'"),
        ("0,5 -2,25 30,0", "more than one kind of separator"),
        ("0,5|-2,25", "more than one kind of separator"),
        ("[]", "empty"),
        ("()", "empty"),
        ("[1, null]", "something else than numbers"),
        ("words " * 100, r"not a list of numbers: '(words )+word…'"),
    ],
)
def test_a_text_that_is_no_vector_says_why(text: str, reason: str) -> None:
    found = numbers_of_text(text)
    assert isinstance(found, str)
    assert re.search(reason, found), found


@pytest.mark.parametrize("text", ["", "  ", "null", "NULL", "None", "nan", r"\N", None])
def test_a_null_in_words_is_no_vector(text: str | None) -> None:
    assert numbers_of(text) == "no vector"


def test_whole_numbers_stay_whole_so_that_bytes_are_known() -> None:
    found = numbers_of_text("{1,2,255}")
    assert not isinstance(found, str)
    assert found.dtype.kind == "i"


@given(arrays(np.float32, 40, elements=st.floats(-100, 100, width=32)))
def test_what_numpy_prints_whole_comes_back(vector: np.ndarray) -> None:
    with np.printoptions(threshold=1000, floatmode="unique"):
        found = numbers_of_text(str(vector))
    assert not isinstance(found, str)
    assert np.array_equal(found.astype(np.float32), vector)
