"""Passages: what they hold, where they end, and what they carry along."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.cluster.ingest.chunking import CHUNK_TOKENS_MAX, CHUNK_TOKENS_MIN, Chunking
from bitsift.cluster.ingest.chunks import chunked, passages
from bitsift.cluster.sources.documents import SCHEMA
from bitsift.errors import InvalidRequest
from bitsift.router.model.tokens import Tokens

TEXTS = st.lists(
    st.sampled_from(["word", "a", "Then.", "Stop!", "\n\n", "e.g.", "x" * 40, "日本語。", " "]),
    max_size=120,
).map(" ".join)


def words(text: str) -> list[tuple[int, int]]:
    """Tokens of a fake model: words, and each character of Chinese and Japanese."""
    return [found.span() for found in re.finditer(r"[^\x00-\x7f]|[!-~]+", text)]


class WordTokens(Tokens):
    """A fake tokenizer; two marks are added to each text."""

    def __init__(self, limit: int | None) -> None:
        super().__init__(None, "", limit, 10**6)

    @property
    def can_count(self) -> bool:
        return True

    def counts(self, texts: Any) -> Any:
        return np.array([len(words(text)) + 2 for text in texts])

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return words(text)


def records(*rows: dict[str, Any]) -> pa.Table:
    blank = {"position": 5, "file": "f", "line": 1, "title": "", "metadata": "", "text": ""}
    return pa.Table.from_pylist([blank | row for row in rows], schema=SCHEMA)


@given(TEXTS, st.integers(16, 40), st.data())
def test_passages_hold_all_of_the_text_in_order_and_none_is_too_long(
    text: str, size: int, data: st.DataObject
) -> None:
    chunking = Chunking(size, data.draw(st.integers(0, size // 2)))
    found = passages(text, words(text), chunking, size)
    held = {place for begin, end in found for place in range(begin, end)}
    assert {place for place, letter in enumerate(text) if not letter.isspace()} <= held
    assert found == sorted(set(found))
    for begin, end in found:
        assert 0 < len(words(text[begin:end])) <= size
    for (_, end), (begin, after) in itertools.pairwise(found):
        assert len(words(text[begin:end])) <= chunking.overlap
        assert after > end  # none is part of another


def test_passages_end_where_sentences_end_and_repeat_whole_ones() -> None:
    text = " ".join(f"This is the sentence of number {number} here." for number in range(6))
    found = passages(text, words(text), Chunking(20, 8), 20)
    assert [re.findall(r"\d", text[begin:end]) for begin, end in found] == [
        ["0", "1"],
        ["1", "2"],
        ["2", "3"],
        ["3", "4"],
        ["4", "5"],
    ]
    assert all(text[begin:end].endswith("here.") for begin, end in found)


def test_a_passage_is_a_document_that_says_where_it_is_from() -> None:
    text = "One sentence stands here. " * 10
    row = {"id": "book", "title": "T", "text": text, "metadata": '{"n":123456789012345678901}'}
    made = chunked(records(row), WordTokens(None), Chunking(16)).to_pylist()
    assert [one["id"] for one in made] == ["book#1", "book#2", "book#3"]
    assert {one["title"] for one in made} == {"T"}
    assert {one["position"] for one in made} == {5}
    for number, one in enumerate(made, start=1):
        about = orjson.loads(one["metadata"])["chunk"]
        assert (about["document"], about["number"], about["of"]) == ("book", number, 3)
        assert text[about["start"] : about["end"]] == one["text"]
        assert '"n":123456789012345678901' in one["metadata"]


def test_a_short_text_and_none_at_all_are_one_passage() -> None:
    made = chunked(records({"id": "a", "text": "short"}, {"id": "b"}), WordTokens(64), Chunking(16))
    assert made["id"].to_pylist() == ["a#1", "b#1"]
    assert made["text"].to_pylist() == ["short", ""]


def test_the_title_leaves_less_room() -> None:
    row = {"id": "a", "title": "word " * 20, "text": "word " * 60}
    plain = chunked(records(row | {"title": ""}), WordTokens(50), Chunking(48))
    titled = chunked(records(row), WordTokens(50), Chunking(48))
    assert (len(plain), len(titled)) == (2, 3)


def test_a_bad_record_stays_and_a_field_of_that_name_is_refused() -> None:
    bad = {"reject": "blank text"}
    taken = {"id": "a", "text": "x", "metadata": '{"chunk":1}'}
    made = chunked(records(bad, taken), WordTokens(64), Chunking(16)).to_pylist()
    assert [one["reject"] for one in made] == [
        "blank text",
        "metadata has a field 'chunk', which --chunk needs: rename it",
    ]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("200", "expected tokens=N"),
        ("tokens=200;overlap=1", "expected tokens=N"),
        (f"tokens={CHUNK_TOKENS_MIN - 1}", "16 to 8,192"),
        (f"tokens={CHUNK_TOKENS_MAX + 1}", "16 to 8,192"),
        ("tokens=100,overlap=51", "by half"),
    ],
)
def test_what_is_no_chunking_says_so(said: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Chunking.parse(said)


def test_what_is_said_is_heard() -> None:
    assert str(Chunking.parse("tokens=200, overlap=40")) == "tokens=200,overlap=40"
    assert Chunking.parse(f"tokens={CHUNK_TOKENS_MAX}") == Chunking(CHUNK_TOKENS_MAX, 0)


def test_a_passage_must_be_read_whole() -> None:
    Chunking(62).check(WordTokens(64), "m")
    with pytest.raises(InvalidRequest, match=r"reads 64 tokens, .* take 2: at most tokens=62"):
        Chunking(63).check(WordTokens(64), "m")
    unknown = Tokens(None, "", 64, 100)
    with pytest.raises(InvalidRequest, match="does not say where tokens lie"):
        Chunking(20).check(unknown, "m")
