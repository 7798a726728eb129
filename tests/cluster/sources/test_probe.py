"""Which field plays which part, and errors that list the fields found."""

import json
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import Compression, Fields, Format, SourceFile
from bitsift.cluster.sources.probe import resolve
from bitsift.errors import InvalidRequest
from tests.source_files import read, rejects


def write_lines(path: Path, rows: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


FILE = SourceFile(0, "f", "f", Format.PARQUET, Compression.NONE, 0)
DOCUMENT = {"_id": "1", "title": "t", "text": "words"}


def test_fields_are_detected_by_their_usual_names(tmp_path: Path) -> None:
    rows: list[object] = [{"DocID": "1", "Heading": "h", "passage": "words", "year": 1}]
    file = plan_sources([write_lines(tmp_path / "a.jsonl", rows)]).files[0]
    assert file.fields == Fields(id="DocID", title="Heading", text="passage")


def test_each_file_has_its_own_fields(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "words"}])
    pq.write_table(pa.table({"id": [1], "body": ["words"]}), tmp_path / "b.parquet")
    plan = plan_sources([tmp_path])
    assert [file.fields.text for file in plan.files] == ["text", "body"]


def test_a_candidate_that_holds_strings_is_preferred() -> None:
    found = {"text": False, "body": True}
    assert resolve(FILE, Fields(), found, carries_vectors=False).text == "body"


def test_a_field_that_was_given_a_part_is_not_detected_for_another() -> None:
    found = {"text": True, "title": True}
    resolved = resolve(FILE, Fields(text="title"), found, carries_vectors=False)
    assert resolved == Fields(text="title")


@pytest.mark.parametrize("fields", [Fields(text="txt"), Fields(id="txt"), Fields(vector="txt")])
def test_a_named_field_that_is_missing_lists_the_fields_found(
    tmp_path: Path, fields: Fields
) -> None:
    write_lines(tmp_path / "a.jsonl", [DOCUMENT])
    (tmp_path / "b.csv").write_text("_id,title,text\n1,t,words\n")
    pq.write_table(pa.Table.from_pylist([DOCUMENT]), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.csv", "c.parquet"):
        with pytest.raises(InvalidRequest, match=r"no field 'txt' .* found: _id, title, text"):
            plan_sources([tmp_path / name], fields)


def test_a_name_nearly_right_is_offered(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [DOCUMENT])
    with pytest.raises(InvalidRequest, match=r"'titel' \(--title-field\); did you mean 'title'\?"):
        plan_sources([path], Fields(title="titel"))


@pytest.mark.parametrize("name", ["headline", 'sch\u00f6n "q"'])
@pytest.mark.parametrize("role", ["id", "title", "text"])
def test_a_named_field_is_believed_that_first_appears_late(
    tmp_path: Path, role: str, name: str
) -> None:
    late = {"text": "words", "body": "words", name: "late"}
    early = {"text": "words", "body": "words"}
    path = tmp_path / "a.jsonl"
    for line in (orjson.dumps(late), json.dumps(late).encode()):
        path.write_bytes((orjson.dumps(early) + b"\n") * 1_200 + line)
        row = read(path, fields=Fields(**{role: name}))[-1]
        assert row[role] == "late"


def test_one_of_several_files_may_lack_a_named_title_but_not_all(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "words"}])
    (tmp_path / "b.csv").write_text("text,headline\nwords,t\n")
    (tmp_path / "c.csv").write_text("text\nwords\n")
    titles = [row["title"] for row in read(tmp_path, fields=Fields(title="headline"))]
    assert titles == ["", "t", ""]
    (tmp_path / "b.csv").unlink()
    with pytest.raises(InvalidRequest, match="a.jsonl has no field 'headline'"):
        plan_sources([tmp_path], Fields(title="headline"))


def test_no_text_field_lists_the_fields_found(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"id": 1, "gloss": "words"}, {"more": 1}])
    with pytest.raises(InvalidRequest, match=r"found: id, gloss, more; .*--text-field"):
        plan_sources([path])


def test_one_field_cannot_be_title_and_text(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [DOCUMENT])
    with pytest.raises(InvalidRequest, match="'text' is named for 2 roles"):
        plan_sources([path], Fields(text="text", title="text"))


def test_a_parquet_text_field_of_numbers_is_refused_with_its_type(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(InvalidRequest, match="'text' is int64, which is not text"):
        plan_sources([tmp_path / "a.parquet"], Fields(text="text"))


def test_a_parquet_vector_field_of_strings_is_refused_with_its_type(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "v": [["1.0"]]}), tmp_path / "a.parquet")
    with pytest.raises(InvalidRequest, match=r"'v' is list<.*string>, not a list of numbers"):
        plan_sources([tmp_path / "a.parquet"], Fields(vector="v"))


def test_a_file_without_any_record_that_can_be_read_is_all_rejects(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n"words"\n[{"text": "a"}]\n')
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n')
    assert plan_sources([tmp_path]).files[0].fields.text == "text"
    assert rejects(read(tmp_path / "a.jsonl")) == [
        (2, "a JSON str, not a JSON object"),
        (3, "a JSON list, not a JSON object"),
    ]


def test_a_few_broken_records_at_the_start_do_not_stop_detection(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{broken\n" * 500 + orjson.dumps(DOCUMENT))
    assert plan_sources([path]).files[0].fields.text == "text"


def test_an_empty_file_is_a_plan_without_documents(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.csv"):
        (tmp_path / name).write_bytes(b"")
    plan = plan_sources([tmp_path])
    assert [file.records for file in plan.files] == [0, 0]


def test_a_csv_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,text\na,b\n")
    with pytest.raises(InvalidRequest, match="a column twice in its header: text, text"):
        plan_sources([tmp_path / "a.csv"])


def test_the_expected_width_is_that_of_the_first_good_vector(tmp_path: Path) -> None:
    rows: list[object] = [
        {"text": "a", "v": "no"},
        {"text": "a", "v": [0.0, 0.0]},
        {"text": "a", "v": [1, 2, 3]},
        {"text": "a", "v": [1, 2]},
    ]
    path = write_lines(tmp_path / "a.jsonl", rows)
    assert plan_sources([path], Fields(vector="v")).expected_width == 3


def test_a_vector_field_without_any_good_vector_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "a", "v": [0.0, 0.0]}])
    with pytest.raises(
        InvalidRequest,
        match=r"no good vector in .*a\.jsonl, field 'v': record 1: vector is all zeros",
    ):
        plan_sources([path], Fields(vector="v"))
