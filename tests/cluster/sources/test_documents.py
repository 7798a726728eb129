"""What becomes a document, and why a record does not."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from bitsift.cluster.sources.plan import POSITION_BITS, Fields
from tests.source_files import GOOD, put, read, rejects


def test_a_json_line_becomes_a_document_with_the_rest_as_metadata(tmp_path: Path) -> None:
    row = {"_id": "a", "title": "T", "text": "words", "year": 1999, "tags": ["x", None]}
    (document,) = read(put(tmp_path, orjson.dumps(row)))
    assert document["position"] == 0
    assert (document["line"], document["id"], document["title"]) == (1, "a", "T")
    assert document["text"] == "words"
    assert orjson.loads(document["metadata"]) == {"year": 1999, "tags": ["x", None]}
    assert document["vector"] is document["reject"] is None


def test_a_document_without_further_fields_has_empty_metadata(tmp_path: Path) -> None:
    assert read(put(tmp_path, GOOD))[0]["metadata"] == ""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"metadata": {}}, {}),
        ({"metadata": {"a": 1}}, {"a": 1}),
        ({"metadata": {"a": 1}, "b": 2}, {"b": 2, "a": 1}),
        ({"metadata": {"b": 1}, "b": 2}, {"metadata": {"b": 1}, "b": 2}),
        ({"metadata": "x"}, {"metadata": "x"}),
    ],
)
def test_a_field_metadata_is_merged_unless_names_collide(
    tmp_path: Path, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    (document,) = read(put(tmp_path, orjson.dumps({"text": "words"} | fields)))
    assert orjson.loads(document["metadata"] or "{}") == expected


def test_positions_count_records_and_lines_count_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD + b"\n  \n{broken\n" + GOOD)
    (tmp_path / "b.jsonl").write_bytes(GOOD)
    rows = read(tmp_path, batch_rows=1)
    assert [row["position"] for row in rows] == [0, 1, 2, 1 << POSITION_BITS]
    assert [row["line"] for row in rows] == [1, 4, 5, 1]
    assert [row["file"][-7:] for row in rows] == ["a.jsonl"] * 3 + ["b.jsonl"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "broken JSON: .* at character"),
        (b'{"text": "a"} {}', "broken JSON"),
        (b"[" * 5000, "broken JSON"),
        (b'{"a\\u0041":' * 20000, "broken JSON"),
        (b"[1]", "a JSON list, not a JSON object"),
        (b"null", "a JSON NoneType, not a JSON object"),
        (b'"text"', "a JSON str, not a JSON object"),
        (b'{"text": "\xff"}', "invalid UTF-8 at byte 11"),
        (b'{"id": "a"}', "no text in field 'text'"),
        (b'{"text": null}', "no text"),
        (b'{"text": ""}', "blank text"),
        (b'{"text": " \\n\\t\\u3000"}', "blank text"),
        (b'{"text": 5}', "text is a int, not a string"),
        (b'{"text": ["a"]}', "text is a list, not a string"),
        (b'{"text": "a", "title": ["t"]}', "title is a list, not a string"),
        (b'{"text": "a", "title": true}', "title is a bool, not a string"),
        (b'{"text": "a", "id": ""}', "empty id"),
        (b'{"text": "a", "id": "  "}', "empty id"),
        (b'{"text": "a", "id": true}', "id is a bool"),
        (b'{"text": "a", "id": {"x": 1}}', "id is a dict"),
        (b'{"text": "a", "id": 1e300}', "id .* is not exact"),
        (b'{"text": "a", "id": NaN}', "id nan is not exact"),
        (b'{"text": "a", "id": "\\ud800"}', "id holds a lone surrogate"),
    ],
)
def test_a_bad_line_is_rejected_with_a_reason_and_the_next_one_is_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    start = b'{"id": "good", "title": "t", "text": "words"}\n'
    rows = read(put(tmp_path, start + line + b"\n" + start))
    ((number, found),) = rejects(rows)
    assert number == 2
    assert re.search(reason, found)
    assert rows[1]["id"] is rows[1]["text"] is None
    assert [row["id"] for row in rows] == ["good", None, "good"]


def test_numbers_become_ids_and_titles(tmp_path: Path) -> None:
    lines = b'{"id": 7, "text": "a", "title": 1984}\n{"id": 1.5, "text": "a"}\n'
    rows = read(put(tmp_path, lines + b'{"id": "t", "title": "t", "text": "a"}'))
    assert [row["id"] for row in rows] == ["7", "1.5", "t"]
    assert [row["title"] for row in rows] == ["1984", "", "t"]


def test_lone_surrogates_are_replaced_everywhere_but_in_the_id(tmp_path: Path) -> None:
    line = rb'{"id": "\u00e9", "title": "t\ud800", "text": "a\udfffb", "m": {"\ud801": ["\ud802"]}}'
    (row,) = read(put(tmp_path, line))
    assert (row["id"], row["title"], row["text"]) == ("é", "t\ufffd", "a\ufffdb")
    assert orjson.loads(row["metadata"]) == {"m": {"\ufffd": ["\ufffd"]}}


def test_nan_in_metadata_becomes_null_and_the_document_stays(tmp_path: Path) -> None:
    (row,) = read(put(tmp_path, b'{"text": "a", "score": NaN, "ranks": [NaN, 1]}'))
    assert orjson.loads(row["metadata"]) == {"score": None, "ranks": [None, 1]}


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (b"18446744073709551616", "'a.b': 18446744073709551616 takes over 64 bits"),
        (b"-9223372036854775809", "'a.b': -9223372036854775809 takes over 64 bits"),
        (b"[1, [9999999999999999999999]]", "'a.b': 9999999999999999999999 takes over 64 bits"),
        (b"Infinity", "'a.b' is infinite"),
    ],
)
@pytest.mark.parametrize("beside", [b"1", b"NaN"])
def test_a_number_that_metadata_cannot_hold_is_refused_with_its_field(
    tmp_path: Path, number: bytes, reason: str, beside: bytes
) -> None:
    line = b'{"text": "a", "c": %s, "a": {"b": %s}}' % (beside, number)
    ((_, found),) = rejects(read(put(tmp_path, line)))
    assert found.startswith(f"metadata field {reason}")


def test_numbers_of_64_bits_come_back_as_they_were(tmp_path: Path) -> None:
    numbers = [2**64 - 1, -(2**63), 2**53 + 1, 1e300, 0.1]
    (row,) = read(put(tmp_path, orjson.dumps({"text": "a", "n": numbers})))
    assert orjson.loads(row["metadata"]) == {"n": numbers}


def test_an_id_of_any_number_of_digits_is_kept(tmp_path: Path) -> None:
    (row,) = read(put(tmp_path, b'{"id": 123456789012345678901234, "text": "a"}'))
    assert row["id"] == "123456789012345678901234"


def test_a_title_without_text_is_a_document(tmp_path: Path) -> None:
    lines = (
        b'{"text": "a"}\n{"title": "t"}\n{"title": "t", "text": null}\n{"title": " ", "text": ""}'
    )
    rows = read(put(tmp_path, lines))
    assert [(row["title"], row["text"]) for row in rows[1:3]] == [("t", "")] * 2
    assert rejects(rows) == [(4, "blank text in field 'text'")]
    (row,) = read(put(tmp_path, b"id,title,text\n1,t,\n", ".csv"))
    assert (row["title"], row["text"]) == ("t", "")


def test_id_and_title_are_looked_for_in_every_record_of_json_lines(tmp_path: Path) -> None:
    late = b'{"text": "a", "title": "t", "id": 7}\n{"text": "a", "title": ["t"], "id": {}}\n'
    *_, found, other = read(put(tmp_path, b'{"text": "b"}\n' * 120 + late))
    assert (found["id"], found["title"], found["metadata"]) == ("7", "t", "")
    assert orjson.loads(other["metadata"]) == {"title": ["t"], "id": {}}


def test_nul_is_a_character(tmp_path: Path) -> None:
    (row,) = read(put(tmp_path, rb'{"id": "a\u0000b", "text": "\u0000"}'))
    assert (row["id"], row["text"]) == ("a\0b", "\0")


@pytest.mark.parametrize(
    ("levels", "leaf", "reason"),
    [
        (200, b"1", None),
        (900, b"1", "metadata cannot be written as JSON: Recursion limit reached"),  # as an answer
        (900, b"NaN", "record is nested too deeply"),
    ],
)
def test_deep_nesting_is_kept_or_rejected_but_never_raises(
    tmp_path: Path, levels: int, leaf: bytes, reason: str | None
) -> None:
    deep = b'{"a":' * levels + leaf + b"}" * levels
    rows = read(put(tmp_path, GOOD + b'{"text": "a", "m": ' + deep + b"}\n" + GOOD))
    assert rejects(rows) == ([(2, reason)] if reason else [])


def test_a_byte_order_mark_is_not_part_of_the_first_record(tmp_path: Path) -> None:
    assert rejects(read(put(tmp_path, b"\xef\xbb\xbf" + GOOD))) == []
    assert read(put(tmp_path, b"\xef\xbb\xbftext\na\n", ".csv"))[0]["text"] == "a"


def test_the_id_of_a_document_without_one_depends_on_its_content_only(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b"}, {"text": "a", "title": "t"}, {"text": "a", "x": 1}]
    content = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    ids = [row["id"] for row in read(put(tmp_path, content))]
    assert len(set(ids)) == 4
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in ids)
    again = read(put(tmp_path, b"{broken\n" + content))[1:]
    assert [row["id"] for row in again] == ids
    assert ids[0] == "c01c764d55ce18dd4a1a64be2f246371"  # another one would encode all anew


def test_the_content_id_of_a_vector_without_text_depends_on_the_vector(tmp_path: Path) -> None:
    content = b'{"v": [1, 2]}\n{"v": [2, 1]}\n{"v": [1, 2]}\n'
    rows = read(put(tmp_path, content), fields=Fields(vector="v"))
    first, second, third = (row["id"] for row in rows)
    assert first == third != second
