"""A text is cut into sentences, and nothing of it is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.router.highlight import passages
from bitsift.router.sentences import SENTENCE_CHARACTERS_MAX, sentences


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n ", []),
        ("One.", ["One."]),
        ("One. Two!  Three?", ["One.", "Two!", "Three?"]),
        ("no full stop", ["no full stop"]),
        ('He said "Go." She went.', ['He said "Go."', "She went."]),
        ("Dr. Smith met J. S. Bach. He left.", ["Dr. Smith met J. S. Bach.", "He left."]),
        ("It costs 3.50 euros. Cheap.", ["It costs 3.50 euros.", "Cheap."]),
        ("See e.g. this one. And that.", ["See e.g. this one.", "And that."]),
        ("Wait… what? Yes... no.", ["Wait… what?", "Yes... no."]),
        ("A title\n\nA text.", ["A title", "A text."]),
        ("Lines that\nwrap. Next.", ["Lines that\nwrap.", "Next."]),
        ("Items:\n- one\n- two", ["Items:", "- one", "- two"]),
        ("一つ。二つ！「三つ。」四つ", ["一つ。", "二つ！", "「三つ。」", "四つ"]),
        ("Ende. Äpfel \U0001f34f! Neu.", ["Ende.", "Äpfel \U0001f34f!", "Neu."]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]) -> None:
    assert cut(text) == expected


@given(st.text(alphabet=st.sampled_from("aB .!?\n。\"' \t-é\U0001f600"), max_size=200))
def test_nothing_is_lost_and_nothing_comes_twice(text: str) -> None:
    found = sentences(text)
    assert "".join("".join(cut(text)).split()) == "".join(text.split())
    assert all(end > start for start, end in found)
    assert [at for span in found for at in span] == sorted(at for span in found for at in span)
    assert all(part == part.strip() for part in cut(text))
    for most in (1, 3):
        joined = passages(text, most)
        assert len(joined) == min(most, len(found))
        if found:
            assert (joined[0][0], joined[-1][1]) == (found[0][0], found[-1][1])


def test_a_sentence_has_so_many_characters_at_most() -> None:
    words = "word " * 400
    assert all(len(part) <= SENTENCE_CHARACTERS_MAX for part in cut(words))
    assert " ".join(cut(words)) == words.strip()
    assert [len(part) for part in cut("x" * (SENTENCE_CHARACTERS_MAX + 1))] == [500, 1]
