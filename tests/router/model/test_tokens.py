"""Tokens as the model's own tokenizer has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.router.model.encoder import CHARACTERS_PER_TOKEN_MAX, Encoder
from bitsift.router.model.tokens import Tokens
from tests.tiny_model import DOCUMENT_PROMPT, build_tiny_model

LIMIT = 64


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    folder = build_tiny_model(tmp_path_factory.mktemp("tiny"), 32)
    return Encoder.load(str(folder), backend="torch").tokens


def test_a_text_is_cut_where_it_has_one_token_more_than_the_model_reads(tokens: Tokens) -> None:
    free = LIMIT - tokens.of_prompt()
    assert tokens.counts(["a " * free]) == [LIMIT]
    assert tokens.count_cut(["a " * free, "x", ""]) == 0
    assert tokens.count_cut(["a " * (free + 1), "x", "b " * 500]) == 2


def test_a_word_of_many_characters_is_cut_before_it_is_tokenized(tokens: Tokens) -> None:
    assert tokens.count_cut(["?" * (CHARACTERS_PER_TOKEN_MAX * LIMIT + 1)]) == 1


def test_the_tokenizer_leaves_the_model_as_it_was(tokens: Tokens) -> None:
    assert tokens._tokenizer is not None
    before = tokens._tokenizer(["a " * 100])["input_ids"]
    assert before.shape == (1, LIMIT)
    tokens.count_cut(["a " * 100])
    np.testing.assert_array_equal(tokens._tokenizer(["a " * 100])["input_ids"], before)


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_no_text_is_cut_unseen(tokens: Tokens, text: str) -> None:
    assert tokens.count_cut([text]) == int(tokens.counts([text])[0] > LIMIT)


def test_offsets_are_those_of_the_text_without_its_prompt(tokens: Tokens) -> None:
    text = "ab, cd"
    assert [text[begin:end] for begin, end in tokens.offsets(text)] == ["a", "b", ",", "c", "d"]
    assert tokens.of_prompt() == len(tokens.offsets(DOCUMENT_PROMPT)) + 2


def test_a_model_that_cannot_count_says_nothing() -> None:
    unknown = Tokens(None, "", 10, 100)
    assert not unknown.can_count
    assert unknown.count_cut(["a"]) is None
    assert unknown.has_any("?")
    assert Tokens(None, "", None, 100).count_cut(["a" * 1000]) == 0
