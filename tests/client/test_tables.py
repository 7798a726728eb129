"""Tables as documents. polars is not installed here: a stand-in has the two names that are used."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from bitsift.client.calls import upserts
from bitsift.client.tables import ROWS, table_rows

COLUMNS: dict[str, list[Any]] = {
    "id": ["a", "b"],
    "title": ["one", None],
    "text": ["first", "second"],
    "vector": [[1.0, 2.0], [3.0, 4.0]],
    "metadata": [{"k": 1}, None],
    "year": [1999, None],
}
DOCUMENTS = [
    {"id": "a", "title": "one", "text": "first", "vector": [1.0, 2.0],
     "metadata": {"year": 1999, "k": 1}},
    {"id": "b", "text": "second", "vector": [3.0, 4.0]},
]  # fmt: skip


class FakePolars:
    """What is used of a DataFrame of polars."""

    columns = tuple(COLUMNS)

    def iter_rows(self, *, named: bool) -> Iterator[dict[str, Any]]:
        assert named
        for values in zip(*COLUMNS.values(), strict=True):
            yield dict(zip(COLUMNS, values, strict=True))


def rows(table: Any) -> list[Mapping[str, Any]]:
    found = table_rows(table)
    assert found is not None
    return list(found)


ARROW = pa.table(COLUMNS)
TABLES: dict[str, Callable[[], Any]] = {
    "Table": lambda: ARROW,
    "RecordBatch": lambda: ARROW.to_batches()[0],
    "RecordBatchReader": lambda: ARROW.to_reader(),
    "polars": FakePolars,
    "pandas": lambda: pd.DataFrame(COLUMNS),
    "pandas with an index": lambda: pd.DataFrame(COLUMNS).set_index("id"),
    "pandas of Arrow": lambda: ARROW.to_pandas(),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_of_any_library_is_the_same_documents(kind: str) -> None:
    found = [
        {name: value.tolist() if hasattr(value, "tolist") else value for name, value in row.items()}
        for row in rows(TABLES[kind]())
    ]
    assert found == DOCUMENTS


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT])
def test_what_is_missing_is_left_out(missing: Any) -> None:
    column = pd.Series([1, missing], dtype=object)
    frame = pd.DataFrame({"id": [7, 8], "text": ["x", "y"], "n": column})
    assert rows(frame)[1] == {"id": 8, "text": "y"}


def test_names_that_collide_leave_the_metadata_as_a_field() -> None:
    (found,) = rows(pa.table({"id": ["a"], "text": ["x"], "k": [2], "metadata": [{"k": 1}]}))
    assert found["metadata"] == {"k": 2, "metadata": {"k": 1}}


def test_metadata_that_is_the_text_of_an_object_is_that_object() -> None:
    (found,) = rows(pa.table({"id": ["a"], "text": ["x"], "metadata": ['{"k": 1}']}))
    assert found["metadata"] == {"k": 1}


def test_a_long_table_is_read_part_by_part() -> None:
    frame = pd.DataFrame({"id": range(2 * ROWS + 1), "text": "x"})
    assert [row["id"] for row in rows(frame)] == list(range(2 * ROWS + 1))
    arrow = pa.Table.from_pandas(frame)
    assert [row["id"] for row in rows(arrow)] == list(range(2 * ROWS + 1))


def test_times_of_a_table_are_sent_as_json() -> None:
    frame = pd.DataFrame({"id": [1], "text": ["x"], "day": [pd.Timestamp("2026-01-31")],
                          "took": [datetime.timedelta(seconds=2)]})  # fmt: skip
    (call,) = upserts(frame, 10)
    assert call.body is not None
    assert b'"day":"2026-01-31T00:00:00","took":2.0' in call.body


@pytest.mark.parametrize("several", [[], {}, "abc", 5, None, [{"id": "a"}], np.ones((2, 2))])
def test_what_is_no_table_is_left_as_it_is(several: Iterable[Any]) -> None:
    assert table_rows(several) is None
