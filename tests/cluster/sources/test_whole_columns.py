"""What is read by columns is what is read row by row."""

import datetime
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.cluster.sources import readers, whole_columns
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import Fields, SourceFile
from bitsift.cluster.sources.readers import read_documents
from tests.source_files import fresh, in_one_folder

ODD = ["", " ", "\x1c", "\u2003 ", "\x7f", "\ufeff", "é", "名", " words", "words", None]
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from([*ODD, "1", "2"]),
            "text": st.sampled_from(ODD),
            "title": st.sampled_from(["t", "", None]),
            "n": st.none() | st.integers(0, 5),
            "far": st.sampled_from([0.5, 1e300, float("nan"), float("inf"), None]),
            "note": st.sampled_from(["a", 'say "x"', "back\\slash", "\n", "é名", "", None]),
            "is": st.sampled_from([True, False, None]),
            "day": st.sampled_from([datetime.date(2020, 1, 2), None]),
            "price": st.sampled_from([decimal.Decimal("1.10"), None]),
            "raw": st.sampled_from([b"\xff", b"", None]),
            "list": st.sampled_from([[0.5, None], [], [float("inf")], None]),
            "metadata": st.sampled_from([None, None, {"n": 1, "b": "c"}]),
            "v": st.sampled_from([[1.0, 2.0], [0.0, 0.0], [1.0], None]),
        }
    ),
    min_size=1,
    max_size=12,
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("title", pa.string()),
        ("n", pa.int64()),
        ("far", pa.float64()),
        ("note", pa.string()),
        ("is", pa.bool_()),
        ("day", pa.date32()),
        ("price", pa.decimal128(10, 2)),
        ("raw", pa.binary()),
        ("list", pa.list_(pa.float64())),
        ("metadata", pa.struct([("n", pa.int64()), ("b", pa.string())])),
        ("v", pa.list_(pa.float32())),
    ]
)
OTHERS = [name for name in SCHEMA.names if name not in ("id", "text", "v")]


def _one_run(_: SourceFile, batch: pa.RecordBatch) -> list[tuple[int, int, bool]]:
    return [(0, batch.num_rows, False)]


def by_rows(file: SourceFile, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    with monkeypatch.context() as patched:
        patched.setattr(readers, "runs_of", _one_run)
        return by_columns(file)


def by_columns(file: SourceFile) -> list[dict[str, Any]]:
    """What counts of each row: of a rejected one where and why."""
    rows = [row for table in read_documents(file) for row in table.to_pylist()]
    counts = ("position", "file", "line", "reject")
    return [{name: row[name] for name in counts} if row["reject"] else row for row in rows]


@in_one_folder
@given(
    ROWS, st.booleans(), st.sets(st.sampled_from(OTHERS)), st.sampled_from(["text", "number", ""])
)
def test_columns_and_rows_give_the_same_documents(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[dict[str, Any]],
    with_vectors: bool,
    names: set[str],
    ids: str,
) -> None:
    folder = tmp_path / "lang=en"
    folder.mkdir(exist_ok=True)
    good = {"id": "0", "text": "words", "v": [1.0, 2.0]}
    path = fresh(folder, ".parquet")
    table = pa.Table.from_pylist([good, *rows], schema=SCHEMA)
    table = table.set_column(
        0, "id", table["id"] if ids == "text" else pa.array([1, None] * 7)[: len(table)]
    )
    kept = [name for name in SCHEMA.names if name in ("id", "text", "v") or name in names]
    pq.write_table(table.select(kept if ids else kept[1:]), path)
    (file,) = plan_sources([path], Fields(vector="v") if with_vectors else Fields()).files
    assert by_columns(file) == by_rows(file, monkeypatch)


def test_ordinary_rows_are_read_by_columns_and_the_others_one_by_one(tmp_path: Path) -> None:
    texts = ["words", "名", " x", "", None, "words"]
    table = pa.table({"id": list("abcdef"), "text": texts})
    (file,) = plan_sources([write(tmp_path, table)]).files
    (batch,) = table.to_batches()
    assert list(whole_columns.runs_of(file, batch)) == [(0, 3, True), (3, 5, False), (5, 6, True)]
    assert list(whole_columns.runs_of(file, batch.slice(2, 2))) == [(0, 1, True), (1, 2, False)]


def test_a_batch_of_many_runs_is_read_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["words", ""] * 20
    table = pa.table({"id": [str(row) for row in range(40)], "text": texts})
    (file,) = plan_sources([write(tmp_path, table)]).files
    assert list(whole_columns.runs_of(file, table.to_batches()[0])) == [(0, 40, False)]
    assert by_columns(file) == by_rows(file, monkeypatch)


@pytest.mark.parametrize(
    "texts",
    [
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array(["a", "b"], pa.large_string()),
        pa.array(["a", "b"], pa.string_view()),
    ],
    ids=["dictionary", "large", "view"],
)
def test_strings_of_every_kind_are_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: pa.Array
) -> None:
    table = pa.table({"id": texts, "text": texts, "m": np.arange(2)})
    (file,) = plan_sources([write(tmp_path, table)]).files
    (batch,) = table.to_batches()
    assert list(whole_columns.runs_of(file, batch)) == [(0, 2, True)]
    assert by_columns(file) == by_rows(file, monkeypatch)


def write(folder: Path, table: pa.Table) -> Path:
    path = fresh(folder, ".parquet")
    pq.write_table(table, path)
    return path


def test_metadata_that_columns_can_write_cost_no_row_an_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {
        "id": ["a", "b"],
        "text": ["x", "y"],
        "n": [1, None],
        "t": ["é", 'q"'],
        "f": [0.5, 1],
    }
    (file,) = plan_sources([write(tmp_path, pa.table(columns))]).files
    monkeypatch.delattr(whole_columns, "rows_of_batch")
    assert [row["metadata"] for row in by_columns(file)] == [
        '{"n":1,"t":"é","f":0.5}',
        '{"t":"q\\"","f":1.0}',
    ]


@pytest.mark.parametrize("value", [float("inf"), [float("-inf")]])
def test_an_infinite_number_rejects_its_row_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    other = [1.0] if isinstance(value, list) else 1.0
    table = pa.table({"id": ["a", "b"], "text": ["x", "y"], "far": [value, other]})
    (file,) = plan_sources([write(tmp_path, table)]).files
    rows = by_columns(file)
    assert rows == by_rows(file, monkeypatch)
    assert [row["reject"] for row in rows] == [
        "metadata field 'far' is infinite, which JSON cannot say",
        None,
    ]
