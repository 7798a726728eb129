"""Which prompts a model's texts get."""

from __future__ import annotations

import pytest

from bitsift.errors import InvalidRequest
from bitsift.router.model.prompts import PROMPT_CHARACTERS_MAX, Prompts, said, settled


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ({}, ("", "")),
        ({"query": "", "document": ""}, ("", "")),
        ({"query": "query: ", "document": "", "passage": "passage: "}, ("query: ", "passage: ")),
        ({"query": "q", "document": "d", "passage": "p"}, ("q", "d")),
        ({"query": "q", "document": None, "corpus": "c"}, ("q", "c")),
        ({"query": "q", "corpus": "c", "passage": "p"}, ("q", "p")),
        ({"retrieval.query": "rq", "retrieval.passage": "rp", "sts": "s"}, ("rq", "rp")),
        ({"search_query": "sq", "search_document": "sd"}, ("sq", "sd")),
        ({"query": "q", "Retrieval-query": "x", "Retrieval-document": "rd"}, ("q", "rd")),
        ({"classification": "c", "sts": "s"}, ("", "")),
    ],
)
def test_saved_prompts_are_heard(saved: dict[str, str], expected: tuple[str, str]) -> None:
    assert settled(Prompts(), saved) == expected


def test_what_the_caller_says_counts_and_an_empty_text_is_none() -> None:
    saved = {"query": "query: ", "passage": "passage: "}
    assert settled(Prompts("", None), saved) == ("", "passage: ")
    assert settled(Prompts(None, "d: "), saved) == ("query: ", "d: ")


def test_prompts_that_are_not_used_are_named() -> None:
    assert said("q: ", "", {"query": "q: ", "sts": "s: ", "x": ""}) == (
        "prompt of queries 'q: ', of documents none; the model's other prompts are not used: sts"
    )
    assert said("", "", {}) == "prompt of queries none, of documents none"


def test_a_prompt_has_so_many_characters_at_most() -> None:
    Prompts("x" * PROMPT_CHARACTERS_MAX, None).check()
    with pytest.raises(InvalidRequest, match="document prompt has 2,001 characters, at most 2,000"):
        Prompts("", "x" * (PROMPT_CHARACTERS_MAX + 1)).check()
