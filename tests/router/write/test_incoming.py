"""From bodies and lines to documents: what is wrong with one does not stop the others."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.errors import InvalidRequest
from bitsift.router.http.documents_schema import (
    DOCUMENT_BYTES_MAX,
    DOCUMENTS_MAX,
    ID_BYTES_MAX,
    VERSION_DIGITS_MAX,
    RequestTooLarge,
)
from bitsift.router.write.incoming import (
    ENVELOPE_BYTES_MAX,
    IDS_PARTS_MAX,
    DocumentReader,
    Incoming,
    Item,
    read_deletion,
)

DIMENSION = 4
MODEL = DocumentReader(DIMENSION, has_model=True)
VECTORS = DocumentReader(DIMENSION, has_model=False)
GOOD = {"id": "good", "text": "a text"}


def read(*documents: Any, reader: DocumentReader = MODEL) -> list[Item]:
    return reader.read_body(json.dumps({"documents": documents}).encode())


def document(value: dict[str, Any], reader: DocumentReader = MODEL) -> Incoming:
    (item,) = read(value, reader=reader)
    assert item.document is not None, item.error
    return item.document


def reason(value: Any, reader: DocumentReader = MODEL) -> str:
    """Why a document is refused, between two good ones that are not."""
    vector = {} if reader is MODEL else {"vector": [1, 2, 3, 4]}
    good = {**GOOD, **vector}
    first, item, last = read(good, value, good, reader=reader)
    assert first.document is not None
    assert last.document is not None
    assert item.error is not None
    return item.error.message


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (5, "a JSON int, not a JSON object"),
        (None, "a JSON NoneType"),
        ({"text": "a"}, "no id"),
        ({"id": None, "text": "a"}, "no id"),
        ({"id": "", "text": "a"}, "empty id"),
        ({"id": " \t", "text": "a"}, "empty id"),
        ({"id": True, "text": "a"}, "id is a bool"),
        ({"id": ["a"], "text": "a"}, "id is a list"),
        ({"id": "\ud800", "text": "a"}, "lone surrogate"),
        ({"id": "é" * (ID_BYTES_MAX // 2) + "a", "text": "a"}, "8,193 bytes, at most 8,192"),
        ({"id": "a"}, "no text, no title and no vector"),
        ({"id": "a", "text": None}, "no text, no title and no vector"),
        ({"id": "a", "text": " "}, "blank text, no title and no vector"),
        ({"id": "a", "title": " "}, "no text, no title and no vector"),
        ({"id": "a", "text": 5}, "text is a int"),
        ({"id": "a", "text": ["a"]}, "text is a list"),
        ({"id": "a", "text": "a", "title": []}, "title is a list"),
        ({"id": "a", "text": "a", "metadata": []}, "metadata is a list"),
        ({"id": "a", "text": "a", "metadata": "x"}, "metadata is a str"),
        ({"id": "a", "text": "a", "year": 1}, "unknown field 'year'"),
        ({"id": "a", "text": "a", "\ud800": 1}, "unknown field"),
        ({"id": "a", "text": "a" * (DOCUMENT_BYTES_MAX + 1)}, "4,194,305 bytes, at most 4,194,304"),
        ({"id": "a", "vector": [1, 2, 3]}, "vector has 3 numbers, expected 4"),
        ({"id": "a", "vector": []}, "empty or holds something else"),
        ({"id": "a", "vector": [1, 2, 3, None]}, "something else than numbers"),
        ({"id": "a", "vector": [1, 2, 3, "4"]}, "something else than numbers"),
        ({"id": "a", "vector": [[1, 2], [3, 4]]}, "something else than numbers"),
        ({"id": "a", "vector": [0, 0, 0, 0]}, "all zeros"),
        ({"id": "a", "vector": [float("nan"), 1, 1, 1]}, "NaN or infinity"),
        ({"id": "a", "vector": [float("inf"), 1, 1, 1]}, "NaN or infinity"),
        ({"id": "a", "vector": [1e300, 1, 1, 1]}, "NaN or infinity"),
        ({"id": "a", "vector": {"x": 1}}, "vector is a dict"),
        ({"id": "a", "vector": "not base64!"}, "not base64"),
        ({"id": "a", "vector": "AAAA"}, "3 bytes, expected 4 float32"),
    ],
)
def test_a_bad_document_is_refused_with_a_reason_and_the_others_are_read(
    value: Any, said: str
) -> None:
    assert said in reason(value)


def test_an_index_of_precomputed_embeddings_needs_a_vector_and_no_text() -> None:
    assert "precomputed embeddings of 4 numbers" in reason({"id": "a", "text": "b"}, VECTORS)
    found = document({"id": "a", "vector": [1, 2, 3, 4.5]}, VECTORS)
    assert (found.text, found.vector.tolist()) == ("", [1, 2, 3, 4.5])  # type: ignore[union-attr]


def test_a_vector_may_be_base64_of_little_endian_float32() -> None:
    vector = np.array([1.5, -2, 3, 4e-5], dtype="<f4")
    found = document({"id": "a", "vector": base64.b64encode(vector.tobytes()).decode()})
    assert found.vector is not None
    assert found.vector.dtype == np.float32
    assert found.vector.tolist() == vector.tolist()


def test_what_may_be_left_out_and_what_is_converted() -> None:
    full = document({"id": 7, "title": 1.5, "text": "b", "metadata": {"k": [1, None]}})
    assert (full.id, full.title, full.text, full.metadata) == ("7", "1.5", "b", '{"k":[1,null]}')
    bare = document({"id": "a", "title": None, "text": "b", "metadata": None, "vector": None})
    assert (bare.title, bare.metadata, bare.vector) == ("", "", None)
    assert document({"id": "a", "text": "b", "metadata": {}}).metadata == ""


@pytest.mark.parametrize("text", ["🕷️" * 9, "عنكبوت", "nul\0byte", "e\u0301", "a" * 1_000_000])
def test_text_is_kept_as_it_is(text: str) -> None:
    assert document({"id": text[:99], "title": text, "text": text}).text == text


def test_lone_surrogates_in_texts_become_replacement_characters() -> None:
    found = document(
        {"id": "a", "title": "\ud800", "text": "b\udfff", "metadata": {"\ud800": ["\ud800"]}}
    )
    assert (found.title, found.text) == ("\ufffd", "b\ufffd")
    assert found.metadata == '{"\ufffd":["\ufffd"]}'


def test_metadata_too_deep_for_any_answer_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"a": deep}
    assert "cannot be written as JSON" in reason({"id": "a", "text": "b", "metadata": deep})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "broken JSON"),
        (b"{", "broken JSON"),
        (b"\xff", "invalid UTF-8"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "a list of documents is required"),
        (b'{"documents": {}}', "a list of documents is required"),
        (b'{"documents": [], "replace": true}', "unknown field 'replace': there is documents"),
        (b'{"document": []}', "unknown field 'document': did you mean documents?"),
        (b'{"documents": [' + b"[" * 5_000 + b"]" * 5_000 + b"]}", "broken JSON"),
        (b'{"documents": [{"id": "a", "n": ' + b"9" * 5_000 + b"}, NaN]}", "broken JSON"),
    ],
)
def test_what_is_no_list_of_documents_is_an_invalid_request(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        MODEL.read_body(body)


def test_what_is_wrong_with_a_body_is_said_of_so_many_bytes_at_most() -> None:
    body = b'{"documents": [], "replace": true}'.ljust(ENVELOPE_BYTES_MAX)
    with pytest.raises(InvalidRequest, match="unknown field 'replace'"):
        MODEL.read_body(body)
    with pytest.raises(InvalidRequest, match="and nothing else"):
        MODEL.read_body(body + b" ")


def test_more_documents_than_a_call_takes_are_too_large_a_request() -> None:
    assert len(read(*[GOOD] * DOCUMENTS_MAX)) == DOCUMENTS_MAX
    with pytest.raises(RequestTooLarge, match="10,001 of them"):
        read(*[GOOD] * (DOCUMENTS_MAX + 1))
    assert RequestTooLarge.status == 413


def test_lines_are_counted_and_a_broken_one_is_named_by_its_number() -> None:
    block = b'{"id":"a","text":"x"}\r\n\n{"id":\n \n5\n{"id":"b","text":"y"}\n'
    items = MODEL.read_lines(block, 100)
    assert [item.line for item in items] == [100, 102, 104, 105]
    assert [item.id for item in items] == ["a", None, None, "b"]
    assert items[1].error is not None
    assert "broken JSON" in items[1].error.message


def test_a_byte_order_mark_may_stand_before_any_line() -> None:
    line = b'\xef\xbb\xbf{"id":"a","text":"x"}\n'
    items = MODEL.read_lines(line + line + b"\xef\xbb\xbf\n", 1)
    assert [(item.line, item.id) for item in items] == [(1, "a"), (2, "a")]


def test_a_lone_surrogate_or_nan_in_one_line_leaves_the_others_alone() -> None:
    block = b'{"id":"\\ud800","text":"x"}\n{"id":"b","vector":[NaN,1,1,1]}\n{"id":"c","text":"x"}\n'
    first, second, third = MODEL.read_lines(block, 1)
    assert first.error is not None
    assert second.error is not None
    assert third.document is not None


def test_ids_to_delete_are_a_list_of_strings_or_numbers() -> None:
    assert read_deletion(b'{"ids": ["a", "", "a"]}') == (["a", "", "a"], [])
    assert read_deletion(b'{"ids": [7, 7.0, 1e3, 1.5]}') == (["7", "7", "1000", "1.5"], [])
    for body in (
        b"",
        b"[]",
        b'{"ids": [true]}',
        b'{"ids": [1e16]}',
        b'{"ids": "a"}',
        b'{"ids": ["\\ud800"]}',
        b"{}",
    ):
        with pytest.raises(InvalidRequest):
            read_deletion(body)
    with pytest.raises(RequestTooLarge):
        read_deletion(json.dumps({"ids": ["a"] * (DOCUMENTS_MAX + 1)}).encode())


def test_a_list_of_ids_is_made_of_so_many_parts_at_most() -> None:
    ids = b'{"ids": ["a"], "x": [%b]}'
    around = 6  # three strings, a brace and two brackets, and a comma before the array's own
    read_on = ids % b",".join([b"0"] * (IDS_PARTS_MAX - around))
    with pytest.raises(InvalidRequest, match="x: there is no such field"):
        read_deletion(read_on)
    with pytest.raises(RequestTooLarge, match="at most 10,000"):
        read_deletion(read_on.replace(b"[0", b"[0,0"))


def test_a_version_has_so_many_digits_at_most() -> None:
    def versions(digits: int) -> tuple[bytes, dict[str, Any]]:
        version = {"if_version": "7".zfill(digits)}
        return json.dumps({"ids": ["a"]} | version).encode(), GOOD | version

    deletion, given = versions(VERSION_DIGITS_MAX)
    assert read_deletion(deletion) == (["a"], [7])
    assert document(given).expected == 7
    deletion, given = versions(VERSION_DIGITS_MAX + 1)
    with pytest.raises(InvalidRequest, match=r"if_version: .*1,20"):
        read_deletion(deletion)
    assert "if_version is no version" in reason(given)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(["id", "title", "text", "metadata", "vector", "other"])


@given(st.lists(st.dictionaries(fields, anything) | anything, max_size=5))
def test_whatever_a_document_is_it_is_read_or_refused_never_raised(documents: list[Any]) -> None:
    items = read(*documents)
    assert len(items) == len(documents)
    for item in items:
        assert (item.document is None) != (item.error is None)
        assert item.error is None or item.error.message.encode()
        assert item.id is None or item.id.encode()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"filtr": "a = 1"}', "filtr: there is no such field; did you mean filter?"),
        (b'{"id": ["a"]}', "id: there is no such field; did you mean ids?"),
        (b'{"cursor": "x"}', "cursor: there is no such field; there are ids, filter"),
        (b"[]", "body: Input should be an object"),
    ],
)
def test_a_deletion_that_is_misspelt_is_told_what_is_meant(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(said)):
        read_deletion(body)
