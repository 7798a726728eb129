"""Prompts that help, that harm, and documents that say nothing about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitsift.cluster.evaluation.prompts import PAIRS_MAX, PAIRS_MIN, compare_prompts, pairs_of

DOCUMENTS = [(f"title {n}", f"text {n}") for n in range(60)]


class NumberEncoder:
    """A fake model: a text is the direction of its number; ``is_deaf`` sees none in a query."""

    def __init__(self, *, is_deaf: bool) -> None:
        self._is_deaf = is_deaf

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.eye(64, dtype=np.float32)[[int(text.split()[1]) for text in texts]]

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = self.encode_documents(texts)
        return np.roll(found, 1, axis=1) if self._is_deaf else found


GOOD, BAD = NumberEncoder(is_deaf=False), NumberEncoder(is_deaf=True)


def test_prompts_that_help_and_prompts_that_harm_are_told_apart() -> None:
    helps = compare_prompts(DOCUMENTS, ("q: ", ""), GOOD, lambda: BAD)
    assert helps is not None
    assert (helps.with_prompts.mean, helps.without.mean, helps.pairs) == (1.0, 0.0, 60)
    assert helps.gain.low > 0
    harms = compare_prompts(DOCUMENTS, ("q: ", ""), BAD, lambda: GOOD)
    assert harms is not None
    assert harms.gain.high < 0


def test_nothing_is_compared_where_there_is_nothing_to_compare() -> None:
    def never() -> NumberEncoder:
        raise AssertionError

    assert compare_prompts(DOCUMENTS, ("", ""), GOOD, never) is None
    assert compare_prompts(DOCUMENTS[: PAIRS_MIN - 1], ("q", "p"), GOOD, never) is None


def test_a_document_without_title_is_asked_for_by_its_first_sentence() -> None:
    taken = pairs_of([("", "One thing. Another thing. And so on."), ("", "Alone."), ("t", " ")])
    assert taken == [("One thing.", "Another thing. And so on.")]


def test_so_many_documents_are_asked_for_at_most() -> None:
    assert len(pairs_of([("a", "b")] * (PAIRS_MAX + 1))) == PAIRS_MAX
